//! The canonical bytes of a table.
//!
//! ```text
//! table    = magic version count entry*
//! magic    = "rbuild-toc\n" with times, "rbuild-content\n" without
//! version  = one byte, 1
//! entry    = shared suffix tag node meta?          shared: how many bytes the path has in common with the one before, as many as possible
//! node     = size digest | target | ε | target | major minor          by tag; meta follows unless the tag is hard link or whiteout
//! meta     = mode uid gid time? xattrs             time (only with times) = seconds (zigzag) nanos made_by_step (0 or 1)
//! xattrs   = count (name value)*
//! ```
//!
//! Numbers are LEB128 in their shortest form, byte strings have their length before them. Decoding accepts exactly what encoding
//! writes: one table has one encoding, so a digest of the bytes is a digest of the table.

use crate::digest::Sha256Digest;
use crate::path::{MAX_PATH_BYTES, TreePath};

use super::{Meta, Node, Timestamp, Toc, TocEntry, Xattrs};

const MAGIC: &[u8] = b"rbuild-toc\n";
const CONTENT_MAGIC: &[u8] = b"rbuild-content\n";
const VERSION: u8 = 1;

/// The kernel's XATTR_SIZE_MAX, and its longest list of names: more cannot be on any file.
const MAX_XATTR_BYTES: usize = 64 << 10;
/// The longest link target that the kernel makes is shorter than PATH_MAX.
const MAX_TARGET_BYTES: usize = MAX_PATH_BYTES;

const TAG_FILE: u8 = 1;
const TAG_HARDLINK: u8 = 2;
const TAG_DIR: u8 = 3;
const TAG_SYMLINK: u8 = 4;
const TAG_CHAR_DEVICE: u8 = 5;
const TAG_BLOCK_DEVICE: u8 = 6;
const TAG_FIFO: u8 = 7;
const TAG_SOCKET: u8 = 8;
const TAG_WHITEOUT: u8 = 9;

/// Bytes that are no table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("damaged layer table: {reason} (at byte {offset})")]
pub struct TocError {
    /// What is wrong.
    pub reason: &'static str,
    /// Where.
    pub offset: usize,
}

/// Whether times are encoded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Times {
    Kept,
    Left,
}

/// Bytes encoded before they are passed on: a table of a million entries takes no more memory than this while it is hashed or written.
const PASS_ON_BYTES: usize = 64 << 10;

/// Encodes piece by piece.
pub(super) fn encode_to<E>(toc: &Toc, times: Times, pass_on: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let mut out = Vec::with_capacity(PASS_ON_BYTES + 4096);
    out.extend_from_slice(if times == Times::Kept { MAGIC } else { CONTENT_MAGIC });
    out.push(VERSION);
    put_number(&mut out, toc.entries.len() as u64);
    let mut before: &[u8] = &[];
    for entry in &toc.entries {
        put_entry(&mut out, before, entry, times);
        before = entry.path.as_bytes();
        if out.len() >= PASS_ON_BYTES {
            pass_on(&out)?;
            out.clear();
        }
    }
    pass_on(&out)
}

/// Encodes an entry that follows one with the path `before`.
pub(super) fn put_entry(out: &mut Vec<u8>, before: &[u8], entry: &TocEntry, times: Times) {
    let path = entry.path.as_bytes();
    let shared = shared_len(before, path);
    put_number(out, shared as u64);
    put_bytes(out, &path[shared..]);
    put_node(out, &entry.node);
    if !matches!(entry.node, Node::Hardlink { .. } | Node::Whiteout) {
        put_meta(out, &entry.meta, times);
    }
}

fn shared_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn put_node(out: &mut Vec<u8>, node: &Node) {
    match node {
        Node::File { size, digest } => {
            out.push(TAG_FILE);
            put_number(out, *size);
            out.extend_from_slice(&digest.0);
        }
        Node::Hardlink { target } => {
            out.push(TAG_HARDLINK);
            put_bytes(out, target.as_bytes());
        }
        Node::Dir => out.push(TAG_DIR),
        Node::Symlink { target } => {
            out.push(TAG_SYMLINK);
            put_bytes(out, target);
        }
        Node::CharDevice { major, minor } => put_device(out, TAG_CHAR_DEVICE, *major, *minor),
        Node::BlockDevice { major, minor } => put_device(out, TAG_BLOCK_DEVICE, *major, *minor),
        Node::Fifo => out.push(TAG_FIFO),
        Node::Socket => out.push(TAG_SOCKET),
        Node::Whiteout => out.push(TAG_WHITEOUT),
    }
}

fn put_device(out: &mut Vec<u8>, tag: u8, major: u32, minor: u32) {
    out.push(tag);
    put_number(out, major.into());
    put_number(out, minor.into());
}

