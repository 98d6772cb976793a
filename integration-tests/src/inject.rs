//! Faults at a chosen system call of rbuild: `inject.c`, compiled once, run around a build.
//!
//! The product has no code for this. See the first lines of `inject.c` for how it works and what counts as a call of rbuild's.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::{Build, require};

/// What happens at the chosen call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: calls are listed.
    List,
    /// The `at`-th call (from 1) at `site` fails, with the error number of this round (0 to 2).
    Fail {
        /// Which.
        at: usize,
        /// Which error.
        round: usize,
        /// A line of [`Report::sites`].
        site: String,
    },
    /// SIGKILL instead of the `at`-th call.
    Kill {
        /// Which.
        at: usize,
        /// Counts calls there only.
        site: Option<String>,
    },
    /// SIGINT before the `at`-th call, and before another one.
    Interrupt {
        /// Which.
        at: usize,
        /// The second.
        again: Option<usize>,
        /// Counts calls there only.
        site: Option<String>,
    },
    /// A line of shell is carried out before the `at`-th call at `site`.
    Shell {
        /// Which.
        at: usize,
        /// The line.
        line: String,
        /// Where.
        site: String,
    },
    /// SIGTERM before the `at`-th call.
    Terminate {
        /// Which.
        at: usize,
    },
}

/// What happened.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// How often each site was called, when they were listed.
    pub sites: BTreeMap<String, usize>,
    /// Calls that counted.
    pub calls: usize,
    /// What was done, and at which site; none if the call was never made.
    pub hit: Option<String>,
    /// Whether anything that was started was still running ten seconds after the end.
    pub left_running: bool,
}

impl Report {
    /// Reads the report at `path`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut report = Self::default();
        for line in String::from_utf8_lossy(&text).lines() {
            match line.split_once(' ') {
                Some(("call", site)) => *report.sites.entry(site.to_owned()).or_default() += 1,
                Some(("hit", what)) => report.hit = Some(what.to_owned()),
                Some(("calls", count)) => report.calls = count.parse().expect("a number"),
                Some(("left", left)) => report.left_running = left == "yes",
                _ => {}
            }
        }
        report
    }
}

/// The same build with a fault; the report goes to `report`.
///
/// # Panics
/// When there is no C compiler.
#[must_use]
pub fn with(build: Build, fault: &Fault, report: &Path) -> Build {
    let words: Vec<String> = match fault {
        Fault::List => vec!["list".into()],
        Fault::Fail { at, round, site } => vec!["fail".into(), at.to_string(), round.to_string(), site.clone()],
        Fault::Kill { at, site } => ["kill".into(), at.to_string(), "0".into()].into_iter().chain(site.clone()).collect(),
        Fault::Interrupt { at, again, site } => {
            ["int".into(), at.to_string(), again.unwrap_or(0).to_string()].into_iter().chain(site.clone()).collect()
        }
        Fault::Shell { at, line, site } => vec!["shell".into(), at.to_string(), line.clone(), site.clone()],
        Fault::Terminate { at } => vec!["term".into(), at.to_string()],
    };
    let program = build.program();
    let mut under: Vec<OsString> = vec![tool().into(), report.into(), program.into()];
    under.extend(words.into_iter().map(OsString::from));
    under.push("--".into());
    build.under(under)
}

fn tool() -> PathBuf {
    static TOOL: OnceLock<PathBuf> = OnceLock::new();
    let compile = || {
        let dir = require::workspace().join("target/fixtures");
        std::fs::create_dir_all(&dir).expect("target/fixtures");
        let source = require::workspace().join("integration-tests/src/inject/inject.c");
        // Under a name of its own, then renamed: other tests may do the same at this moment, or run it.
        let (fresh, done) = (dir.join(format!("inject.{}", std::process::id())), dir.join("inject"));
        let compiled = Command::new(require::tool("cc", "gcc")).args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&fresh).arg(source).status();
        assert!(compiled.expect("cc starts").success(), "inject.c compiles");
        std::fs::rename(&fresh, &done).expect("same directory");
        done
    };
    TOOL.get_or_init(compile).clone()
}

/// The seed of what a test chooses at random: fixed, so that a failure is found again, unless `RBUILD_TEST_SEED` names another.
///
/// # Panics
/// When the variable is no number.
#[must_use]
pub fn seed() -> u64 {
    std::env::var("RBUILD_TEST_SEED").map_or(20_261_121, |text| text.parse().expect("RBUILD_TEST_SEED is a number"))
}

/// Whether the whole is to be tested (`make soak`) or a part of it.
#[must_use]
pub fn is_soak() -> bool {
    std::env::var_os("RBUILD_SOAK").is_some()
}

/// A small generator of numbers that look random (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        usize::try_from(z % u64::try_from(limit.max(1)).expect("a size")).expect("below a size")
    }

    /// `count` of `all`, in a random order.
    pub fn some_of<T>(&mut self, mut all: Vec<T>, count: usize) -> Vec<T> {
        let count = count.min(all.len());
        for at in 0..count {
            let other = at + self.below(all.len() - at);
            all.swap(at, other);
        }
        all.truncate(count);
        all
    }
}

/// Notes what a test came to, for the report of `make soak` (`RBUILD_SOAK` names the file).
///
/// # Panics
/// When the file can't be written.
pub fn record(test: &str, text: &str) {
    use std::io::Write as _;

    let Some(path) = std::env::var_os("RBUILD_SOAK") else { return };
    let line = format!("{test}: {text}\n");
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the report of the soak");
}
