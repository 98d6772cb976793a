//! A real Debian base, a compiler from its packages behind cache mounts, and an image that other tools accept and run.

use std::path::Path;
use std::process::{Command, Stdio};

use integration_tests::meeting::Meeting;
use integration_tests::{Bed, fixtures, require};

const MAIN_C: &str = "#include <stdio.h>\nint main(void) { puts(\"hello from a small image\"); return 0; }\n";

fn dockerfile(host_and_port: &str) -> String {
    let tcp = host_and_port.replace(':', "/");
    format!(
        r#"FROM debian:test AS build
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    rm -f /etc/apt/apt.conf.d/docker-clean && apt-get update -q && \
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends gcc libc6-dev
WORKDIR /src
COPY main.c .
RUN gcc -O2 -static -o /out main.c

FROM build AS test
SHELL ["/bin/bash", "-c"]
RUN --network=host /out | grep hello && exec 3<>/dev/tcp/{tcp} && printf 'GET /count/test HTTP/1.0\r\n\r\n' >&3 && cat <&3

FROM busybox AS production
COPY --from=build /out /usr/bin/hello
ENTRYPOINT ["/usr/bin/hello"]
"#
    )
}

#[test]
fn production_from_a_debian_build_runs_everywhere_and_reproduces() {
    let bed = Bed::with_registry();
    let meeting = Meeting::start();
    bed.registry().push(&fixtures::debian(), "library/debian:test");
    let text = dockerfile(meeting.url().trim_start_matches("http://"));
    let context = bed.context("context", &[("Dockerfile", &text), ("main.c", MAIN_C)]);
    let build = bed.build(&context).args(["--target", "production", "--allow", "network.host"]).env("SOURCE_DATE_EPOCH", "1700000000");

    let first = build.ok();
    assert!(meeting.counts().is_empty(), "the stage `test` ran:\n{}", first.log);
    let image = first.image();
    assert_eq!(image.layers.len(), 2, "busybox and one copied file");
    let top: Vec<_> = image.layers[1].iter().filter(|entry| entry.kind == b'0').map(|entry| entry.path.as_str()).collect();
    assert_eq!(top, ["usr/bin/hello"]);
    assert_eq!(image.config["config"]["Entrypoint"][0], "/usr/bin/hello");
    accepted_by_peers(&bed, &bed.path("context.tar"));

    // An empty store elsewhere gives the same image.
    let other = build.clone().state(&bed.path("other-state")).output(&bed.path("other.tar")).ok();
    assert_eq!(other.image().digest, image.digest, "the second store's image differs");

    // The test stage runs when it is asked for, on what is there already.
    let tested = bed.build(&context).args(["--target", "test", "--allow", "network.host"]).no_output().ok();
    assert_eq!(meeting.counts().get("test"), Some(&1), "{}", tested.log);
    assert!(tested.cached().iter().any(|name| name.contains("apt-get install")), "{}", tested.log);

    // The package lists live in a cache mount, not in a layer.
    let built = bed.build(&context).args(["--target", "build"]).output(&bed.path("build.tar")).ok();
    let lists = built.image().layers[1..].iter().flatten().any(|entry| entry.path.contains("lists/") && entry.path.contains("Packages"));
    assert!(!lists, "package lists are in a layer");
}

fn accepted_by_peers(bed: &Bed, tar: &Path) {
    let archive = format!("oci-archive:{}", tar.display());
    succeeds(Command::new(require::tool("skopeo", "skopeo")).arg("inspect").arg(&archive));
    // umoci names images by tag: `skopeo copy` gives this one a tag.
    let tagged = format!("oci:{}:latest", bed.path("layout").display());
    succeeds(Command::new("skopeo").args(["--insecure-policy", "copy", "-q", &archive, &tagged]));
    let bundle = bed.path("bundle");
    let image = format!("{}:latest", bed.path("layout").display());
    succeeds(Command::new(require::tool("umoci", "umoci")).args(["unpack", "--image", &image]).arg(&bundle));

    let config_path = bundle.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&config_path).expect("config.json")).expect("JSON");
    config["process"]["terminal"] = false.into();
    config["process"]["rlimits"] = serde_json::json!([]);
    std::fs::write(&config_path, config.to_string()).expect("ours");
    let _ = require::tool("crun", "crun");
    // crun refuses hybrid cgroups, so it gets a mount namespace without the v2 mount.
    let crun = format!("exec crun --root {} run -b {} rbuild-test", bed.path("crun").display(), bundle.display());
    let script = format!("umount /sys/fs/cgroup/unified 2>/dev/null || true; {crun}");
    let said = succeeds(Command::new("unshare").args(["-m", "--propagation", "private", "sh", "-c", &script]));
    assert_eq!(said, "hello from a small image\n");
}

fn succeeds(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
