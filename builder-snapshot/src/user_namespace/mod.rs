//! Working without root: the process becomes root of a user namespace of its own.
//!
//! [`enter_user_namespace`] is the first thing that a program does which builds for an ordinary user. From then on the process is user 0 with all
//! capabilities *over its own namespaces*: it can mount, change roots and give files to the ids of its map. Nothing outside becomes possible: its files are
//! still the invoking user's, and so is every result.
//!
//! ```text
//! fork ──► a child that tries it, mounts something, and tells
//! fork ──► a process that stays outside (Outside): runs newuidmap and newgidmap, later credential helpers, until this one is gone
//!   └────► unshare(user, mount) ──► the maps are written from outside ──► setgid 0, setuid 0
//! ```
//!
//! # Rungs
//!
//! [`Isolation`] names them, each a step down from the one before: root of the machine; a namespace with ranges of ids (the user's subordinate ones, or all,
//! for a root who may not administer the machine, as in most containers); a namespace with one id; none. On the last, files are put together all the same.
//!
//! # What is kept where
//!
//! With ranges of subordinate ids (`/etc/subuid`, `/etc/subgid`) a tree's owners stand on disk, moved by the map. What the disk cannot hold (owners that
//! are not in the map, all but root when there is no range; device nodes, which nobody may make in a user namespace; modes, where there is no namespace) stands in attributes of the files,
//! see [`crate::layer`], and steps are told so (`exec::ownership`); tables of contents, and so exported layers, are the same as root's.
//!
//! # What this does not do
//!
//! No network namespace is entered: steps use the network of the machine. Files of the machine's root stay out of reach.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::process::{getegid, geteuid};
use rustix::thread::{Gid, Uid};

use crate::diagnosis::{self, Lack, RangeLack, Surroundings};
use crate::sys;

mod outside;
mod ranges;
mod trial;

pub use outside::{Output, Outside, run};
pub(crate) use outside::{receive, send};
use ranges::Range;
pub(crate) use ranges::user_name;

/// What [`enter_user_namespace`] needs to know.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Directories in which `newuidmap` and `newgidmap` are searched (the value of PATH), before the usual ones.
    pub search_path: Option<OsString>,
    /// The invoking user's name, for users that `/etc/passwd` does not list.
    pub user_name: Option<String>,
}

/// What the process is now.
#[derive(Debug)]
pub struct Entered {
    /// Which ids it has.
    pub ids: Ids,
    /// A way to run programs where the process came from; none if no namespace was entered.
    pub outside: Option<Outside>,
}

/// Which ids a process has at its disposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ids {
    /// It was root already: no namespace was entered.
    Own,
    /// Root and the invoking user's ranges.
    Ranges,
    /// Only root.
    One {
        /// Why there are no more.
        lack: Lack,
    },
    /// Nothing was entered, because nothing could be: images can be put together, steps cannot run.
    None {
        /// Why not.
        lack: Lack,
    },
}

/// Why it was not even tried to enter a user namespace, or went wrong half way.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// A namespace is entered by a process as a whole.
    #[error("cannot enter a user namespace: this process has {count} threads already; enter it before the first is started")]
    Threads {
        /// How many.
        count: usize,
    },
    /// The ids could not be set up.
    #[error("cannot {action} in a new user namespace: {source}")]
    Setup {
        /// What was tried.
        action: String,
        /// What the kernel says.
        source: io::Error,
    },
}

fn setup(action: &str) -> impl FnOnce(io::Error) -> EnterError {
    let action = action.to_owned();
    move |source| EnterError::Setup { action, source }
}

/// What root must be able to do to run steps without a namespace: CHOWN, DAC_OVERRIDE, FOWNER, SETGID, SETUID, SETPCAP, SYS_ADMIN, MKNOD, SETFCAP.
const ROOT: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 21 | 1 << 27 | 1 << 31;

