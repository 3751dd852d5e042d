//! What tonic says of a request that it cannot read, in the words of all other errors.

use http::{HeaderValue, Response};
use tonic::{Code, Status, body::Body};

use super::admission::larger_than;

/// The header of an error's details, which all errors from here have.
const DETAILS: &str = "grpc-status-details-bin";

/// Puts right what tonic has answered by itself.
pub(super) fn mend(response: &mut Response<Body>, request_bytes_max: usize) {
    let headers = response.headers_mut();
    let is_explained = headers.contains_key(DETAILS);
    let Some(code) = headers.get_mut(Status::GRPC_STATUS) else {
        return;
    };
    match Code::from_bytes(code.as_bytes()) {
        // No service here does when a message is nested beyond prost's limit, not UTF-8, or not protobuf. Sending it again would
        // not help: the caller is at fault.
        Code::Internal => *code = HeaderValue::from(Code::InvalidArgument as i32),
        // A message is larger than a request may be once it is decompressed.
        Code::OutOfRange | Code::ResourceExhausted if !is_explained => {
            // The message is plain text: it fits into a header.
            let _ = larger_than(request_bytes_max).add_header(headers);
        }
        _ => {}
    }
}
