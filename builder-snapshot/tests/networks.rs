//! Networks of steps' own: who gets which. They need root, `pasta` and /dev/net/tun.

use std::os::fd::AsFd;
use std::path::PathBuf;

use builder_snapshot::exec::{Connector, NetworkLease, PrivateNetworks};

fn networks(program: &str, dir: &tempfile::TempDir) -> PrivateNetworks {
    assert!(rustix::process::geteuid().is_root(), "these tests need root");
    PrivateNetworks::new(Connector::Pasta { program: PathBuf::from(program), answers_names: false }, dir.path().to_owned(), 3)
}

/// Which namespace it is.
fn number(lease: &NetworkLease) -> u64 {
    rustix::fs::fstat(lease.namespace().expect("a namespace").as_fd()).expect("stat").st_ino
}

#[test]
fn e1_1_nobody_shares_a_network_and_what_is_given_back_is_used_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let networks = networks("/usr/bin/pasta", &dir);
    networks.prepare();
    let (first, second) = (networks.take().expect("one"), networks.take().expect("another"));
    let (one, other) = (number(&first), number(&second));
    assert_ne!(one, other);
    drop(first);
    let mut again = networks.take().expect("the first");
    assert_eq!(number(&again), one);
    // Its process could have changed it.
    again.spoil();
    drop(again);
    let fresh = networks.take().expect("a new one");
    assert!(![one, other].contains(&number(&fresh)));
}

#[test]
fn a_network_whose_sockets_are_not_gone_is_not_used_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let networks = networks("/usr/bin/pasta", &dir);
    let lease = networks.take().expect("one");
    let (number_before, namespace) = (number(&lease), lease.namespace().expect("a namespace"));
    let inside = std::thread::spawn(move || {
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(rustix::thread::LinkNameSpaceType::Network)).expect("root");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let out = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let accepted = listener.accept().expect("connected");
        // Whoever closes first waits for packets that may come late.
        drop(out);
        drop((accepted, listener));
        namespace
    });
    // Held, so that its number is given to no other.
    let _namespace = inside.join().expect("it does not panic");
    drop(lease);
    assert_ne!(number(&networks.take().expect("a new one")), number_before);
}

#[test]
fn why_there_is_none_is_said_to_everybody_who_asks() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (program, why) in [("/bin/false", "/bin/false: exit status: 1"), ("/nonexistent", "/nonexistent: No such file")] {
        let networks = networks(program, &dir);
        networks.prepare();
        for _ in 0..2 {
            let said = networks.take().expect_err("it connects nothing");
            assert!(said.starts_with(why), "{said}");
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("ours").count(), 0, "nothing is left");
}
