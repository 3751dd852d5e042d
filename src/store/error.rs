//! The errors below the catalog: of opening or making a store, and of requests to an open one.

use std::{io, path::Path};

/// Why the store could not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The operating system refused something.
    #[error("could not {action}: {reason}")]
    Io {
        /// What was being done to which file.
        action: String,
        /// The system's message.
        reason: String,
    },
    /// The disk is full. Nothing was written.
    #[error("the disk is full: could not {action}")]
    Full {
        /// What was being done to which file.
        action: String,
    },
    /// Stored data is damaged, and its content is kept nowhere else.
    #[error("stored data is damaged: {what}")]
    Corrupt {
        /// Which file, where in it, and what is lost.
        what: String,
    },
    /// Writing has stopped after a failure that left the disk's state unknown; reads go on.
    #[error("writing has stopped until the server is restarted, reads go on: {reason}")]
    Stopped {
        /// The failure.
        reason: String,
    },
    /// The disk failed during this very write. Only a restart shows whether the write was kept.
    #[error("whether this write is kept is known only after a restart: {reason}")]
    OutcomeUnknown {
        /// The failure.
        reason: String,
    },
    /// The queue of writes stayed full for as long as a caller may wait.
    #[error("too many writes are waiting: try again")]
    Busy,
    /// The store is closing.
    #[error("the store is closing")]
    Closed,
}

impl Error {
    /// An error of the operating system, with what was being done.
    pub(super) fn io(action: &str, path: &Path, error: &io::Error) -> Self {
        let action = format!("{action} {}", path.display());
        if error.kind() == io::ErrorKind::StorageFull {
            Error::Full { action }
        } else {
            Error::Io {
                action,
                reason: error.to_string(),
            }
        }
    }

    /// The reason alone, without what it means for a caller.
    pub(super) fn reason(&self) -> String {
        match self {
            Error::Stopped { reason } | Error::OutcomeUnknown { reason } => reason.clone(),
            other => other.to_string(),
        }
    }
}

/// Why a store could not be opened or made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Another process has the store open.
    #[error("the store is in use by {owner}: stop that process or choose another --store")]
    Locked {
        /// What that process wrote about itself.
        owner: String,
    },
    /// The file is not an Icebox store.
    #[error("this is not an Icebox store: {reason}")]
    Foreign {
        /// What is there instead.
        reason: String,
    },
    /// A restore cannot reach the revision or time that was asked for.
    #[error("{reason}")]
    NotThatFar {
        /// Why not.
        reason: String,
    },
    /// Something exists where a store was to be made.
    #[error("{path} is there already: choose a file that is not")]
    Occupied {
        /// The path.
        path: String,
    },
    /// The store was written by a newer Icebox.
    #[error(
        "the store has format {found} and this Icebox reads up to format {supported}: use a newer Icebox"
    )]
    NewerFormat {
        /// The store's format.
        found: u32,
        /// The newest format that this program reads.
        supported: u32,
    },
    /// An error that an open store can have, too.
    #[error(transparent)]
    Store(#[from] Error),
}
