//! The bytes of a file: shared where the file system can, else copied inside the kernel. Holes stay holes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use rustix::fs;
use rustix::io::Errno;

use crate::stop::StopSignal;

/// How much is copied between two questions whether it is still wanted.
const PIECE_BYTES: u64 = 16 << 20;

/// Makes `to`, which is new, hold what `from` holds. The two never share anything that a later write could show in both: a reflink is copied on write.
/// Fails once `stop` is set.
pub(crate) fn copy(from: &File, to: &File, stop: &StopSignal) -> io::Result<()> {
    let size = from.metadata()?.len();
    if size == 0 {
        return Ok(());
    }
    if fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let (mut source, mut target) = (from, to);
    let mut offset = 0;
    while offset < size {
        let data = match fs::seek(from, fs::SeekFrom::Data(offset)) {
            Ok(data) => data,
            // Nothing but a hole until the end.
            Err(Errno::NXIO) => break,
            // The file system does not tell: all of it is data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => offset,
            Err(e) => return Err(e.into()),
        };
        let hole = match fs::seek(from, fs::SeekFrom::Hole(data)) {
            Ok(hole) if hole > data => hole,
            Ok(_) | Err(Errno::INVAL | Errno::OPNOTSUPP) => size,
            Err(e) => return Err(e.into()),
        };
        source.seek(SeekFrom::Start(data))?;
        target.seek(SeekFrom::Start(data))?;
        let mut left = hole - data;
        while left > 0 {
            stop.check()?;
            let piece = left.min(PIECE_BYTES);
            // The library uses copy_file_range and its like, and reads and writes where they are refused.
            if io::copy(&mut source.take(piece), &mut target)? < piece {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was copied"));
            }
            left -= piece;
        }
        offset = hole;
    }
    to.set_len(size)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn bytes_are_the_same_and_holes_stay_holes() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("from");
        let from = File::options().read(true).write(true).create_new(true).open(&path).expect("create");
        for (offset, bytes) in [(0, &b"start"[..]), (3 << 20, b"middle"), ((6 << 20) + 5, b"x")] {
            from.write_all_at(bytes, offset).expect("write");
        }
        from.set_len(9 << 20).expect("a hole at the end");
        let to = File::options().read(true).write(true).create_new(true).open(dir.path().join("to")).expect("create");
        copy(&from, &to, &StopSignal::default()).expect("copy");
        assert_eq!(std::fs::read(&path).expect("read"), std::fs::read(dir.path().join("to")).expect("read"));
        assert!(to.metadata().expect("stat").blocks() * 512 < 1 << 20, "as sparse as before");
        let empty = File::create_new(dir.path().join("empty")).expect("create");
        copy(&empty, &File::create_new(dir.path().join("empty-too")).expect("create"), &StopSignal::default()).expect("copy");
    }
}
