//! A page token, as a caller may make it up.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| icebox::fuzzing::page_token(text));
