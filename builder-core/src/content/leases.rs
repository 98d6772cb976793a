//! Leases on the inodes of layers: hard links between layers never change a file that a running process sees.
//!
//! A layer may share inodes with the layers that it was copied from. A further link, or removing one, changes an inode's change time and
//! link count wherever it is seen; `tar` in a step would say that the file changed under it. So whoever runs a process holds the layers below
//! it, and whoever links or removes links asks first, a few hundred files at a time, and copies when the answer is no.
//!
//! ```text
//! layers/<hex>/families    which families of inodes a layer may share, one name a line; absent: only its own, named as the layer is
//! locks/layers             two bytes a family: steps have a shared lock on the first, who links has one on the second
//! ```
//!
//! A layer made with links belongs to all families of the layers that it was linked from. An inode's first layer has at least one family, and
//! every layer that an inode spreads to has that family too: two layers without a common family share no inode.
//!
//! Both sides first say what they are about to do, then look whether the other side is at it: of two that come at once at least one sees the other.
//! A step then waits, who links gives way.
//!
//! # Invariants
//! - A family of a layer that a held [`StepLease`] names gets no link and loses none until the lease goes.
//! - A step waits for who links at most for one batch, and who links never waits.
//! - Leases are bound to open files: a process gives them up by dying.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::StoreError;

/// File beside a layer's `fs` that names its families.
pub(crate) const FAMILIES_FILE: &str = "families";

/// Most families of a layer. A layer that is linked from more would make steps hold ever more of them; the rest is copied.
const MAX_FAMILIES: usize = 16;

/// Names of families. A layer's own family has the name of the layer's directory.
pub type Families = BTreeSet<String>;

/// Which inodes layers share, and who may touch them.
#[derive(Debug)]
pub struct Leases {
    path: PathBuf,
}

impl Leases {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The families of the layer with the directory `fs`.
    ///
    /// # Errors
    /// A file that is there and can't be read.
    pub fn families(&self, fs: &Path) -> Result<Families, StoreError> {
        let file = fs.with_file_name(FAMILIES_FILE);
        match fs::read_to_string(&file) {
            Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(own_family(fs).into_iter().collect()),
            Err(source) => Err(StoreError::Io { action: "read", path: file, source }),
        }
    }

    /// What whoever runs a process holds that sees these stacks of layers. Waits while somebody links from one of them, which does not take
    /// long.
    ///
    /// # Errors
    /// As [`Leases::families`]; if the lock file cannot be opened or locked.
    pub fn hold(&self, stacks: &[Vec<PathBuf>]) -> Result<StepLease, StoreError> {
        let mut held = Families::new();
        let mut shares_inodes = false;
        for stack in stacks {
            let mut seen = Families::new();
            // A layer that is in a stack twice is seen once.
            for fs in stack.iter().collect::<BTreeSet<_>>() {
                for family in self.families(fs)? {
                    shares_inodes |= !seen.insert(family);
                }
            }
            held.append(&mut seen);
        }
        let file = self.open()?;
        for family in &held {
            let start = offset(family);
            self.wait_lock(&file, libc::F_RDLCK, start)?;
            if !self.is_free(&file, start + 1)? {
                // Nobody links any more once this has been had.
                self.wait_lock(&file, libc::F_WRLCK, start + 1)?;
                self.try_lock(&file, libc::F_UNLCK, start + 1, 1)?;
            }
        }
        Ok(StepLease { shares_inodes, _file: file })
    }

