//! See `decoders/toc.rs`.
#![no_main]

#[path = "../decoders/toc.rs"]
mod decoder;

libfuzzer_sys::fuzz_target!(|data: &[u8]| decoder::read(data));
