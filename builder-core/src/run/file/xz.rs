//! xz streams whose dictionaries take no more memory than the limit.
//!
//! The decoder allocates what a block's header asks for, up to 4 GiB. So headers are looked at on their way to it: this reader passes bytes on and follows the
//! format (tukaani.org/xz/xz-file-format.txt) just as far as it takes to know where the next block begins. What makes no sense is passed on too: the decoder refuses it.

use std::io::{self, Read};

use crate::content::WindowTooLarge;

/// The identifier of LZMA2, always the last filter of a block.
const LZMA2: u64 = 0x21;
const STREAM_HEADER_BYTES: usize = 12;
const STREAM_FOOTER_BYTES: u64 = 12;
const MAGIC: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];

/// Passes an xz stream on; fails before a block whose dictionary is too large.
pub(super) struct Watched<R> {
    from: R,
    bound: WindowTooLarge,
    state: State,
    /// What is being gathered: a header, or a number of the index.
    held: Vec<u8>,
}

/// What the next byte is part of.
enum State {
    /// The twelve bytes at a stream's start, or what pads the end of one.
    StreamHeader,
    /// The first byte of a block's header, which is its size, or of the index, which is zero.
    BlockOrIndex {
        check_bytes: u64,
    },
    BlockHeader {
        check_bytes: u64,
        size: usize,
    },
    /// The control byte of a chunk. `packed` counts a block's bytes for its padding.
    Chunk {
        check_bytes: u64,
        packed: u64,
    },
    ChunkHeader {
        check_bytes: u64,
        packed: u64,
        size: usize,
    },
    /// Bytes that are passed on as they are, and what follows.
    Skip {
        left: u64,
        then: Box<State>,
    },
    /// The number of records, then two numbers for each.
    Index {
        numbers: Option<u64>,
        size: u64,
    },
    /// Nothing that can be followed any more.
    Lost,
}

impl<R: Read> Watched<R> {
    /// Watches `from`, in which no dictionary may be larger than `bound`.
    pub(super) fn new(from: R, bound: WindowTooLarge) -> Self {
        Self { from, bound, state: State::StreamHeader, held: Vec::new() }
    }

    fn follow(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Lost => return Ok(()),
                State::Skip { left, then } => {
                    let skipped = (bytes.len() as u64).min(*left);
                    *left -= skipped;
                    bytes = &bytes[usize::try_from(skipped).unwrap_or(bytes.len())..];
                    if *left == 0 {
                        self.state = std::mem::replace(then, State::Lost);
                    }
                    continue;
                }
                _ => {}
            }
            self.held.push(bytes[0]);
            bytes = &bytes[1..];
            self.state = self.next()?;
        }
        Ok(())
    }

    /// The state once the last of `held` is known; `held` is emptied when it was understood.
    fn next(&mut self) -> io::Result<State> {
        let state = std::mem::replace(&mut self.state, State::Lost);
        let held = &mut self.held;
        let last = held.last().copied().unwrap_or_default();
        let next = match state {
            State::StreamHeader if held.len() == 4 && held[..] == [0; 4] => State::StreamHeader,
            State::StreamHeader if held.len() < STREAM_HEADER_BYTES => return Ok(state),
            State::StreamHeader if held[..6] == MAGIC => match held[7] {
                0 => State::BlockOrIndex { check_bytes: 0 },
                // Checks of 4, 8, 16, 32 and 64 bytes, three numbers each.
                kind @ 1..=15 => State::BlockOrIndex { check_bytes: 4 << ((kind - 1) / 3) },
                _ => State::Lost,
            },
            State::StreamHeader => State::Lost,
            State::BlockOrIndex { .. } if last == 0 => State::Index { numbers: None, size: 1 },
            State::BlockOrIndex { check_bytes } => return Ok(State::BlockHeader { check_bytes, size: (usize::from(last) + 1) * 4 }),
            State::BlockHeader { size, .. } if held.len() < size => return Ok(state),
            State::BlockHeader { check_bytes, .. } => match dictionary_bytes(held) {
                Some(bytes) if bytes > self.bound.0.limit => return Err(io::Error::other(self.bound)),
                Some(_) => State::Chunk { check_bytes, packed: 0 },
                None => State::Lost,
            },
            State::Chunk { check_bytes, packed } => match last {
                0 => {
                    let padding = (packed + 1).wrapping_neg() % 4;
                    skip(padding + check_bytes, State::BlockOrIndex { check_bytes })
                }
                1 | 2 => return Ok(State::ChunkHeader { check_bytes, packed, size: 3 }),
                0x80.. => return Ok(State::ChunkHeader { check_bytes, packed, size: if last >= 0xc0 { 6 } else { 5 } }),
                _ => State::Lost,
            },
            State::ChunkHeader { size, .. } if held.len() < size => return Ok(state),
            State::ChunkHeader { check_bytes, packed, size } => {
                let at = if size == 3 { 1 } else { 3 };
                let data = u64::from(u16::from_be_bytes([held[at], held[at + 1]])) + 1;
                skip(data, State::Chunk { check_bytes, packed: packed + size as u64 + data })
            }
            State::Index { .. } if last & 0x80 != 0 && held.len() < 9 => return Ok(state),
            State::Index { numbers, size } => {
                let size = size + held.len() as u64;
                let numbers = match numbers {
                    None => number(&mut held.as_slice()).and_then(|records| records.checked_mul(2)),
                    Some(left) => left.checked_sub(1),
                };
                match numbers {
                    // The padding, the checksum, and the footer.
                    Some(0) => skip(size.wrapping_neg() % 4 + 4 + STREAM_FOOTER_BYTES, State::StreamHeader),
                    numbers @ Some(_) => State::Index { numbers, size },
                    None => State::Lost,
                }
            }
            State::Skip { .. } | State::Lost => State::Lost,
        };
        self.held.clear();
        Ok(next)
    }
}

