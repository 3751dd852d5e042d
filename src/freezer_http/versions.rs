//! The versions of the API, which clients ask for before anything else.

use axum::{body::Body, response::Response};
use http::{HeaderMap, HeaderValue, Request, StatusCode, header::HOST};
use serde_json::json;

use super::resources::answer;

/// `GET /`, which offers them as choices, and `GET /v2`. Everybody may ask.
pub(super) fn versions(status: StatusCode, scheme: &str, request: &Request<Body>) -> Response {
    let at = host_of(scheme, request.headers());
    let versions = json!({"versions": [{
        "id": "v2",
        "status": "CURRENT",
        "updated": "2018-02-21T13:30:00",
        "links": [{"rel": "self", "href": format!("{at}/v2/")}],
    }]});
    answer(status, &versions)
}

/// The address of the server as the client wrote it in its request. Empty if it did not.
pub(super) fn host_of(scheme: &str, headers: &HeaderMap) -> String {
    let host = headers.get(HOST).map(HeaderValue::to_str);
    host.and_then(Result::ok)
        .map_or_else(String::new, |host| format!("{scheme}://{host}"))
}
