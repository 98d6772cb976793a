//! Compression in pieces: the stream is cut at points that its content decides, and every piece is compressed as a whole by a compressor of
//! its own. So the bytes depend neither on how the stream was written nor on how many threads compress, which streaming encoders do not
//! promise (flate2's output changes with the sizes of writes, and a compressor that was reset remembers what it did before).
//!
//! gzip pieces are joined to one member: raw deflate blocks that end at a byte, with the checksums combined. zstd pieces are frames.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use builder_snapshot::layer;
use builder_snapshot::{Hasher, Sha256Digest};
use flate2::{Compress, Crc, FlushCompress, Status};

use super::pieces::{Memory, Piece};
use crate::oci::DiffId;
use crate::request::Compression;

/// Version of everything that decides the bytes of a blob, the compressors' versions included (flate2 1.1 with zlib-rs 0.6, zstd 1.5.7,
/// this module's cuts): goes up with any of them.
pub const WRITER: u32 = layer::WRITER_VERSION * 1000 + 1;

/// Shortest piece that is cut, in bytes. Much shorter ones would cost ratio: each starts without history.
const MIN_PIECE_BYTES: usize = 128 * 1024;
/// Longest piece, in bytes: bounds memory.
const MAX_PIECE_BYTES: usize = 1024 * 1024;
/// A cut comes on average this many bytes after the shortest piece: one in 2¹⁸ positions.
const CUT_BITS: u32 = 18;
/// Bytes that decide a cut: older ones have been shifted out of the hash.
const WINDOW_BYTES: usize = 64;
/// Most threads of one stream: hashing and reading keep up with no more.
const MAX_THREADS: usize = 8;
/// A gzip member's header: deflate, no name, no time, unknown system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Threads worth using for one stream on this machine.
#[must_use]
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS)
}

/// Hashes what is written to it and passes it on compressed.
pub struct Compressor<W: Write> {
    out: W,
    codec: Codec,
    hasher: Hasher,
    piece: Vec<u8>,
    gear: u64,
    crc: Crc,
    workers: Workers,
    begun: bool,
    /// Bytes that went to `out`.
    written: u64,
    /// Pieces that were compressed, and where they lie in what went to `out`.
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, Copy)]
enum Codec {
    Plain,
    Gzip(u32),
    Zstd(i32),
}

/// One compressed piece.
struct Packed {
    bytes: Vec<u8>,
    crc: Crc,
    /// Digests of what went in and of what came out, if that is new and worth remembering.
    new: Option<(Sha256Digest, Sha256Digest)>,
}

impl<W: Write> Compressor<W> {
    /// A compressor that writes to `out` and uses up to `threads` threads (none are started for short streams).
    pub fn new(compression: Compression, threads: usize, out: W) -> Self {
        let codec = match compression {
            Compression::Uncompressed => Codec::Plain,
            Compression::Gzip { level } => Codec::Gzip(level.unwrap_or(6).min(9)),
            Compression::Zstd { level } => Codec::Zstd(level.unwrap_or(3).clamp(1, 22)),
        };
        let workers = Workers::new(codec, threads.clamp(1, MAX_THREADS));
        Self { out, codec, hasher: Hasher::new(), piece: Vec::new(), gear: 0, crc: Crc::new(), workers, begun: false, written: 0, pieces: Vec::new() }
    }

    /// The same, taking pieces that were compressed before from where they lie.
    pub(super) fn with_memory(mut self, memory: Arc<Memory>) -> Self {
        self.workers.memory = Some(memory);
        self
    }

    /// Writes what is left; returns the digest of all that was written to the compressor.
    ///
    /// # Errors
    /// What compressing or `out` fails with.
    pub fn finish(self) -> io::Result<DiffId> {
        Ok(self.finish_with_pieces()?.0)
    }

