//! Machines, and what is said of each.

use rustix::io::Errno;

use super::*;

/// An ordinary user's.
fn place(change: impl FnOnce(&mut Surroundings)) -> Surroundings {
    let mut place = Surroundings { uid: 1000, program: "/opt/rbuild/bin/rbuild".into(), ..Surroundings::default() };
    change(&mut place);
    place
}

fn in_container(engine: &str) -> impl Fn(&mut Surroundings) {
    move |place| {
        place.container = Some(engine.to_owned());
        place.is_filtered = true;
    }
}

#[test]
fn e2_5_why_there_is_no_user_namespace() {
    use NamespaceStage::{Map, Mount, Unshare};
    type Change = Box<dyn Fn(&mut Surroundings)>;
    let plain = || -> Change { Box::new(|_| {}) };
    let table: Vec<(&str, NamespaceStage, Errno, Change, &str, &str, &str)> = vec![
        (
            "none are allowed",
            Unshare,
            Errno::NOSPC,
            Box::new(|p| p.max_user_namespaces = Some(0)),
            "user.max_user_namespaces is 0",
            "/proc/sys/user/max_user_namespaces",
            "user.max_user_namespaces = 1000",
        ),
        ("all are used", Unshare, Errno::NOSPC, Box::new(|p| p.max_user_namespaces = Some(9)), "no more user", "/proc/sys/user/max", "lsns"),
        ("too deep", Unshare, Errno::USERS, plain(), "nested too deeply", "/proc/sys/user/max", "raise"),
        (
            "Debian's switch",
            Unshare,
            Errno::PERM,
            Box::new(|p| p.userns_for_root_only = true),
            "kernel.unprivileged_userns_clone is 0",
            "/proc/sys/kernel/unprivileged_userns_clone",
            "run rbuild as root",
        ),
        (
            "Ubuntu 24.04: made, but nothing can be done in it",
            Map,
            Errno::PERM,
            Box::new(|p| p.apparmor_restricts = true),
            "AppArmor keeps user namespaces from programs that have no profile",
            "/etc/apparmor.d/rbuild",
            "rbuild doctor --apparmor-profile > /etc/apparmor.d/rbuild && apparmor_parser -r /etc/apparmor.d/rbuild",
        ),
        (
            "Ubuntu 23.10: mounts are denied",
            Mount,
            Errno::ACCESS,
            Box::new(|p| p.apparmor_restricts = true),
            "AppArmor keeps",
            "/etc/apparmor.d/rbuild",
            "/opt/rbuild/bin/rbuild",
        ),
        ("a chroot", Unshare, Errno::PERM, Box::new(|p| p.is_chrooted = true), "chroot", "chroot", "bwrap"),
        ("docker", Unshare, Errno::PERM, Box::new(in_container("docker")), "seccomp", "Seccomp", "--security-opt seccomp=FILE"),
        ("podman", Unshare, Errno::NOSYS, Box::new(in_container("podman")), "seccomp", "Seccomp", "unshare, setns"),
        ("kubernetes", Unshare, Errno::PERM, Box::new(in_container("kubernetes")), "seccomp", "Seccomp", "hostUsers: false"),
        ("systemd", Unshare, Errno::PERM, Box::new(|p| p.is_filtered = true), "seccomp", "Seccomp", "RestrictNamespaces="),
        (
            "docker's profile, no filter",
            Mount,
            Errno::ACCESS,
            Box::new(|p| {
                p.container = Some("docker".into());
                p.apparmor_profile = Some("docker-default (enforce)".into());
            }),
            "`docker-default (enforce)`",
            "/proc/self/attr/apparmor/current",
            "--security-opt apparmor=PROFILE",
        ),
        ("SELinux", Unshare, Errno::ACCESS, Box::new(|p| p.selinux = true), "SELinux", "/sys/fs/selinux", "ausearch"),
        ("/proc is read-only", Map, Errno::ROFS, plain(), "/proc/self/uid_map", "/proc/self/uid_map", "mount /proc"),
        ("no such kernel", Unshare, Errno::INVAL, plain(), "CONFIG_USER_NS", "CONFIG_USER_NS", "another kernel"),
        ("who knows", Unshare, Errno::IO, plain(), "the kernel refuses", "", "run rbuild as root"),
    ];
    for (machine, stage, errno, change, cause, responsible, remedy) in table {
        let lack = user_namespaces(NamespaceRefusal { stage, errno }, &place(change));
        assert_eq!(lack.facility, Facility::UserNamespaces, "{machine}");
        assert!(lack.cause.contains(cause), "{machine}: {lack:?}");
        assert!(lack.responsible.as_deref().unwrap_or_default().contains(responsible), "{machine}: {lack:?}");
        assert!(lack.remedy.contains(remedy), "{machine}: {lack:?}");
    }
}

