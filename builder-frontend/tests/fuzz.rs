//! The fuzz targets on a stable toolchain: inputs of the kept corpora, mutated by a seeded generator.
//!
//! CI runs a sample; `RBUILD_FUZZ_ITERATIONS=1000000` (`make soak`) the whole, and `RBUILD_TEST_SEED` others. A failure prints its seed and input: put the
//! input into the corpus.

#[path = "../fuzz/targets.rs"]
mod targets;

use std::path::Path;
use std::time::{Duration, Instant};

/// Iterations of a target if nothing else is said: a second or two on a slow machine.
const SAMPLE: u64 = 3_000;

/// Longest input that mutation makes.
const MAX_BYTES: usize = 2_048;

/// No single input may take longer; an ordinary one takes microseconds.
const MAX_TIME: Duration = Duration::from_secs(5);

/// xorshift64*: small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// What means something in these languages.
const WORDS: &[&str] = &[
    "$",
    "${",
    "}",
    ":-",
    "\\",
    "`",
    "\"",
    "'",
    "\n",
    "\r\n",
    "<<EOF",
    "EOF\n",
    "<<-",
    "#",
    "# escape=`\n",
    "**",
    "*",
    "?",
    "[",
    "]",
    "!",
    "/",
    ",",
    "=",
    "--",
    "--mount=",
    "--from=",
    "FROM ",
    "RUN ",
    "COPY ",
    "ENV ",
    "ONBUILD ",
    "\u{feff}",
    "\u{0}",
    "é",
    "type=",
    "from=",
    "\t",
    "  ",
    "[\"a\"]",
    "9999999999",
    "\n# rbuild:include a\n",
    "# rbuild:include d/e",
    "\u{c}",
    "../",
    "${A}",
    "--timeout=1s ",
    "--retry=1 ",
    "ARG A=b\n",
    "busybox",
    " AS a\n",
    "ADD ",
    "--from=a ",
    "--link ",
];

fn mutate(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut data = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(data.len() + 1);
        match random.below(6) {
            0 if at < data.len() => data[at] = random.next() as u8,
            1 => {
                let word = WORDS[random.below(WORDS.len())].as_bytes();
                data.splice(at..at, word.iter().copied());
            }
            2 => {
                let end = (at + random.below(16)).min(data.len());
                data.drain(at..end);
            }
            3 => {
                let end = (at + random.below(64)).min(data.len());
                let piece = data[at..end].to_vec();
                let to = random.below(data.len() + 1);
                data.splice(to..to, piece);
            }
            4 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len() + 1);
                data.truncate(at);
                data.extend_from_slice(&other[from..]);
            }
            _ => data.truncate(at.max(1)),
        }
    }
    data.truncate(MAX_BYTES);
    data
}

fn drive(name: &str, target: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut paths: Vec<_> = std::fs::read_dir(&dir).expect("a corpus").map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    let corpus: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).expect("readable")).collect();
    corpus.iter().for_each(|data| target(data));
    let iterations = std::env::var("RBUILD_FUZZ_ITERATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(SAMPLE);
    let choice: u64 = std::env::var("RBUILD_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    for seed in 1..=iterations {
        let mut random = Random((seed ^ choice << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let data = mutate(&corpus, &mut random);
        let begun = Instant::now();
        let outcome = std::panic::catch_unwind(|| target(&data));
        assert!(outcome.is_ok() && begun.elapsed() < MAX_TIME, "{name}, seed {seed}, {:?}: {:?}", begun.elapsed(), String::from_utf8_lossy(&data));
    }
}

#[test]
fn any_dockerfile() {
    drive("parse", targets::parse);
}

#[test]
fn any_expansion() {
    drive("expand", targets::expand);
}

#[test]
fn any_ignore_file() {
    drive("ignore", targets::ignore);
}

#[test]
fn any_includes() {
    drive("include", targets::include);
}

#[test]
fn any_conversion() {
    drive("convert", targets::convert);
}

#[test]
fn any_build() {
    drive("build", targets::build);
}

#[test]
fn any_mount() {
    drive("mount", targets::mount);
}
