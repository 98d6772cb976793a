//! RUN for another processor (`features.md` E4). The programs are Debian's own busybox for arm64, which `scripts/install-test-tools.sh` brings.

use std::path::Path;

use integration_tests::{Bed, Build};

/// Has subordinate ids; made by `scripts/install-test-tools.sh`.
const USER: &str = "rbuild-test";

/// Debian's busybox-static for arm64.
const BUSYBOX: &str = "/usr/local/share/rbuild-test/busybox-arm64";

/// A build for arm64 of a stage with nothing but busybox in it.
fn build(bed: &Bed, name: &str, steps: &str) -> Build {
    assert!(Path::new(BUSYBOX).is_file(), "this test needs {BUSYBOX}: scripts/install-test-tools.sh brings it");
    let context = bed.context(name, &[("Dockerfile", &format!("FROM scratch\nCOPY busybox /bin/busybox\n{steps}"))]);
    std::fs::copy(BUSYBOX, context.join("busybox")).expect("busybox");
    bed.build(&context).args(["--platform", "linux/arm64"])
}

#[test]
fn e4_1_an_ordinary_users_steps_run_under_an_emulator_that_only_they_know() {
    let bed = Bed::new();
    let steps =
        "RUN [\"busybox\", \"--install\", \"-s\", \"/bin\"]\nRUN uname -m > /machine && sh -c 'ls -l /proc/self/exe; env uname -m' >> /machine\n";
    let outcome = build(&bed, "context", steps).as_user(USER).ok();
    let image = outcome.image();
    let machine = String::from_utf8(image.file("machine").expect("machine")).expect("text");
    assert!(machine.starts_with("aarch64\n") && machine.ends_with("aarch64\n"), "{machine}");
    assert!(image.file("dev/.buildkit_qemu_emulator").is_none(), "nothing of the emulator is in the image");
    assert_eq!(std::fs::read_dir("/proc/sys/fs/binfmt_misc").map_or(0, |entries| entries.count()), 0, "the machine's own table is as it was");
}

#[test]
fn e4_1_root_runs_the_first_program_and_says_so() {
    let bed = Bed::new();
    let steps = "RUN [\"busybox\", \"uname\", \"-m\"]\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"echo $0 > /machine\"]\n";
    let outcome = build(&bed, "context", steps).ok();
    assert!(outcome.log.contains("aarch64"), "{}", outcome.log);
    assert_eq!(outcome.log.matches("the first one of each step only").count(), 1, "{}", outcome.log);
    // The emulator is in no key.
    assert_eq!(build(&bed, "context", steps).env("PATH", "/nonexistent").ok().cached().len(), 3);
}

/// A user namespace with a table of formats of its own (Linux 6.7), where the kernel knows Debian's emulator with the flags `FLAGS`: the same to a build as the machine's
/// table, which stays as it is. What follows finds nothing on PATH.
const REGISTERED: &str = r#"
set -e
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
elf='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
printf '%s' ":qemu-aarch64:M::$elf:$mask:/usr/bin/qemu-aarch64-static:FLAGS" > /proc/sys/fs/binfmt_misc/register
PATH=/nonexistent exec "$@"
"#;

#[test]
fn e4_1_an_emulator_that_the_kernel_knows_runs_all_programs() {
    let steps = "RUN [\"busybox\", \"--install\", \"-s\", \"/bin\"]\nRUN uname -m > /machine && sh -c 'env uname -m' >> /machine\n";
    // Held open by the kernel, and looked for by it in the step's root, where it is shown.
    for flags in ["OCPF", "OCP"] {
        let bed = Bed::new();
        let script = REGISTERED.replace("FLAGS", flags);
        let words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"];
        let outcome = build(&bed, "context", steps).under(words).ok();
        let image = outcome.image();
        assert_eq!(String::from_utf8_lossy(&image.file("machine").expect("machine")), "aarch64\naarch64\n", "{flags}");
        assert!(!outcome.log.contains("the first one of each step only"), "{flags}: {}", outcome.log);
        assert!(image.file("usr/bin/qemu-aarch64-static").is_none(), "{flags}: the emulator is not in the image");
    }
}

#[test]
fn e4_1_without_an_emulator_the_error_says_what_to_install() {
    let bed = Bed::new();
    let outcome = build(&bed, "context", "RUN [\"busybox\", \"true\"]\n").env("PATH", "/nonexistent").run();
    assert_eq!(outcome.code, Some(1), "{}", outcome.log);
    assert!(outcome.log.contains("exec format error") && outcome.log.contains("install qemu-user-static"), "{}", outcome.log);
    // Nothing that only copies needs one (E4.3).
    let copies = build(&bed, "copies", "COPY Dockerfile /f\n").env("PATH", "/nonexistent").ok();
    assert!(copies.image().file("f").is_some());
}