    /// Begins linking from the layer with the directory `fs` into one that has `already` these families and lies on layers with the families
    /// `below`. None if that must not be: a process could see one inode under two names, or there would be too many families.
    ///
    /// # Errors
    /// As [`Leases::families`]; if the lock file cannot be opened.
    pub fn linker(&self, fs: &Path, already: &mut Families, below: &Families) -> Result<Option<Linker<'_>>, StoreError> {
        let families = self.families(fs)?;
        let joined: Families = already.union(&families).cloned().collect();
        if joined.len() > MAX_FAMILIES || !families.is_disjoint(below) {
            return Ok(None);
        }
        *already = joined;
        Ok(Some(Linker { leases: self, file: self.open()?, offsets: families.iter().map(|family| offset(family)).collect() }))
    }

    /// Holds all families against steps that begin, if no step holds any: for removing whatever may have links.
    ///
    /// # Errors
    /// If the lock file cannot be opened or locked.
    pub(super) fn try_hold_all(&self) -> Result<Option<File>, StoreError> {
        let file = self.open()?;
        // A length of 0 reaches to the end, wherever that is.
        Ok(self.try_lock(&file, libc::F_WRLCK, 0, 0)?.then_some(file))
    }

    fn open(&self) -> Result<File, StoreError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&self.path).map_err(StoreError::io("open", &self.path))
    }

    fn try_lock(&self, file: &File, kind: libc::c_int, start: i64, length: i64) -> Result<bool, StoreError> {
        match fcntl(file, FcntlArg::F_OFD_SETLK(&range(kind, start, length))) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(errno) => Err(self.failed(errno)),
        }
    }

    /// Whether nobody has a lock on the byte.
    fn is_free(&self, file: &File, start: i64) -> Result<bool, StoreError> {
        let mut asked = range(libc::F_WRLCK, start, 1);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut asked)).map_err(|errno| self.failed(errno))?;
        Ok(libc::c_int::from(asked.l_type) == libc::F_UNLCK)
    }

    fn wait_lock(&self, file: &File, kind: libc::c_int, start: i64) -> Result<(), StoreError> {
        loop {
            match fcntl(file, FcntlArg::F_OFD_SETLKW(&range(kind, start, 1))) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.failed(errno)),
            }
        }
    }

    fn failed(&self, errno: Errno) -> StoreError {
        StoreError::Io { action: "lock layers in", path: self.path.clone(), source: errno.into() }
    }
}

/// The name of the directory that `fs` lies in.
fn own_family(fs: &Path) -> Option<String> {
    Some(fs.parent()?.file_name()?.to_str()?.to_owned())
}

/// Where the two bytes of a family are. Two families that share 60 bits exclude each other's links, no more.
fn offset(family: &str) -> i64 {
    let bits = u64::from_str_radix(family.get(..15).unwrap_or_default(), 16).unwrap_or_default();
    (bits << 1).cast_signed()
}

fn range(kind: libc::c_int, start: i64, length: i64) -> libc::flock {
    let kind = libc::c_short::try_from(kind).expect("kinds of locks are small numbers");
    libc::flock { l_type: kind, l_whence: libc::c_short::try_from(libc::SEEK_SET).expect("it is 0"), l_start: start, l_len: length, l_pid: 0 }
}

/// Held while a process runs. Released when dropped, and when the process of the builder dies.
#[derive(Debug)]
pub struct StepLease {
    /// Whether a process could see one inode under two names that are no hard links: two layers of a stack share a family.
    pub shares_inodes: bool,
    _file: File,
}

/// May link from the layers of some families, batch by batch.
#[derive(Debug)]
pub struct Linker<'a> {
    leases: &'a Leases,
    file: File,
    offsets: Vec<i64>,
}

