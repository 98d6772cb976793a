//! See `decoders/manifest.rs`.
#![no_main]

#[path = "../decoders/manifest.rs"]
mod decoder;

libfuzzer_sys::fuzz_target!(|data: &[u8]| decoder::read(data));
