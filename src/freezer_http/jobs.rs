//! Requests that only jobs have.

use axum::{body::Bytes, extract::Path, response::Response};
use http::StatusCode;
use serde_json::json;

use super::{Asking, document_in, only_member, refusal::Refused, resources::answer};
use crate::{
    proto::Job,
    resource::{Event, Violations},
};

/// `POST /v2/{project_id}/jobs/{job_id}/event`: `{"start": null}`, `{"stop": null}` or `{"abort": null}`.
pub(super) async fn event(
    asking: Asking,
    Path((project_id, job_id)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, Refused> {
    let document = document_in(&body)?;
    let (event, name) = match only_member(&document) {
        Some(("start", _)) => (Event::Start, "start"),
        Some(("stop", _)) => (Event::Stop, "stop"),
        Some(("abort", _)) => (Event::Abort, "abort"),
        _ => {
            let expected = r#"must be {"start": null}, {"stop": null} or {"abort": null}"#;
            return Err(Violations::one("the body", expected).into());
        }
    };
    let calls = asking.about::<Job>();
    let (_, is_news) = calls.ask(event, &project_id, &job_id).await?;
    let result = if is_news {
        "success".to_owned()
    } else {
        format!("{name} already requested")
    };
    Ok(answer(StatusCode::ACCEPTED, &json!({"result": result})))
}
