//! Users and groups by the image's own files.
//!
//! `/etc/passwd` and `/etc/group` belong to the image, which nobody vouches for: links are followed inside the tree only, nothing but a regular file is
//! opened, and no more is read of it than the caller allows ([`USER_DATABASE_BYTES`]). Lines that make no sense are skipped, as the C library does.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;

use super::ResolvedUser;
use super::error::UserError;
use crate::error::{LimitReached, SnapshotError};
use crate::path::TreePath;
use crate::tree::{FoundKind, MergedTree};

/// Larger than any real user database, small enough to be read whole.
pub const USER_DATABASE_BYTES: u64 = 10 << 20;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// Largest number that names a user: the one above means "unchanged" to chown.
const ID_MAX: u32 = u32::MAX - 1;

/// Who `text` (of a USER instruction) is in `tree`.
///
/// `uid:gid` is taken as it is, without supplementary groups. A user without a group has the primary group and the supplementary groups of its entry; a
/// number without an entry has group 0. Empty is `0:0`. The home directory is that of the user's entry, else `/`. Of each file at most `limit_bytes` are read.
///
/// # Errors
/// Unknown names, malformed text, and files that cannot be read safely.
pub fn resolve_user(text: &str, tree: &MergedTree, limit_bytes: u64) -> Result<ResolvedUser, UserError> {
    let (user, group) = split(text)?;
    let numbers = (number(text, user)?, group.map(|group| number(text, group)).transpose()?.flatten());
    if let (Some(uid), Some(gid)) = numbers {
        return Ok(ResolvedUser { uid, gid, groups: Vec::new(), home: home_of(uid, tree, limit_bytes)? });
    }
    if user.is_empty() && group.is_none() {
        return Ok(ResolvedUser { uid: 0, gid: 0, groups: Vec::new(), home: home_of(0, tree, limit_bytes)? });
    }

    let passwd = read(tree, PASSWD, limit_bytes)?;
    let wanted = if user.is_empty() { Some(0) } else { numbers.0 };
    let entry = users(&passwd).find(|entry| match wanted {
        Some(uid) => entry.uid == uid,
        None => entry.name == user.as_bytes(),
    });
    let uid = match (wanted, &entry) {
        (_, Some(entry)) => entry.uid,
        (Some(uid), None) => uid,
        (None, None) => return Err(UserError::Unknown { what: "user", name: user.to_owned(), file: PASSWD }),
    };
    let home = entry.as_ref().map_or_else(|| OsString::from("/"), |entry| home(entry));
    let group_file = read(tree, GROUP, limit_bytes)?;
    let (gid, supplementary) = match group {
        Some(group) => (find_group(&group_file, group, numbers.1)?, Vec::new()),
        None => match &entry {
            Some(entry) => (entry.gid, groups(&group_file).filter(|group| group.has_member(entry.name)).map(|group| group.gid).collect()),
            None => (0, Vec::new()),
        },
    };
    Ok(ResolvedUser { uid, gid, groups: supplementary, home })
}

/// User and group ids of `text` (of `--chown`) in `tree`; without a tree only numbers and `root` are known.
///
/// A number without a group is the group too; a name without one has the primary group of its entry. `root` is 0 in every image.
///
/// # Errors
/// As [`resolve_user`].
pub fn resolve_owner(text: &str, tree: Option<&MergedTree>, limit_bytes: u64) -> Result<(u32, u32), UserError> {
    let (user, group) = split(text)?;
    let (uid, own_group) = match number(text, user)? {
        Some(uid) => (uid, uid),
        None if user.is_empty() || user == "root" => (0, 0),
        None => {
            let unknown = |what, file| UserError::NoTree { what, name: user.to_owned(), file };
            let passwd = read(tree.ok_or_else(|| unknown("user", PASSWD))?, PASSWD, limit_bytes)?;
            let entry = users(&passwd).find(|entry| entry.name == user.as_bytes());
            let entry = entry.ok_or_else(|| UserError::Unknown { what: "user", name: user.to_owned(), file: PASSWD })?;
            (entry.uid, entry.gid)
        }
    };
    let Some(group) = group else { return Ok((uid, own_group)) };
    let gid = match number(text, group)? {
        Some(gid) => gid,
        None if group == "root" => 0,
        None => {
            let tree = tree.ok_or_else(|| UserError::NoTree { what: "group", name: group.to_owned(), file: GROUP })?;
            find_group(&read(tree, GROUP, limit_bytes)?, group, None)?
        }
    };
    Ok((uid, gid))
}

