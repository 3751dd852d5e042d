//! A store's file, or a snapshot: see `store/local/fuzzing.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| icebox::fuzzing::file(bytes));