#[test]
fn the_remedy_is_never_a_switch_for_everybody_where_one_for_this_program_exists() {
    for stage in [NamespaceStage::Unshare, NamespaceStage::Map, NamespaceStage::Mount] {
        let lack = user_namespaces(NamespaceRefusal { stage, errno: Errno::PERM }, &place(|p| p.apparmor_restricts = true));
        assert!(!lack.remedy.contains("sysctl") && !lack.remedy.contains("unconfined"), "{lack:?}");
    }
    let profile = apparmor_profile("/opt/r b/rbuild".as_ref());
    assert!(profile.contains("\nprofile rbuild \"/opt/r b/rbuild\" flags=(unconfined) {\n  userns,\n"), "{profile}");
}

#[test]
fn e2_1_why_there_is_only_one_id() {
    let no_line = |file: &str| RangeLack::NoLine { file: file.into() };
    let failed = |is_privileged| RangeLack::Failed { tool: "/usr/bin/newuidmap".into(), said: "not permitted".into(), is_privileged };
    let table: [(RangeLack, &str, bool, &str, &str); 6] = [
        (RangeLack::NoTool { tool: "newgidmap".into() }, "me", false, "there is no newgidmap", "package uidmap"),
        (
            no_line("/etc/subgid"),
            "me",
            false,
            "/etc/subgid has no ids for user me",
            "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 me",
        ),
        (no_line("/etc/subuid"), "54321", false, "for user 54321", "`54321:100000:65536` to /etc/subuid and to /etc/subgid"),
        (failed(true), "me", true, "/usr/bin/newuidmap failed: not permitted", "allowPrivilegeEscalation: true"),
        (failed(false), "me", false, "/usr/bin/newuidmap failed", "chmod u+s /usr/bin/newuidmap"),
        (failed(true), "me", false, "/usr/bin/newuidmap failed", "/proc/self/uid_map"),
    ];
    for (why, user, no_new_privs, cause, remedy) in table {
        let lack = id_ranges(&why, user, &place(|place| place.no_new_privs = no_new_privs));
        assert!(lack.cause.contains(cause) && lack.remedy.contains(remedy) && lack.responsible.is_some(), "{lack:?}");
    }
}

#[test]
fn e2_5_why_a_part_of_the_sandbox_is_refused() {
    let administrator = |place: &mut Surroundings| place.capabilities = u64::MAX;
    let table: [(Errno, fn(&mut Surroundings), &str); 9] = [
        (Errno::PERM, |place| place.capabilities = 0, "it needs CAP_SYS_ADMIN"),
        (Errno::PERM, |place| place.is_filtered = true, "a system call filter denies it: let the filter allow clone"),
        (Errno::NOSYS, |place| place.is_filtered = true, "a system call filter denies it"),
        (Errno::NOSYS, |_| {}, "the kernel is too old"),
        (Errno::ACCESS, |place| place.apparmor_profile = Some("x".into()), "add the rule `mount,` to the profile `x`"),
        (Errno::PERM, |place| place.container = Some("docker".into()), "unmask=/proc/*"),
        (Errno::NOSPC, |place| place.zero_limits = vec!["/proc/sys/user/max_pid_namespaces".into()], "raise /proc/sys/user/max_pid_namespaces"),
        (Errno::AGAIN, |_| {}, "ulimit -u"),
        (Errno::IO, |_| {}, "rbuild doctor"),
    ];
    for (errno, change, remedy) in table {
        let mut place = place(administrator);
        change(&mut place);
        let lack = refused(Refused { facility: Facility::Sandbox, action: "mount proc on /proc", errno }, &place);
        let cause = format!("cannot mount proc on /proc: {}", std::io::Error::from(errno));
        assert!(lack.cause == cause && lack.remedy.contains(remedy), "{errno:?}: {lack:?}");
    }
}

#[test]
fn e2_5_why_paths_cannot_be_kept_in() {
    let table: [(Errno, fn(&mut Surroundings), &str); 3] = [
        (Errno::NOSYS, |_| {}, "Linux 5.6 has it"),
        (Errno::PERM, |place| place.container = Some("docker".into()), "update the engine"),
        (Errno::NOSYS, |place| place.is_filtered = true, "let the filter of system calls allow openat2"),
    ];
    for (errno, change, remedy) in table {
        let lack = openat2_refused(errno, &place(change));
        assert!(lack.facility == Facility::SystemCalls && lack.cause.contains("openat2") && lack.remedy.contains(remedy), "{lack:?}");
    }
    let threads = threads_refused(&place(in_container("docker")));
    assert!(threads.facility == Facility::SystemCalls && threads.remedy.contains("update the engine"), "{threads:?}");
    assert_eq!(floor(), Ok(()), "this machine");
}

#[test]
fn this_machine_is_looked_at_without_a_fault() {
    let place = Surroundings::read();
    assert_eq!(place.uid, rustix::process::geteuid().as_raw());
    assert!(place.program.is_absolute() && !place.is_chrooted, "{place:?}");
}
