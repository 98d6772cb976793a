//! What stands on disk for that which a user namespace cannot make.
//!
//! - An owner that the namespace's map lacks: the file is root's, and the attribute `user.rbuild.owner` = `uid:gid` says whose it should be. It counts only as
//!   long as the file is root's: a later change of owner (by a program, through the mount) is the newer truth. Links, pipes and sockets cannot carry it and
//!   look as root's when they are read from disk.
//! - A device node: an empty file with the attribute `user.rbuild.device` = `c:major:minor` or `b:…`. A program sees the file; nothing can be opened
//!   through it, as nothing can through a node in a sandbox.
//!
//! A process without any namespace and without root's rights ([`IdMap::is_powerless`]) owns everything that it makes, and is bound by modes. For it
//!
//! - every owner but root is said in `user.rbuild.owner`, and its own id on disk means root;
//! - a mode that would bind it, or that it may not set, is said in `user.rbuild.mode` (octal): on disk the owner may always read and write;
//! - a file's capabilities are said in `user.rbuild.capability`.
//!
//! Reading a tree turns these back into what they mean, so that tables, and so layers, are the same as those that root makes. For the machine's root,
//! who can make everything, nothing is looked for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid, XattrFlags};
use rustix::io::Errno;

use crate::snapshot::Device;
use crate::sys;
use crate::toc::Meta;
use crate::user_namespace::IdMap;

use super::xattr;

/// All attributes of ours.
pub(super) const PREFIX: &[u8] = b"user.rbuild.";

const OWNER: &[u8] = b"user.rbuild.owner";
const DEVICE: &[u8] = b"user.rbuild.device";
const MODE: &[u8] = b"user.rbuild.mode";

/// Holds the value of [`xattr::CAPABILITY`].
pub(crate) const CAPABILITY: &[u8] = b"user.rbuild.capability";

/// What a file or directory stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct StandIn {
    /// Whose it should be.
    owner: Option<(u32, u32)>,
    /// Which mode it should have.
    mode: Option<u32>,
    /// What it should be.
    pub(crate) device: Option<Device>,
}

impl StandIn {
    /// The metadata that are meant.
    pub(crate) fn meant(&self, meta: Meta) -> Meta {
        let (uid, gid) = self.owner.unwrap_or((meta.uid, meta.gid));
        Meta { uid, gid, mode: self.mode.unwrap_or(meta.mode), ..meta }
    }
}

/// Whether `stat` may be that of a stand-in.
fn is_possible(stat: &Stat) -> bool {
    let map = IdMap::current();
    let is_bearer = matches!(sys::fs::file_type(stat), FileType::RegularFile | FileType::Directory);
    !map.is_initial && is_bearer && (map.is_powerless || (stat.st_uid, stat.st_gid) == (0, 0))
}

/// What an open file or directory stands for.
pub(crate) fn of(file: impl AsFd, stat: &Stat) -> io::Result<StandIn> {
    if !is_possible(stat) {
        return Ok(StandIn::default());
    }
    let owner = sys::fs::get_xattr(&file, OWNER)?.and_then(|value| owner(&value));
    let device = match stat.st_size {
        0 if sys::fs::file_type(stat) == FileType::RegularFile => sys::fs::get_xattr(&file, DEVICE)?.and_then(|value| device(&value)),
        _ => None,
    };
    let mode = match IdMap::current().is_powerless {
        true => sys::fs::get_xattr(&file, MODE)?.and_then(|value| mode(&value)),
        false => None,
    };
    Ok(StandIn { owner, mode, device })
}