fn skip(left: u64, then: State) -> State {
    if left == 0 { then } else { State::Skip { left, then: Box::new(then) } }
}

/// A number of the format: seven bits a byte, the lowest first.
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for at in 0..9 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The size of the dictionary that a block's header asks for.
fn dictionary_bytes(header: &[u8]) -> Option<u64> {
    let flags = *header.get(1)?;
    let mut rest = header.get(2..)?;
    // Its packed and its unpacked size, if they are there.
    for flag in [0x40, 0x80] {
        if flags & flag != 0 {
            number(&mut rest)?;
        }
    }
    for _ in 0..=flags & 3 {
        let (id, size) = (number(&mut rest)?, usize::try_from(number(&mut rest)?).ok()?);
        let (properties, behind) = rest.split_at_checked(size)?;
        rest = behind;
        if id == LZMA2 {
            return match *properties.first()? {
                40 => Some(u64::from(u32::MAX)),
                bits @ 0..40 => Some((2 | u64::from(bits & 1)) << (bits / 2 + 11)),
                _ => None,
            };
        }
    }
    None
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.follow(&buffer[..n])?;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::content::Limits;

    fn xz(data: &[u8], words: &[&str]) -> Vec<u8> {
        let mut child = Command::new("xz").arg("-c").args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("xz");
        let (mut input, data) = (child.stdin.take().expect("piped"), data.to_owned());
        let writer = std::thread::spawn(move || input.write_all(&data));
        let output = child.wait_with_output().expect("xz");
        writer.join().expect("no panic").expect("xz reads");
        assert!(output.status.success(), "{words:?}");
        output.stdout
    }

    fn passes(packed: &[u8], limit: u64, piece: usize) -> Result<(), String> {
        let mut watched = Watched::new(packed, Limits { window_bytes: limit, ..Limits::default() }.window());
        let mut buffer = vec![0; piece];
        loop {
            match watched.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        assert!(!matches!(watched.state, State::Lost), "it was followed to its end");
        Ok(())
    }

    #[test]
    fn boxlite_ghsa_gcpm_dictionaries_larger_than_the_limit_are_refused_wherever_they_are() {
        let data: Vec<u8> = (0..30_000_u32).flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()).collect();
        let small = ["--lzma2=dict=64KiB"];
        let forms: [&[&str]; 7] = [
            &[],
            &["-C", "none"],
            &["-C", "crc32"],
            &["-C", "sha256"],
            &["--block-size=10000"],
            &["--block-list=1000,30000,7"],
            &["-T2", "--block-size=20000"],
        ];
        for form in forms {
            let words = [form, &small].concat();
            for data in [&data[..], &data[..1], &[], &[0; 90_000]] {
                let packed = xz(data, &words);
                for piece in [1, 7, 100_000] {
                    passes(&packed, 64 << 10, piece).unwrap_or_else(|error| panic!("{words:?}: {error}"));
                }
                let refused = passes(&packed, (64 << 10) - 1, 1000);
                assert_eq!(refused.is_err(), !data.is_empty(), "{words:?}: {} bytes", data.len());
            }
        }
        // Behind others, padded as the format allows: in a second stream, in a block behind a filter.
        let mut streams = xz(&data, &small);
        streams.extend_from_slice(&[0; 8]);
        streams.extend(xz(b"x", &["--x86", "--lzma2=dict=1MiB"]));
        assert_eq!(passes(&streams, 1 << 20, 999), Ok(()));
        let error = passes(&streams, (1 << 20) - 1, 999).expect_err("too large");
        assert!(error.contains("more than 1048575 bytes of memory") && error.contains("--limit window-bytes=N"), "{error}");
    }
}
