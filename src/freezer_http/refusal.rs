//! Refusals in Freezer's form. Each is made from the gRPC status with which the request's twin is refused, so that both say the
//! same.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{catalog::Error, freezer_json::path_in_document};

/// The error of a handler.
#[derive(Debug)]
pub(super) struct Refused(Status);

impl<E: Into<Error>> From<E> for Refused {
    fn from(error: E) -> Self {
        Refused(error.into().into())
    }
}

impl Refused {
    /// The error with this status.
    pub(super) fn of(status: Status) -> Refused {
        Refused(status)
    }

    /// Whether the id does not exist.
    pub(super) fn is_not_found(&self) -> bool {
        self.0.code() == Code::NotFound
    }

    /// Whether the id exists already.
    pub(super) fn is_taken(&self) -> bool {
        self.0.code() == Code::AlreadyExists
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        // The twin's status: the layers outside count it, and `refused` turns it into text at the end.
        self.0.into_http()
    }
}

/// Turns a status into Freezer's words. Other answers pass unchanged.
pub(crate) fn refused(response: Response) -> Response {
    if let Some(status) = Status::from_header_map(response.headers()) {
        return worded(&status);
    }
    // axum itself answers requests that it cannot route or parse.
    let status = response.status();
    let is_worded = response.headers().get(CONTENT_TYPE).is_some_and(is_json);
    if is_worded || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    of(status)
}

fn is_json(content_type: &HeaderValue) -> bool {
    content_type.as_bytes() == mime().as_bytes()
}

/// The content type of all answers.
pub(super) fn mime() -> HeaderValue {
    HeaderValue::from_static("application/json")
}

/// A refusal that has no message of its own.
pub(super) fn of(status: StatusCode) -> Response {
    let what = match status {
        StatusCode::NOT_FOUND => {
            "there is nothing at this path: /v2/PROJECT/ backups, jobs, actions, clients and sessions are served"
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            "this path does not take that method: see the header Allow"
        }
        _ => "the request cannot be read",
    };
    answer(status, title(status, Code::Unknown), what)
}

fn worded(status: &Status) -> Response {
    let reason = status.get_details_error_info().map(|info| info.reason);
    let reason = reason.unwrap_or_default();
    let code = match (status.code(), reason.as_str()) {
        (Code::InvalidArgument | Code::OutOfRange, _) => StatusCode::BAD_REQUEST,
        (Code::Unauthenticated, _) => StatusCode::UNAUTHORIZED,
        (Code::PermissionDenied, _) => StatusCode::FORBIDDEN,
        (Code::NotFound, _) => StatusCode::NOT_FOUND,
        (Code::AlreadyExists | Code::Aborted | Code::FailedPrecondition, _) => StatusCode::CONFLICT,
        (Code::ResourceExhausted, "REQUEST_TOO_LARGE") => StatusCode::PAYLOAD_TOO_LARGE,
        (Code::ResourceExhausted, "DISK_FULL") => StatusCode::INSUFFICIENT_STORAGE,
        (Code::ResourceExhausted, _) => StatusCode::TOO_MANY_REQUESTS,
        (Code::DeadlineExceeded, _) => StatusCode::GATEWAY_TIMEOUT,
        (Code::Unavailable, _) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let description = match (reason.as_str(), status.get_details_bad_request()) {
        ("NO_TOKEN", _) => "who are you? Send a token, as `X-Auth-Token: TOKEN`".into(),
        (_, Some(bad)) => {
            let violations = bad.field_violations.iter();
            let said = violations
                .map(|bad| format!("{} {}", path_in_document(&bad.field), bad.description));
            said.collect::<Vec<_>>().join("; ")
        }
        _ => status.message().to_owned(),
    };
    let mut response = answer(code, title(code, status.code()), &description);
    let headers = response.headers_mut();
    match code {
        StatusCode::UNAUTHORIZED => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        _ => {}
    }
    response
}

/// Freezer's title, if it has one.
fn title(status: StatusCode, code: Code) -> &'static str {
    match (status, code) {
        (StatusCode::BAD_REQUEST, _) => "Bad request format",
        (StatusCode::CONFLICT, Code::AlreadyExists) => "Document already existing",
        (StatusCode::FORBIDDEN, _) => "Access Forbidden",
        _ => status.canonical_reason().unwrap_or("Refused"),
    }
}

fn answer(status: StatusCode, title: &str, description: &str) -> Response {
    let error = json!({"title": title, "description": description}).to_string();
    let mut response = Response::new(Body::from(error));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, mime());
    response
}