/// What files ask for that belong to others: CHOWN, DAC_OVERRIDE, FOWNER.
const FILES: u64 = 1 | 1 << 1 | 1 << 3;

/// What a map of all ids asks for in the namespace around it: SETGID, SETUID, SETFCAP.
const MAPPING: u64 = 1 << 6 | 1 << 7 | 1 << 31;

/// CAP_SYS_ADMIN.
const ADMINISTRATION: u64 = 1 << 21;

fn effective_capabilities() -> u64 {
    rustix::thread::capabilities(None).map(|sets| sets.effective.bits()).unwrap_or_default()
}

/// Why this process stands no higher, for those who want to tell later.
static LACK: OnceLock<Lack> = OnceLock::new();

/// Why [`enter_user_namespace`] came no further than one id, or nowhere; none if it did, had no need to, or was not called.
#[must_use]
pub fn lack() -> Option<&'static Lack> {
    LACK.get()
}

/// Makes the process root of a new user namespace, unless it has all of root's rights already. Must be called before any thread is started, and before
/// anything else of this crate. Where the machine forbids it, the process stays what it is ([`Ids::None`]).
///
/// Programs that embed the builder call this first in `main`, before an asynchronous runtime is made.
///
/// # Errors
/// Threads exist; what worked in a trial a moment ago fails.
pub fn enter_user_namespace(options: &Options) -> Result<Entered, EnterError> {
    if geteuid().is_root() && effective_capabilities() & ROOT == ROOT {
        return Ok(Entered { ids: Ids::Own, outside: None });
    }
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        return Err(EnterError::Threads { count: threads });
    }
    // There is no way back out of a namespace: a child goes first.
    if let Err(refusal) = trial::enter_in_a_child() {
        let lack = diagnosis::user_namespaces(refusal, &Surroundings::read());
        return Ok(Entered { ids: Ids::None { lack: LACK.get_or_init(|| lack).clone() }, outside: None });
    }
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let maps = Maps::plan(options, uid, gid);
    let outside = Outside::start().map_err(setup("start the process that stays outside"))?;
    sys::fork::unshare_user_and_mounts().map_err(setup("begin"))?;
    let ids = match maps.and_then(|maps| maps.write(&outside)) {
        Ok(()) => Ids::Ranges,
        Err(why) => {
            map_one(uid, gid)?;
            let user = options.user(uid).unwrap_or_else(|| uid.to_string());
            let lack = diagnosis::id_ranges(&why, &user, &Surroundings::read());
            Ids::One { lack: LACK.get_or_init(|| lack).clone() }
        }
    };
    become_root()?;
    Ok(Entered { ids, outside: Some(outside) })
}

impl Options {
    fn user(&self, uid: u32) -> Option<String> {
        user_name(uid).or_else(|| self.user_name.clone())
    }
}

fn become_root() -> Result<(), EnterError> {
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).map_err(|e| setup("become group 0")(e.into()))?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).map_err(|e| setup("become user 0")(e.into()))
}

