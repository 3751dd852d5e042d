//! A document of Freezer's, of any kind.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| icebox::fuzzing::document(text));