/// As [`of`], for what is at `name` in `parent`.
pub(crate) fn at(parent: impl AsFd, name: &Path, stat: &Stat) -> io::Result<StandIn> {
    if !is_possible(stat) {
        return Ok(StandIn::default());
    }
    of(sys::fs::open_beneath(parent, name, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?, stat)
}

fn owner(value: &[u8]) -> Option<(u32, u32)> {
    let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

fn device(value: &[u8]) -> Option<Device> {
    let mut parts = std::str::from_utf8(value).ok()?.split(':');
    let block = match parts.next()? {
        "b" => true,
        "c" => false,
        _ => return None,
    };
    Some(Device { block, major: parts.next()?.parse().ok()?, minor: parts.next()?.parse().ok()? })
}

fn mode(value: &[u8]) -> Option<u32> {
    u32::from_str_radix(std::str::from_utf8(value).ok()?, 8).ok().filter(|mode| mode & !0o7777 == 0)
}

/// The owner as far as the disk tells: who is powerless owns everything that means root's.
pub(crate) fn owner_of_stat(stat: &Stat) -> (u32, u32) {
    if IdMap::current().is_powerless { (0, 0) } else { (stat.st_uid, stat.st_gid) }
}

/// Whether an attribute of this name says something that is said anew when the metadata are set.
pub(crate) fn says_meta(name: &[u8]) -> bool {
    name == OWNER || name == MODE || name == CAPABILITY
}

/// Gives an open file or directory this owner, or says in an attribute that it is meant to have it.
pub(crate) fn set_owner(file: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    if IdMap::current().is_powerless {
        return if (uid, gid) == (0, 0) { Ok(()) } else { say(&file, OWNER, &format!("{uid}:{gid}")) };
    }
    let ids = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    match fs::fchown(&file, ids.0, ids.1) {
        Err(Errno::INVAL) if !IdMap::current().is_initial => {
            fs::fchown(&file, Some(Uid::ROOT), Some(Gid::ROOT))?;
            say(&file, OWNER, &format!("{uid}:{gid}"))
        }
        result => Ok(result?),
    }
}

/// Whose the file or directory at `path` is said to be. Links are followed.
pub(crate) fn owner_at(path: &Path) -> Option<(u32, u32)> {
    let mut value = [0_u8; 32];
    let length = fs::getxattr(path, sys::fs::name(OWNER), &mut value).ok()?;
    owner(&value[..length])
}

/// As [`set_owner`], for what may have had another owner before: an attribute that is not true any more goes.
pub(crate) fn change_owner(file: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    set_owner(&file, uid, gid)?;
    if (uid, gid) == (0, 0) { sys::fs::remove_xattr(&file, OWNER) } else { Ok(()) }
}

/// Gives an open file or directory this mode, or one that does not bind its owner, and says in an attribute which it is meant to have.
pub(crate) fn set_mode(file: impl AsFd, stat: &Stat, wanted: u32) -> io::Result<()> {
    let held = held_mode(wanted, sys::fs::file_type(stat) == FileType::Directory);
    if held != wanted {
        say(&file, MODE, &format!("{wanted:o}"))?;
    }
    Ok(fs::fchmod(&file, Mode::from_raw_mode(held))?)
}

/// The mode on disk.
pub(crate) fn held_mode(wanted: u32, is_directory: bool) -> u32 {
    if !IdMap::current().is_powerless {
        return wanted;
    }
    // No set-id bits: whoever is not of a file's group cannot set them, and a program with this user's rights is not what is meant.
    (wanted & 0o777) | if is_directory { 0o700 } else { 0o600 }
}

/// Gives an open file its capabilities, or says in an attribute which it is meant to have.
pub(crate) fn set_capability(file: impl AsFd, value: &[u8]) -> io::Result<()> {
    match fs::fsetxattr(&file, sys::fs::name(xattr::CAPABILITY), value, XattrFlags::empty()) {
        Err(Errno::PERM) if !IdMap::current().is_initial => Ok(fs::fsetxattr(&file, sys::fs::name(CAPABILITY), value, XattrFlags::empty())?),
        result => Ok(result?),
    }
}

fn say(file: impl AsFd, name: &[u8], value: &str) -> io::Result<()> {
    match fs::fsetxattr(file, sys::fs::name(name), value.as_bytes(), XattrFlags::empty()) {
        Err(Errno::OPNOTSUPP) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "owners and modes that this user may not give are kept in attributes (user.*), which this file system does not have; put the store on \
             another one (RBUILD_ROOT): ext4, xfs, btrfs, or tmpfs of Linux 6.6",
        )),
        result => Ok(result?),
    }
}

/// As [`set_owner`], for something that cannot be opened: where the owner cannot be had, root keeps it, and the table alone knows better.
pub(crate) fn set_owner_at(parent: impl AsFd, name: &Path, uid: u32, gid: u32) -> io::Result<()> {
    if IdMap::current().is_powerless {
        return Ok(());
    }
    match fs::chownat(&parent, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::INVAL) if !IdMap::current().is_initial => {
            Ok(fs::chownat(&parent, name, Some(Uid::ROOT), Some(Gid::ROOT), AtFlags::SYMLINK_NOFOLLOW)?)
        }
        result => Ok(result?),
    }
}

/// Makes an empty file that stands for a device, where the device itself may not be made.
pub(crate) fn make_device(parent: BorrowedFd<'_>, name: &Path, device: Device, meta: &Meta) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?;
    let Device { block, major, minor } = device;
    let value = format!("{}:{major}:{minor}", if block { 'b' } else { 'c' });
    say(&file, DEVICE, &value)?;
    // Only root's files are looked at: a node's owner is kept in the attribute, even one that the map has.
    if (meta.uid, meta.gid) != (0, 0) {
        say(&file, OWNER, &format!("{}:{}", meta.uid, meta.gid))?;
    }
    let stat = fs::fstat(&file)?;
    set_mode(&file, &stat, meta.mode)
}

/// Whether making a device failed as it does in a user namespace.
pub(crate) fn is_wanted(errno: Errno) -> bool {
    errno == Errno::PERM && !IdMap::current().is_initial
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_back_and_nonsense_is_not() {
        assert_eq!(owner(b"1000:5"), Some((1000, 5)));
        assert_eq!(device(b"b:8:1"), Some(Device { block: true, major: 8, minor: 1 }));
        assert_eq!(device(b"c:1:3"), Some(Device { block: false, major: 1, minor: 3 }));
        for nonsense in [&b""[..], b":", b"1", b"-1:2", b"x:1:2", b"c:1", b"c:1:99999999999", b"\xff"] {
            assert!(owner(nonsense).is_none() && device(nonsense).is_none(), "{nonsense:?}");
        }
        assert_eq!(mode(b"4711"), Some(0o4711));
        for nonsense in [&b""[..], b"8", b"17777", b"-1", b"\xff"] {
            assert!(mode(nonsense).is_none(), "{nonsense:?}");
        }
    }
}
