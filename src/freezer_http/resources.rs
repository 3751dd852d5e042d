//! Requests that every kind of resource has, except lists.

use axum::{
    body::{Body, Bytes},
    extract::Path,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header::CONTENT_TYPE};
use serde_json::{Value, json};

use super::{
    Asking,
    document::{Document, without},
    document_in,
    refusal::{Refused, mime},
};
use crate::{
    calls::undecodable,
    catalog::Error,
    freezer_json::{self, Form},
    resource::{ResourceId, Violations},
};

/// How often a replacement is tried again while the resource appears and disappears.
const REPLACE_TRIES_MAX: usize = 8;

/// `POST /v2/{project_id}/{kind}`
pub(super) async fn create<R: Document>(
    asking: Asking,
    Path(project_id): Path<String>,
    body: Bytes,
) -> Result<Response, Refused> {
    let resource = read_new::<R>(&project_id, document_in(&body)?, "")?;
    let created = create_one(&asking, &project_id, resource).await?;
    Ok(answer(
        StatusCode::CREATED,
        &json!({R::KIND.id_field: created.id()}),
    ))
}

/// `GET /v2/{project_id}/{kind}/{id}`
pub(super) async fn get<R: Document>(
    asking: Asking,
    Path((project_id, id)): Path<(String, String)>,
) -> Result<Response, Refused> {
    let calls = asking.about::<R>();
    let stored = calls.get_encoded(&project_id, &id).await?;
    written::<R>(stored.record())
}

/// `PATCH /v2/{project_id}/{kind}/{id}`: changes only what the document names.
pub(super) async fn update<R: Document>(
    asking: Asking,
    Path((project_id, id)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, Refused> {
    // Only the server sets these fields. A document that was read before may still have them.
    let document = without(R::changing(document_in(&body)?), R::OUTPUT_ONLY);
    let (mut resource, changed) = freezer_json::read_changes::<R>(&document)?;
    let id = ResourceId::of(R::KIND, R::KIND.id_field, &id)?;
    check_id(&resource, &id)?;
    resource.set_id(id);
    let is_kept = |path: &String| R::IMMUTABLE.contains(&path.as_str());
    let (kept, changed): (Vec<_>, Vec<_>) = changed.into_iter().partition(is_kept);
    let calls = asking.about::<R>();
    let update = calls.update(project_id, resource);
    let updated = update.fields(changed).keeping(kept).await?;
    if R::IS_SHOWN_WHEN_CHANGED {
        return written::<R>(&updated.encode_to_vec());
    }
    Ok(answer(StatusCode::OK, &versioned(&updated)))
}

/// `POST /v2/{project_id}/{kind}/{id}`: replaces the resource, or creates it.
pub(super) async fn replace<R: Document>(
    asking: Asking,
    Path((project_id, id)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, Refused> {
    let resource = read_new::<R>(&project_id, document_in(&body)?, &id)?;
    let calls = asking.about::<R>();
    let mut tries = 0;
    let replaced = loop {
        let update = calls.update(project_id.clone(), resource.clone());
        match update.fields(["*"]).await.map_err(Refused::from) {
            Err(refused) if refused.is_not_found() => {}
            replaced => break replaced?,
        }
        tries += 1;
        match create_one(&asking, &project_id, resource.clone()).await {
            Err(refused) if refused.is_taken() && tries < REPLACE_TRIES_MAX => {}
            created => break created?,
        }
    };
    Ok(answer(StatusCode::CREATED, &versioned(&replaced)))
}

/// `DELETE /v2/{project_id}/{kind}/{id}`
pub(super) async fn delete<R: Document>(
    asking: Asking,
    Path((project_id, id)): Path<(String, String)>,
) -> Result<StatusCode, Refused> {
    let calls = asking.about::<R>();
    calls.delete(project_id, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A new resource from its document. It belongs to the project in the URL, whatever the document says.
///
/// # Errors
/// If the document does not describe one.
pub(super) fn read_new<R: Document>(
    project_id: &str,
    document: Value,
    id: &str,
) -> Result<R, Violations> {
    let mut resource = R::new(document, id)?;
    resource.belong_to(project_id);
    Ok(resource)
}

/// # Errors
/// The same as for the call; also if there is an equal resource with that id.
async fn create_one<R: Document>(
    asking: &Asking,
    project_id: &str,
    resource: R,
) -> Result<R, Refused> {
    let calls = asking.about::<R>();
    let created = calls.create(project_id, resource).await?;
    if !created.is_new {
        return Err(Refused::from(Error::AlreadyExists {
            kind: R::KIND,
            id: created.resource.id().to_owned(),
        }));
    }
    Ok(created.resource)
}

/// Checks that a document names the resource in its URL, if it names one.
///
/// # Errors
/// If it names another.
fn check_id<R: Document>(resource: &R, id: &ResourceId) -> Result<(), Violations> {
    let own = resource.id();
    if own.is_empty() || own == id.to_string() {
        return Ok(());
    }
    Err(Violations::one(
        R::KIND.id_field,
        format!("is {own:?}, and the URL names {id}: it cannot be changed"),
    ))
}

fn versioned<R: Document>(resource: &R) -> Value {
    json!({R::KIND.id_field: resource.id(), "version": resource.stamps().revision})
}

/// The answer with the document of an encoded resource.
///
/// # Errors
/// If the stored bytes do not decode.
fn written<R: Document>(record: &[u8]) -> Result<Response, Refused> {
    let mut text = Vec::with_capacity(record.len() * 2);
    let written = R::writer(Form::Api).write(record, &mut text);
    written.map_err(|_| undecodable::<R>())?;
    Ok(json_of(StatusCode::OK, text))
}

/// The answer that tells the result of a request.
pub(super) fn answer(status: StatusCode, said: &Value) -> Response {
    json_of(status, said.to_string())
}

/// An answer whose text is JSON already.
pub(super) fn json_of(status: StatusCode, text: impl Into<Body>) -> Response {
    (status, [(CONTENT_TYPE, mime())], text.into()).into_response()
}
