//! Working without root: the process becomes root of a user namespace of its own.
//!
//! [`enter_user_namespace`] is the first thing that a program does which builds for an ordinary user. From then on the process is user 0 with all
//! capabilities *over its own namespaces*: it can mount, change roots and give files to the ids of its map. Nothing outside becomes possible: its files are
//! still the invoking user's, and so is every result.
//!
//! ```text
//! fork ──► a process that stays outside (Outside): runs newuidmap and newgidmap, later credential helpers, until this one is gone
//!   └────► unshare(user, mount) ──► the maps are written from outside ──► setgid 0, setuid 0
//! ```
//!
//! # What is kept where
//!
//! With ranges of subordinate ids (`/etc/subuid`, `/etc/subgid`) a tree's owners stand on disk, moved by the map. What the disk cannot hold (owners that
//! are not in the map, all but root when there is no range; device nodes, which nobody may make in a user namespace) stands in attributes of the files,
//! see [`crate::layer`]; tables of contents, and so exported layers, are the same as root's.
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

use crate::sys;

mod outside;
mod ranges;

pub use outside::{Output, Outside, run};
use ranges::Range;

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
        reason: String,
    },
}

/// Why no user namespace could be entered.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// A namespace is entered by a process as a whole.
    #[error("cannot enter a user namespace: this process has {count} threads already; enter it before the first is started")]
    Threads {
        /// How many.
        count: usize,
    },
    /// The machine forbids it.
    #[error("cannot enter a user namespace: {source}{remedy}")]
    Forbidden {
        /// What the kernel says.
        source: io::Error,
        /// What can be done.
        remedy: String,
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

/// Makes the process root of a new user namespace, unless it is root already. Must be called before any thread is started, and before anything else of this
/// crate.
///
/// Programs that embed the builder call this first in `main`, before an asynchronous runtime is made.
///
/// # Errors
/// Threads exist; the machine forbids user namespaces.
pub fn enter_user_namespace(options: &Options) -> Result<Entered, EnterError> {
    if geteuid().is_root() {
        return Ok(Entered { ids: Ids::Own, outside: None });
    }
    let threads = std::fs::read_dir("/proc/self/task").map_err(setup("count threads"))?.count();
    if threads != 1 {
        return Err(EnterError::Threads { count: threads });
    }
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let maps = Maps::plan(options, uid, gid);
    let outside = Outside::start().map_err(setup("start the process that stays outside"))?;
    sys::fork::unshare_user_and_mounts().map_err(|source| EnterError::Forbidden { remedy: remedy(&source), source })?;
    let ids = match maps.and_then(|maps| maps.write(&outside)) {
        Ok(()) => Ids::Ranges,
        Err(reason) => {
            map_one(uid, gid)?;
            Ids::One { reason }
        }
    };
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).map_err(|e| setup("become group 0")(e.into()))?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).map_err(|e| setup("become user 0")(e.into()))?;
    Ok(Entered { ids, outside: Some(outside) })
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

/// What newuidmap and newgidmap are to do.
struct Maps {
    tools: [PathBuf; 2],
    maps: [Vec<OsString>; 2],
}

impl Maps {
    /// All that is needed, or why there is none.
    fn plan(options: &Options, uid: u32, gid: u32) -> Result<Self, String> {
        let name = ranges::user_name(uid).or_else(|| options.user_name.clone());
        let find = |tool: &str| find_tool(tool, options.search_path.as_deref()).ok_or_else(|| format!("there is no {tool} (package uidmap)"));
        let ranges = |file: &str| {
            let found = ranges::of_user(Path::new(file), name.as_deref(), uid);
            let user = name.clone().unwrap_or_else(|| uid.to_string());
            if found.is_empty() {
                Err(format!("{file} has no ids for user {user} (usermod --add-subuids --add-subgids gives some)"))
            } else {
                Ok(found)
            }
        };
        let (uids, gids) = (ranges("/etc/subuid")?, ranges("/etc/subgid")?);
        Ok(Self { tools: [find("newuidmap")?, find("newgidmap")?], maps: [triples(uid, &uids), triples(gid, &gids)] })
    }

    fn write(self, outside: &Outside) -> Result<(), String> {
        let pid = OsString::from(std::process::id().to_string());
        for (tool, map) in self.tools.iter().zip(self.maps) {
            let args: Vec<OsString> = std::iter::once(pid.clone()).chain(map).collect();
            let said = outside.run(tool.as_os_str(), &args, b"", None).map_err(|e| format!("{} cannot be run: {e}", tool.display()))?;
            if !said.success {
                return Err(format!("{} failed: {}", tool.display(), String::from_utf8_lossy(&said.stderr).trim()));
            }
        }
        Ok(())
    }
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

fn find_tool(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    let usual = ["/usr/bin", "/usr/local/bin", "/bin", "/usr/sbin"].map(PathBuf::from);
    let given = path.map(|path| std::env::split_paths(path).collect::<Vec<_>>()).unwrap_or_default();
    given.into_iter().filter(|dir| dir.is_absolute()).chain(usual).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// What to do about a machine that does not let users have namespaces.
fn remedy(error: &io::Error) -> String {
    let setting = |name: &str| std::fs::read_to_string(format!("/proc/sys/{name}")).map(|text| text.trim().to_owned()).unwrap_or_default();
    if setting("user/max_user_namespaces") == "0" {
        return "; the machine allows none: set the sysctl user.max_user_namespaces above 0, or run as root".to_owned();
    }
    if setting("kernel/unprivileged_userns_clone") == "0" {
        return "; the machine allows them to root alone: set the sysctl kernel.unprivileged_userns_clone to 1, or run as root".to_owned();
    }
    if setting("kernel/apparmor_restrict_unprivileged_userns") == "1" {
        return "; AppArmor forbids it: give rbuild a profile with `userns`, or set the sysctl kernel.apparmor_restrict_unprivileged_userns to 0"
            .to_owned();
    }
    match error.raw_os_error() {
        Some(libc::ENOSPC) => "; too many are in use: raise the sysctl user.max_user_namespaces".to_owned(),
        Some(libc::EPERM) => "; inside a container the outer one must allow it (its seccomp profile forbids unshare), or run as root".to_owned(),
        Some(libc::EINVAL) => "; the kernel has none (CONFIG_USER_NS): run as root".to_owned(),
        _ => String::new(),
    }
}

/// What ids mean in the namespace that this process is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    /// Whether it is the machine's first namespace, where ids mean themselves.
    pub is_initial: bool,
    /// Whether there is only one user or only one group.
    pub is_one_id: bool,
    /// The maps as the kernel tells them, one line each: first id inside, first id outside, count; users, then groups.
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
        let is_initial = std::fs::metadata("/proc/self/ns/user").map_or(true, |metadata| metadata.ino() == INITIAL_INODE);
        Self { is_initial, is_one_id: !is_initial && (is_one(&users) || is_one(&groups)), text: format!("{users}{groups}") }
    }
}
