//! Why the catalog refused, in our words; `service/status.rs` turns them into gRPC's.

use std::fmt;

use crate::{
    resource::{Kind, Violations},
    store,
};

/// Why the catalog refused. Whatever it is, nothing was changed, but for a store's
/// [`store::Error::OutcomeUnknown`].
#[derive(Clone, Debug, PartialEq)]
pub enum Error {
    /// The request breaks rules.
    Invalid(Violations),
    /// The project has no such resource.
    NotFound {
        /// What was looked for.
        kind: Kind,
        /// The id that it was looked for by.
        id: String,
    },
    /// The id is taken by a resource that differs.
    AlreadyExists {
        /// What was to be created.
        kind: Kind,
        /// The id.
        id: String,
    },
    /// The resource is no longer at the revision that the caller expects.
    Stale {
        /// What was to be changed.
        kind: Kind,
        /// Its id.
        id: String,
        /// The revision in the request.
        expected: u64,
        /// The revision that the resource is at.
        current: u64,
    },
    /// The resource is in a state in which the request makes no sense.
    Precondition {
        /// What was to be changed.
        kind: Kind,
        /// Its id.
        id: String,
        /// A word for programs, such as `JOB_NOT_RUNNING`.
        reason: &'static str,
        /// A sentence for people.
        message: String,
    },
    /// The store failed or refused.
    Store(store::Error),
    /// Another snapshot is being made.
    SnapshotInProgress,
    /// Changes were to be followed that are gone by now.
    Compacted {
        /// The oldest revision whose changes are still there.
        oldest: u64,
    },
}

impl From<Violations> for Error {
    fn from(violations: Violations) -> Self {
        Error::Invalid(violations)
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Error::Store(error)
    }
}

impl Error {
    /// A record whose checksum holds, and that is none.
    pub(crate) fn undecodable(key: &[u8]) -> Error {
        Error::Store(store::Error::Corrupt {
            what: format!(
                "what is stored under key {} cannot be read",
                key.escape_ascii()
            ),
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Invalid(violations) => violations.fmt(f),
            Error::NotFound { kind, id } => write!(
                f,
                "the project has no {} with {} {id}",
                kind.field, kind.id_field
            ),
            Error::AlreadyExists { kind, id } => write!(
                f,
                "the project has another {} with {} {id}: choose another id, or update that one",
                kind.field, kind.id_field
            ),
            Error::Stale {
                kind,
                id,
                expected,
                current,
            } => write!(
                f,
                "{} {id} is at revision {current}, not {expected}: read it again and decide anew",
                kind.field
            ),
            Error::Precondition { message, .. } => f.write_str(message),
            Error::Store(error) => error.fmt(f),
            Error::SnapshotInProgress => {
                f.write_str("another snapshot is being made: try again when it is done")
            }
            Error::Compacted { oldest } => write!(
                f,
                "what was changed before revision {oldest} is gone: read all that there is, and follow on from there"
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Store(error) => Some(error),
            _ => None,
        }
    }
}
