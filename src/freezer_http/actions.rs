//! What is asked of stored actions beyond what is asked of every kind.

use axum::extract::Path;
use http::StatusCode;

use super::{Asking, refusal::Refused};
use crate::proto::Action;

/// `DELETE /v2/{project_id}/actions/{action_id}`: it is taken out of the jobs that use it, as Freezer has it. Only where a job would be
/// left with no action it is refused.
pub(super) async fn delete(
    asking: Asking,
    Path((project_id, action_id)): Path<(String, String)>,
) -> Result<StatusCode, Refused> {
    let calls = asking.about::<Action>();
    let delete = calls.delete(project_id, action_id);
    calls.detach_and_delete(delete).await?;
    Ok(StatusCode::NO_CONTENT)
}
