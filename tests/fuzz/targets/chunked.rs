//! See `weighbridge::proxy::fuzzing::chunked`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weighbridge::proxy::fuzzing::chunked(data));