    /// The same; returns the pieces that were compressed as well.
    pub(super) fn finish_with_pieces(mut self) -> io::Result<(DiffId, Vec<Piece>)> {
        if !matches!(self.codec, Codec::Plain) {
            self.begin()?;
            let last = std::mem::take(&mut self.piece);
            let last_of_none = !self.workers.any();
            if last_of_none {
                // The whole stream is one piece: no thread is worth starting.
                let packed = pack(self.codec, &last, true)?;
                self.put(packed)?;
            } else {
                self.workers.submit(last, true)?;
            }
            while let Some(packed) = self.workers.next() {
                self.put(packed?)?;
            }
            if matches!(self.codec, Codec::Gzip(_)) {
                self.out.write_all(&self.crc.sum().to_le_bytes())?;
                self.out.write_all(&self.crc.amount().to_le_bytes())?;
            }
        }
        self.out.flush()?;
        Ok((DiffId(self.hasher.finish()), self.pieces))
    }

    fn begin(&mut self) -> io::Result<()> {
        if !self.begun && matches!(self.codec, Codec::Gzip(_)) {
            self.out.write_all(&GZIP_HEADER)?;
            self.written += GZIP_HEADER.len() as u64;
        }
        self.begun = true;
        Ok(())
    }

    fn put(&mut self, packed: Packed) -> io::Result<()> {
        self.crc.combine(&packed.crc);
        if let (Some((input, output)), Ok(length)) = (packed.new, u32::try_from(packed.bytes.len())) {
            self.pieces.push(Piece { input, output, offset: self.written, length });
        }
        self.written += packed.bytes.len() as u64;
        self.out.write_all(&packed.bytes)
    }

    /// Ends the piece.
    fn cut(&mut self) -> io::Result<()> {
        self.begin()?;
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(MIN_PIECE_BYTES * 2));
        self.gear = 0;
        while self.workers.full() {
            if let Some(packed) = self.workers.next() {
                self.put(packed?)?;
            }
        }
        self.workers.submit(piece, false)
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if matches!(self.codec, Codec::Plain) {
            self.out.write_all(bytes)?;
            self.hasher.update(bytes);
            return Ok(bytes.len());
        }
        self.hasher.update(bytes);
        let mut rest = bytes;
        while !rest.is_empty() {
            // The first bytes of a piece can neither be cut after nor reach into the hash at the first place that can.
            let blind = (MIN_PIECE_BYTES - WINDOW_BYTES).saturating_sub(self.piece.len()).min(rest.len());
            self.piece.extend_from_slice(&rest[..blind]);
            rest = &rest[blind..];
            let room = MAX_PIECE_BYTES - self.piece.len();
            let window = &rest[..rest.len().min(room)];
            let mut cut_after = None;
            for (at, &byte) in window.iter().enumerate() {
                self.gear = (self.gear << 1).wrapping_add(GEAR[usize::from(byte)]);
                if self.gear >> (64 - CUT_BITS) == 0 && self.piece.len() + at + 1 >= MIN_PIECE_BYTES {
                    cut_after = Some(at + 1);
                    break;
                }
            }
            let taken = cut_after.unwrap_or(window.len());
            self.piece.extend_from_slice(&window[..taken]);
            rest = &rest[taken..];
            if cut_after.is_some() || self.piece.len() == MAX_PIECE_BYTES {
                self.cut()?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // Pieces end where content says, not where a writer pauses.
        Ok(())
    }
}

/// Random-looking numbers, one a byte value (splitmix64 of its value). Part of the format: see [`WRITER`].
static GEAR: [u64; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let mut z = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[n] = z ^ (z >> 31);
        n += 1;
    }
    table
};

/// The piece as it was compressed before, or as it is compressed now.
fn pack_or_recall(codec: Codec, input: &[u8], last: bool, memory: Option<&Memory>) -> io::Result<Packed> {
    // The last piece of a gzip stream ends differently; there is one a stream.
    let Some(memory) = memory.filter(|_| !last) else { return pack(codec, input, last) };
    let digest = Sha256Digest::of(input);
    match memory.recall(&digest) {
        Some(bytes) => {
            let mut crc = Crc::new();
            if matches!(codec, Codec::Gzip(_)) {
                crc.update(input);
            }
            Ok(Packed { bytes, crc, new: None })
        }
        None => {
            let packed = pack(codec, input, last)?;
            let new = Some((digest, Sha256Digest::of(&packed.bytes)));
            Ok(Packed { new, ..packed })
        }
    }
}

