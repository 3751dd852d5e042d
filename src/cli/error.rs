//! Why a command failed, as a person reads it.

use std::{fmt, process::ExitCode};

use tonic::Code;
use tonic_types::StatusExt;

use super::output::Printable;
use crate::resource::Violations;

/// Why a command failed.
#[derive(Debug)]
pub enum Error {
    /// The command line is wrong in a way that clap cannot check.
    Usage(String),
    /// The server refused the call, or could not be reached.
    Rpc(Box<tonic::Status>),
    /// Any other failure, as one sentence.
    Failed(String),
    /// The reader of the output has gone, which is not a failure.
    OutputClosed,
}

impl Error {
    /// 2 for wrong usage, 1 for every other failure.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Error::Usage(_) => ExitCode::from(2),
            Error::Rpc(_) | Error::Failed(_) => ExitCode::from(1),
            Error::OutputClosed => ExitCode::SUCCESS,
        }
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Error::Rpc(Box::new(status))
    }
}

impl From<Violations> for Error {
    fn from(violations: Violations) -> Self {
        Error::Failed(format!("the document is refused: {violations}"))
    }
}

impl From<prost::DecodeError> for Error {
    fn from(error: prost::DecodeError) -> Self {
        Error::Failed(format!(
            "the server sent a record that cannot be read: {error}"
        ))
    }
}

impl From<std::io::Error> for Error {
    /// A failure to write to standard output.
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Error::OutputClosed,
            _ => Error::Failed(format!("could not write the output: {error}")),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Usage(message) | Error::Failed(message) => write!(f, "{}", Printable(message)),
            Error::Rpc(status) => status_line(status, f),
            Error::OutputClosed => f.write_str("the output was closed"),
        }
    }
}

/// One line, with every bad field.
fn status_line(status: &tonic::Status, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let details = status.get_error_details();
    let violations = details
        .bad_request()
        .map_or(&[][..], |bad| &bad.field_violations);
    match violations {
        [] => write!(f, "{}", Printable(status.message()))?,
        _ => {
            for (n, violation) in violations.iter().enumerate() {
                let separator = if n == 0 { "refused: " } else { "; " };
                write!(
                    f,
                    "{separator}{} {}",
                    Printable(&violation.field),
                    Printable(&violation.description)
                )?;
            }
        }
    }
    match status.code() {
        Code::Unimplemented => f.write_str(" (is the server an Icebox of this version?)"),
        _ => Ok(()),
    }
}
