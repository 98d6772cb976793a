//! What can be known of the place where this process runs, without trying anything.

use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};

/// Bit of CAP_SYS_ADMIN.
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Facts about a process's place. The default is an ordinary user on a machine that forbids nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The user's number.
    pub uid: u32,
    /// The user's name, if it has one.
    pub user: Option<String>,
    /// Effective capabilities.
    pub capabilities: u64,
    /// What kind of container this is in: `docker`, `podman`, `kubernetes`, or what it calls itself.
    pub container: Option<String>,
    /// Whether somebody filters this process's system calls.
    pub is_filtered: bool,
    /// Whether set-id programs, such as newuidmap, have no effect.
    pub no_new_privs: bool,
    /// The profile of AppArmor that confines this process.
    pub apparmor_profile: Option<String>,
    /// Whether AppArmor keeps user namespaces from programs without a profile.
    pub apparmor_restricts: bool,
    /// Whether SELinux enforces a policy.
    pub selinux: bool,
    /// Whether the root directory is no root of a mount: the kernel gives no user namespace in a chroot.
    pub is_chrooted: bool,
    /// `user.max_user_namespaces`.
    pub max_user_namespaces: Option<u64>,
    /// `kernel.unprivileged_userns_clone` is 0.
    pub userns_for_root_only: bool,
    /// Files of `/proc/sys/user` that allow none of something.
    pub zero_limits: Vec<String>,
    /// This program's file.
    pub program: PathBuf,
}

impl Surroundings {
    /// Looks around. Nothing fails: what cannot be read is not known.
    #[must_use]
    pub fn read() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let status = read("/proc/self/status");
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim();
        let label = read("/proc/self/attr/apparmor/current");
        let label = label.trim_end_matches(['\0', '\n']);
        Self {
            uid,
            user: crate::user_namespace::user_name(uid),
            capabilities: rustix::thread::capabilities(None).map(|sets| sets.effective.bits()).unwrap_or_default(),
            container: container(),
            is_filtered: field("Seccomp") == "2",
            no_new_privs: field("NoNewPrivs") == "1",
            apparmor_profile: Some(label).filter(|label| !label.is_empty() && *label != "unconfined").map(str::to_owned),
            apparmor_restricts: sysctl("kernel/apparmor_restrict_unprivileged_userns") == Some(1),
            selinux: read("/sys/fs/selinux/enforce").trim() == "1",
            is_chrooted: is_chrooted(),
            max_user_namespaces: sysctl("user/max_user_namespaces"),
            userns_for_root_only: sysctl("kernel/unprivileged_userns_clone") == Some(0),
            zero_limits: zero_limits(),
            program: std::fs::read_link("/proc/self/exe").unwrap_or_else(|_| "/usr/local/bin/rbuild".into()),
        }
    }

    /// Whether the kernel lets this process administer its namespace.
    #[must_use]
    pub fn is_administrator(&self) -> bool {
        self.capabilities & CAP_SYS_ADMIN != 0
    }
}

fn read(file: &str) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

fn sysctl(name: &str) -> Option<u64> {
    read(&format!("/proc/sys/{name}")).trim().parse().ok()
}

fn zero_limits() -> Vec<String> {
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
    let files = kinds.map(|kind| format!("user/max_{kind}_namespaces"));
    files.into_iter().filter(|file| sysctl(file) == Some(0)).map(|file| format!("/proc/sys/{file}")).collect()
}

fn container() -> Option<String> {
    // Files and variables by which engines say that they are there; the variables of the first process are not for us to read.
    if std::fs::exists("/var/run/secrets/kubernetes.io").unwrap_or(false) {
        return Some("kubernetes".to_owned());
    }
    for (file, engine) in [("/run/.containerenv", "podman"), ("/.dockerenv", "docker")] {
        if std::fs::exists(file).unwrap_or(false) {
            return Some(engine.to_owned());
        }
    }
    Some(read("/run/systemd/container").trim().to_owned()).filter(|kind| !kind.is_empty())
}

fn is_chrooted() -> bool {
    let attributes = rustix::fs::statx(CWD, c"/", AtFlags::empty(), StatxFlags::empty());
    // The root of a mount says so (Linux 5.8); so a kernel that does not say proves nothing.
    attributes.is_ok_and(|stat| {
        StatxAttributes::from_bits_retain(stat.stx_attributes_mask.bits()).contains(StatxAttributes::MOUNT_ROOT)
            && !stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
    })
}