/// Compresses one piece with a fresh compressor, in one call.
fn pack(codec: Codec, input: &[u8], last: bool) -> io::Result<Packed> {
    let mut crc = Crc::new();
    let bytes = match codec {
        Codec::Plain => input.to_vec(),
        Codec::Zstd(level) => zstd::bulk::compress(input, level)?,
        Codec::Gzip(level) => {
            crc.update(input);
            let mut compress = Compress::new(flate2::Compression::new(level), false);
            // Deflate's worst case is five bytes a stored block; this is far above it, so one call always takes everything.
            let mut output = Vec::with_capacity(input.len() + input.len() / 8 + 1024);
            let flush = if last { FlushCompress::Finish } else { FlushCompress::Sync };
            let status = compress.compress_vec(input, &mut output, flush).map_err(io::Error::other)?;
            let whole = compress.total_in() == input.len() as u64 && output.len() < output.capacity();
            if !whole || last && status != Status::StreamEnd {
                return Err(io::Error::other("the compressor did not take a whole piece"));
            }
            output
        }
    };
    Ok(Packed { bytes, crc, new: None })
}

struct Job {
    input: Vec<u8>,
    last: bool,
    reply: SyncSender<io::Result<Packed>>,
}

/// Threads that compress pieces, and the pieces under way in order.
struct Workers {
    codec: Codec,
    limit: usize,
    memory: Option<Arc<Memory>>,
    jobs: Option<SyncSender<Job>>,
    queue: Arc<Mutex<Option<Receiver<Job>>>>,
    threads: Vec<JoinHandle<()>>,
    under_way: VecDeque<Receiver<io::Result<Packed>>>,
    submitted: bool,
}

impl Workers {
    fn new(codec: Codec, limit: usize) -> Self {
        Self { codec, limit, memory: None, jobs: None, queue: Arc::default(), threads: Vec::new(), under_way: VecDeque::new(), submitted: false }
    }

    /// Whether any piece was ever submitted.
    fn any(&self) -> bool {
        self.submitted
    }

    fn full(&self) -> bool {
        self.under_way.len() > self.limit
    }

    fn submit(&mut self, input: Vec<u8>, last: bool) -> io::Result<()> {
        self.submitted = true;
        if self.jobs.is_none() {
            let (jobs, queue) = sync_channel(self.limit + 2);
            self.jobs = Some(jobs);
            *self.queue.lock().unwrap_or_else(PoisonError::into_inner) = Some(queue);
        }
        // One thread more for each piece that finds the others busy, up to the limit.
        if self.threads.len() < self.limit {
            let (queue, codec, memory) = (Arc::clone(&self.queue), self.codec, self.memory.clone());
            self.threads.push(std::thread::Builder::new().name("compress".into()).spawn(move || work(codec, memory.as_deref(), &queue))?);
        }
        let (reply, answer) = sync_channel(1);
        let gone = || io::Error::other("the compressing threads are gone");
        self.jobs.as_ref().ok_or_else(gone)?.send(Job { input, last, reply }).map_err(|_| gone())?;
        self.under_way.push_back(answer);
        Ok(())
    }

    /// The next piece in order; none when no piece is under way.
    fn next(&mut self) -> Option<io::Result<Packed>> {
        let answer = self.under_way.pop_front()?;
        Some(answer.recv().unwrap_or_else(|_| Err(io::Error::other("a compressing thread panicked"))))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.jobs = None;
        self.under_way.clear();
        for thread in self.threads.drain(..) {
            // A panic has been reported through the piece it lost.
            drop(thread.join());
        }
    }
}