fn put_meta(out: &mut Vec<u8>, meta: &Meta, times: Times) {
    put_number(out, meta.mode.into());
    put_number(out, meta.uid.into());
    put_number(out, meta.gid.into());
    if times == Times::Kept {
        put_number(out, zigzag(meta.mtime.seconds));
        put_number(out, meta.mtime.nanos.into());
        out.push(meta.made_by_step.into());
    }
    put_number(out, meta.xattrs.len() as u64);
    for (name, value) in &meta.xattrs {
        put_bytes(out, name);
        put_bytes(out, value);
    }
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)).cast_unsigned()
}

fn unzigzag(n: u64) -> i64 {
    (n >> 1).cast_signed() ^ -((n & 1).cast_signed())
}

struct Cursor<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    fn fail<T>(&self, reason: &'static str) -> Result<T, TocError> {
        Err(TocError { reason, offset: self.offset })
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], TocError> {
        let Some(taken) = self.bytes.get(self.offset..).and_then(|rest| rest.get(..n)) else {
            return self.fail("it ends early");
        };
        self.offset += n;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, TocError> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u64, TocError> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let low = u64::from(byte & 0x7f);
            if shift == 63 && low > 1 {
                return self.fail("a number is too large");
            }
            number |= low << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return self.fail("a number is not in its shortest form");
                }
                return Ok(number);
            }
        }
        self.fail("a number is too long")
    }

    fn small(&mut self) -> Result<u32, TocError> {
        let number = self.number()?;
        u32::try_from(number).or_else(|_| self.fail("a number is too large"))
    }

    fn len(&mut self, max: usize) -> Result<usize, TocError> {
        match usize::try_from(self.number()?) {
            Ok(n) if n <= max => Ok(n),
            _ => self.fail("a length is too large"),
        }
    }

    fn bytes(&mut self, max: usize) -> Result<&'a [u8], TocError> {
        let n = self.len(max)?;
        self.take(n)
    }

    fn path(&mut self, bytes: Vec<u8>) -> Result<TreePath, TocError> {
        TreePath::from_clean(bytes).map_or_else(|| self.fail("a path is not clean"), Ok)
    }
}

/// Checks a table as its entries come, in order: what a single entry cannot show.
#[derive(Default)]
struct Order {
    last: Option<TreePath>,
    open_dirs: Vec<TreePath>,
}

impl Order {
    fn next(&mut self, entry: &TocEntry) -> Result<(), &'static str> {
        if self.last.as_ref().is_some_and(|last| *last >= entry.path) {
            return Err("the paths are not sorted");
        }
        while self.open_dirs.last().is_some_and(|dir| !entry.path.is_below(dir)) {
            self.open_dirs.pop();
        }
        if self.open_dirs.last() != entry.path.parent().as_ref() {
            return Err("a parent directory is not listed");
        }
        if entry.node == Node::Dir {
            self.open_dirs.push(entry.path.clone());
        }
        self.last = Some(entry.path.clone());
        Ok(())
    }
}

/// Calls `visit` with each entry of an encoded table and where it begins; `visit` says of a hard link's target whether it is an earlier file.
pub(super) fn scan(bytes: &[u8], visit: &mut dyn FnMut(usize, TocEntry) -> bool) -> Result<(), TocError> {
    let mut cursor = Cursor { bytes, offset: 0 };
    if cursor.take(MAGIC.len())? != MAGIC {
        return cursor.fail("it does not begin as one");
    }
    if cursor.byte()? != VERSION {
        return cursor.fail("it has an unknown version");
    }
    // An entry takes at least three bytes: a count cannot reserve more memory than the table is long.
    let count = cursor.len(bytes.len() / 3)?;
    let mut order = Order::default();
    for _ in 0..count {
        let start = cursor.offset;
        let before = order.last.as_ref().map(TreePath::as_bytes).unwrap_or_default();
        let entry = get_entry(&mut cursor, before)?;
        order.next(&entry).or_else(|reason| cursor.fail(reason))?;
        if !visit(start, entry) {
            return cursor.fail("a hard link's target is no earlier file");
        }
    }
    if cursor.offset != bytes.len() {
        return cursor.fail("something follows it");
    }
    Ok(())
}

pub(super) fn decode(bytes: &[u8]) -> Result<Toc, TocError> {
    let mut toc = Toc::default();
    scan(bytes, &mut |_, entry| {
        let is_right = match &entry.node {
            Node::Hardlink { target } => toc.get(target).is_some_and(|entry| matches!(entry.node, Node::File { .. })),
            _ => true,
        };
        toc.entries.push(entry);
        is_right
    })?;
    Ok(toc)
}

/// The entry at `offset` of bytes that were scanned before, which follows one with the path `before`. Returns where the next one
/// begins.
pub(super) fn entry_at(bytes: &[u8], offset: usize, before: &[u8]) -> Option<(TocEntry, usize)> {
    let mut cursor = Cursor { bytes, offset };
    let entry = get_entry(&mut cursor, before).ok()?;
    Some((entry, cursor.offset))
}

