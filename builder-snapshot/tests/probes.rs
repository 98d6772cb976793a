//! What the crate believes about the kernel, asked of the kernel that runs these tests. A failing probe explains failing builds better than the builds do.
//!
//! They need root (mount, mknod, trusted.* attributes) and a writable temporary directory on a file system that can hold an overlay's upper directory.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};

fn need_root() {
    assert!(rustix::process::geteuid().is_root(), "these probes ask for privileges: run them as root (in CI this is a failure, not a skip)");
}

struct Stack {
    dir: tempfile::TempDir,
}

impl Stack {
    fn new(lowers: usize) -> Self {
        need_root();
        let dir = tempfile::tempdir().expect("temporary directory");
        for name in (0..lowers).map(|i| format!("l{i}")).chain(["upper".to_owned(), "work".to_owned()]) {
            fs::create_dir(dir.path().join(name)).expect("directory");
        }
        Self { dir }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn mount(&self, lowers: &[&str]) -> Result<Mounted, (Errno, String)> {
        let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).expect("overlay is built into the kernel");
        let set = |key: &str, value: PathBuf| rustix::mount::fsconfig_set_string(&context, key, value);
        let result = lowers.iter().try_for_each(|lower| set("lowerdir+", self.path(lower)));
        let result = result.and_then(|()| set("upperdir", self.path("upper"))).and_then(|()| set("workdir", self.path("work")));
        let result = result.and_then(|()| rustix::mount::fsconfig_set_flag(&context, "volatile"));
        let result = result.and_then(|()| rustix::mount::fsconfig_create(&context));
        result.map_err(|errno| {
            let mut log = [0_u8; 512];
            let n = rustix::io::read(&context, &mut log).unwrap_or(0);
            (errno, String::from_utf8_lossy(&log[..n]).into_owned())
        })?;
        let fd = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).expect("fsmount");
        Ok(Mounted(fd))
    }
}

struct Mounted(OwnedFd);

impl Mounted {
    fn path(&self, below: &str) -> PathBuf {
        Path::new("/proc/self/fd").join(self.0.as_raw_fd().to_string()).join(below)
    }
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut buffer = [0_u8; 256];
    rustix::fs::lgetxattr(path, name, &mut buffer).ok().map(|n| buffer[..n].to_vec())
}

#[test]
fn lowerdir_plus_mounts_detached_and_can_be_used_through_its_descriptor() {
    let stack = Stack::new(2);
    fs::write(stack.path("l0/a"), "bottom").expect("write");
    fs::write(stack.path("l1/b"), "top").expect("write");
    let mount = stack.mount(&["l1", "l0"]).map_err(|(e, log)| format!("{e}: {log}")).expect("lowerdir+ needs Linux 6.5");
    assert_eq!(fs::read_to_string(mount.path("a")).expect("read"), "bottom");
    fs::write(mount.path("c"), "new").expect("write");
    assert_eq!(fs::read_to_string(stack.path("upper/c")).expect("read"), "new");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!mounts.contains(stack.dir.path().to_str().expect("UTF-8")), "a detached mount is in nobody's table");
}

#[test]
fn one_directory_twice_in_a_stack_is_refused() {
    let stack = Stack::new(1);
    let refused = stack.mount(&["l0", "l0"]).err();
    assert!(refused.is_some(), "the kernel accepts duplicate lowers now: leaving them out is still right, and this probe can go");
}

