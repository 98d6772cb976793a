#!/usr/bin/env python3
"""Time rbuild beside a floor program and buildah, in the same minutes, on a fresh journaled file system.

    sudo benchmarks/bench.py [--rbuild target/release/rbuild] [--runs 20] [--peer-runs 3] [--json FILE] [SCENARIO ...]

Scenarios
  many-run   `FROM busybox` and 40 x `RUN echo N > /f`, empty store except for the base image; per step
  noop       a fully cached rebuild: 5 stages, 35 instructions, a context of 2,000 files, process start included
  context    COPY of 50,000 files of 2 to 6 KiB in 1,050 directories: into an empty store, again after one change, unchanged.
             Floors: cp -a (first), cp -al (after a change), one lstat each (unchanged)
  copy-from  COPY --from of 100,000 files of another stage. Floor: cp -al
  pull       FROM and RUN true on 370 MB of this machine's /usr in four gzip layers, from docker-registry on a loopback port, into an empty store.
             Floor: curl | gzip -d | tar -x of all layers at once
  language   --check of a Dockerfile of 10,000 lines and of one with 5,000 stages: compiling alone
  memory     rbuild's peak memory where there is much to keep: a RUN that makes 100,000 files, their export, a RUN that prints 200 MiB

Every round runs each program once, one after the other, so that all see the same machine. Minimum and median are printed, and ratios against the
floor and the peer, for the wall clock and for CPU time (user and system, of the program and of all it waited for). Peak memory is the kernel's high-water mark of the process and of everything it waited for. Needs root, gcc, busybox-static,
docker-registry, skopeo, buildah and e2fsprogs from Debian. Nothing here asserts a time.
"""
from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
STEPS = 40
FILES = 50_000
BASE_BYTES = 370_000_000
BASE_LAYERS = 4
SCENARIOS = ["many-run", "noop", "context", "copy-from", "pull", "memory", "language"]
LINES = 10_000
STAGES = 5_000


class Cost(NamedTuple):
    """What one command took."""
    ms: float
    kib: int
    cpu_ms: float


class Table:
    """Costs of several programs doing one thing, by program."""

    def __init__(self, unit: str = "ms", per: int = 1):
        self.unit, self.per = unit, per
        self.wall: dict[str, list] = {}
        self.cpu: dict[str, list] = {}
        self.peak_kib = 0

    def add(self, who: str, cost: Cost) -> None:
        self.wall.setdefault(who, []).append(cost.ms / self.per)
        self.cpu.setdefault(who, []).append(cost.cpu_ms / self.per)
        if who == "rbuild":
            self.peak_kib = max(self.peak_kib, cost.kib)

    def json(self) -> dict:
        return {"unit": self.unit, "figures": self.wall, "cpu": self.cpu, "peak_kib": self.peak_kib}

    def show(self, name: str) -> None:
        print(f"{name} ({self.unit}; rbuild's peak memory {self.peak_kib / 1024:.1f} MiB)")
        for what, figures in (("wall", self.wall), ("cpu", self.cpu)):
            median = {who: statistics.median(values) for who, values in figures.items()}
            for who, values in figures.items():
                ratio = "" if who == "rbuild" or not median[who] else f"   rbuild / {who} = {median['rbuild'] / median[who]:.3f}"
                print(f"  {what:4} {who:8} min {min(values):9.2f}   median {median[who]:9.2f}   max {max(values):9.2f}   n={len(values)}{ratio}")


