//! See `decoders/archive.rs`.
#![no_main]

#[path = "../decoders/archive.rs"]
mod decoder;

libfuzzer_sys::fuzz_target!(|data: &[u8]| decoder::read(data));
