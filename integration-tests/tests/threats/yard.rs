//! A place with things that must be neither read nor changed, and builds that would like to.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use integration_tests::{Bed, Build, Outcome, fixtures};
use rustix::fs::inotify;

/// What stands in the files that nobody may read.
pub(crate) const CANARY: &str = "canary-of-the-host-93f1c2";

/// A bed with a canary beside it.
pub(crate) struct Yard {
    pub(crate) bed: Bed,
    watch: OwnedFd,
}

impl Yard {
    pub(crate) fn new() -> Self {
        let bed = Bed::new();
        let canary = bed.path("canary");
        std::fs::create_dir_all(canary.join("empty")).expect("ours");
        for file in ["secret", "passwd", "resolv.conf", "hosts"] {
            std::fs::write(canary.join(file), CANARY).expect("ours");
        }
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).expect("inotify");
        let events = inotify::WatchFlags::ACCESS
            | inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::OPEN
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::MOVE
            | inotify::WatchFlags::ATTRIB;
        for path in [canary.clone(), canary.join("empty")] {
            inotify::add_watch(&watch, path, events).expect("inotify");
        }
        Self { bed, watch }
    }

    /// The directory with the canaries.
    pub(crate) fn canary(&self) -> PathBuf {
        self.bed.path("canary")
    }

    /// A build of these files where `busybox` is the fixture.
    pub(crate) fn build(&self, name: &str, files: &[(&str, &str)]) -> Build {
        let context = self.bed.context(name, files);
        self.on_busybox(self.bed.build(&context))
    }

    pub(crate) fn on_busybox(&self, build: Build) -> Build {
        build.args(["--build-context".to_owned(), format!("busybox=oci-layout://{}", fixtures::busybox().display())])
    }

    /// Runs a build that must not get at the canary, whatever its end, and looks whether it did.
    pub(crate) fn run(&self, build: &Build) -> Outcome {
        let outcome = build.run();
        self.check(&outcome);
        outcome
    }

    /// Runs a build that must fail and say so with these words.
    pub(crate) fn refused(&self, build: &Build, words: &str) -> Outcome {
        let outcome = self.run(build);
        assert_eq!(outcome.code, Some(1), "it was built:\n{}", outcome.log);
        assert!(outcome.log.contains(words), "{words:?} is not in\n{}", outcome.log);
        outcome
    }

    /// Looks whether the canary is as it was, and the end a clean one.
    pub(crate) fn check(&self, outcome: &Outcome) {
        assert!(matches!(outcome.code, Some(0 | 1)), "{:?}: {}", outcome.code, outcome.log);
        assert!(!outcome.log.contains("internal fault"), "{}", outcome.log);
        for (what, text) in [("the log", &outcome.log), ("standard output", &outcome.stdout)] {
            assert!(!text.contains(CANARY), "the canary is in {what}:\n{text}");
        }
        if outcome.code == Some(0) && outcome.has_output() {
            for entry in outcome.image().layers.iter().flatten() {
                let found = String::from_utf8_lossy(&entry.data).contains(CANARY);
                assert!(!found, "the canary is in {} of the image", entry.path);
            }
        }
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let event = inotify::Reader::new(&self.watch, &mut buffer).next().ok().map(|event| format!("{:?} {:?}", event.events(), event.file_name()));
        assert_eq!(event, None, "the canary was touched:\n{}", outcome.log);
    }

    /// The store is good: a build runs in it, finds what it needs, and nothing temporary is left.
    pub(crate) fn store_is_good(&self) {
        let build = self.build("after", &[("Dockerfile", "FROM busybox\nCOPY f /f\nRUN cat /f > /g\n"), ("f", "after\n")]);
        assert_eq!(build.ok().image().file("g").as_deref(), Some(&b"after\n"[..]));
        let left: Vec<_> = std::fs::read_dir(self.bed.state().join("v1/tmp")).expect("a store").map(|entry| entry.expect("entry").path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// `text` with the canary's directory for `@`.
    pub(crate) fn at(&self, text: &str) -> String {
        text.replace('@', self.canary().to_str().expect("UTF-8"))
    }
}

/// An OCI layout of an image with one layer.
pub(crate) fn layout_of(yard: &Yard, name: &str, layer: &[u8]) -> PathBuf {
    let dir = yard.bed.path(name);
    std::fs::create_dir_all(&dir).expect("ours");
    fixtures::layout(&dir, layer, &serde_json::json!(["/bin/sh"]));
    dir
}

/// A build context that is a layout, as a flag.
pub(crate) fn named(name: &str, layout: &Path) -> [String; 2] {
    ["--build-context".to_owned(), format!("{name}=oci-layout://{}", layout.display())]
}
