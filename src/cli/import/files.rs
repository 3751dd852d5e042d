//! Reads the files one after another.

use std::{
    fs::{self, File},
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;
use tokio::sync::mpsc;

use super::documents::{Event, Expected, read_documents};

/// Something that was read, and where it stands.
pub(super) struct Item {
    pub(super) file: Arc<str>,
    /// The bytes read from all files so far.
    pub(super) read_bytes: u64,
    pub(super) content: Content,
}

pub(super) enum Content {
    Document {
        place: String,
        expected: Expected,
        value: Value,
    },
    Note(String),
    /// The rest of the file cannot be read.
    Broken(String),
}

pub(super) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Reads the files one after another and sends what is in them, until the receiver has gone.
pub(super) fn read_files(files: &[PathBuf], sender: &mpsc::Sender<Item>) {
    let mut files_before_bytes = 0;
    for path in files {
        let file: Arc<str> = if is_stdin(path) {
            "stdin".into()
        } else {
            path.to_string_lossy().into()
        };
        let mut file_bytes = 0;
        let mut hand_on = |event| {
            let content = match event {
                Event::Document {
                    place,
                    expected,
                    value,
                    read_bytes,
                } => {
                    file_bytes = read_bytes;
                    Content::Document {
                        place,
                        expected,
                        value,
                    }
                }
                Event::Note(note) => Content::Note(note),
            };
            let read_bytes = files_before_bytes + file_bytes;
            match sender.blocking_send(Item {
                file: Arc::clone(&file),
                read_bytes,
                content,
            }) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        };
        let result = if is_stdin(path) {
            read_documents(io::stdin().lock(), &mut hand_on)
        } else {
            File::open(path)
                .map_err(|error| error.to_string())
                .and_then(|source| read_documents(source, &mut hand_on))
        };
        files_before_bytes += file_size_bytes(path).unwrap_or(file_bytes);
        if let Err(reason) = result {
            let item = Item {
                file,
                read_bytes: files_before_bytes,
                content: Content::Broken(reason),
            };
            if sender.blocking_send(item).is_err() {
                return;
            }
        }
        if sender.is_closed() {
            return;
        }
    }
}

pub(super) fn file_size_bytes(path: &Path) -> Option<u64> {
    if is_stdin(path) {
        return None;
    }
    let metadata = fs::metadata(path).ok()?;
    metadata.is_file().then_some(metadata.len())
}
