//! The one place where an error becomes a gRPC status with `google.rpc` details.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    catalog::Error,
    resource::{Kind, Violations, violations::cut},
    store,
};

/// The domain of every `ErrorInfo`.
const DOMAIN: &str = "icebox";
/// The most violations that a status's message lists one by one.
const SUMMARY_MAX: usize = 3;
/// The most bytes of such a message before it is cut. It is sent twice: in the details, and beside them, where each byte that is
/// not ASCII takes three.
const SUMMARY_BYTES_MAX: usize = 512;
/// When a caller that found a full queue may try again.
const RETRY_DELAY: Duration = Duration::from_millis(200);

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Invalid(violations) => invalid(&violations),
            Error::NotFound { kind, id } => about(Code::NotFound, "NOT_FOUND", message, kind, &id),
            Error::AlreadyExists { kind, id } => {
                about(Code::AlreadyExists, "ALREADY_EXISTS", message, kind, &id)
            }
            Error::Stale { kind, id, .. } => {
                about(Code::Aborted, "STALE_REVISION", message, kind, &id)
            }
            Error::Precondition {
                kind, id, reason, ..
            } => precondition(reason, &message, kind, &id),
            Error::Store(error) => from_store(&error),
            Error::Denied { .. } => {
                let details = ErrorDetails::with_error_info("DENIED", DOMAIN, HashMap::new());
                Status::with_error_details(Code::PermissionDenied, message, details)
            }
            Error::SnapshotInProgress => unavailable("BUSY", message),
            Error::Ahead { head, .. } => {
                let metadata = HashMap::from([("revision".into(), head.to_string())]);
                let details = ErrorDetails::with_error_info("REVISION_AHEAD", DOMAIN, metadata);
                Status::with_error_details(Code::OutOfRange, message, details)
            }
            Error::Compacted { oldest } => {
                let metadata = HashMap::from([("oldest_revision".into(), oldest.to_string())]);
                let details = ErrorDetails::with_error_info("REVISION_COMPACTED", DOMAIN, metadata);
                Status::with_error_details(Code::OutOfRange, message, details)
            }
        }
    }
}

impl From<Violations> for Status {
    fn from(violations: Violations) -> Self {
        invalid(&violations)
    }
}

/// `INVALID_ARGUMENT` with every bad field.
fn invalid(violations: &Violations) -> Status {
    let mut details = ErrorDetails::new();
    for violation in violations {
        details.add_bad_request_violation(&violation.field, &violation.description);
    }
    details.set_error_info("INVALID_FIELDS", DOMAIN, HashMap::new());
    Status::with_error_details(Code::InvalidArgument, summary(violations), details)
}

/// The first violations in a sentence. The details have all of them. Both together must fit into the 8 KiB of headers that gRPC
/// clients accept.
fn summary(violations: &Violations) -> String {
    let said: Vec<_> = violations
        .iter()
        .map(|v| format!("{} {}", v.field, v.description))
        .collect();
    let first = cut(
        said[..said.len().min(SUMMARY_MAX)].join("; "),
        SUMMARY_BYTES_MAX,
    );
    match said.len().checked_sub(SUMMARY_MAX) {
        None | Some(0) => first,
        Some(more) => format!("{first}; and {more} more, see the details"),
    }
}

fn about(code: Code, reason: &str, message: String, kind: Kind, id: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, DOMAIN, HashMap::new());
    details.set_resource_info(kind.field, id, "", &message);
    Status::with_error_details(code, message, details)
}

fn precondition(reason: &str, message: &str, kind: Kind, id: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, DOMAIN, HashMap::new());
    details.add_precondition_failure_violation(reason, format!("{}/{id}", kind.field), message);
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

fn unavailable(reason: &str, message: impl Into<String>) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    if reason == "BUSY" {
        details.set_retry_info(Some(RETRY_DELAY));
    }
    Status::with_error_details(Code::Unavailable, message, details)
}

fn from_store(error: &store::Error) -> Status {
    let message = error.to_string();
    let with_reason = |code, reason| {
        let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
        Status::with_error_details(code, message.clone(), details)
    };
    match error {
        store::Error::Busy => unavailable("BUSY", message),
        store::Error::Closed => {
            unavailable("SHUTTING_DOWN", "the server is shutting down: try again")
        }
        store::Error::Stopped { .. } => unavailable("WRITES_STOPPED", message),
        store::Error::OutcomeUnknown { .. } => unavailable("OUTCOME_UNKNOWN", message),
        store::Error::Full { .. } => with_reason(Code::ResourceExhausted, "DISK_FULL"),
        store::Error::Corrupt { .. } => with_reason(Code::DataLoss, "DATA_DAMAGED"),
        store::Error::Io { .. } => with_reason(Code::Unavailable, "STORE_UNAVAILABLE"),
    }
}