def run(argv: list, env: dict | None = None, cwd: str | None = None) -> Cost:
    """The cost of one command, which must succeed."""
    log = tempfile.TemporaryFile()
    start = time.monotonic()
    child = subprocess.Popen([str(a) for a in argv], env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    _, status, usage = os.wait4(child.pid, 0)
    ms = (time.monotonic() - start) * 1000
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        log.seek(0)
        sys.exit(f"bench: {argv} ended with {child.returncode}:\n{log.read().decode(errors='replace')[-3000:]}")
    return Cost(ms, usage.ru_maxrss, (usage.ru_utime + usage.ru_stime) * 1000)


class Disk:
    """A fresh ext4 with a journal, on a loop device."""

    def __init__(self, work: Path, gib: int = 8):
        self.image, self.mount = work / "disk.img", work / "disk"
        self.mount.mkdir()
        with open(self.image, "wb") as f:
            f.truncate(gib << 30)
        subprocess.run(["mkfs.ext4", "-q", "-F", self.image], check=True)
        device = subprocess.run(["losetup", "--direct-io=on", "--show", "-f", self.image], check=True, capture_output=True, text=True).stdout.strip()
        self.device = device
        subprocess.run(["mount", device, self.mount], check=True)

    def close(self) -> None:
        subprocess.run(["umount", "-l", self.mount], check=False)
        subprocess.run(["losetup", "-d", self.device], check=False)


class Registry:
    """docker-registry on a loopback port, plain http."""

    def __init__(self, work: Path):
        config = work / "registry.yml"
        config.write_text(f"version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {work}/registry}}}}\nhttp: {{addr: 127.0.0.1:0}}\n")
        self.child = subprocess.Popen(["docker-registry", "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for line in self.child.stderr:
            if "listening on " in line:
                self.host = line.split("listening on ")[1].split('"')[0].strip()
                break
        else:
            sys.exit("bench: docker-registry did not start")
        # Its log is not read any more; it goes nowhere rather than filling the pipe.
        subprocess.Popen(["cat"], stdin=self.child.stderr, stdout=subprocess.DEVNULL)

    def close(self) -> None:
        self.child.send_signal(signal.SIGTERM)
        self.child.wait()


def busybox_root(work: Path) -> Path:
    root = work / "busybox"
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "root", "usr/bin", "var"):
        (root / name).mkdir(parents=True)
    binary = next(p for p in ("/bin/busybox", "/usr/bin/busybox") if os.path.exists(p))
    shutil.copy2(binary, root / "bin/busybox")
    for applet in subprocess.run([binary, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if applet != "busybox":
            os.link(root / "bin/busybox", root / "bin" / applet)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    return root


def noop_context(where: Path) -> None:
    rng = random.Random(7)
    for n in range(2000):
        path = where / f"src/d{n % 40}/f{n}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.randint(100, 3000)))
    stage = lambda name, base: f"FROM {base} AS {name}\n" + "".join(f"RUN echo {name} {i} >> /{name}\n" for i in range(4))
    text = stage("base", "busybox") + "ENV A=1\nWORKDIR /src\nCOPY . .\n"
    text += stage("left", "base") + "LABEL x=1\n" + stage("right", "base") + "USER root\n" + stage("third", "busybox") + "ENV B=2\n"
    text += "FROM busybox\nCOPY --from=left /left /left\nCOPY --from=right /right /right\nCOPY --from=third /third /third\nRUN cat /left /right > /all\n"
    text += "RUN echo done > /done\nEXPOSE 80\nENV C=3\nCMD [\"/bin/sh\"]\n"
    (where / "Dockerfile").write_text(text)


class Bench:
    def __init__(self, args, work: Path):
        self.args, self.work = args, work
        self.disk = Disk(work)
        self.registry = Registry(work)
        self.root = busybox_root(self.disk.mount)
        self.push_base()
        self.floor = work / "floor"
        subprocess.run(["gcc", "-O2", "-o", self.floor, HERE / "floor.c"], check=True)
        (work / "rbuild.toml").write_text(
            f'[registry."docker.io"]\nmirrors = ["{self.registry.host}"]\n[registry."{self.registry.host}"]\nhttp = true\n')
        (work / "empty").mkdir()
        (work / "buildah-containers.conf").write_text('[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n')
        (work / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self.serial = 0

    def push_base(self) -> None:
        tar = self.work / "base.tar"
        subprocess.run(["tar", "--numeric-owner", "-C", self.root, "-cf", tar, "."], check=True)
        rbuild_layout = self.work / "layout"
        make_layout(rbuild_layout, [tar])
        subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", f"oci:{rbuild_layout}:latest",
                        f"docker://{self.registry.host}/library/busybox:latest"], check=True)

    def rbuild(self, state: Path, context: Path, *flags) -> Cost:
        env = {"PATH": os.environ["PATH"], "RBUILD_ROOT": str(state), "RBUILD_CONFIG": str(self.work / "rbuild.toml"), "NO_COLOR": "1"}
        return run([self.args.rbuild, "build", "--progress", "plain", *flags, context], env)

    def buildah(self, state: Path, context: Path) -> Cost:
        env = {"PATH": os.environ["PATH"], "HOME": "/root", "CONTAINERS_CONF": str(self.work / "buildah-containers.conf"), "BUILDAH_ISOLATION": "chroot"}
        return run(["buildah", "--root", state / "root", "--runroot", state / "run", "bud", "--layers", "--tls-verify=false", "--network", "host",
                    "--signature-policy", self.work / "policy.json",
                    "-f", context / "Dockerfile.buildah", context], env)

    def fresh(self, name: str) -> Path:
        self.serial += 1
        path = self.disk.mount / f"{name}{self.serial}"
        path.mkdir()
        return path

    def drop(self, *paths: Path) -> None:
        """Removes what a round made: the next one finds the disk as this one did."""
        for path in paths:
            subprocess.run(["rm", "-rf", path], check=True)
        os.sync()

    def peer(self, text: str) -> str:
        return text.replace("FROM busybox", f"FROM {self.registry.host}/library/busybox").replace("FROM big", f"FROM {self.registry.host}/library/big")

    def write(self, context: Path, text: str) -> None:
        context.mkdir(parents=True, exist_ok=True)
        (context / "Dockerfile").write_text(text)
        (context / "Dockerfile.buildah").write_text(self.peer(text))

    def many_run(self) -> dict:
        table = Table("ms a step", STEPS)
        for n in range(self.args.runs):
            lines = "".join(f"RUN echo {n}-{i} > /f\n" for i in range(STEPS))
            context, warm, state = self.fresh("context"), self.fresh("warm"), self.fresh("state")
            self.write(context, f"FROM busybox\n{lines}")
            self.write(warm, "FROM busybox\nRUN true\n")
            self.rbuild(state, warm)  # the base is there, as in the peers' figures
            table.add("rbuild", self.rbuild(state, context))
            floor = self.fresh("floor")
            output = subprocess.run([self.floor, self.root, floor, str(STEPS)], check=True, capture_output=True, text=True).stdout
            table.add("floor", Cost(float(output) * STEPS, 0, 0))
            if n < self.args.peer_runs:
                peer = self.fresh("buildah")
                self.buildah(peer, warm)
                table.add("buildah", self.buildah(peer, context))
                self.drop(peer)
            self.drop(state, floor)
        return {"many-run": table}

    def noop(self) -> dict:
        context = self.fresh("context")
        noop_context(context)
        self.write(context, (context / "Dockerfile").read_text())
        state, peer = self.fresh("state"), self.fresh("buildah")
        self.rbuild(state, context)
        if self.args.peer_runs:
            self.buildah(peer, context)
        table = Table()
        for n in range(self.args.runs):
            table.add("rbuild", self.rbuild(state, context))
            table.add("floor", lstat_all(context))
            if n < self.args.peer_runs:
                table.add("buildah", self.buildah(peer, context))
        self.drop(peer)
        return {"noop": table}

    def context(self) -> dict:
        context = self.fresh("context")
        self.write(context, "FROM scratch\nCOPY tree /x\n")
        changed = make_tree(context / "tree", FILES)
        first, change, unchanged = Table(), Table(), Table()
        for n in range(self.args.runs):
            state, copy, links = self.fresh("state"), self.fresh("copy"), self.fresh("links")
            os.sync()
            first.add("rbuild", self.rbuild(state, context))
            first.add("floor", run(["cp", "-a", context / "tree", copy / "x"]))
            changed.write_text(f"change {n}\n")
            change.add("rbuild", self.rbuild(state, context))
            change.add("floor", run(["cp", "-al", copy / "x", links / "x"]))
            unchanged.add("rbuild", self.rbuild(state, context))
            unchanged.add("floor", lstat_all(context))
            self.drop(state, copy, links)
            if n < self.args.peer_runs:
                peer = self.fresh("buildah")
                first.add("buildah", self.buildah(peer, context))
                changed.write_text(f"again {n}\n")
                change.add("buildah", self.buildah(peer, context))
                unchanged.add("buildah", self.buildah(peer, context))
                self.drop(peer)
        return {"context/first": first, "context/changed": change, "context/unchanged": unchanged}

    def copy_from(self) -> dict:
        context, state, peer = self.fresh("context"), self.fresh("state"), self.fresh("buildah")
        stage = "FROM busybox AS gen\nRUN " + many_files("/out") + "\n"
        self.write(context, stage)
        self.rbuild(state, context)
        if self.args.peer_runs:
            self.buildah(peer, context)
        tree = self.fresh("tree")
        subprocess.run(["sh", "-c", many_files(str(tree / "out"))], check=True)
        table = Table()
        for n in range(self.args.runs):
            links = self.fresh("links")
            self.write(context, stage + f"FROM scratch\nCOPY --from=gen /out /x{n}\n")
            os.sync()
            table.add("rbuild", self.rbuild(state, context))
            table.add("floor", run(["cp", "-al", tree / "out", links / "x"]))
            self.drop(links)
            if n < self.args.peer_runs:
                table.add("buildah", self.buildah(peer, context))
        self.drop(peer, state)
        return {"copy-from": table}

    def pull(self) -> dict:
        blobs = self.push_big()
        context = self.fresh("context")
        self.write(context, "FROM big\nRUN [\"/bin/busybox\", \"true\"]\n")
        table = Table()
        urls = " ".join(f"http://{self.registry.host}/v2/library/big/blobs/{digest}" for digest in blobs)
        for n in range(self.args.runs):
            state, floor = self.fresh("state"), self.fresh("floor")
            os.sync()
            table.add("rbuild", self.rbuild(state, context))
            script = f'for url in {urls}; do mkdir -p {floor}/${{url##*:}}; curl -sf $url | gzip -d | tar -C {floor}/${{url##*:}} -x & done; wait'
            table.add("floor", run(["bash", "-c", script]))
            self.drop(state, floor)
            if n < self.args.peer_runs:
                peer = self.fresh("buildah")
                table.add("buildah", self.buildah(peer, context))
                self.drop(peer)
        return {"pull": table}

    def language(self) -> dict:
        """Compiling and checking alone: nothing is built, no file of a context is looked at."""
        context = self.fresh("context")
        tables = {}
        for part, text in (("lines", many_lines(LINES)), ("stages", many_stages(STAGES))):
            (context / "Dockerfile").write_text(text)
            table = tables[f"language/{part}"] = Table()
            for _ in range(self.args.runs):
                table.add("rbuild", run([self.args.rbuild, "build", "--root", self.fresh("state"), "--check", context]))
        return tables

    def memory(self) -> dict:
        tables = {}
        for name, line in (("files", many_files("/out")), ("output", "yes 0123456789abcdefghijklmnopqrstuvwxyz | head -c 209715200")):
            context, state = self.fresh("context"), self.fresh("state")
            self.write(context, "FROM busybox\nRUN true\n")
            self.rbuild(state, context)
            self.write(context, f"FROM busybox\nRUN {line}\n")
            run_table = tables.setdefault(f"memory/run-{name}", Table())
            rounds = max(1, self.args.peer_runs)  # as dear as a peer's
            for _ in range(rounds):
                run_table.add("rbuild", self.rbuild(state, context, "--no-cache"))
            if name == "files":
                table = tables.setdefault("memory/export-files", Table())
                for n in range(rounds):
                    table.add("rbuild", self.rbuild(state, context, "--no-cache", "-o", f"type=oci,dest={state}/out{n}.tar"))
            self.drop(state)
        return tables

    def push_big(self) -> list:
        """Pushes 370 MB of /usr as an image of four layers; returns the digests of their blobs."""
        tars = []
        for n, part in enumerate(usr_parts()):
            names, tar = self.work / f"names{n}", self.work / f"big{n}.tar"
            names.write_bytes(b"\0".join(part))
            subprocess.run(["tar", "--numeric-owner", "--sort=name", "-C", "/", "--null", "--no-recursion", "-T", names, "-cf", tar], check=True)
            if n == 0:
                subprocess.run(["tar", "--numeric-owner", "--no-recursion", "-C", self.root, "-rf", tar, "./bin", "./bin/busybox"], check=True)
            tars.append(tar)
        layout = self.work / "big"
        blobs = make_layout(layout, tars)
        subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:latest",
                        f"docker://{self.registry.host}/library/big:latest"], check=True)
        for tar in tars:
            tar.unlink()
        shutil.rmtree(layout)
        return blobs

    def close(self) -> None:
        self.registry.close()
        self.disk.close()


def lstat_all(where: Path) -> Cost:
    start, before = time.monotonic(), os.times()
    for directory, _, names in os.walk(where):
        for name in names:
            os.lstat(os.path.join(directory, name))
    after = os.times()
    return Cost((time.monotonic() - start) * 1000, 0, (after.user + after.system - before.user - before.system) * 1000)


def make_tree(where: Path, count: int) -> Path:
    """Files of 2 to 6 KiB, fifty directories of twenty each with fifty files; returns one of them."""
    rng = random.Random(5)
    pool = rng.randbytes(1 << 20)
    for n in range(count):
        path = where / f"d{n // 1000:03}/e{n // 50 % 20:02}/f{n:06}.txt"
        if n % 50 == 0:
            path.parent.mkdir(parents=True)
        start = rng.randrange(1 << 19)
        path.write_bytes(str(n).encode() + pool[start:start + rng.randint(2000, 6200)])
    return path


def many_files(where: str) -> str:
    """A shell command that makes 100,000 small files in 100 directories."""
    return (f"i=0; while [ $i -lt 100 ]; do mkdir -p {where}/d$i; cd {where}/d$i; j=0; "
            'while [ $j -lt 1000 ]; do echo "$i $j" > f$j; j=$((j+1)); done; i=$((i+1)); done')


def many_lines(count: int) -> str:
    """Instructions of all common kinds. Variables grow with the file: every RUN has all before it."""
    lines, n = ["FROM scratch"], 0
    kinds = ["ENV VAR{n}=value{n}", "RUN echo line {n} $VAR{n} && true", "COPY file{n} /dst{n}", "LABEL l{n}=v{n}", "ARG A{n}=x{n}", "WORKDIR /w{n}",
             "# comment {n}", "RUN a{n} \\\n  && b{n}"]
    while len(lines) < count:
        lines += kinds[n % len(kinds)].format(n=n).split("\n")
        n += 1
    return "\n".join(lines) + "\n"


def many_stages(count: int) -> str:
    """Stages that begin with one before them and copy from another."""
    stages = ["FROM scratch AS s0\nCOPY f /f"]
    for n in range(1, count):
        stages.append(f"FROM s{n - 1 - (n * 7919) % min(n, 50)} AS s{n}\nCOPY --from=s{(n * 104729) % n} /f /f{n}\nENV E{n}=1")
    return "\n".join(stages) + "\n"


def usr_parts() -> list:
    """Paths of /usr, in order, until their files have the bytes wanted, in parts of equal bytes. Each part has the directories that it needs."""
    parts, part, seen, size = [], [], set(), 0
    for directory, dirs, names in os.walk(b"/usr"):
        dirs.sort()
        for name in sorted(names):
            path = os.path.join(directory, name)
            stat = os.lstat(path)
            if not (os.path.islink(path) or os.path.isfile(path)) or stat.st_size > BASE_BYTES // 10:
                continue
            above = path
            parents = []
            while (above := os.path.dirname(above)) not in (b"/", b"") and above not in seen:
                parents.append(above)
            seen.update(parents)
            part += [parent[1:] for parent in reversed(parents)] + [path[1:]]
            size += stat.st_size
            if size >= BASE_BYTES // BASE_LAYERS:
                parts.append(part)
                part, seen, size = [], set(), 0
                if len(parts) == BASE_LAYERS:
                    return parts
    return parts + [part]


def make_layout(where: Path, tars: list) -> list:
    """An OCI layout with one image of these tars, compressed; returns the digests of the layers' blobs."""
    # In a process of its own: what this one holds in memory would count for everything that it starts (Linux keeps the mark through exec).
    with multiprocessing.Pool(1) as pool:
        return pool.apply(write_layout, (where, [tar.read_bytes for tar in tars]))


def write_layout(where: Path, reads: list) -> list:
    import gzip
    import hashlib
    blobs = where / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes) -> dict:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    compressed, diff_ids = [], []
    for read in reads:
        layer = read()
        diff_ids.append("sha256:" + hashlib.sha256(layer).hexdigest())
        compressed.append(put(gzip.compress(layer, 6, mtime=0)) | {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"})
    config = {"architecture": arch, "os": "linux", "config": {"Env": ["PATH=/bin:/usr/bin"], "Cmd": ["/bin/sh"]},
              "rootfs": {"type": "layers", "diff_ids": diff_ids},
              "history": [{"created_by": "base"} for _ in diff_ids]}
    config = put(json.dumps(config).encode()) | {"mediaType": "application/vnd.oci.image.config.v1+json"}
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": compressed}
    manifest = put(json.dumps(manifest).encode()) | {"mediaType": "application/vnd.oci.image.manifest.v1+json"}
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (where / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (where / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return [layer["digest"] for layer in compressed]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rbuild", default=str(HERE.parent / "target/release/rbuild"))
    p.add_argument("--runs", type=int, default=20)
    p.add_argument("--peer-runs", type=int, default=3)
    p.add_argument("--json", type=Path)
    p.add_argument("scenarios", nargs="*", default=[])
    args = p.parse_args()
    work = Path(tempfile.mkdtemp(prefix="rbuild-bench-"))
    bench = Bench(args, work)
    results = {"machine": {"cores": os.cpu_count(), "kernel": platform.release(), "load": os.getloadavg()[0]}}
    try:
        for name in args.scenarios or SCENARIOS:
            for part, table in getattr(bench, name.replace("-", "_"))().items():
                results[part] = table.json()
                table.show(part)
    finally:
        bench.close()
        shutil.rmtree(work, ignore_errors=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