/// Goes past the entry at `offset` of bytes that were scanned before, turning the path of the entry before it into its path. Returns where the
/// next one begins. Takes nothing apart: searching goes past many entries.
pub(super) fn skip_entry(bytes: &[u8], offset: usize, path: &mut Vec<u8>) -> Option<usize> {
    let mut cursor = Cursor { bytes, offset };
    skip(&mut cursor, path).ok()?;
    Some(cursor.offset)
}

fn skip(cursor: &mut Cursor<'_>, path: &mut Vec<u8>) -> Result<(), TocError> {
    let shared = cursor.len(path.len())?;
    path.truncate(shared);
    path.extend_from_slice(cursor.bytes(MAX_PATH_BYTES)?);
    match cursor.byte()? {
        TAG_FILE => {
            cursor.number()?;
            cursor.take(32)?;
        }
        TAG_HARDLINK => return cursor.bytes(MAX_PATH_BYTES).map(drop),
        TAG_WHITEOUT => return Ok(()),
        TAG_SYMLINK => drop(cursor.bytes(MAX_TARGET_BYTES)?),
        TAG_CHAR_DEVICE | TAG_BLOCK_DEVICE => {
            cursor.number()?;
            cursor.number()?;
        }
        _ => {}
    }
    // Mode, owner, group, seconds, nanoseconds, whether a step made the time.
    for _ in 0..6 {
        cursor.number()?;
    }
    for _ in 0..cursor.number()? {
        cursor.bytes(MAX_XATTR_BYTES)?;
        cursor.bytes(MAX_XATTR_BYTES)?;
    }
    Ok(())
}

fn get_entry(cursor: &mut Cursor<'_>, before: &[u8]) -> Result<TocEntry, TocError> {
    let shared = cursor.len(before.len())?;
    let suffix = cursor.bytes(MAX_PATH_BYTES)?;
    let path = [&before[..shared], suffix].concat();
    if shared_len(before, &path) != shared {
        return cursor.fail("a path shares more with the one before than it says");
    }
    let path = cursor.path(path)?;
    let node = get_node(cursor)?;
    let meta = if matches!(node, Node::Hardlink { .. } | Node::Whiteout) { Meta::default() } else { get_meta(cursor)? };
    Ok(TocEntry { path, node, meta })
}

fn get_node(cursor: &mut Cursor<'_>) -> Result<Node, TocError> {
    Ok(match cursor.byte()? {
        TAG_FILE => {
            let size = cursor.number()?;
            let mut digest = [0; 32];
            digest.copy_from_slice(cursor.take(32)?);
            Node::File { size, digest: Sha256Digest(digest) }
        }
        TAG_HARDLINK => {
            let bytes = cursor.bytes(MAX_PATH_BYTES)?.to_vec();
            Node::Hardlink { target: cursor.path(bytes)? }
        }
        TAG_DIR => Node::Dir,
        TAG_SYMLINK => Node::Symlink { target: cursor.bytes(MAX_TARGET_BYTES)?.into() },
        TAG_CHAR_DEVICE => Node::CharDevice { major: cursor.small()?, minor: cursor.small()? },
        TAG_BLOCK_DEVICE => Node::BlockDevice { major: cursor.small()?, minor: cursor.small()? },
        TAG_FIFO => Node::Fifo,
        TAG_SOCKET => Node::Socket,
        TAG_WHITEOUT => Node::Whiteout,
        _ => return cursor.fail("an entry has an unknown kind"),
    })
}

fn get_meta(cursor: &mut Cursor<'_>) -> Result<Meta, TocError> {
    let (mode, uid, gid) = (cursor.small()?, cursor.small()?, cursor.small()?);
    if mode > 0o7777 {
        return cursor.fail("a mode has more than permission bits");
    }
    let mtime = Timestamp { seconds: unzigzag(cursor.number()?), nanos: cursor.small()? };
    if mtime.nanos >= 1_000_000_000 {
        return cursor.fail("a time has more nanoseconds than a second");
    }
    let made_by_step = match cursor.byte()? {
        0 => false,
        1 => true,
        _ => return cursor.fail("a flag is neither 0 nor 1"),
    };
    let count = cursor.len(MAX_XATTR_BYTES)?;
    let mut xattrs = Xattrs::new();
    for _ in 0..count {
        let name: Box<[u8]> = cursor.bytes(MAX_XATTR_BYTES)?.into();
        if name.is_empty() || name.contains(&0) || xattrs.last().is_some_and(|(last, _)| *last >= name) {
            return cursor.fail("attribute names are not sorted or not names");
        }
        xattrs.push((name, cursor.bytes(MAX_XATTR_BYTES)?.into()));
    }
    Ok(Meta { mode, uid, gid, mtime, made_by_step, xattrs })
}