/// The only map that needs no help: nobody but the invoking user. A map that newuidmap wrote before newgidmap failed stays; none can be written twice.
fn map_one(uid: u32, gid: u32) -> Result<(), EnterError> {
    let write = |file: &str, text: String| {
        if file.ends_with("_map") && std::fs::read_to_string(file).is_ok_and(|map| !map.is_empty()) {
            return Ok(());
        }
        std::fs::write(file, text).map_err(setup(&format!("write {file}")))
    };
    // A process that could drop groups could gain what they are denied: without this the kernel refuses the map of groups.
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// How ids are mapped.
enum Maps {
    /// By the set-id programs, the invoking user's ranges.
    Tools { tools: [PathBuf; 2], maps: [Vec<OsString>; 2] },
    /// By the process outside itself, which has the rights: every id means itself.
    Same { maps: [String; 2] },
}

impl Maps {
    /// All that is needed, or why there is none.
    fn plan(options: &Options, uid: u32, gid: u32) -> Result<Self, RangeLack> {
        if effective_capabilities() & MAPPING == MAPPING {
            let same = |file: &str| {
                let text = std::fs::read_to_string(file).unwrap_or_default();
                let lines = text.lines().filter_map(|line| {
                    let mut words = line.split_ascii_whitespace();
                    let (first, _, count) = (words.next()?, words.next()?, words.next()?);
                    Some(format!("{first} {first} {count}\n"))
                });
                lines.collect::<String>()
            };
            let maps = ["/proc/self/uid_map", "/proc/self/gid_map"].map(same);
            if maps.iter().all(|map| !map.is_empty()) {
                return Ok(Self::Same { maps });
            }
        }
        let name = options.user(uid);
        let ranges = |file: &str| {
            let found = ranges::of_user(Path::new(file), name.as_deref(), uid);
            if found.is_empty() { Err(RangeLack::NoLine { file: file.to_owned() }) } else { Ok(found) }
        };
        let find = |tool: &str| find_tool(tool, options.search_path.as_deref()).ok_or_else(|| RangeLack::NoTool { tool: tool.to_owned() });
        let (uids, gids) = (ranges("/etc/subuid")?, ranges("/etc/subgid")?);
        Ok(Self::Tools { tools: [find("newuidmap")?, find("newgidmap")?], maps: [triples(uid, &uids), triples(gid, &gids)] })
    }

    fn write(self, outside: &Outside) -> Result<(), RangeLack> {
        let pid = std::process::id().to_string();
        match self {
            Self::Tools { tools, maps } => {
                for (tool, map) in tools.iter().zip(maps) {
                    let failed = |said: String| RangeLack::Failed { tool: tool.display().to_string(), said, is_privileged: is_privileged(tool) };
                    let args: Vec<OsString> = std::iter::once(OsString::from(&pid)).chain(map).collect();
                    let said = outside.run(tool.as_os_str(), &args, b"", None).map_err(|e| failed(e.to_string()))?;
                    if !said.success {
                        return Err(failed(String::from_utf8_lossy(&said.stderr).trim().to_owned()));
                    }
                }
            }
            Self::Same { maps } => {
                for (name, map) in ["uid_map", "gid_map"].into_iter().zip(maps) {
                    let file = format!("/proc/{pid}/{name}");
                    outside.write(Path::new(&file), map.as_bytes()).map_err(|e| RangeLack::Failed {
                        tool: file.clone(),
                        said: e.to_string(),
                        is_privileged: true,
                    })?;
                }
            }
        }
        Ok(())
    }
}

/// Whether a program gets rights by being run: by a set-uid bit or by capabilities, and on a mount that honours them.
fn is_privileged(tool: &Path) -> bool {
    let honoured = rustix::fs::statvfs(tool).is_ok_and(|stat| !stat.f_flag.contains(rustix::fs::StatVfsMountFlags::NOSUID));
    let set_uid = std::fs::metadata(tool).is_ok_and(|file| file.mode() & 0o4000 != 0 && file.uid() == 0);
    let capable = rustix::fs::getxattr(tool, c"security.capability", &mut [0_u8; 64][..]).is_ok();
    honoured && (set_uid || capable)
}

/// The user itself as 0, then its ranges without a gap.
fn triples(id: u32, ranges: &[Range]) -> Vec<OsString> {
    let mut next = 1_u32;
    let mut words: Vec<u32> = vec![0, id, 1];
    for range in ranges {
        // No more ids than there are: the last ones of a range that is too large are left out.
        let count = range.count.min(u32::MAX - next);
        words.extend([next, range.start, count]);
        next += count;
    }
    words.into_iter().map(|word| word.to_string().into()).collect()
}

pub(crate) fn find_tool(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    let usual = ["/usr/bin", "/usr/local/bin", "/bin", "/usr/sbin"].map(PathBuf::from);
    find_on(name, path).or_else(|| usual.iter().map(|dir| dir.join(name)).find(|file| file.is_file()))
}

/// A program in the absolute directories of `path`.
pub(crate) fn find_on(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    let given = path.map(|path| std::env::split_paths(path).collect::<Vec<_>>()).unwrap_or_default();
    given.into_iter().filter(|dir| dir.is_absolute()).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// How far a process is from being the machine's root: the rung that it stands on. Images are the same on every one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Root of the machine.
    Root,
    /// Root of a user namespace with ranges of ids.
    Ranges,
    /// Root of a user namespace with one id.
    OneId,
    /// No rights over any namespace: steps cannot run.
    None,
}

impl Isolation {
    /// That of this process. As [`IdMap::current`], not to be asked before [`enter_user_namespace`].
    #[must_use]
    pub fn current() -> Self {
        let map = IdMap::current();
        match map {
            IdMap { is_initial: true, .. } => Self::Root,
            IdMap { is_administrator: false, .. } => Self::None,
            IdMap { is_one_id: true, .. } => Self::OneId,
            _ => Self::Ranges,
        }
    }

    /// Its name for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Ranges => "user-namespace",
            Self::OneId => "user-namespace-one-id",
            Self::None => "none",
        }
    }

    /// What it is, for people.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Root => "root of this machine",
            Self::Ranges => "user namespace with ranges of ids",
            Self::OneId => "user namespace with one id",
            Self::None => "none: files only, no step can run",
        }
    }
}

