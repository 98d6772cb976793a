//! Tests of git repositories: what is fetched, checked out and refused.

use std::fs;
use std::os::unix::fs::symlink;

use super::super::stack::StackTree;
use super::super::tree::{EntryNode, SourceTree};
use super::*;

#[test]
fn c5_4_references_are_chosen_as_git_does() {
    let commit = |digit: char| digit.to_string().repeat(40);
    let listed = format!(
        "{}\tHEAD\n{}\trefs/heads/main\n{}\trefs/heads/x/v1\n{}\trefs/tags/v1\n{}\trefs/tags/v1^{{}}\n{}\trefs/tags/main\n",
        commit('a'),
        commit('a'),
        commit('b'),
        commit('c'),
        commit('d'),
        commit('e')
    );
    for (name, expected) in [
        ("HEAD", Some(('a', "HEAD"))),
        ("main", Some(('a', "refs/heads/main"))),
        ("v1", Some(('d', "refs/tags/v1"))),
        ("refs/tags/v1", Some(('d', "refs/tags/v1"))),
        ("x/v1", Some(('b', "refs/heads/x/v1"))),
        ("tags/main", Some(('e', "refs/tags/main"))),
        ("absent", None),
    ] {
        let expected = expected.map(|(digit, full)| Resolved { commit: commit(digit), name: Some(full.to_owned()) });
        assert_eq!(choose(&listed, name), expected, "{name}");
    }
}

#[test]
fn threats_hostile_addresses_and_references_are_refused() {
    for bad in [
        "--upload-pack=x",
        "-x",
        "ext::sh -c id",
        "file:///etc",
        "/etc",
        "./repo",
        "ssh://-oProxyCommand=x/r",
        "ssh://u@-oProxyCommand=x/r",
        "-oProxyCommand=x:r",
        "u@-x:r",
        "https://",
        "https://h/a\nb",
        "transport::https://h/r",
        "",
    ] {
        assert!(check_address(bad).is_err(), "{bad}");
    }
    for good in ["https://h/r.git", "http://h:8080/r", "ssh://git@h/r", "git://h/r", "git@github.com:o/r.git", "https://user:pass@h/r"] {
        assert!(check_address(good).is_ok(), "{good}");
    }
    for bad in ["-x", "--upload-pack=x", "a..b", "a b", "a:b", "a*", "a?", "a[", "a~1", "a^", "@{1}", "", "/a", "a/", "a\nb"] {
        assert!(check_reference(bad).is_err(), "{bad}");
    }
    for good in ["main", "feature/x", "v1.2.3", "refs/pull/1/head", "0123456789abcdef0123456789abcdef01234567"] {
        assert!(check_reference(good).is_ok(), "{good}");
    }
}

#[test]
fn threats_passwords_are_in_no_message() {
    for (url, shown) in [
        ("https://user:pass@h/r", "https://xxxxx@h/r"),
        ("https://token@h/r", "https://xxxxx@h/r"),
        ("https://h/r@1", "https://h/r@1"),
        ("ssh://git@h/r", "ssh://git@h/r"),
        ("git@h:r", "git@h:r"),
    ] {
        assert_eq!(without_passwords(url), shown);
    }
    let secrets = BTreeMap::from([
        ("GIT_AUTH_TOKEN".to_owned(), Secret::new(&b"all\n"[..])),
        ("GIT_AUTH_TOKEN.h".to_owned(), Secret::new(&b"one"[..])),
        ("GIT_AUTH_HEADER.evil".to_owned(), Secret::new(&b"a\r\nX: y"[..])),
    ]);
    let header = |url| authorization(url, &secrets);
    assert_eq!(header("https://h:8443/r"), Some(("https://h:8443/".to_owned(), "Authorization: basic eC1hY2Nlc3MtdG9rZW46b25l".to_owned())));
    assert_eq!(header("https://other/r"), Some(("https://other/".to_owned(), "Authorization: basic eC1hY2Nlc3MtdG9rZW46YWxs".to_owned())));
    assert_eq!(header("https://evil/r"), None);
    assert_eq!(header("ssh://h/r"), None);
}

#[test]
fn a9_16_a_checkout_becomes_a_layer() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("store")).expect("a store");
    let tree = dir.path().join("tree");
    for (path, text) in [("src/main.txt", "v1"), (".git/HEAD", "ref"), ("sub/.git", "gitdir"), ("sub/f", "f")] {
        fs::create_dir_all(tree.join(path).parent().expect("a parent")).expect("directories");
        fs::write(tree.join(path), text).expect("written");
    }
    for (name, target) in [("link", "src"), ("out", "/etc"), ("hidden", ".git"), ("up", "..")] {
        symlink(target, tree.join(name)).expect("a link");
    }
    let time = Timestamp { seconds: 1_000_000_000, nanos: 0 };
    let layer = |subdir: &str, keep_git_dir| {
        let layer = checkout::to_layer(&tree, &TreePath::new(subdir).expect("clean"), keep_git_dir, time, &store)?;
        let kept = StackLayer { id: layer.id, content: layer.content };
        keep(&store, layer).expect("kept");
        Ok::<_, StepError>(StackTree::read(&Stack { layers: vec![kept] }, &store).expect("tables"))
    };
    let names = |tree: &StackTree, path: &str| -> Vec<String> {
        let listed = tree.list(&TreePath::new(path).expect("clean")).expect("listed");
        listed.iter().map(|entry| String::from_utf8_lossy(entry.path.as_bytes()).into_owned()).collect()
    };
    let whole = layer("", false).expect("a layer");
    assert_eq!(names(&whole, ""), ["hidden", "link", "out", "src", "sub", "up"]);
    assert_eq!(names(&whole, "sub"), ["sub/f"]);
    let file = whole.lookup(&TreePath::new("src/main.txt").expect("clean")).expect("looked").expect("there");
    assert_eq!((file.meta.mode, file.meta.mtime), (0o644, time));
    assert!(matches!(file.node, EntryNode::File { .. }));
    assert_eq!(names(&layer("link", false).expect("a layer"), ""), ["main.txt"]);
    assert_eq!(names(&layer("", true).expect("a layer"), ".git"), [".git/HEAD"]);
    for bad in ["out", "hidden", ".git", "absent", "src/main.txt"] {
        assert!(layer(bad, false).is_err(), "{bad}");
    }
}
