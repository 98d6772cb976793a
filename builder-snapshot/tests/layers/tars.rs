//! Tar streams made byte by byte, so that they can be wrong.

/// A header with a right checksum, and data padded to blocks.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    pub(crate) header: [u8; 512],
    pub(crate) data: Vec<u8>,
}

impl Raw {
    pub(crate) fn new(flag: u8, name: &str, data: &[u8]) -> Self {
        let mut header = [0_u8; 512];
        let n = name.len().min(100);
        header[..n].copy_from_slice(&name.as_bytes()[..n]);
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[156] = flag;
        let raw = Self { header, data: data.to_vec() };
        raw.field(100, 8, 0o644).field(108, 8, 0).field(116, 8, 0).field(124, 12, data.len() as u64).field(136, 12, 1)
    }

    pub(crate) fn file(name: &str, data: &str) -> Self {
        Self::new(b'0', name, data.as_bytes())
    }

    pub(crate) fn dir(name: &str) -> Self {
        Self::new(b'5', name, b"").field(100, 8, 0o755)
    }

    pub(crate) fn link(flag: u8, name: &str, target: &str) -> Self {
        let mut raw = Self::new(flag, name, b"");
        raw.header[157..157 + target.len()].copy_from_slice(target.as_bytes());
        raw
    }

    pub(crate) fn symlink(name: &str, target: &str) -> Self {
        Self::link(b'2', name, target)
    }

    pub(crate) fn hardlink(name: &str, target: &str) -> Self {
        Self::link(b'1', name, target)
    }

    pub(crate) fn device(flag: u8, name: &str, major: u64, minor: u64) -> Self {
        Self::new(flag, name, b"").field(329, 8, major).field(337, 8, minor)
    }

    /// A PAX header for the entry that follows.
    pub(crate) fn pax(records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let len = (rest + 1..).find(|len| len - rest == len.to_string().len()).expect("some length fits");
            data.extend_from_slice(format!("{len} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        Self::new(b'x', "PaxHeaders.0/x", &data)
    }

    /// An octal field.
    pub(crate) fn field(mut self, at: usize, len: usize, value: u64) -> Self {
        let text = format!("{value:0width$o}\0", width = len - 1);
        self.header[at..at + len].copy_from_slice(text.as_bytes());
        self
    }

    pub(crate) fn bytes_at(mut self, at: usize, bytes: &[u8]) -> Self {
        self.header[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let mut header = self.header;
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(&self.data);
        out.resize(out.len().next_multiple_of(512), 0);
    }
}

pub(crate) fn tar(entries: &[Raw]) -> Vec<u8> {
    let mut out = Vec::new();
    entries.iter().for_each(|entry| entry.write(&mut out));
    out.resize(out.len() + 1024, 0);
    out
}
