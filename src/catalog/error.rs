//! Why the catalog refused a request, in its own words. `service/status.rs` turns them into gRPC's.

use crate::{
    resource::{Kind, Refusal, Violations},
    store,
};

/// Why the catalog refused a request. Nothing was changed, except perhaps after a store's [`store::Error::OutcomeUnknown`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The request breaks rules.
    #[error("{0}")]
    Invalid(Violations),
    /// The caller may not do that.
    #[error("{what}")]
    Denied {
        /// A sentence for people.
        what: String,
    },
    /// The project has no such resource.
    #[error("the project has no {} with {} {id}", .kind.field, .kind.id_field)]
    NotFound {
        /// The kind of resource.
        kind: Kind,
        /// The id that was asked for.
        id: String,
    },
    /// The project has a different resource with this id.
    #[error(
        "the project has another {} with {} {id}: choose another id, or update that one",
        .kind.field, .kind.id_field
    )]
    AlreadyExists {
        /// The kind of resource.
        kind: Kind,
        /// The id.
        id: String,
    },
    /// The resource is no longer at the revision that the caller expects.
    #[error(
        "{} {id} is at revision {current}, not {expected}: read it again and decide anew",
        .kind.field
    )]
    Stale {
        /// The kind of resource.
        kind: Kind,
        /// Its id.
        id: String,
        /// The revision in the request.
        expected: u64,
        /// The revision that the resource is at.
        current: u64,
    },
    /// The resource is in a state in which the request makes no sense.
    #[error("{message}")]
    Precondition {
        /// The kind of resource.
        kind: Kind,
        /// Its id.
        id: String,
        /// A code for programs, such as `JOB_NOT_RUNNING`.
        reason: &'static str,
        /// A sentence for people.
        message: String,
    },
    /// The store failed or refused.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Somebody else is making a snapshot.
    #[error("another snapshot is being made: try again when it is done")]
    SnapshotInProgress,
    /// The next changes to follow are no longer kept.
    #[error(
        "what was changed before revision {oldest} is gone: read all that there is, and follow on from there"
    )]
    Compacted {
        /// The oldest revision whose changes are still kept.
        oldest: u64,
    },
    /// The store has not reached the revision to resume after.
    #[error(
        "revision {after} is not reached here, {head} is the last: was an older snapshot restored, or is this another store? Read \
         all that there is, and follow on from there"
    )]
    Ahead {
        /// The revision to resume after.
        after: u64,
        /// The store's last revision.
        head: u64,
    },
}

impl From<Violations> for Error {
    fn from(violations: Violations) -> Self {
        Error::Invalid(violations)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let Refusal {
            kind,
            id,
            reason,
            message,
        } = refusal;
        Error::Precondition {
            kind,
            id,
            reason,
            message,
        }
    }
}

impl Error {
    /// The error for a record whose checksum is right but which does not decode.
    pub(crate) fn undecodable(key: &[u8]) -> Error {
        Error::Store(store::Error::Corrupt {
            what: format!(
                "what is stored under key {} cannot be read",
                key.escape_ascii()
            ),
        })
    }
}
