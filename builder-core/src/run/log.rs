//! Output of a process on its way out: secrets are masked, everything is kept on disk, the end is kept in memory for error messages.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use builder_snapshot::exec::{OutputSink, OutputStream};

use crate::content::room::says_full;
use crate::tripwire;

/// What stands where a secret stood.
const MASK: &[u8] = b"****";

/// Shortest secret that is masked: shorter values occur everywhere, and masking them would hide the output and nothing else.
const SHORTEST_MASKED_BYTES: usize = 4;

/// How much of the output's end is kept for error messages: more than the last lines that anyone prints.
const TAIL_BYTES: usize = 16 * 1024;

/// Where masked output goes.
pub trait LogTarget: Send + Sync {
    /// Bytes of one stream (1 or 2), in order within it.
    fn log(&self, stream: u8, bytes: &[u8]);
    /// Something to tell people about this step.
    fn warning(&self, text: &str);
}

/// Takes a process's output.
pub struct StepLog {
    target: Arc<dyn LogTarget>,
    maskers: [Masker; 2],
    path: PathBuf,
    file: Option<File>,
    failed: Option<io::Error>,
    tail: Vec<u8>,
}

/// What is left of a log when the process has ended.
#[derive(Debug, Default)]
pub struct LogEnd {
    /// The last bytes.
    pub tail: Vec<u8>,
    /// Where all of it is; none if there was no output.
    pub path: Option<PathBuf>,
}

impl StepLog {
    /// A log that is kept at `path` once there is something to keep, without what `masker` masks.
    #[must_use]
    pub fn new(target: Arc<dyn LogTarget>, path: PathBuf, masker: Masker) -> Self {
        Self { target, maskers: [masker.clone(), masker], path, file: None, failed: None, tail: Vec::new() }
    }

    /// Whether the disk had no room for some of it.
    #[must_use]
    pub fn met_full_disk(&self) -> bool {
        self.failed.as_ref().is_some_and(says_full)
    }

    /// Ends the log.
    pub fn finish(mut self) -> LogEnd {
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            let rest = self.maskers[position(stream)].finish();
            self.pass(stream, &rest);
        }
        if let Some(error) = &self.failed {
            self.target.warning(&format!("the log {} is incomplete: {error}", self.path.display()));
        }
        LogEnd { tail: self.tail, path: self.file.map(|_| self.path) }
    }

    fn pass(&mut self, stream: OutputStream, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.failed.is_none()
            && let Err(error) = self.keep(bytes)
        {
            // A full disk must not end a step that might free some; it is told at the end.
            self.failed = Some(error);
        }
        self.tail.extend_from_slice(bytes);
        if self.tail.len() > 2 * TAIL_BYTES {
            self.tail.drain(..self.tail.len() - TAIL_BYTES);
        }
        self.target.log(if stream == OutputStream::Stdout { 1 } else { 2 }, bytes);
    }

    fn keep(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path)?),
        };
        file.write_all(bytes)
    }
}

impl OutputSink for StepLog {
    fn output(&mut self, stream: OutputStream, bytes: &[u8]) {
        let masked = self.maskers[position(stream)].mask(bytes);
        self.pass(stream, &masked);
    }

    fn warning(&mut self, warning: &str) {
        self.target.warning(warning);
    }
}

fn position(stream: OutputStream) -> usize {
    match stream {
        OutputStream::Stdout => 0,
        OutputStream::Stderr => 1,
    }
}

/// Replaces secrets in a stream of bytes, also where they are cut by reads.
#[derive(Debug, Clone)]
pub struct Masker {
    secrets: Arc<Needles>,
    held: Vec<u8>,
}

/// What is masked.
#[derive(Debug)]
struct Needles {
    /// By their first byte; longest first, so that a secret that contains another goes as a whole.
    by_first: Vec<Vec<Vec<u8>>>,
    is_empty: bool,
}

impl Needles {
    fn new(mut all: Vec<Vec<u8>>) -> Self {
        all.retain(|needle| needle.len() >= SHORTEST_MASKED_BYTES);
        all.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        all.dedup();
        let is_empty = all.is_empty();
        let mut by_first = vec![Vec::new(); 256];
        for needle in all {
            by_first[usize::from(needle[0])].push(needle);
        }
        Self { by_first, is_empty }
    }

    /// Lets bytes out up to the first with which a secret may begin; gives what comes from there.
    fn pass_plain<'a>(&self, rest: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let plain = rest.iter().position(|&byte| !self.by_first[usize::from(byte)].is_empty()).unwrap_or(rest.len());
        let (plain, rest) = rest.split_at(plain);
        out.extend_from_slice(plain);
        rest
    }

    /// Those that may begin where `rest` does.
    fn beginning(&self, rest: &[u8]) -> &[Vec<u8>] {
        rest.first().map_or(&[], |first| &self.by_first[usize::from(*first)])
    }
}

