//! See `weighbridge::proxy::fuzzing::connection`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weighbridge::proxy::fuzzing::connection(data));
