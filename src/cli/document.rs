//! Reads one document from a file or from standard input.

use std::{
    fs::File,
    io::{self, Read},
};

use serde_json::Value;

use super::Error;
use crate::resource::Violations;

/// The most bytes in a document: no request may be larger.
const DOCUMENT_BYTES_MAX: u64 = 1 << 20;

/// Reads the document in `file`, or from standard input if `file` is `-`. Tells the person what `read` left out.
pub(super) fn read<T>(
    file: &str,
    read: impl FnOnce(&Value) -> Result<(T, Vec<String>), Violations>,
) -> Result<T, Error> {
    let failed = |error: io::Error| Error::Failed(format!("could not read {file}: {error}"));
    let mut bytes = Vec::new();
    let source: Box<dyn Read> = if file == "-" {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(file).map_err(failed)?)
    };
    source
        .take(DOCUMENT_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(Error::Failed(format!(
            "{file} holds more than {DOCUMENT_BYTES_MAX} bytes: `icebox import` reads many documents"
        )));
    }
    let value = serde_json::from_slice(&bytes)
        .map_err(|error| Error::Failed(format!("{file} is not one JSON document: {error}")))?;
    let (resource, notes) = read(&value)?;
    for note in notes {
        eprintln!("note: {}", super::output::Printable(&note));
    }
    Ok(resource)
}
