//! Machines as facts, and what the doctor says of them.

use super::facts::Message;
use super::*;
use crate::diagnosis::Surroundings;
use crate::user_namespace::Ids;

/// A machine on which nothing is missing.
fn healthy() -> Facts {
    Facts {
        place: Surroundings::default(),
        floor: None,
        ids: Some(Ids::Ranges),
        overlay: None,
        sandbox: None,
        sandbox_warning: None,
        has_filter: true,
        disk: Disk {
            store: "/s/rbuild".into(),
            path: "/s".into(),
            fault: None,
            other_ids: None,
            free_bytes: 1 << 40,
            keeps_attributes: true,
            skew_seconds: 0,
        },
        control_groups: ControlGroups { is_seen: true, memory: Some(2), cpu: Some(2), devices: Some(2) },
        emulation: Emulation { registered: vec!["qemu-aarch64".into()], on_path: vec![], has_own_table: false },
        network: Network { by: Some("/usr/bin/pasta".into()), lack: None, has_name_server: true },
        now_seconds: 1_800_000_000,
    }
}

fn lack(facility: Facility, cause: &str) -> Lack {
    Lack { facility, cause: cause.into(), responsible: Some("/file".into()), remedy: "mend it".into() }
}

#[test]
fn a_machine_that_lacks_nothing() {
    let report = findings(&healthy());
    assert_eq!((report.builds, report.isolation), (Builds::All, Isolation::Ranges));
    assert!(report.findings.iter().all(|finding| finding.status == Status::Good && finding.lack.is_none()), "{report:#?}");
    assert!(report.findings.is_sorted_by_key(|finding| finding.facility), "in their order, each once");
}

#[test]
fn each_lack_is_said_once_and_decides_which_builds_run() {
    let fault = |cause: &str| Some(Fault { cause: cause.into(), remedy: "mend it".into() });
    type Change = Box<dyn Fn(&mut Facts)>;
    let table: Vec<(Facility, Status, Builds, &str, Change)> = vec![
        (Facility::SystemCalls, Status::Missing, Builds::None, "openat2", Box::new(|f| f.floor = Some(lack(Facility::SystemCalls, "openat2")))),
        (
            Facility::UserNamespaces,
            Status::Missing,
            Builds::WithoutRun,
            "forbidden",
            Box::new(|f| f.ids = Some(Ids::None { lack: lack(Facility::UserNamespaces, "forbidden") })),
        ),
        (Facility::UserNamespaces, Status::Missing, Builds::WithoutRun, "did not answer", Box::new(|f| f.ids = None)),
        (
            Facility::IdRanges,
            Status::Limited,
            Builds::All,
            "no line",
            Box::new(|f| f.ids = Some(Ids::One { lack: lack(Facility::IdRanges, "no line") })),
        ),
        (Facility::Overlay, Status::Limited, Builds::All, "no overlay", Box::new(move |f| f.overlay = fault("no overlay"))),
        (Facility::Sandbox, Status::Missing, Builds::WithoutRun, "no mount", Box::new(move |f| f.sandbox = fault("no mount"))),
        (Facility::Sandbox, Status::Limited, Builds::All, "own name", Box::new(|f| f.sandbox_warning = Some("own name: no; mend it".into()))),
        (Facility::Seccomp, Status::Limited, Builds::All, "this processor", Box::new(|f| f.has_filter = false)),
        (Facility::ControlGroups, Status::Limited, Builds::All, "limits memory", Box::new(|f| f.control_groups.memory = None)),
        (Facility::ControlGroups, Status::Limited, Builds::All, "limits processors", Box::new(|f| f.control_groups.cpu = None)),
        (Facility::ControlGroups, Status::Limited, Builds::All, "can be seen", Box::new(|f| f.control_groups.is_seen = false)),
        (Facility::ForeignPrograms, Status::Limited, Builds::All, "no interpreter", Box::new(|f| f.emulation.registered.clear())),
        (
            Facility::ForeignPrograms,
            Status::Limited,
            Builds::All,
            "qemu-arm-static and 1 more on PATH",
            Box::new(|f| f.emulation = Emulation { on_path: ["qemu-arm-static", "x"].map(str::to_owned).into(), ..Emulation::default() }),
        ),
        (
            Facility::Network,
            Status::Limited,
            Builds::All,
            "no pasta",
            Box::new(|f| f.network = Network { lack: Some(lack(Facility::Network, "no pasta")), has_name_server: true, ..Network::default() }),
        ),
        (Facility::Network, Status::Limited, Builds::All, "no server", Box::new(|f| f.network.has_name_server = false)),
        (Facility::Disk, Status::Missing, Builds::None, "denied", Box::new(|f| f.disk.fault = Some("denied".into()))),
        (
            Facility::Disk,
            Status::Missing,
            Builds::None,
            "made with other user ids (0 0 1, 0 5 1) than",
            Box::new(|f| f.disk.other_ids = Some(["0 0 1\n0 5 1\n", "0 7 1\n"].map(str::to_owned))),
        ),
        (Facility::Disk, Status::Missing, Builds::None, "no attributes", Box::new(|f| f.disk.keeps_attributes = false)),
        (Facility::Disk, Status::Limited, Builds::All, "5 MiB left", Box::new(|f| f.disk.free_bytes = 5 << 20)),
        (Facility::Clock, Status::Limited, Builds::All, "long ago", Box::new(|f| f.now_seconds = 0)),
        (Facility::Clock, Status::Limited, Builds::All, "-3600 seconds", Box::new(|f| f.disk.skew_seconds = -3600)),
    ];
    for (facility, status, builds, cause, change) in table {
        let mut facts = healthy();
        change(&mut facts);
        let report = findings(&facts);
        assert_eq!(report.builds, builds, "{cause}");
        let lacking: Vec<&Finding> = report.findings.iter().filter(|finding| finding.lack.is_some()).collect();
        let [finding] = lacking[..] else { panic!("{cause}: {lacking:#?}") };
        let said = finding.lack.as_ref().expect("filtered");
        assert_eq!((finding.facility, said.facility, finding.status), (facility, facility, status), "{cause}");
        assert!(said.cause.contains(cause) && !said.remedy.is_empty(), "{said:?}");
    }
}