fn work(codec: Codec, memory: Option<&Memory>, queue: &Mutex<Option<Receiver<Job>>>) {
    loop {
        // The lock is held while waiting: the other threads wait for it instead of the queue, which is the same.
        let job = {
            let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.as_ref().and_then(|queue| queue.recv().ok())
        };
        let Some(job) = job else { return };
        // Nobody waits any more when the writer gave up.
        drop(job.reply.send(pack_or_recall(codec, &job.input, job.last, memory)));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    /// Bytes that compress somewhat and have no period.
    pub(in super::super) fn sample(len: usize, seed: u64) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..len)
            .map(|n| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                if n % 3 == 0 { (state >> 32) as u8 & 0x3f } else { (n / 7) as u8 }
            })
            .collect()
    }

    fn compress(data: &[u8], compression: Compression, threads: usize, writes: &[usize]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = Compressor::new(compression, threads, &mut out);
        let mut rest = data;
        let mut sizes = writes.iter().cycle();
        while !rest.is_empty() {
            let n = (*sizes.next().expect("cycles")).clamp(1, rest.len());
            writer.write_all(&rest[..n]).expect("write");
            rest = &rest[n..];
        }
        let diff_id = writer.finish().expect("finish");
        assert_eq!(diff_id.0, Sha256Digest::of(data));
        out
    }

    fn decompress(packed: &[u8], compression: Compression) -> Vec<u8> {
        let mut out = Vec::new();
        match compression {
            Compression::Uncompressed => out.extend_from_slice(packed),
            Compression::Gzip { .. } => {
                flate2::read::GzDecoder::new(packed).read_to_end(&mut out).expect("one whole member");
            }
            Compression::Zstd { .. } => {
                zstd::stream::read::Decoder::new(packed).expect("zstd").read_to_end(&mut out).expect("frames");
            }
        }
        out
    }

    const ALL: [Compression; 5] = [
        Compression::Uncompressed,
        Compression::Gzip { level: None },
        Compression::Gzip { level: Some(1) },
        Compression::Zstd { level: None },
        Compression::Zstd { level: Some(9) },
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn a14_4_bytes_depend_on_content_alone(
            len in 0..3_000_000_usize,
            seed in any::<u64>(),
            writes in prop::collection::vec(1..700_000_usize, 1..6),
            threads in 1..=3_usize,
            which in 0..ALL.len(),
        ) {
            let data = sample(len, seed);
            let whole = compress(&data, ALL[which], 1, &[usize::MAX]);
            prop_assert!(whole == compress(&data, ALL[which], threads, &writes), "other bytes");
            prop_assert!(decompress(&whole, ALL[which]) == data, "other content");
        }
    }

    #[test]
    fn a_change_at_the_front_leaves_later_pieces_alone() {
        let data = sample(4_000_000, 7);
        let mut changed = data.clone();
        changed.splice(1000..1000, *b"one more file");
        let pieces = |data: &[u8]| {
            let packed = compress(data, Compression::Zstd { level: None }, 2, &[4096]);
            let frame = [0x28, 0xb5, 0x2f, 0xfd];
            let starts: Vec<usize> = packed.windows(4).enumerate().filter(|(_, window)| *window == frame).map(|(at, _)| at).collect();
            starts.iter().zip(starts.iter().skip(1).chain([&packed.len()])).map(|(&a, &b)| packed[a..b].to_vec()).collect::<Vec<_>>()
        };
        let (before, after) = (pieces(&data), pieces(&changed));
        let same = before.iter().filter(|piece| after.contains(piece)).count();
        assert!(before.len() > 5 && same + 2 >= before.len(), "{same} of {} pieces are the same", before.len());
    }

    #[test]
    fn an_empty_stream_is_a_valid_blob() {
        for compression in ALL {
            let packed = compress(&[], compression, 2, &[1]);
            assert_eq!(decompress(&packed, compression), b"");
        }
    }
}
