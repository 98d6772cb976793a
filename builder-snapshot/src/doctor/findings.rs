//! From facts to findings: pure.

use super::{Builds, Emulation, Facts, Finding, Report, Status};
use crate::diagnosis::{self, Facility, Lack};
use crate::user_namespace::{Ids, Isolation};

/// Less than this is said: a build of one base image with a compiler takes about as much.
const LITTLE_BYTES: u64 = 2 << 30;

/// Before this (2025-01-01) no clock can be right.
const EARLIEST_SECONDS: i64 = 1_735_689_600;

/// A file's time may be this far from the clock's: kernels' ticks, and rounding to seconds.
const SKEW_SECONDS: i64 = 2;

/// What `facts` mean.
#[must_use]
pub fn findings(facts: &Facts) -> Report {
    let isolation = match facts.ids {
        Some(Ids::Own) => Isolation::Root,
        Some(Ids::Ranges) => Isolation::Ranges,
        Some(Ids::One { .. }) => Isolation::OneId,
        Some(Ids::None { .. }) | None => Isolation::None,
    };
    let findings = vec![
        system_calls(facts),
        user_namespaces(facts),
        id_ranges(facts, isolation),
        overlay(facts, isolation),
        sandbox(facts, isolation),
        seccomp(facts),
        control_groups(facts, isolation),
        foreign_programs(facts),
        network(facts, isolation),
        disk(facts, isolation),
        clock(facts),
    ];
    let missing = |facility: Facility| findings.iter().any(|finding| finding.facility == facility && finding.status == Status::Missing);
    let builds = if missing(Facility::Disk) || missing(Facility::SystemCalls) {
        Builds::None
    } else if findings.iter().any(|finding| finding.status == Status::Missing) {
        Builds::WithoutRun
    } else {
        Builds::All
    };
    Report { builds, isolation, findings }
}

fn good(facility: Facility, detail: impl Into<String>) -> Finding {
    Finding { facility, status: Status::Good, detail: detail.into(), lack: None }
}

fn lacking(status: Status, detail: &str, lack: Lack) -> Finding {
    Finding { facility: lack.facility, status, detail: detail.to_owned(), lack: Some(lack) }
}

fn lack(facility: Facility, cause: impl Into<String>, responsible: &str, remedy: impl Into<String>) -> Lack {
    Lack { facility, cause: cause.into(), responsible: Some(responsible.to_owned()).filter(|text| !text.is_empty()), remedy: remedy.into() }
}

fn system_calls(facts: &Facts) -> Finding {
    match &facts.floor {
        Some(lack) => lacking(Status::Missing, "not allowed", lack.clone()),
        None => good(Facility::SystemCalls, "what every build needs is allowed"),
    }
}

fn user_namespaces(facts: &Facts) -> Finding {
    let facility = Facility::UserNamespaces;
    match &facts.ids {
        Some(Ids::Own) => good(facility, "not needed by root"),
        Some(Ids::Ranges | Ids::One { .. }) => good(facility, "can be entered"),
        Some(Ids::None { lack }) => lacking(Status::Missing, "none: images without RUN can be built", lack.clone()),
        None => {
            let cause = "the process that tries what a build does was killed, or did not answer within a second";
            let remedy = "look into the kernel's log (dmesg) for what killed or holds it; a filter of system calls that kills must allow what it forbids, \
                          or refuse it with an error";
            lacking(Status::Missing, "not known", lack(facility, cause, "dmesg", remedy))
        }
    }
}

fn id_ranges(facts: &Facts, isolation: Isolation) -> Finding {
    let facility = Facility::IdRanges;
    match (&facts.ids, isolation) {
        (Some(Ids::One { lack }), _) => lacking(Status::Limited, "one id: steps run as root only, and cannot change owners or users", lack.clone()),
        (_, Isolation::None) => good(facility, "of no use without a user namespace"),
        (_, Isolation::Root) => good(facility, "not needed by root"),
        _ => good(facility, "mapped"),
    }
}

