//! Why there are no more ids than one.

use super::{Facility, Lack, Surroundings};

/// What is missing for ranges of ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangeLack {
    /// The program that maps them.
    NoTool {
        /// `newuidmap` or `newgidmap`.
        tool: String,
    },
    /// A line for the user.
    NoLine {
        /// `/etc/subuid` or `/etc/subgid`.
        file: String,
    },
    /// The program ran and failed, or could not be run.
    Failed {
        /// Its file.
        tool: String,
        /// What it said.
        said: String,
        /// Whether the file has the right to map: a set-uid bit or capabilities, on a mount that honours them.
        is_privileged: bool,
    },
}

/// Ids that are given to a user whose line is missing: a range that no login has by custom.
const SUGGESTED: &str = "100000-165535";

/// Why a user has one id only. `user` is the invoking user, as the files name it.
#[must_use]
pub fn id_ranges(why: &RangeLack, user: &str, place: &Surroundings) -> Lack {
    let lack = |cause: String, responsible: &str, remedy: String| Lack::new(Facility::IdRanges, cause, Some(responsible), remedy);
    match why {
        RangeLack::NoTool { tool } => lack(
            format!("there is no {tool}"),
            tool,
            "install it (Debian, Ubuntu: package uidmap; Fedora: shadow-utils; Alpine: shadow-subids)".to_owned(),
        ),
        RangeLack::NoLine { file } => {
            let remedy = match user.parse::<u32>() {
                // usermod knows names only.
                Ok(_) => format!("as root, add the line `{user}:100000:65536` to /etc/subuid and to /etc/subgid"),
                Err(_) => format!("as root, `usermod --add-subuids {SUGGESTED} --add-subgids {SUGGESTED} {user}`"),
            };
            lack(format!("{file} has no ids for user {user}"), file, remedy)
        }
        RangeLack::Failed { tool, said, is_privileged } => {
            let cause = format!("{tool} failed: {said}");
            if place.no_new_privs {
                let remedy = "start rbuild without no_new_privs, which takes the rights from set-uid programs (docker, podman: without \
                              --security-opt no-new-privileges; Kubernetes: allowPrivilegeEscalation: true; systemd: NoNewPrivileges=no)";
                return lack(cause, "NoNewPrivs in /proc/self/status", remedy.to_owned());
            }
            if !is_privileged {
                let remedy = format!("as root, `chmod u+s {tool}`, on a file system that is not mounted nosuid");
                return lack(cause, tool, remedy);
            }
            lack(
                cause,
                "/etc/subuid",
                format!("see that the ranges of {user} in /etc/subuid and /etc/subgid are ids that exist here (/proc/self/uid_map)"),
            )
        }
    }
}