#[test]
fn five_hundred_layers_and_no_more() {
    let stack = Stack::new(501);
    let names: Vec<String> = (0..501).map(|i| format!("l{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert!(stack.mount(&names[..500]).is_ok());
    let stack = Stack::new(501);
    let (errno, log) = stack.mount(&names).err().expect("501 are too many");
    assert_eq!(errno, Errno::INVAL);
    assert!(log.contains("500"), "{log}");
}

#[test]
fn removal_leaves_a_device_0_0_and_a_directory_made_anew_is_opaque() {
    let stack = Stack::new(1);
    for dir in ["gone", "anew", "anew/below"] {
        fs::create_dir(stack.path("l0").join(dir)).expect("directory");
    }
    for file in ["a", "b"] {
        fs::write(stack.path("l0").join(file), file).expect("write");
    }
    let mount = stack.mount(&["l0"]).map_err(|(e, _)| e).expect("mount");
    for file in ["a", "b"] {
        fs::remove_file(mount.path(file)).expect("remove");
    }
    fs::remove_dir(mount.path("gone")).expect("remove");
    fs::remove_dir_all(mount.path("anew")).expect("remove");
    fs::create_dir(mount.path("anew")).expect("directory");
    for name in ["a", "b", "gone"] {
        let meta = fs::symlink_metadata(stack.path("upper").join(name)).expect("whiteout");
        assert!(meta.file_type().is_char_device() && meta.rdev() == 0, "{name}");
    }
    let links = fs::symlink_metadata(stack.path("upper/a")).expect("whiteout").nlink();
    assert!(links > 1, "whiteouts share an inode: a hard-link table must not see them");
    assert_eq!(xattr(&stack.path("upper/anew"), "trusted.overlay.opaque").as_deref(), Some(&b"y"[..]));
}

#[test]
fn copy_up_keeps_times_and_leaves_marks_that_must_not_be_exported() {
    let stack = Stack::new(1);
    fs::write(stack.path("l0/f"), "f").expect("write");
    let before = fs::metadata(stack.path("l0/f")).expect("stat");
    let mount = stack.mount(&["l0"]).map_err(|(e, _)| e).expect("mount");
    rustix::fs::chmod(mount.path("f"), Mode::from_raw_mode(0o600)).expect("chmod");
    let after = fs::metadata(stack.path("upper/f")).expect("copied up");
    assert_eq!((before.mtime(), before.mtime_nsec()), (after.mtime(), after.mtime_nsec()));
    assert!(xattr(&stack.path("upper/f"), "trusted.overlay.origin").is_some());
}

#[test]
fn renaming_a_lower_directory_is_exdev_without_redirects() {
    let stack = Stack::new(1);
    fs::create_dir(stack.path("l0/d")).expect("directory");
    fs::write(stack.path("l0/d/f"), "f").expect("write");
    let mount = stack.mount(&["l0"]).map_err(|(e, _)| e).expect("mount");
    let result = rustix::fs::renameat(CWD, mount.path("d"), CWD, mount.path("e"));
    assert_eq!(result, Err(Errno::XDEV), "else a layer would hold a redirect, which no other layer can read");
}

#[test]
fn a_process_cannot_make_a_whiteout_through_the_overlay() {
    let stack = Stack::new(1);
    let mount = stack.mount(&["l0"]).map_err(|(e, _)| e).expect("mount");
    let made = rustix::fs::mknodat(CWD, mount.path("w"), FileType::CharacterDevice, Mode::empty(), 0);
    assert_eq!(made, Err(Errno::PERM));
}

#[test]
fn openat2_confines() {
    let dir = tempfile::tempdir().expect("temporary directory");
    fs::create_dir(dir.path().join("root")).expect("directory");
    fs::write(dir.path().join("root/passwd"), "inside").expect("write");
    symlink("/passwd", dir.path().join("root/absolute")).expect("link");
    symlink("../../../../passwd", dir.path().join("root/relative")).expect("link");
    let root = File::open(dir.path().join("root")).expect("open");
    let open = |path: &str, resolve| rustix::fs::openat2(root.as_fd(), path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty(), resolve);
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    assert_eq!(open("../root/passwd", beneath).err(), Some(Errno::XDEV));
    assert_eq!(open("absolute", beneath).err(), Some(Errno::LOOP));
    for link in ["absolute", "relative"] {
        let file = File::from(open(link, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS).expect("resolved inside"));
        assert_eq!(std::io::read_to_string(file).expect("read"), "inside");
    }
}

#[test]
fn a_directory_and_a_file_can_be_bound_detached() {
    need_root();
    let dir = tempfile::tempdir().expect("temporary directory");
    fs::write(dir.path().join("f"), "f").expect("write");
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, dir.path(), clone).expect("directory");
    assert_eq!(fs::read_to_string(Mounted(tree).path("f")).expect("read"), "f");
    assert!(rustix::mount::open_tree(CWD, dir.path().join("f"), clone).is_ok(), "file");
}

#[test]
fn a_change_of_owner_drops_capabilities_and_set_id_bits() {
    need_root();
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("f");
    fs::write(&path, "f").expect("write");
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    rustix::fs::setxattr(&path, "security.capability", capability, rustix::fs::XattrFlags::empty()).expect("set");
    rustix::fs::chmod(&path, Mode::from_raw_mode(0o4755)).expect("chmod");
    std::os::unix::fs::chown(&path, Some(1), Some(1)).expect("chown");
    assert_eq!(xattr(&path, "security.capability"), None);
    assert_eq!(fs::metadata(&path).expect("stat").mode() & 0o7777, 0o755);
}

/// Why nothing is linked, and no link removed, below a running step.
#[test]
fn a_further_name_of_a_lower_file_is_seen_through_an_overlay_as_a_change() {
    let stack = Stack::new(1);
    fs::write(stack.path("l0/f"), "x").expect("write");
    let mounted = stack.mount(&["l0"]).expect("mount");
    let seen = || {
        let stat = fs::metadata(mounted.path("f")).expect("stat");
        (stat.nlink(), stat.ctime(), stat.ctime_nsec())
    };
    let before = seen();
    let changed = |before: (u64, i64, i64)| {
        // The clock has steps of some milliseconds.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while seen() == before && std::time::Instant::now() < until {
            fs::hard_link(stack.path("l0/f"), stack.path("again")).and_then(|()| fs::remove_file(stack.path("again"))).expect("linked");
        }
        seen()
    };
    let after = changed(before);
    assert_eq!(after.0, 1);
    assert_ne!((after.1, after.2), (before.1, before.2));
    fs::hard_link(stack.path("l0/f"), stack.path("kept")).expect("linked");
    assert_eq!(seen().0, 2);
    // What a process does to it is done to its own copy.
    fs::write(mounted.path("f"), "changed").expect("write");
    assert_eq!((fs::read_to_string(stack.path("kept")).expect("read"), seen().0), ("x".to_owned(), 1));
}

