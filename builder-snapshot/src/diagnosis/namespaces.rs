//! Why there is no user namespace.

use std::path::Path;

use rustix::io::Errno;

use super::{Facility, Lack, Surroundings};

/// How far entering a user namespace came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamespaceStage {
    /// Making it.
    Unshare,
    /// Giving it ids.
    Map,
    /// Mounting something in it.
    Mount,
}

/// What the kernel answered, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamespaceRefusal {
    /// Where it ended.
    pub stage: NamespaceStage,
    /// The answer.
    pub errno: Errno,
}

/// Why no user namespace can be entered.
#[must_use]
pub fn user_namespaces(refusal: NamespaceRefusal, place: &Surroundings) -> Lack {
    let lack = |cause: &str, responsible: Option<&str>, remedy: String| Lack::new(Facility::UserNamespaces, cause, responsible, remedy);
    let errno = refusal.errno;
    let denied = matches!(errno, Errno::PERM | Errno::ACCESS);
    if place.max_user_namespaces == Some(0) && refusal.stage == NamespaceStage::Unshare {
        return lack(
            "the machine allows no user namespaces: user.max_user_namespaces is 0",
            Some("/proc/sys/user/max_user_namespaces"),
            "as root, write a line `user.max_user_namespaces = 1000` to /etc/sysctl.d/90-rbuild.conf and run `sysctl --system`; or run rbuild as root"
                .to_owned(),
        );
    }
    if matches!(errno, Errno::NOSPC | Errno::USERS) {
        return lack(
            "no more user namespaces are allowed: as many as user.max_user_namespaces says are in use, or they are nested too deeply",
            Some("/proc/sys/user/max_user_namespaces"),
            "end what uses them (lsns -t user), or raise user.max_user_namespaces here and in the namespaces around this one".to_owned(),
        );
    }
    if denied && place.userns_for_root_only {
        return lack(
            "the machine gives user namespaces to root alone: kernel.unprivileged_userns_clone is 0",
            Some("/proc/sys/kernel/unprivileged_userns_clone"),
            "this setting knows no exceptions: run rbuild as root, or as root write `kernel.unprivileged_userns_clone = 1` to \
             /etc/sysctl.d/90-rbuild.conf and run `sysctl --system`"
                .to_owned(),
        );
    }
    if denied && place.apparmor_restricts && place.container.is_none() {
        return lack(
            "AppArmor keeps user namespaces from programs that have no profile (kernel.apparmor_restrict_unprivileged_userns)",
            Some("/etc/apparmor.d/rbuild"),
            format!(
                "give rbuild alone a profile: as root, `rbuild doctor --apparmor-profile > /etc/apparmor.d/rbuild && apparmor_parser -r \
                 /etc/apparmor.d/rbuild` (it names {})",
                place.program.display()
            ),
        );
    }
    if denied && place.is_chrooted {
        return lack(
            "the root directory is that of a chroot, in which the kernel gives no user namespaces",
            Some("chroot(2)"),
            "enter the directory by a program that changes the root mount (bwrap, systemd-nspawn, unshare and pivot_root), or run rbuild as root"
                .to_owned(),
        );
    }
    if denied && place.is_filtered {
        return filtered(place);
    }
    if denied && let Some(profile) = &place.apparmor_profile {
        return lack(
            &format!("AppArmor's profile `{profile}`, which confines this process, forbids it"),
            Some("/proc/self/attr/apparmor/current"),
            match &place.container {
                Some(_) => {
                    "let the container run with a profile that has the rules `userns,` and `mount,` (--security-opt apparmor=PROFILE)".to_owned()
                }
                None => format!("add the rules `userns,` and `mount,` to the profile `{profile}`"),
            },
        );
    }
    if denied && place.selinux {
        return lack(
            "SELinux's policy forbids it",
            Some("/sys/fs/selinux/enforce"),
            "look at what was refused with `ausearch -m avc -ts recent`, and allow it to this program's domain alone (audit2allow -M rbuild)"
                .to_owned(),
        );
    }
    if refusal.stage == NamespaceStage::Map && matches!(errno, Errno::ROFS | Errno::NOENT | Errno::PERM | Errno::ACCESS) {
        return lack(
            "its ids cannot be written to /proc/self/uid_map",
            Some("/proc/self/uid_map"),
            "mount /proc, readable and writable, where rbuild runs".to_owned(),
        );
    }
    if matches!(errno, Errno::INVAL | Errno::NOSYS) && !place.is_filtered {
        return lack(
            "the kernel has no user namespaces (CONFIG_USER_NS)",
            Some("CONFIG_USER_NS"),
            "run rbuild as root, or with another kernel".to_owned(),
        );
    }
    if errno == Errno::NOSYS {
        return filtered(place);
    }
    lack(
        &format!("the kernel refuses a user namespace ({})", std::io::Error::from(errno)),
        None,
        "run rbuild as root, or where user namespaces are allowed".to_owned(),
    )
}

/// System calls that a filter has to let pass, beyond those that engines allow to every container.
pub(super) const CALLS: &str = "clone, clone3, unshare, setns, sethostname, mount, umount2, pivot_root, fsopen, fsconfig, fsmount, move_mount, open_tree, \
                                mount_setattr, keyctl";

fn filtered(place: &Surroundings) -> Lack {
    Lack::new(
        Facility::UserNamespaces,
        "a system call filter (seccomp) of whoever started this process forbids user namespaces",
        Some("Seccomp in /proc/self/status"),
        filter_remedy(place),
    )
}

/// What to change about a filter of system calls.
pub(super) fn filter_remedy(place: &Surroundings) -> String {
    match place.container.as_deref() {
        Some("kubernetes") => format!(
            "give this pod's container a seccomp profile of its own that allows {CALLS} (securityContext.seccompProfile: type Localhost); with \
             hostUsers: false its root is nobody outside"
        ),
        Some("docker" | "podman") => {
            format!("start this container with a seccomp profile that also allows {CALLS} (--security-opt seccomp=FILE)")
        }
        Some(_) => format!("let the container's seccomp profile also allow {CALLS}"),
        None => format!("let the filter allow {CALLS} (of a systemd unit: RestrictNamespaces= and SystemCallFilter=)"),
    }
}

/// A profile of AppArmor that allows `program`, and nothing else, to make user namespaces, ready for `/etc/apparmor.d/rbuild`.
#[must_use]
pub fn apparmor_profile(program: &Path) -> String {
    format!(
        "# Lets rbuild make user namespaces, and changes nothing else. Install:\n\
         #   rbuild doctor --apparmor-profile > /etc/apparmor.d/rbuild && apparmor_parser -r /etc/apparmor.d/rbuild\n\
         abi <abi/4.0>,\n\
         include <tunables/global>\n\
         \n\
         profile rbuild \"{}\" flags=(unconfined) {{\n\
         \u{20}\u{20}userns,\n\
         \u{20}\u{20}include if exists <local/rbuild>\n\
         }}\n",
        program.display()
    )
}