impl Linker<'_> {
    /// Whether a batch of links may be made now: no step runs on a layer of these families, and none begins until [`Linker::end_batch`].
    ///
    /// # Errors
    /// If the lock file cannot be locked.
    pub fn begin_batch(&self) -> Result<bool, StoreError> {
        for &start in &self.offsets {
            if !self.leases.try_lock(&self.file, libc::F_RDLCK, start + 1, 1)? || !self.leases.is_free(&self.file, start)? {
                self.end_batch()?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Lets steps begin.
    ///
    /// # Errors
    /// If the lock file cannot be unlocked.
    pub fn end_batch(&self) -> Result<(), StoreError> {
        for start in &self.offsets {
            self.leases.try_lock(&self.file, libc::F_UNLCK, start + 1, 1)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        dir: tempfile::TempDir,
        leases: Leases,
    }

    impl Case {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("tempdir");
            let leases = Leases::new(dir.path().join("locks"));
            Self { dir, leases }
        }

        /// The directory of a layer, with these families if there are any.
        fn layer(&self, name: char, families: &[char]) -> PathBuf {
            let fs = self.dir.path().join(hex(name)).join("fs");
            fs::create_dir_all(&fs).expect("directories");
            if !families.is_empty() {
                fs::write(fs.with_file_name(FAMILIES_FILE), families.iter().map(|f| hex(*f) + "\n").collect::<String>()).expect("written");
            }
            fs
        }

        fn linker(&self, fs: &Path) -> Option<Linker<'_>> {
            self.leases.linker(fs, &mut Families::new(), &Families::new()).expect("no failure")
        }
    }

    fn hex(name: char) -> String {
        name.to_string().repeat(64)
    }

    fn may(linker: &Linker<'_>) -> bool {
        let may = linker.begin_batch().expect("no failure");
        if may {
            linker.end_batch().expect("no failure");
        }
        may
    }

    #[test]
    fn nothing_is_linked_below_a_running_step_whatever_layer_it_sees_the_inode_through() {
        let case = Case::new();
        let (a, b, c) = (case.layer('a', &[]), case.layer('b', &['a']), case.layer('c', &['a', 'd']));
        let other = case.layer('e', &[]);
        for below in [&a, &b, &c] {
            let step = case.leases.hold(&[vec![below.clone()]]).expect("held");
            for from in [&a, &b, &c] {
                assert!(!may(&case.linker(from).expect("a linker")), "{from:?} below {below:?}");
            }
            assert!(may(&case.linker(&other).expect("a linker")));
            drop(step);
            assert!(may(&case.linker(&c).expect("a linker")));
        }
    }

    #[test]
    fn a_step_that_waits_comes_after_the_batch() {
        let case = Case::new();
        let a = case.layer('a', &[]);
        let linker = case.linker(&a).expect("a linker");
        assert!(linker.begin_batch().expect("no failure"));
        std::thread::scope(|scope| {
            let step = scope.spawn(|| case.leases.hold(&[vec![a.clone()]]).expect("held"));
            // The step says that it waits before it waits; until then the batch goes on.
            let probe = case.leases.open().expect("opened");
            loop {
                if !case.leases.is_free(&probe, offset(&hex('a'))).expect("asked") {
                    break;
                }
                std::thread::yield_now();
            }
            assert!(!step.is_finished());
            linker.end_batch().expect("no failure");
            let lease = step.join().expect("no panic");
            assert!(!may(&linker));
            drop(lease);
            assert!(may(&linker));
        });
    }

    #[test]
    fn steps_share_and_so_do_two_who_link() {
        let case = Case::new();
        let a = case.layer('a', &[]);
        let (_one, two) = (case.leases.hold(&[vec![a.clone()]]).expect("held"), case.leases.hold(&[vec![a.clone()]]).expect("held"));
        drop(_one);
        assert!(!may(&case.linker(&a).expect("a linker")));
        drop(two);
        let (one, two) = (case.linker(&a).expect("a linker"), case.linker(&a).expect("a linker"));
        assert!(one.begin_batch().expect("no failure"));
        assert!(may(&two));
        one.end_batch().expect("no failure");
    }

    #[test]
    fn a_stack_never_gets_an_inode_that_it_has() {
        let case = Case::new();
        let (a, b, c) = (case.layer('a', &[]), case.layer('b', &['a', 'd']), case.layer('c', &[]));
        let shares = |stacks: &[Vec<PathBuf>]| case.leases.hold(stacks).expect("held").shares_inodes;
        assert!(shares(&[vec![a.clone(), c.clone(), b.clone()]]));
        assert!(!shares(&[vec![a.clone(), c.clone(), a.clone()]]), "one layer twice");
        assert!(!shares(&[vec![a.clone()], vec![b.clone()]]), "two mounts are two devices");
        let below = Families::from([hex('d')]);
        assert!(case.leases.linker(&b, &mut Families::new(), &below).expect("read").is_none());
        let mut already = Families::from([hex('c')]);
        assert!(case.leases.linker(&b, &mut already, &Families::new()).expect("read").is_some());
        assert_eq!(already, Families::from([hex('a'), hex('c'), hex('d')]));
        let mut many: Families = (0..MAX_FAMILIES).map(|n| n.to_string()).collect();
        assert!(case.leases.linker(&b, &mut many, &Families::new()).expect("read").is_none());
        assert_eq!(many.len(), MAX_FAMILIES, "nothing was joined");
    }

    #[test]
    fn everything_is_held_only_when_nothing_runs() {
        let case = Case::new();
        let a = case.layer('a', &[]);
        let step = case.leases.hold(&[vec![a.clone()]]).expect("held");
        assert!(case.leases.try_hold_all().expect("no failure").is_none());
        drop(step);
        let all = case.leases.try_hold_all().expect("no failure").expect("held");
        assert!(!may(&case.linker(&a).expect("a linker")));
        drop(all);
    }
}
