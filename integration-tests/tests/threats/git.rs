//! Git repositories that mean harm, brought by the real git from a real server.

use std::io::Write as _;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use integration_tests::Outcome;

use crate::yard::Yard;

/// A server of all repositories in `base`.
fn serve(base: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("git://{}", listener.local_addr().expect("bound"));
    let base = format!("--base-path={}", base.display());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("a client");
            let again = client.try_clone().expect("a socket");
            let mut daemon = Command::new("git");
            daemon.args(["-c", "safe.directory=*", "daemon", "--inetd", "--export-all", &base]);
            // One at a time is enough: a client waits for the one before it.
            let _ = daemon.stdin(OwnedFd::from(client)).stdout(OwnedFd::from(again)).stderr(Stdio::null()).status().expect("git");
        }
    });
    address
}

/// A bare repository in the making.
struct Repository(PathBuf);

impl Repository {
    fn new(base: &Path, name: &str) -> Self {
        let dir = base.join(name);
        let made = Command::new("git").args(["init", "-q", "--bare", "-b", "main"]).arg(&dir).status().expect("git");
        assert!(made.success());
        Self(dir)
    }

    fn git(&self, args: &[&str], input: &[u8]) -> String {
        let mut command = Command::new("git");
        let person = [("GIT_AUTHOR_NAME", "a"), ("GIT_AUTHOR_EMAIL", "a@b"), ("GIT_COMMITTER_NAME", "a"), ("GIT_COMMITTER_EMAIL", "a@b")];
        command.arg("--git-dir").arg(&self.0).args(args).envs(person).env("GIT_CONFIG_GLOBAL", "/dev/null");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("git");
        child.stdin.take().expect("piped").write_all(input).expect("git reads");
        let output = child.wait_with_output().expect("git");
        assert!(output.status.success(), "git {args:?}");
        String::from_utf8(output.stdout).expect("an id").trim().to_owned()
    }

    fn blob(&self, text: &str) -> String {
        self.git(&["hash-object", "-w", "--stdin"], text.as_bytes())
    }

    /// Whatever the names are: git itself would refuse some.
    fn tree(&self, entries: &[(&str, &str, &str)]) -> String {
        let mut bytes = Vec::new();
        for (mode, name, id) in entries {
            bytes.extend_from_slice(format!("{mode} {name}\0").as_bytes());
            bytes.extend((0..20).map(|at| u8::from_str_radix(&id[2 * at..2 * at + 2], 16).expect("an id")));
        }
        self.git(&["hash-object", "-t", "tree", "-w", "--stdin", "--literally"], &bytes)
    }

    fn commit(&self, tree: &str) -> String {
        let id = self.git(&["commit-tree", "-m", "m", tree], b"");
        self.git(&["update-ref", "refs/heads/main", &id], b"");
        id
    }

    /// A commit with these files, some of them links (`@target`).
    fn files(base: &Path, name: &str, files: &[(&str, &str)]) -> Self {
        let repository = Self::new(base, name);
        let entries: Vec<(&str, &str, String)> = files
            .iter()
            .map(|(name, text)| match text.strip_prefix('@') {
                Some(target) => ("120000", *name, repository.blob(target)),
                None => ("100644", *name, repository.blob(text)),
            })
            .collect();
        let entries: Vec<(&str, &str, &str)> = entries.iter().map(|(mode, name, id)| (*mode, *name, id.as_str())).collect();
        let tree = repository.tree(&entries);
        repository.commit(&tree);
        repository
    }
}

