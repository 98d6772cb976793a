//! See `decoders/tar.rs`.
#![no_main]

#[path = "../decoders/tar.rs"]
mod decoder;

libfuzzer_sys::fuzz_target!(|data: &[u8]| decoder::read(data));
