//! The entry points for the fuzzer: everything that reads bytes which somebody else may have written. Each must return, whatever
//! the bytes are, and must give back exactly what they say. A fuzzer cannot guess checksums, so that builds for it do not check
//! them.

pub use crate::{
    catalog::fuzzing::page_token,
    freezer_json::fuzzing::document,
    store::fuzzing::{file, frame},
};