#[test]
fn cve_2022_39253_2024_32002_2025_48384_hostile_repositories() {
    let yard = Yard::new();
    let base = yard.bed.path("repositories");
    std::fs::create_dir(&base).expect("ours");
    let address = serve(&base);
    let marker = yard.bed.path("marker");
    let touch = format!("touch {}", marker.display());
    let script = format!("#!/bin/sh\n{touch}\n");
    let gitlink = "1234567890123456789012345678901234567890";

    // Addresses and places of submodules: none may be a local file, a program, an option, or outside.
    let addresses = [
        format!("-u{touch}"),
        format!("--upload-pack={touch}"),
        format!("ext::sh -c '{touch}'"),
        format!("file://{}", yard.canary().display()),
        yard.canary().display().to_string(),
        "../../../canary".to_owned(),
        format!("ssh://-oProxyCommand={touch}/x"),
        "http://127.0.0.1:1/x\rnext".to_owned(),
    ];
    let places = ["sub", "../../sub", ".git/modules/x", "/abs", "sub\r"];
    let mut names: Vec<(String, Option<&str>)> = Vec::new();
    for (n, (url, path)) in addresses.iter().map(|url| (url.as_str(), "sub")).chain(places.iter().map(|path| ("./good", *path))).enumerate() {
        let name = format!("submodule{n}");
        let repository = Repository::new(&base, &name);
        let modules = repository.blob(&format!(
            "[submodule \"../../x\"]\n\tpath = {path}\n\turl = \"{url}\"\n[submodule \"s\"]\n\tpath = \"{path}\"\n\turl = \"{url}\"\n"
        ));
        let tree = repository.tree(&[("100644", ".gitmodules", &modules), ("100644", "file", &repository.blob("x")), ("160000", "sub", gitlink)]);
        repository.commit(&tree);
        names.push((name, None));
    }
    // A link in the place of what a submodule goes through (CVE-2024-32002).
    let repository = Repository::new(&base, "through-a-link");
    let modules = repository.blob(&format!("[submodule \"x\"]\n\tpath = a/modules/x\n\turl = {address}/good\n"));
    let inner = repository.tree(&[("160000", "x", gitlink)]);
    let middle = repository.tree(&[("40000", "modules", &inner)]);
    let tree = repository.tree(&[("100644", ".gitmodules", &modules), ("40000", "A", &middle), ("120000", "a", &repository.blob(".git"))]);
    repository.commit(&tree);
    names.push(("through-a-link".to_owned(), None));

    // Trees that no honest git makes.
    for (n, name) in [".git", "..", ".", "GIT~1", ".GIT", "a/../../x", ".git\u{200c}", ""].iter().enumerate() {
        let label = format!("tree{n}");
        let repository = Repository::new(&base, &label);
        let hooks = repository.tree(&[("100755", "post-checkout", &repository.blob(&script))]);
        let inner =
            repository.tree(&[("100644", "config", &repository.blob(&format!("[core]\n\tfsmonitor = {touch}\n"))), ("40000", "hooks", &hooks)]);
        let tree = repository.tree(&[("40000", name, &inner)]);
        repository.commit(&tree);
        // The last but one is a name like any other on Linux, and git knows that it is `.git` elsewhere.
        names.push((label, None));
    }
    // A directory and a link of one name: what is below the directory would land where the link leads (CVE-2022-39253 and others).
    let repository = Repository::new(&base, "twice");
    let inner = repository.tree(&[("100644", "secret", &repository.blob("overwritten"))]);
    let tree = repository.tree(&[("120000", "d", &repository.blob(&yard.canary().display().to_string())), ("40000", "d", &inner)]);
    repository.commit(&tree);
    names.push(("twice".to_owned(), None));

    // A server whose HEAD is an option, or nothing.
    let repository = Repository::files(&base, "head", &[("file", "x")]);
    let option = format!("refs/heads/--upload-pack={}", marker.display());
    let commit = repository.git(&["rev-parse", "refs/heads/main"], b"");
    std::fs::write(repository.0.join("packed-refs"), format!("{commit} {option}\n")).expect("ours");
    std::fs::write(repository.0.join("HEAD"), format!("ref: {option}\n")).expect("ours");
    names.push(("head".to_owned(), None));

    // Honest enough: built, and nothing of it is run or followed.
    let files = [
        (".gitattributes", "* filter=evil diff=evil merge=evil export-subst ident\n*.bin filter=lfs\n"),
        (".lfsconfig", "[lfs]\n\turl = http://127.0.0.1:1/\n"),
        ("a.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"),
        ("config", "[core]\n\tbare = true\n\tfsmonitor = false\n"),
        ("link", "@/etc/passwd"),
    ];
    let _ = Repository::files(&base, "filters", &files);
    names.push(("filters".to_owned(), Some("a.bin")));
    let repository = Repository::new(&base, "nested");
    let config = repository.blob(&format!("[core]\n\trepositoryformatversion = 0\n\tbare = true\n\tfsmonitor = \"{touch}\"\n\thooksPath = hooks\n"));
    let hooks = repository.tree(&[("100755", "post-checkout", &repository.blob(&script)), ("100755", "pre-auto-gc", &repository.blob(&script))]);
    let nothing = repository.tree(&[("100644", "keep", &repository.blob(""))]);
    let head = repository.blob("ref: refs/heads/main\n");
    let entries = [
        ("100644", "HEAD", head.as_str()),
        ("100644", "config", &config),
        ("40000", "hooks", &hooks),
        ("40000", "objects", &nothing),
        ("40000", "refs", &nothing),
    ];
    let bare = repository.tree(&entries);
    // As a directory, and the whole repository as one.
    let tree = repository.tree(&[
        ("100644", "HEAD", &head),
        ("40000", "bare", &bare),
        ("100644", "config", &config),
        ("40000", "hooks", &hooks),
        ("40000", "objects", &nothing),
        ("40000", "refs", &nothing),
    ]);
    repository.commit(&tree);
    names.push(("nested".to_owned(), Some("bare/config")));
    // The server's own hooks and settings are the server's.
    let repository = Repository::files(&base, "server", &[("file", "x")]);
    std::fs::write(repository.0.join("hooks/post-checkout"), &script).expect("ours");
    names.push(("server".to_owned(), Some("file")));
    let _ = Repository::files(&base, "good", &[("file", "x")]);

    for (n, (name, expected)) in names.iter().enumerate() {
        let url = format!("{address}/{name}");
        let add = yard.build(&format!("{name}-add"), &[("Dockerfile", &format!("FROM scratch\nADD {url} /in/\n"))]);
        let outcome = yard.run(&add);
        assert!(!marker.exists(), "{name}: something was run: {}", outcome.log);
        if let Some(file) = expected {
            assert!(outcome.code == Some(0) && outcome.image().file(&format!("in/{file}")).is_some(), "{name}: {}", outcome.log);
        }
        // The other two ways in, in turn.
        if n % 2 == 0 {
            let kept = yard.build(&format!("{name}-kept"), &[("Dockerfile", &format!("FROM scratch\nADD --keep-git-dir=true {url}#main /in/\n"))]);
            yard.run(&kept);
        } else {
            let context = yard.build(&format!("{name}-context"), &[("Dockerfile", "FROM scratch\nCOPY --from=repo / /in/\n")]).no_output();
            yard.run(&context.args(["--build-context", &format!("repo={url}")]));
        }
        assert!(!marker.exists(), "{name}: something was run");
    }
    yard.store_is_good();
}