#[test]
fn root_needs_neither_attributes_nor_ranges_but_a_rule_about_devices() {
    let mut facts = healthy();
    facts.ids = Some(Ids::Own);
    facts.disk.keeps_attributes = false;
    let report = findings(&facts);
    assert_eq!((report.builds, report.isolation), (Builds::All, Isolation::Root));
    assert!(report.findings.iter().all(|finding| finding.lack.is_none()), "{report:#?}");
    facts.control_groups.devices = None;
    let lacks = |facts: &Facts| findings(facts).findings.iter().filter(|finding| finding.lack.is_some()).count();
    assert_eq!(lacks(&facts), 1);
    facts.ids = Some(Ids::Ranges);
    facts.disk.keeps_attributes = true;
    assert_eq!(lacks(&facts), 0, "nobody makes nodes in a user namespace");
}

#[test]
fn emulators_that_a_build_can_tell_the_kernel_about_are_enough() {
    let mut facts = healthy();
    facts.emulation = Emulation { registered: vec![], on_path: vec!["qemu-aarch64-static".into()], has_own_table: true };
    assert!(findings(&facts).findings.iter().all(|finding| finding.lack.is_none()));
}

#[test]
fn what_the_child_says_is_understood() {
    for (ids, name) in [(Ids::Own, "own"), (Ids::Ranges, "ranges")] {
        let mut message = Message::default();
        message.put("ids", name);
        assert_eq!(message.ids(), Some(ids));
    }
    let why = lack(Facility::IdRanges, "no line; none");
    let mut message = Message::default();
    message.put("ids", "one");
    message.put_lack("lack", &why);
    assert_eq!(message.ids(), Some(Ids::One { lack: why }));
    assert_eq!(message.fault("overlay"), None);
    message.put_fault("overlay", &Fault { cause: "no".into(), remedy: String::new() });
    assert_eq!(message.fault("overlay"), Some(Fault { cause: "no".into(), remedy: String::new() }));
    assert_eq!(Message(vec![b"ids".to_vec()]).ids(), None, "cut short");
}
