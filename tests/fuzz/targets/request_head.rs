//! See `weighbridge::proxy::fuzzing::request_head`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weighbridge::proxy::fuzzing::request_head(data));
