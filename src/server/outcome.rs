//! Turns tonic's own errors, for requests that it cannot read, into the form of all other errors.

use http::{HeaderValue, Response};
use tonic::{Code, Status, body::Body};

use super::admission::larger_than;

/// The header with an error's details. All errors of the services have it.
const DETAILS: &str = "grpc-status-details-bin";

/// Corrects an error that tonic has made.
pub(super) fn mend(response: &mut Response<Body>, request_bytes_max: usize) {
    let headers = response.headers_mut();
    let is_explained = headers.contains_key(DETAILS);
    let Some(code) = headers.get_mut(Status::GRPC_STATUS) else {
        return;
    };
    match Code::from_bytes(code.as_bytes()) {
        // No service here answers INTERNAL. tonic does for a message that is nested beyond prost's limit, is not UTF-8, or is not
        // protobuf. Sending it again would not help: the caller made the mistake.
        Code::Internal => *code = HeaderValue::from(Code::InvalidArgument as i32),
        // The message is larger than a request may be after it was decompressed.
        Code::OutOfRange | Code::ResourceExhausted if !is_explained => {
            // Plain text always fits into a header.
            let _ = larger_than(request_bytes_max).add_header(headers);
        }
        _ => {}
    }
}