#[test]
fn cve_2026_33748_a_directory_of_a_repository_is_inside_of_it() {
    let yard = Yard::new();
    let base = yard.bed.path("repositories");
    std::fs::create_dir(&base).expect("ours");
    let address = serve(&base);
    let repository = Repository::new(&base, "links");
    let link = |target: &str| repository.blob(target);
    let canary = yard.canary().display().to_string();
    let up = format!("../../../../../../../../../../..{canary}");
    let inner = repository.tree(&[("100644", "file", &repository.blob("inside"))]);
    let tree = repository.tree(&[
        ("120000", "absolute", &link(&canary)),
        ("40000", "dir", &inner),
        ("120000", "git", &link(".git")),
        ("120000", "proc", &link(&format!("/proc/self/root{canary}"))),
        ("120000", "relative", &link(&up)),
        ("120000", "root", &link("/")),
    ]);
    repository.commit(&tree);
    // A clean error; or, where a link's root and a path's top are the repository's, nothing but what is in it. Who keeps the repository itself may have a part of it.
    let check = |subdir: &str, outcome: &Outcome| {
        if outcome.code == Some(0) {
            let image = outcome.image();
            let files: Vec<_> = image.layers.iter().flatten().filter(|entry| entry.kind == b'0').collect();
            let is_own = files.iter().all(|entry| entry.data == b"inside") || outcome.log.contains("--keep-git-dir=true");
            assert!(is_own && image.file("in/etc/passwd").is_none(), "{subdir}: {}", outcome.log);
        } else {
            assert_eq!(outcome.code, Some(1), "{subdir}: {}", outcome.log);
        }
    };
    let subdirs =
        ["absolute", "relative", "proc", "root", "git", ".git", "git/objects", "dir/../..", "root/etc", "absolute/empty", "../links", "dir/file"];
    for (n, subdir) in subdirs.iter().enumerate() {
        for keep in ["", "--keep-git-dir=true "] {
            let dockerfile = format!("FROM scratch\nADD {keep}{address}/links#main:{subdir} /in/\n");
            check(subdir, &yard.run(&yard.build(&format!("c{n}{}", keep.len()), &[("Dockerfile", &dockerfile)])));
        }
        let context = yard.build(&format!("d{n}"), &[("Dockerfile", "FROM scratch\nCOPY --from=repo / /in/\n")]);
        check(subdir, &yard.run(&context.args(["--build-context", &format!("repo={address}/links#main:{subdir}")])));
    }
    let honest = yard.build("honest", &[("Dockerfile", &format!("FROM scratch\nADD {address}/links#main:dir /in/\n"))]).ok();
    assert_eq!(honest.image().file("in/file").as_deref(), Some(&b"inside"[..]));
    yard.store_is_good();
}

#[test]
fn a_repository_that_grows_when_it_is_checked_out_ends_at_a_limit() {
    let yard = Yard::new();
    let base = yard.bed.path("repositories");
    std::fs::create_dir(&base).expect("ours");
    let repository = Repository::new(&base, "bomb");
    let mut tree = repository.tree(&[("100644", "f", &repository.blob("boom"))]);
    // A few objects that say ten thousand million files.
    for _ in 0..10 {
        let names: Vec<String> = (0..10).map(|n| format!("d{n}")).collect();
        let entries: Vec<(&str, &str, &str)> = names.iter().map(|name| ("40000", name.as_str(), tree.as_str())).collect();
        tree = repository.tree(&entries);
    }
    repository.commit(&tree);
    let url = format!("{}/bomb", serve(&base));
    let build = yard.build("bomb", &[("Dockerfile", &format!("FROM scratch\nADD {url} /in/\n"))]).no_output();
    let began = std::time::Instant::now();
    let _ = yard.refused(&build.args(["--limit", "entries=20000"]), "--limit entries=N");
    assert!(began.elapsed().as_secs() < 30, "{:?}", began.elapsed());
    yard.store_is_good();
}
