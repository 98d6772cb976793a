//! A tar of a few files with known sizes: what layouts and docker archives are. Layers have a writer of their own.

use std::io::{self, Read, Write};

const BLOCK: usize = 512;

/// Writes entries with no owner and no time, so that equal images make equal archives.
pub(super) struct Archive<'a> {
    out: &'a mut dyn Write,
}

impl<'a> Archive<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self { out }
    }

    /// Adds a directory.
    pub(super) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.out.write_all(&header(name, b'5', 0o755, 0)?)
    }

    /// Adds a file of `size` bytes; `content` must have exactly these.
    pub(super) fn file(&mut self, name: &str, size: u64, content: &mut dyn Read) -> io::Result<()> {
        self.out.write_all(&header(name, b'0', 0o644, size)?)?;
        let copied = io::copy(&mut content.take(size), self.out)?;
        if copied != size {
            return Err(io::Error::other(format!("{name} has {copied} bytes, expected {size}")));
        }
        let past_block = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        if past_block > 0 {
            self.out.write_all(&[0; BLOCK][past_block..])?;
        }
        Ok(())
    }

    /// Writes the two empty blocks that end a tar.
    pub(super) fn finish(self) -> io::Result<()> {
        self.out.write_all(&[0; 2 * BLOCK])
    }
}

fn header(name: &str, kind: u8, mode: u32, size: u64) -> io::Result<[u8; BLOCK]> {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    if name.len() > 100 {
        return Err(io::Error::other(format!("{name} is too long a name")));
    }
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\x000000000\0");
    if size < 1 << 33 {
        put(124, format!("{size:011o}\0").as_bytes());
    } else {
        // Beyond 8 GiB octal digits run out; every reader knows the binary form.
        put(124, &[0x80, 0, 0, 0]);
        put(128, &size.to_be_bytes());
    }
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tar_reads_it_back() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.directory("d/").expect("directory");
        archive.file("d/f", 700, &mut &[7; 700][..]).expect("file");
        assert!(archive.file("short", 2, &mut &b"x"[..]).is_err());
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.directory("d/").expect("directory");
        archive.file("d/f", 700, &mut &[7; 700][..]).expect("file");
        archive.finish().expect("end");
        let mut read = tar::Archive::new(&bytes[..]);
        let entries: Vec<_> = read
            .entries()
            .expect("entries")
            .map(|entry| {
                let mut entry = entry.expect("entry");
                let mut content = Vec::new();
                entry.read_to_end(&mut content).expect("content");
                (entry.path().expect("name").to_string_lossy().into_owned(), content.len())
            })
            .collect();
        assert_eq!(entries, [("d/".into(), 0), ("d/f".into(), 700)]);
        assert_eq!(&header("x", b'0', 0o644, 1 << 34).expect("header")[124..136], [0x80, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0]);
    }
}
