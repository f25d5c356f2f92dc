//! See `weighbridge::proxy::fuzzing::response_head`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weighbridge::proxy::fuzzing::response_head(data));
