//! Requests that only sessions have.

use axum::{body::Bytes, extract::Path, response::Response};
use http::StatusCode;
use serde_json::{Value, json};

use super::{Asking, document_in, only_member, refusal::Refused, resources::answer};
use crate::{freezer_json::whole_number, proto::Session, resource::Violations};

/// `PUT /v2/{project_id}/sessions/{session_id}/jobs/{job_id}`
pub(super) async fn add_job(
    asking: Asking,
    Path((project_id, session_id, job_id)): Path<(String, String, String)>,
) -> Result<StatusCode, Refused> {
    let calls = asking.about::<Session>();
    calls.add_job(&project_id, &session_id, &job_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /v2/{project_id}/sessions/{session_id}/jobs/{job_id}`
pub(super) async fn remove_job(
    asking: Asking,
    Path((project_id, session_id, job_id)): Path<(String, String, String)>,
) -> Result<StatusCode, Refused> {
    let calls = asking.about::<Session>();
    calls.remove_job(&project_id, &session_id, &job_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v2/{project_id}/sessions/{session_id}/action`: `{"start": {"job_id", "current_tag"}}`, or
/// `{"end": {"job_id", "current_tag", "result"}}`.
pub(super) async fn action(
    asking: Asking,
    Path((project_id, session_id)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, Refused> {
    let asked = Asked::read(&document_in(&body)?)?;
    let calls = asking.about::<Session>();
    let Asked {
        job_id,
        current_tag,
        result,
    } = &asked;
    let answered = match result {
        None => {
            calls
                .start(&project_id, &session_id, job_id, *current_tag)
                .await?
        }
        Some(result) => {
            calls
                .end(&project_id, &session_id, job_id, *current_tag, result)
                .await?
        }
    };
    Ok(answer(
        StatusCode::ACCEPTED,
        &json!({"result": answered.result, "session_tag": answered.session_tag}),
    ))
}

/// The forms of a request of a member.
const EXPECTED: &str = r#"must be {"start": {"job_id", "current_tag"}} or {"end": {"job_id", "current_tag", "result"}}"#;

/// A member's request: may it run, or, with a result, its run has ended.
struct Asked {
    job_id: String,
    current_tag: i64,
    result: Option<String>,
}

impl Asked {
    /// # Errors
    /// Every bad field.
    fn read(document: &Value) -> Result<Asked, Violations> {
        let Some((verb @ ("start" | "end"), asked)) = only_member(document) else {
            return Err(Violations::one("the body", EXPECTED));
        };
        let mut violations = Violations::new();
        let mut text = |key: &str| {
            let text = asked.get(key).and_then(Value::as_str);
            if text.is_none() {
                violations.add(format!("{verb}.{key}"), "must be a string");
            }
            text.unwrap_or_default().to_owned()
        };
        let job_id = text("job_id");
        let result = (verb == "end").then(|| text("result"));
        let current_tag = asked.get("current_tag").and_then(whole_number);
        if current_tag.is_none() {
            violations.add(format!("{verb}.current_tag"), "must be a whole number");
        }
        violations.or(Asked {
            job_id,
            current_tag: current_tag.unwrap_or_default(),
            result,
        })
    }
}