fn overlay(facts: &Facts, isolation: Isolation) -> Finding {
    let facility = Facility::Overlay;
    match &facts.overlay {
        Some(fault) => {
            let remedy = if fault.remedy.is_empty() { "put the store on ext4, xfs, btrfs or tmpfs (RBUILD_ROOT)" } else { &fault.remedy };
            lacking(Status::Limited, "steps run on copies of their image, which takes longer", lack(facility, &fault.cause, "", remedy))
        }
        None if isolation == Isolation::None => good(facility, "not tried"),
        None => good(facility, "layers can be stacked where the store is"),
    }
}

fn sandbox(facts: &Facts, isolation: Isolation) -> Finding {
    let facility = Facility::Sandbox;
    match &facts.sandbox {
        Some(fault) => {
            let remedy = if fault.remedy.is_empty() { "see the findings above" } else { &fault.remedy };
            lacking(Status::Missing, "no process can be started", lack(facility, &fault.cause, "", remedy))
        }
        None if isolation == Isolation::None => good(facility, "not tried"),
        None => match &facts.sandbox_warning {
            Some(warning) => {
                let (cause, remedy) = warning.split_once("; ").unwrap_or((warning, "none is needed"));
                lacking(Status::Limited, "processes can be started", lack(facility, cause, "", remedy))
            }
            None => good(facility, "namespaces, mounts and limits of a step work"),
        },
    }
}

fn seccomp(facts: &Facts) -> Finding {
    let facility = Facility::Seccomp;
    if facts.has_filter {
        return good(facility, "steps run behind a filter of system calls");
    }
    let cause = "no filter of system calls is known for this processor";
    lacking(Status::Limited, "steps run without a filter", lack(facility, cause, "", "build what you do not trust on x86_64 or aarch64"))
}

fn control_groups(facts: &Facts, isolation: Isolation) -> Finding {
    let facility = Facility::ControlGroups;
    let groups = &facts.control_groups;
    if !groups.is_seen {
        let cause = "no control groups of this process can be seen in /sys/fs/cgroup";
        let remedy = "mount them there, if steps are to be limited";
        return lacking(Status::Limited, "no limits on memory or processors", lack(facility, cause, "/sys/fs/cgroup", remedy));
    }
    let without =
        [("memory", groups.memory), ("processors", groups.cpu)].iter().filter(|(_, by)| by.is_none()).map(|(what, _)| *what).collect::<Vec<_>>();
    if !without.is_empty() {
        let detail = format!("no limits on {}", without.join(" or "));
        let cause = format!("rbuild can make no control group that limits {}", without.join(" and "));
        let remedy = "start rbuild in a group of the user's own (systemd-run --user --scope -p Delegate=yes rbuild …), if steps are to be limited";
        return lacking(Status::Limited, &detail, lack(facility, cause, "/proc/self/cgroup", remedy));
    }
    if isolation == Isolation::Root && groups.devices.is_none() {
        let cause = "rbuild can make no control group with a rule about devices: no device node that a step makes can be opened";
        let remedy = "mount cgroup2 on /sys/fs/cgroup, writable (in a container: --privileged, or --cgroupns=private with a writable mount), if steps make device nodes";
        return lacking(Status::Limited, "steps see the six harmless devices only", lack(facility, cause, "/sys/fs/cgroup", remedy));
    }
    let version = |by: Option<u8>| by.map_or_else(|| "none".to_owned(), |version| format!("version {version}"));
    let devices = if isolation == Isolation::Root { format!(", devices: {}", version(groups.devices)) } else { String::new() };
    good(facility, format!("memory: {}, processors: {}{devices}", version(groups.memory), version(groups.cpu)))
}

