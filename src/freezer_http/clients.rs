//! What is asked of clients beyond what is asked of every kind.

use axum::{body::Bytes, extract::Path, response::Response};
use http::StatusCode;
use serde_json::json;

use super::{
    Asking, document_in,
    refusal::Refused,
    resources::{answer, read_new},
};
use crate::proto::Client;

/// `POST /v2/{project_id}/clients`: one that is registered already is refused, which a scheduler that starts again expects.
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
