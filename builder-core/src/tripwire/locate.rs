//! Which entry of a tar a byte belongs to. Used once a secret was found, so that the search itself need not look at headers.

use std::io::{self, Write};

const BLOCK: usize = 512;

/// The name of the entry that holds the byte at `offset` of the tar that `write` writes; none if it is in no entry.
pub(crate) fn entry_at(offset: u64, write: impl FnOnce(&mut dyn Write)) -> Option<String> {
    let mut reader =
        Entries { offset, at: 0, header: Vec::with_capacity(BLOCK), left: 0, extension: None, is_announced: false, long_name: None, name: None };
    write(&mut reader);
    reader.name
}

/// Follows a tar of our own writing: ustar headers, PAX headers for what does not fit.
struct Entries {
    offset: u64,
    at: u64,
    header: Vec<u8>,
    /// What is left of the current entry's data and padding.
    left: u64,
    /// The PAX header being read.
    extension: Option<Vec<u8>>,
    /// Whether an extension header was read and the header it belongs to was not.
    is_announced: bool,
    long_name: Option<String>,
    name: Option<String>,
}

impl Entries {
    fn begin(&mut self) {
        let header = std::mem::take(&mut self.header);
        let text = |range: std::ops::Range<usize>| {
            let field = &header[range];
            String::from_utf8_lossy(&field[..field.iter().position(|&b| b == 0).unwrap_or(field.len())]).into_owned()
        };
        let size = match header[124] & 0x80 {
            0 => u64::from_str_radix(text(124..136).trim(), 8).unwrap_or(0),
            _ => header[128..136].iter().fold(0, |size, &byte| size << 8 | u64::from(byte)),
        };
        self.left = size.next_multiple_of(BLOCK as u64);
        self.is_announced = header[156] == b'x';
        if self.is_announced {
            self.extension = Some(Vec::new());
            return;
        }
        let prefix = text(345..500);
        let short = if prefix.is_empty() { text(0..100) } else { format!("{prefix}/{}", text(0..100)) };
        self.name = Some(self.long_name.take().unwrap_or(short));
    }

    fn end(&mut self) {
        let Some(records) = self.extension.take() else { return };
        let mut rest = &records[..];
        while let Some(space) = rest.iter().position(|&b| b == b' ') {
            let length = std::str::from_utf8(&rest[..space]).ok().and_then(|digits| digits.parse::<usize>().ok()).unwrap_or(0);
            let Some(record) = rest.get(space + 1..length.saturating_sub(1)) else { return };
            if let Some(path) = record.strip_prefix(b"path=") {
                self.long_name = Some(String::from_utf8_lossy(path).into_owned());
            }
            rest = &rest[length..];
        }
    }
}

impl Write for Entries {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        // A find in a header belongs to the entry that the header begins.
        while !rest.is_empty() && (self.at <= self.offset || self.is_announced || !self.header.is_empty()) {
            let taken = if self.left > 0 {
                let n = rest.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                if let Some(extension) = &mut self.extension {
                    extension.extend_from_slice(&rest[..n]);
                }
                self.left -= n as u64;
                if self.left == 0 {
                    self.end();
                }
                n
            } else {
                let n = rest.len().min(BLOCK - self.header.len());
                self.header.extend_from_slice(&rest[..n]);
                if self.header.len() == BLOCK {
                    self.begin();
                }
                n
            };
            self.at += taken as u64;
            rest = &rest[taken..];
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_belong_to_the_entry_whose_header_or_data_they_are_in() {
        let mut tar = tar::Builder::new(Vec::new());
        let long = format!("{}/needle", "d".repeat(180));
        for (name, data) in [("a", &b"first"[..]), ("empty", b""), ("b", &[b'x'; 1500]), (&long, b"last")] {
            let mut header = tar::Header::new_ustar();
            header.set_size(data.len() as u64);
            header.set_cksum();
            if name.len() > 100 {
                tar.append_pax_extensions([("path", name.as_bytes())]).expect("in memory");
                tar.append_data(&mut header, "short", data).expect("in memory");
            } else {
                tar.append_data(&mut header, name, data).expect("in memory");
            }
        }
        let tar = tar.into_inner().expect("in memory");
        let name_at = |needle: &[u8], piece: usize| {
            let offset = tar.windows(needle.len()).position(|window| window == needle).expect("there") as u64;
            entry_at(offset, |out| tar.chunks(piece).for_each(|chunk| out.write_all(chunk).expect("in memory")))
        };
        for piece in [1, 7, 512, 100_000] {
            assert_eq!(name_at(b"first", piece).as_deref(), Some("a"));
            assert_eq!(name_at(b"empty", piece).as_deref(), Some("empty"));
            assert_eq!(name_at(b"xxxx", piece).as_deref(), Some("b"));
            assert_eq!(name_at(b"/needle", piece).as_deref(), Some(&*long));
            assert_eq!(name_at(b"last", piece).as_deref(), Some(&*long));
        }
    }
}