fn foreign_programs(facts: &Facts) -> Finding {
    let facility = Facility::ForeignPrograms;
    let Emulation { registered, on_path, has_own_table } = &facts.emulation;
    if !registered.is_empty() {
        return good(facility, registered.join(", "));
    }
    // PATH of a machine with Debian's package has dozens of them.
    let some = match on_path.as_slice() {
        [] => {
            let cause = "no interpreter is registered for programs of other processors, and no emulator is on PATH";
            let remedy = "install qemu-user-static (and binfmt-support, for root), if RUN is to work for other platforms";
            return lacking(Status::Limited, "steps run for this processor only", lack(facility, cause, "/proc/sys/fs/binfmt_misc", remedy));
        }
        [one] => one.clone(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    };
    if *has_own_table {
        return good(facility, format!("{some} from PATH, which only rbuild's steps know"));
    }
    let cause = format!(
        "there is {some} on PATH, but no interpreter is registered: of a step for another processor the first program runs, and none that it starts"
    );
    let remedy = "install binfmt-support, or run rbuild as an ordinary user (Linux 6.7), if RUN is to work for other platforms";
    lacking(Status::Limited, "the first program of a step runs for other processors", lack(facility, cause, "/proc/sys/fs/binfmt_misc", remedy))
}

fn network(facts: &Facts, isolation: Isolation) -> Finding {
    let facility = Facility::Network;
    let network = &facts.network;
    if !network.has_name_server {
        let cause = "/etc/resolv.conf names no server: steps ask public ones";
        return lacking(Status::Limited, "no name server", lack(facility, cause, "/etc/resolv.conf", "add a `nameserver` line"));
    }
    if isolation == Isolation::None {
        return good(facility, "name servers are set");
    }
    match (&network.by, &network.lack) {
        (Some(by), _) => good(facility, format!("each step has its own, by {by}")),
        (None, Some(lack)) => {
            let lack = Lack { remedy: format!("{}, if steps are to have networks of their own", lack.remedy), ..lack.clone() };
            lacking(Status::Limited, "steps use this machine's network", lack)
        }
        // Where nothing was tried other findings say why.
        (None, None) => good(facility, "name servers are set"),
    }
}

fn disk(facts: &Facts, isolation: Isolation) -> Finding {
    let facility = Facility::Disk;
    let disk = &facts.disk;
    let path = disk.path.display().to_string();
    let free = disk.free_bytes >> 20;
    if let Some(fault) = &disk.fault {
        return lacking(Status::Missing, "no place for a store", diagnosis::unwritable_store(&disk.store, fault));
    }
    if let Some([made_with, now]) = &disk.other_ids {
        return lacking(Status::Missing, "the store is another's", diagnosis::other_ids(&disk.store, made_with, now));
    }
    // Owners that are not in the map, and modes, are kept there.
    if !disk.keeps_attributes && isolation != Isolation::Root {
        let cause = format!("files in {path} have no attributes of users (user.*), in which owners are kept");
        let remedy = "put the store on ext4, xfs, btrfs, or tmpfs of Linux 6.6 (--root DIR or RBUILD_ROOT)";
        return lacking(Status::Missing, "owners cannot be kept", lack(facility, cause, &path, remedy));
    }
    if disk.free_bytes < LITTLE_BYTES {
        let cause = format!("{path} has {free} MiB left");
        let remedy = "make room, or put the store elsewhere (--root DIR or RBUILD_ROOT)";
        return lacking(Status::Limited, "little room", lack(facility, cause, &path, remedy));
    }
    good(facility, format!("{free} MiB free in {path}"))
}

fn clock(facts: &Facts) -> Finding {
    let facility = Facility::Clock;
    if facts.now_seconds < EARLIEST_SECONDS {
        let cause = format!("the clock says that it is {} seconds since 1970, which is long ago: certificates are not valid yet", facts.now_seconds);
        return lacking(Status::Limited, "wrong", lack(facility, cause, "date", "set it (timedatectl set-ntp true)"));
    }
    let skew = facts.disk.skew_seconds;
    if skew.abs() > SKEW_SECONDS {
        let cause = format!("new files of the store's file system are {skew} seconds from this machine's clock");
        let remedy = "let both machines ask the same time server (timedatectl set-ntp true)";
        return lacking(Status::Limited, "differs from the disk's", lack(facility, cause, "date", remedy));
    }
    good(facility, "plausible")
}
