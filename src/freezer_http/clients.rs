//! Requests that only clients have.

use axum::{body::Bytes, extract::Path, response::Response};
use http::StatusCode;
use serde_json::json;

use super::{
    Asking, document_in,
    refusal::Refused,
    resources::{answer, read_new},
};
use crate::proto::Client;

/// `POST /v2/{project_id}/clients`: refused if the client is registered already. A scheduler that starts again expects that.
pub(super) async fn register(
    asking: Asking,
    Path(project_id): Path<String>,
    body: Bytes,
) -> Result<Response, Refused> {
    let client: Client = read_new(&project_id, document_in(&body)?, "")?;
    let calls = asking.about::<Client>();
    let client = calls.register_new(&project_id, client).await?;
    Ok(answer(
        StatusCode::CREATED,
        &json!({"client_id": client.client_id}),
    ))
}
