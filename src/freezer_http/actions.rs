//! Requests that only stored actions have.

use axum::extract::Path;
use http::StatusCode;

use super::{Asking, refusal::Refused};
use crate::proto::Action;

/// `DELETE /v2/{project_id}/actions/{action_id}`: takes the action out of the jobs that use it, as Freezer does. It is refused only
/// if a job would have no action left.
pub(super) async fn delete(
    asking: Asking,
    Path((project_id, action_id)): Path<(String, String)>,
) -> Result<StatusCode, Refused> {
    let calls = asking.about::<Action>();
    let delete = calls.delete(project_id, action_id);
    calls.detach_and_delete(delete).await?;
    Ok(StatusCode::NO_CONTENT)
}
