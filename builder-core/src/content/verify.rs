//! Comparing a layer's files with its table, after a crash of the machine that may have lost some.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use builder_snapshot::Hasher;
use builder_snapshot::toc::{Node, Toc};
use builder_snapshot::tree::Removals;

/// Whether every entry of `toc` is in `fs` with its kind, and every file with its bytes. The reason if not.
///
/// Modes, owners and times are set before a layer is renamed into the store and lie in inodes, which a journal keeps in order with the
/// rename; the bytes of files are what a power failure loses.
pub(super) fn layer(toc: &Toc, fs: &Path) -> Result<(), String> {
    // Read whole, so that a list that was lost is found even if nothing asks for it.
    let removals = Removals::open(fs).map_err(|e| e.to_string())?;
    for entry in &toc.entries {
        let path = fs.join(entry.path.as_path());
        let complain = |what: &str| format!("{} {what}", entry.path.display());
        if entry.node == Node::Whiteout {
            if !removals.contains(&entry.path).map_err(|e| e.to_string())? {
                return Err(complain("is not removed as the table says"));
            }
            continue;
        }
        let stat = fs::symlink_metadata(&path).map_err(|e| complain(&format!("cannot be read: {e}")))?;
        let kind = stat.file_type();
        let fits = match &entry.node {
            Node::File { size, .. } => kind.is_file() && stat.size() == *size,
            Node::Hardlink { .. } => kind.is_file(),
            Node::Dir => kind.is_dir(),
            Node::Symlink { target } => {
                kind.is_symlink() && fs::read_link(&path).is_ok_and(|found| std::os::unix::ffi::OsStrExt::as_bytes(found.as_os_str()) == &target[..])
            }
            // In a user namespace a file stands for a device.
            Node::CharDevice { .. } | Node::BlockDevice { .. } => !kind.is_dir(),
            // Pipes and sockets are inodes without bytes.
            _ => !kind.is_file() && !kind.is_dir(),
        };
        if !fits {
            return Err(complain("is not what the table says"));
        }
        if let Node::File { digest, .. } = &entry.node {
            let found = File::open(&path).and_then(Hasher::of_reader).map_err(|e| complain(&format!("cannot be read: {e}")))?;
            if found.0 != *digest {
                return Err(complain("has other bytes than the table says"));
            }
        }
    }
    Ok(())
}
