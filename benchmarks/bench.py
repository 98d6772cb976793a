#!/usr/bin/env python3
"""Time rbuild beside a floor program and buildah, in the same minutes, on a fresh journaled file system.

    sudo benchmarks/bench.py [--rbuild target/release/rbuild] [--runs 20] [--peer-runs 3] [--json FILE] [SCENARIO ...]

Scenarios
  many-run   `FROM busybox` and 40 x `RUN echo N > /f`, empty store except for the base image; per step
  noop       a fully cached rebuild: 5 stages, 35 instructions, a context of 2,000 files, process start included

Every round runs each program once, one after the other, so that all see the same machine. Minimum and median are printed, and ratios against the
floor and the peer. Peak memory is the kernel's high-water mark of the process and of everything it waited for. Needs root, gcc, busybox-static,
docker-registry, skopeo, buildah and e2fsprogs from Debian. Nothing here asserts a time.
"""
from __future__ import annotations

import argparse
import json
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

HERE = Path(__file__).resolve().parent
STEPS = 40


def run(argv: list, env: dict | None = None, cwd: str | None = None) -> tuple[float, int]:
    """Milliseconds and peak KiB of one command, which must succeed."""
    log = tempfile.TemporaryFile()
    start = time.monotonic()
    child = subprocess.Popen([str(a) for a in argv], env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    _, status, usage = os.wait4(child.pid, 0)
    ms = (time.monotonic() - start) * 1000
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        log.seek(0)
        sys.exit(f"bench: {argv} ended with {child.returncode}:\n{log.read().decode(errors='replace')[-3000:]}")
    return ms, usage.ru_maxrss


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
        make_layout(rbuild_layout, tar.read_bytes())
        subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", f"oci:{rbuild_layout}:latest",
                        f"docker://{self.registry.host}/library/busybox:latest"], check=True)

    def rbuild(self, state: Path, context: Path, *flags) -> tuple[float, int]:
        env = {"PATH": os.environ["PATH"], "RBUILD_ROOT": str(state), "RBUILD_CONFIG": str(self.work / "rbuild.toml"), "NO_COLOR": "1"}
        return run([self.args.rbuild, "build", "--progress", "plain", *flags, context], env)

    def buildah(self, state: Path, context: Path) -> tuple[float, int]:
        env = {"PATH": os.environ["PATH"], "HOME": "/root", "CONTAINERS_CONF": str(self.work / "buildah-containers.conf"), "BUILDAH_ISOLATION": "chroot"}
        return run(["buildah", "--root", state / "root", "--runroot", state / "run", "bud", "--layers", "--tls-verify=false", "--network", "host",
                    "--signature-policy", self.work / "policy.json",
                    "-f", context / "Dockerfile.buildah", context], env)

    def fresh(self, name: str) -> Path:
        self.serial += 1
        path = self.disk.mount / f"{name}{self.serial}"
        path.mkdir()
        return path

    def many_run(self) -> dict:
        figures: dict[str, list] = {"rbuild": [], "floor": [], "buildah": []}
        memory = 0
        for n in range(self.args.runs):
            lines = "".join(f"RUN echo {n}-{i} > /f\n" for i in range(STEPS))
            context = self.fresh("context")
            (context / "Dockerfile").write_text(f"FROM busybox\n{lines}")
            (context / "Dockerfile.buildah").write_text(f"FROM {self.registry.host}/library/busybox\n{lines}")
            state = self.fresh("state")
            warm = self.fresh("warm")
            (warm / "Dockerfile").write_text("FROM busybox\nRUN true\n")
            self.rbuild(state, warm)  # the base is there, as in the peers' figures
            ms, kib = self.rbuild(state, context)
            figures["rbuild"].append(ms / STEPS)
            memory = max(memory, kib)
            output = subprocess.run([self.floor, self.root, self.fresh("floor"), str(STEPS)], check=True, capture_output=True, text=True).stdout
            figures["floor"].append(float(output))
            if n < self.args.peer_runs:
                peer = self.fresh("buildah")
                (warm / "Dockerfile.buildah").write_text(f"FROM {self.registry.host}/library/busybox\n")
                self.buildah(peer, warm)
                ms, _ = self.buildah(peer, context)
                figures["buildah"].append(ms / STEPS)
        return {"unit": "ms a step", "figures": figures, "peak_kib": memory}

    def noop(self) -> dict:
        context = self.fresh("context")
        noop_context(context)
        text = (context / "Dockerfile").read_text()
        (context / "Dockerfile.buildah").write_text(text.replace("FROM busybox", f"FROM {self.registry.host}/library/busybox"))
        state, peer = self.fresh("state"), self.fresh("buildah")
        self.rbuild(state, context)
        if self.args.peer_runs:
            self.buildah(peer, context)
        figures: dict[str, list] = {"rbuild": [], "floor": [], "buildah": []}
        memory = 0
        for n in range(self.args.runs):
            ms, kib = self.rbuild(state, context)
            figures["rbuild"].append(ms)
            memory = max(memory, kib)
            start = time.monotonic()
            for directory, _, names in os.walk(context):
                for name in names:
                    os.lstat(os.path.join(directory, name))
            figures["floor"].append((time.monotonic() - start) * 1000)
            if n < self.args.peer_runs:
                figures["buildah"].append(self.buildah(peer, context)[0])
        return {"unit": "ms", "figures": figures, "peak_kib": memory}

    def close(self) -> None:
        self.registry.close()
        self.disk.close()


def make_layout(where: Path, layer: bytes) -> None:
    import gzip
    import hashlib
    blobs = where / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes) -> dict:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    compressed = put(gzip.compress(layer, 1, mtime=0)) | {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"}
    config = {"architecture": arch, "os": "linux", "config": {"Env": ["PATH=/bin:/usr/bin"], "Cmd": ["/bin/sh"]},
              "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]}, "history": [{"created_by": "base"}]}
    config = put(json.dumps(config).encode()) | {"mediaType": "application/vnd.oci.image.config.v1+json"}
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": [compressed]}
    manifest = put(json.dumps(manifest).encode()) | {"mediaType": "application/vnd.oci.image.manifest.v1+json"}
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (where / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (where / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


def show(name: str, result: dict) -> None:
    print(f"{name} ({result['unit']}; rbuild's peak memory {result['peak_kib'] / 1024:.1f} MiB)")
    median = {who: statistics.median(values) for who, values in result["figures"].items() if values}
    for who, values in result["figures"].items():
        if values:
            ratio = "" if who == "rbuild" else f"   rbuild / {who} = {median['rbuild'] / median[who]:.3f}"
            print(f"  {who:8} min {min(values):9.2f}   median {median[who]:9.2f}   max {max(values):9.2f}   n={len(values)}{ratio}")


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
        for name in args.scenarios or ["many-run", "noop"]:
            results[name] = getattr(bench, name.replace("-", "_"))()
            show(name, results[name])
    finally:
        bench.close()
        shutil.rmtree(work, ignore_errors=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
