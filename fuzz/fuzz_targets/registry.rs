//! See `decoders/registry.rs`.
#![no_main]

#[path = "../decoders/registry.rs"]
mod decoder;

libfuzzer_sys::fuzz_target!(|data: &[u8]| decoder::read(data));
