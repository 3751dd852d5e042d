//! A frame of the journal: see `store/local/fuzzing.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| icebox::fuzzing::frame(bytes));
