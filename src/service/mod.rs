//! The gRPC services: one file each. A method authorizes, validates, makes one catalog call, and replies.

mod backup_service;
mod job_service;
mod list;
mod maintenance_service;
mod status;

pub use backup_service::Backups;
pub use job_service::Jobs;
pub use maintenance_service::{Chunks, Maintenance};

use tonic::{Response, metadata::MetadataValue};

use crate::resource::{
    Patch, ProjectId, Resource, ResourceId, Violations, agreed_project, record_size,
};

/// Metadata of the response to a create that found an equal resource with that id, and wrote nothing: its value is `true`.
pub const UNCHANGED_METADATA: &str = "icebox-unchanged";

/// The response to a create.
fn created<T>(message: T, is_new: bool) -> Response<T> {
    let mut response = Response::new(message);
    if !is_new {
        let metadata = response.metadata_mut();
        metadata.insert(UNCHANGED_METADATA, MetadataValue::from_static("true"));
    }
    response
}

/// The project and id that a request is about.
///
/// # Errors
/// Both, if both are bad.
fn one<R: Resource>(project_id: &str, id: &str) -> Result<(ProjectId, ResourceId), Violations> {
    let mut violations = Violations::new();
    let project = violations.collect(ProjectId::parse("project_id", project_id));
    let id = violations.collect(ResourceId::parse(R::KIND.id_field, id));
    project.zip(id).ok_or(violations)
}

/// What an update request is about, and what it is to change.
///
/// # Errors
/// Every bad field.
fn update<R: Resource>(
    project_id: &str,
    resource: Option<&R>,
    mask: Option<&prost_types::FieldMask>,
) -> Result<(ProjectId, ResourceId, Patch<R>), Violations> {
    let kind = R::KIND;
    let Some(resource) = resource else {
        return Err(Violations::one(kind.field, "is required"));
    };
    // Before anything of it is copied or searched: what is too large cannot be stored, whatever the mask takes of it.
    record_size(resource)?;
    let mut violations = Violations::new();
    let project = violations.collect(agreed_project(project_id, resource));
    let id_field = format!("{}.{}", kind.field, kind.id_field);
    let id = violations.collect(ResourceId::parse(id_field, resource.id()));
    let patch = violations.collect(Patch::new(resource, mask));
    match (project, id, patch) {
        (Some(project), Some(id), Some(patch)) => Ok((project, id, patch)),
        _ => Err(violations),
    }
}
