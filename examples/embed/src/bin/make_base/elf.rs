//! What an ELF file asks for: its interpreter and its libraries. Just enough to do what `ldd` does without running anything.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

const SEGMENT_LOAD: u32 = 1;
const SEGMENT_DYNAMIC: u32 = 2;
const SEGMENT_INTERPRETER: u32 = 3;
const TAG_NEEDED: u64 = 1;
const TAG_STRINGS: u64 = 5;

/// What a program or library asks for.
pub(crate) struct Needs {
    /// Path of the dynamic loader; none for static programs and most libraries.
    pub(crate) interpreter: Option<PathBuf>,
    /// Names of libraries.
    pub(crate) libraries: Vec<String>,
}

struct Segment {
    kind: u32,
    offset: usize,
    address: u64,
    size: usize,
}

/// Reads what the file at `path` asks for.
pub(crate) fn needs(path: &Path) -> Result<Needs> {
    let bytes = std::fs::read(path)?;
    parse(&bytes).with_context(|| format!("cannot read {} as an ELF file", path.display()))
}

fn parse(bytes: &[u8]) -> Result<Needs> {
    ensure!(bytes.starts_with(b"\x7fELF\x02\x01"), "it is no 64-bit little-endian ELF file");
    let segments = segments(bytes)?;
    let of = |kind| segments.iter().find(move |segment| segment.kind == kind);
    let interpreter = of(SEGMENT_INTERPRETER).map(|segment| text(bytes, segment.offset)).transpose()?.map(PathBuf::from);
    let Some(dynamic) = of(SEGMENT_DYNAMIC) else { return Ok(Needs { interpreter, libraries: Vec::new() }) };
    let entries: Vec<(u64, u64)> = (dynamic.offset..dynamic.offset + dynamic.size)
        .step_by(16)
        .map(|at| Ok((number(bytes, at, 8)?, number(bytes, at + 8, 8)?)))
        .collect::<Result<_>>()?;
    let strings = entries.iter().find(|(tag, _)| *tag == TAG_STRINGS).map(|(_, address)| *address).unwrap_or_default();
    let strings = segments
        .iter()
        .filter(|segment| segment.kind == SEGMENT_LOAD)
        .find(|segment| (segment.address..segment.address + segment.size as u64).contains(&strings))
        .map(|segment| segment.offset + (strings - segment.address) as usize);
    let needed = entries.iter().take_while(|(tag, _)| *tag != 0).filter(|(tag, _)| *tag == TAG_NEEDED);
    let libraries = needed.map(|(_, at)| text(bytes, strings.context("it has no strings")? + *at as usize)).collect::<Result<_>>()?;
    Ok(Needs { interpreter, libraries })
}

fn segments(bytes: &[u8]) -> Result<Vec<Segment>> {
    let (table, size, count) = (number(bytes, 32, 8)? as usize, number(bytes, 54, 2)? as usize, number(bytes, 56, 2)? as usize);
    (0..count)
        .map(|index| {
            let at = table + index * size;
            Ok(Segment {
                kind: number(bytes, at, 4)? as u32,
                offset: number(bytes, at + 8, 8)? as usize,
                address: number(bytes, at + 16, 8)?,
                size: number(bytes, at + 32, 8)? as usize,
            })
        })
        .collect()
}

fn number(bytes: &[u8], at: usize, size: usize) -> Result<u64> {
    let part = bytes.get(at..at + size).context("it is cut short")?;
    Ok(part.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn text(bytes: &[u8], at: usize) -> Result<String> {
    let rest = bytes.get(at..).context("it is cut short")?;
    let end = rest.iter().position(|byte| *byte == 0).context("a text in it does not end")?;
    Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
}