fn split(text: &str) -> Result<(&str, Option<&str>), UserError> {
    let malformed = |reason| UserError::Malformed { text: text.to_owned(), reason };
    if text.contains(['\0', '\n']) {
        return Err(malformed("it has a NUL byte or a line break"));
    }
    match text.split_once(':') {
        None => Ok((text, None)),
        Some((_, group)) if group.contains(':') => Err(malformed("it has more than one colon")),
        // `user:` is what an empty variable leaves.
        Some((user, "")) => Ok((user, None)),
        Some((user, group)) => Ok((user, Some(group))),
    }
}

/// The number that `part` of `text` is; none if it is a name.
fn number(text: &str, part: &str) -> Result<Option<u32>, UserError> {
    if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match part.parse::<u32>() {
        Ok(id) if id <= ID_MAX => Ok(Some(id)),
        _ => Err(UserError::Malformed { text: text.to_owned(), reason: "the number is larger than 4294967294" }),
    }
}

fn find_group(file: &[u8], name: &str, number: Option<u32>) -> Result<u32, UserError> {
    if let Some(gid) = number {
        return Ok(gid);
    }
    let found = groups(file).find(|group| group.name == name.as_bytes());
    found.map(|group| group.gid).ok_or_else(|| UserError::Unknown { what: "group", name: name.to_owned(), file: GROUP })
}

/// The home directory is a convenience: an image whose file is none that can be read has `/`. A disk that fails is no property of the image.
fn home_of(uid: u32, tree: &MergedTree, limit_bytes: u64) -> Result<OsString, UserError> {
    let passwd = match read(tree, PASSWD, limit_bytes) {
        Ok(passwd) => passwd,
        Err(UserError::Read { file, source }) if source.raw_os_error().is_some() => return Err(UserError::Read { file, source }),
        Err(error @ UserError::Tree(SnapshotError::Io { .. })) => return Err(error),
        Err(_) => Vec::new(),
    };
    Ok(users(&passwd).find(|entry| entry.uid == uid).map_or_else(|| "/".into(), |entry| home(&entry)))
}

fn home(entry: &User<'_>) -> OsString {
    if entry.home.is_empty() { "/".into() } else { OsStr::from_bytes(entry.home).to_owned() }
}

/// The whole file; empty if it is missing.
fn read(tree: &MergedTree, file: &'static str, limit_bytes: u64) -> Result<Vec<u8>, UserError> {
    let path = TreePath::new(file).expect("a clean constant");
    let resolution = tree.resolve(&path)?;
    match resolution.found.map(|found| found.kind) {
        None => return Ok(Vec::new()),
        Some(FoundKind::File { size, .. }) if size > limit_bytes => {
            return Err(UserError::TooLarge { file, reached: LimitReached { name: "user-database-bytes", what: "bytes", limit: limit_bytes } });
        }
        Some(FoundKind::File { .. }) => {}
        Some(_) => return Err(UserError::Read { file, source: io::Error::other("it is not a regular file") }),
    }
    let mut bytes = Vec::new();
    tree.open_file(&resolution.path)?.take(limit_bytes).read_to_end(&mut bytes).map_err(|source| UserError::Read { file, source })?;
    Ok(bytes)
}

/// A line of /etc/passwd.
struct User<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

fn users(file: &[u8]) -> impl Iterator<Item = User<'_>> {
    lines(file).filter_map(|line| {
        let mut fields = line.split(|&b| b == b':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (id(fields.next()?)?, id(fields.next()?)?);
        let (_comment, home) = (fields.next(), fields.next().unwrap_or_default());
        Some(User { name, uid, gid, home })
    })
}

/// A line of /etc/group.
struct Group<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

impl Group<'_> {
    fn has_member(&self, name: &[u8]) -> bool {
        self.members.split(|&b| b == b',').any(|member| member == name)
    }
}

fn groups(file: &[u8]) -> impl Iterator<Item = Group<'_>> {
    lines(file).filter_map(|line| {
        let mut fields = line.split(|&b| b == b':');
        let (name, _password, gid) = (fields.next()?, fields.next()?, id(fields.next()?)?);
        Some(Group { name, gid, members: fields.next().unwrap_or_default() })
    })
}

fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split(|&b| b == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty() && !line.starts_with(b"#"))
}

fn id(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok().filter(|id| *id <= ID_MAX)
}