impl Masker {
    /// Masks `own`, also without the line end that files have and programs drop, each long enough line of those with several, and what
    /// common encodings make of them. Of `others`, which are lent to other steps, only what is too long to occur by chance is masked.
    #[must_use]
    pub fn new(own: &[Vec<u8>], others: &[Vec<u8>]) -> Self {
        let mut all: Vec<Vec<u8>> = Vec::new();
        for secret in own {
            all.push(secret.trim_ascii_end().to_vec());
            all.extend(secret.split(|&b| b == b'\n').map(|line| line.trim_ascii().to_vec()));
        }
        all.extend(own.iter().chain(others).flat_map(|secret| tripwire::patterns(secret).into_keys()));
        Self { secrets: Arc::new(Needles::new(all)), held: Vec::new() }
    }

    /// What can be let out after `bytes` came in.
    pub fn mask(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.secrets.is_empty {
            return bytes.to_vec();
        }
        self.held.extend_from_slice(bytes);
        let held = std::mem::take(&mut self.held);
        let mut out = Vec::with_capacity(held.len());
        let mut rest = &held[..];
        while !rest.is_empty() {
            rest = self.secrets.pass_plain(rest, &mut out);
            // A longer secret may begin here and be cut: then nothing can be said yet.
            let candidates = self.secrets.beginning(rest);
            if candidates.iter().any(|secret| secret.len() > rest.len() && secret.starts_with(rest)) {
                break;
            }
            match candidates.iter().find(|secret| rest.starts_with(secret)) {
                Some(secret) => {
                    out.extend_from_slice(MASK);
                    rest = &rest[secret.len()..];
                }
                None => {
                    let (plain, after) = rest.split_at(1.min(rest.len()));
                    out.extend_from_slice(plain);
                    rest = after;
                }
            }
        }
        self.held = rest.to_vec();
        out
    }

    /// What was held back, at the end of the stream.
    pub fn finish(&mut self) -> Vec<u8> {
        let rest = std::mem::take(&mut self.held);
        self.mask_whole(&rest)
    }

    /// Masks a text that is there as a whole.
    #[must_use]
    pub fn mask_whole(&self, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len());
        let mut rest = text;
        loop {
            rest = self.secrets.pass_plain(rest, &mut out);
            let Some((&first, after)) = rest.split_first() else { break };
            if let Some(secret) = self.secrets.beginning(rest).iter().find(|secret| rest.starts_with(secret)) {
                out.extend_from_slice(MASK);
                rest = &rest[secret.len()..];
            } else {
                out.push(first);
                rest = after;
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(secrets: &[&str], pieces: &[&str]) -> String {
        let secrets: Vec<_> = secrets.iter().map(|secret| secret.as_bytes().to_vec()).collect();
        let mut masker = Masker::new(&secrets, &[]);
        let mut out: Vec<u8> = pieces.iter().flat_map(|piece| masker.mask(piece.as_bytes())).collect();
        out.extend(masker.finish());
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a8_7_secrets_are_masked_however_they_are_cut() {
        assert_eq!(masked(&["hunter2\n"], &["pw=hun", "te", "r2!\n"]), "pw=****!\n");
        assert_eq!(masked(&["hunter2"], &["hunter", "1 hunter"]), "hunter1 hunter");
        assert_eq!(masked(&["abcd", "abcdef"], &["abcdef abcde", "g"]), "**** ****eg");
        assert_eq!(masked(&["line one\nline two\n"], &["x line two y"]), "x **** y");
        assert_eq!(masked(&["abc"], &["abc"]), "abc", "too short to hide");
        assert_eq!(masked(&["hunter2hunter2"], &["aHVudGVyMmh1bn", "RlcjI= 68756e746572326", "8756e74657232"]), "****I= ****");
        let mut other = Masker::new(&[], &[b"four".to_vec(), b"long enough".to_vec()]);
        assert_eq!(other.mask(b"four long enough."), b"four ****.");
    }

    proptest! {
        #[test]
        fn no_cut_lets_a_secret_through(text in "[ab]{0,60}", cuts in prop::collection::vec(0..8_usize, 1..20)) {
            let secret = "abba";
            let mut pieces = Vec::new();
            let mut rest = &text[..];
            for cut in cuts.iter().cycle().take(80) {
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            pieces.push(rest);
            let out = masked(&[secret], &pieces);
            prop_assert!(!out.contains(secret));
            prop_assert_eq!(out, text.replace(secret, "****"));
        }
    }
}