/// Why two layers of a stack must not share an inode.
#[test]
fn one_inode_in_two_layers_is_one_file_to_a_process() {
    let stack = Stack::new(2);
    fs::write(stack.path("l0/a"), "x").expect("write");
    fs::hard_link(stack.path("l0/a"), stack.path("l1/b")).expect("linked");
    let mounted = stack.mount(&["l1", "l0"]).expect("mount");
    let id = |name: &str| fs::metadata(mounted.path(name)).map(|stat| (stat.dev(), stat.ino())).expect("stat");
    assert_eq!(id("a"), id("b"));
}

/// What answers for a process's system calls must be able to do (`exec/ownership` stands on it). In C: tests have no raw system calls.
const NOTIFICATION: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#define WAIT_KILLABLE (1UL << 5)
#define IF(number, action) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), BPF_STMT(BPF_RET | BPF_K, action)
#define CHECK(what) do { if (!(what)) { printf("not so: %s (%s)\n", #what, strerror(errno)); return 1; } } while (0)
static volatile struct { int listener; long answers[4]; int errors[4]; int killable; } *seen;
static long load(struct sock_filter *filter, unsigned short length, unsigned long flags) {
    struct sock_fprog program = { length, filter };
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}
static void ask(int at, long number) {
    errno = 0;
    seen->answers[at] = syscall(number, AT_FDCWD, "a/name", 7, 8, 0);
    seen->errors[at] = errno;
}
static void asker(void) {
    struct sock_filter notify[] = { BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        IF(SYS_fchownat, SECCOMP_RET_USER_NOTIF), IF(SYS_getppid, SECCOMP_RET_USER_NOTIF), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW) };
    struct sock_filter refuse[] = { BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        IF(SYS_fchownat, SECCOMP_RET_ERRNO | EDOM), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW) };
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    long listener = load(notify, 6, SECCOMP_FILTER_FLAG_NEW_LISTENER | WAIT_KILLABLE);
    seen->killable = listener >= 0;
    if (listener < 0) listener = load(notify, 6, SECCOMP_FILTER_FLAG_NEW_LISTENER);
    seen->listener = (int)listener;
    ask(0, SYS_fchownat);
    ask(1, SYS_fchownat);
    ask(2, SYS_getppid);
    if (load(refuse, 4, 0) != 0) _exit(2);
    ask(3, SYS_fchownat);
    ask(0, SYS_getppid);
    _exit(3);
}
static struct seccomp_notif question;
static int next(void) {
    memset(&question, 0, sizeof question);
    return ioctl(seen->listener, SECCOMP_IOCTL_NOTIF_RECV, &question);
}
static int answer(long value, int error, unsigned flags) {
    struct seccomp_notif_resp reply = { .id = question.id, .val = value, .error = error, .flags = flags };
    return ioctl(seen->listener, SECCOMP_IOCTL_NOTIF_SEND, &reply);
}
int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    seen = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    seen->listener = -1;
    /* One table of descriptors: the listener is both's. */
    long pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) asker();
    alarm(20);
    while (seen->listener < 0) sched_yield();
    /* What is asked can be read out of the asker, and what is answered is what it gets; nothing is carried out. */
    CHECK(next() == 0 && question.pid == (unsigned)pid && question.data.nr == SYS_fchownat && question.data.args[2] == 7);
    char path[64], name[7];
    snprintf(path, sizeof path, "/proc/%ld/mem", pid);
    int memory = open(path, O_RDWR | O_CLOEXEC);
    CHECK(memory >= 0 && pread(memory, name, 7, (off_t)question.data.args[1]) == 7 && strcmp(name, "a/name") == 0);
    CHECK(ioctl(seen->listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &question.id) == 0);
    CHECK(answer(0, 0, 0) == 0);
    CHECK(next() == 0 && answer(0, -EXDEV, 0) == 0);
    CHECK(next() == 0 && question.data.nr == SYS_getppid && answer(0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE) == 0);
    /* A filter that refuses outranks: nobody is asked about the fourth, so the next question is the last call's. */
    CHECK(next() == 0 && question.data.nr == SYS_getppid);
    CHECK(seen->answers[0] == 0 && seen->answers[1] == -1 && seen->errors[1] == EXDEV);
    CHECK(seen->answers[2] == getpid());
    CHECK(seen->answers[3] == -1 && seen->errors[3] == EDOM);
    /* Who waits for an answer can be killed, and then the question is void. */
    CHECK(kill((pid_t)pid, SIGKILL) == 0 && waitpid((pid_t)pid, NULL, 0) == pid);
    CHECK(ioctl(seen->listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &question.id) == -1 && errno == ENOENT);
    CHECK(answer(0, 0, 0) == -1 && errno == ENOENT);
    printf("so it is%s\n", seen->killable ? "" : ", but interrupted calls are made again");
    return 0;
}
"#;

#[test]
fn system_calls_can_be_answered_by_another_process_without_any_privilege() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (source, program) = (dir.path().join("probe.c"), dir.path().join("probe"));
    fs::write(&source, NOTIFICATION).expect("write");
    let compiled = Command::new("gcc").args(["-static", "-O1", "-o"]).arg(&program).arg(&source).output().expect("gcc: apt-get install gcc");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    for words in [&["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--"][..], &["--"]] {
        let output = Command::new("setpriv").args(words).arg(&program).output().expect("setpriv: apt-get install util-linux");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.starts_with("so it is"), "{words:?}: {said}");
    }
}
