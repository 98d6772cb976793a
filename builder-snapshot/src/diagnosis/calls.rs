//! Why a part of the sandbox is refused.

use rustix::io::Errno;

use super::namespaces::{CALLS, filter_remedy};
use super::{Facility, Lack, Surroundings};

/// What was tried, and the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused<'a> {
    /// Of what it is a part.
    pub facility: Facility,
    /// What was tried, as a verb: `mount proc on /proc`.
    pub action: &'a str,
    /// The answer.
    pub errno: Errno,
}

/// Why the kernel refuses an administrator's call. The cause has the kernel's own words.
#[must_use]
pub fn refused(what: Refused<'_>, place: &Surroundings) -> Lack {
    let cause = format!("cannot {}: {}", what.action, std::io::Error::from(what.errno));
    let lack = |responsible: Option<&str>, remedy: String| Lack::new(what.facility, cause.clone(), responsible, remedy);
    match what.errno {
        Errno::NOSPC if !place.zero_limits.is_empty() => {
            lack(Some(&place.zero_limits.join(", ")), format!("the machine allows none of them: raise {}", place.zero_limits.join(", ")))
        }
        Errno::NOSPC => {
            lack(Some("/proc/sys/user"), "too many are in use: raise the limits in /proc/sys/user, or end what uses them (lsns)".to_owned())
        }
        Errno::AGAIN => lack(
            Some("ulimit -u, pids.max"),
            "too many processes: raise the limit on processes (ulimit -u, the control group's pids.max), or run fewer steps at once".to_owned(),
        ),
        Errno::NOSYS if place.is_filtered => {
            lack(Some("Seccomp in /proc/self/status"), format!("a system call filter denies it: {}", filter_remedy(place)))
        }
        Errno::NOSYS => lack(Some("uname -r"), "the kernel is too old: Linux 5.12 is the oldest that can run steps".to_owned()),
        Errno::PERM | Errno::ACCESS if !place.is_administrator() => {
            lack(Some("CapEff in /proc/self/status"), "it needs CAP_SYS_ADMIN, in the machine or in a user namespace of one's own".to_owned())
        }
        Errno::PERM | Errno::ACCESS => denied(place, &lack),
        _ => lack(None, "`rbuild doctor` tells what this machine has and lacks".to_owned()),
    }
}

fn denied(place: &Surroundings, lack: &dyn Fn(Option<&str>, String) -> Lack) -> Lack {
    if let Some(profile) = &place.apparmor_profile {
        let remedy = match &place.container {
            Some(_) => "let the container run with a profile of AppArmor that has the rule `mount,` (--security-opt apparmor=PROFILE)".to_owned(),
            None => format!("add the rule `mount,` to the profile `{profile}` of AppArmor"),
        };
        return lack(Some("/proc/self/attr/apparmor/current"), remedy);
    }
    if place.is_filtered {
        return lack(Some("Seccomp in /proc/self/status"), format!("a system call filter denies it: {}", filter_remedy(place)));
    }
    if place.selinux {
        return lack(
            Some("/sys/fs/selinux/enforce"),
            "look at what SELinux refused with `ausearch -m avc -ts recent`, and allow it to this program".to_owned(),
        );
    }
    match &place.container {
        Some(_) => lack(None, format!("inside a container the outer one must allow it: {CALLS}, and a whole /proc (--security-opt unmask=/proc/*)")),
        None => lack(
            None,
            "something outside this process forbids it: a filter, a policy, or a mount that is locked by the namespace around it".to_owned(),
        ),
    }
}
