//! What tells that nobody touched a file: its inode and the time that the kernel alone sets.
//!
//! A change sets an inode's change time to the clock's last tick. So that a change is never made in the same tick as the fingerprint was taken,
//! [`Fingerprints::settle`] waits for the next one before a process may run (git's "racy clean" rule). Where that does not come (a server's clock runs ahead
//! of ours), fingerprints that young are not believed.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use rustix::fs::Stat;
use rustix::time::{ClockId, clock_gettime};

use crate::path::TreePath;

/// A tick takes 1 to 10 ms.
const SETTLE_MAX: Duration = Duration::from_millis(25);
const SETTLE_STEP: Duration = Duration::from_micros(500);

/// Seconds and nanoseconds.
type ChangeTime = (i64, i64);

/// Fingerprints of many paths. A keyed hash of each: 16 bytes a file, and a wrong answer once in 10¹⁹.
#[derive(Debug, Default)]
pub(crate) struct Fingerprints {
    known: HashSet<u64>,
    keys: RandomState,
    latest: ChangeTime,
    /// Fingerprints from then on are not believed.
    settled: ChangeTime,
}

fn change_time(stat: &Stat) -> ChangeTime {
    (stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or_default())
}

impl Fingerprints {
    fn of(&self, path: &TreePath, stat: &Stat) -> u64 {
        self.keys.hash_one((path.as_bytes(), stat.st_ino, stat.st_mode, change_time(stat)))
    }

    /// What is at `path` is as it should be.
    pub(crate) fn note(&mut self, path: &TreePath, stat: &Stat) {
        self.latest = self.latest.max(change_time(stat));
        let fingerprint = self.of(path, stat);
        self.known.insert(fingerprint);
    }

    /// Whether what is at `path` is what was noted there.
    pub(crate) fn has(&self, path: &TreePath, stat: &Stat) -> bool {
        change_time(stat) < self.settled && self.is_noted(path, stat)
    }

    /// As [`Fingerprints::has`], while nobody else can have changed anything.
    pub(crate) fn is_noted(&self, path: &TreePath, stat: &Stat) -> bool {
        self.known.contains(&self.of(path, stat))
    }

    /// From now on changes can be told from what was noted.
    pub(crate) fn settle(&mut self) {
        let mut waited = Duration::ZERO;
        loop {
            let now = clock_gettime(ClockId::RealtimeCoarse);
            self.settled = (now.tv_sec, now.tv_nsec);
            if self.settled > self.latest || waited >= SETTLE_MAX {
                return;
            }
            std::thread::sleep(SETTLE_STEP);
            waited += SETTLE_STEP;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_however_soon_it_comes() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (file, path) = (dir.path().join("f"), TreePath::new("f").expect("clean"));
        for round in 0..20 {
            std::fs::write(&file, "one").expect("write");
            let stat = || rustix::fs::lstat(&file).expect("stat");
            let mut prints = Fingerprints::default();
            prints.note(&path, &stat());
            assert!(!prints.has(&path, &stat()), "nothing is believed before it has settled");
            prints.settle();
            assert!(prints.has(&path, &stat()));
            let before = stat();
            std::fs::write(&file, "two").expect("write");
            let times = |stat: &Stat| rustix::fs::Timestamps {
                last_access: rustix::fs::Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
                last_modification: rustix::fs::Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
            };
            rustix::fs::utimensat(rustix::fs::CWD, &file, &times(&before), rustix::fs::AtFlags::empty()).expect("utimensat");
            assert!(!prints.has(&path, &stat()), "round {round}: the same size and time, but for the kernel's");
        }
    }
}
