//! See `decoders/config.rs`.
#![no_main]

#[path = "../decoders/config.rs"]
mod decoder;

libfuzzer_sys::fuzz_target!(|data: &[u8]| decoder::read(data));
