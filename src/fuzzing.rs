//! What the fuzzer drives: whatever reads bytes that somebody else may have written. Each must return, whatever it is given; what it
//! makes of bytes must be what they say. A fuzzer cannot guess checksums, so that they are not looked at in a build for it.

pub use crate::{
    catalog::fuzzing::page_token,
    freezer_json::fuzzing::document,
    store::fuzzing::{file, frame},
};