/// What ids mean to this process, in the namespace that it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    /// Whether it is the machine's root: ids mean themselves, devices can be made, and overlay's marks be root's.
    pub is_initial: bool,
    /// Whether there is only one user or only one group.
    pub is_one_id: bool,
    /// Whether it can give no file to anybody and is bound by modes: an ordinary user without a namespace.
    pub is_powerless: bool,
    /// Whether it administers its namespace (CAP_SYS_ADMIN): without, nothing can be mounted.
    pub is_administrator: bool,
    /// The maps as the kernel tells them, one line each: first id inside, first id outside, count; users, then groups. Then what else decides how trees
    /// are kept on disk, so that processes with equal texts read each other's.
    pub text: String,
}

impl IdMap {
    /// That of this process. Looked up once: nobody enters a namespace after having asked.
    #[must_use]
    pub fn current() -> &'static Self {
        static CURRENT: OnceLock<IdMap> = OnceLock::new();
        CURRENT.get_or_init(Self::read)
    }

    fn read() -> Self {
        /// `PROC_USER_INIT_INO` of the kernel.
        const INITIAL_INODE: u64 = 0xEFFF_FFFD;
        let map = |file: &str| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let lines: Vec<String> = text.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>().join(" ")).collect();
            lines.join("\n") + "\n"
        };
        let (users, groups) = (map("/proc/self/uid_map"), map("/proc/self/gid_map"));
        let is_one = |map: &str| map.lines().count() == 1 && map.trim_end().ends_with(" 1");
        // Without /proc nothing says otherwise, and a sandbox could not be made either.
        let is_first = std::fs::metadata("/proc/self/ns/user").map_or(true, |metadata| metadata.ino() == INITIAL_INODE);
        let capabilities = effective_capabilities();
        let is_administrator = capabilities & ADMINISTRATION != 0;
        let is_powerless = capabilities & FILES != FILES;
        let mut text = format!("{users}{groups}");
        if is_powerless {
            text.push_str(&format!("kept as user {}\n", geteuid().as_raw()));
        } else if !is_administrator || (!is_first && text == IDENTITY) {
            // A map alone does not tell these from the machine's root.
            text.push_str("with marks of users\n");
        }
        let is_one_id = is_powerless || (!is_first && (is_one(&users) || is_one(&groups)));
        Self { is_initial: is_first && is_administrator && !is_powerless, is_one_id, is_powerless, is_administrator, text }
    }
}

/// The map of the machine's first namespace.
const IDENTITY: &str = "0 0 4294967295\n0 0 4294967295\n";
