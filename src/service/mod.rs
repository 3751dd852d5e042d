//! The gRPC services: one file each. A method takes its request apart, makes one call, and replies.

mod backup_service;
mod job_service;
mod maintenance_service;
mod status;

pub(crate) use backup_service::Backups;
pub(crate) use job_service::Jobs;
pub(crate) use maintenance_service::Maintenance;

use std::sync::Arc;

use tonic::{Request, Response, metadata::MetadataValue};

use crate::{calls::Authority, identity::Caller};

/// Metadata of the response to a create that found an equal resource with that id, and wrote nothing: its value is `true`.
pub(crate) const UNCHANGED_METADATA: &str = "icebox-unchanged";

/// On whose behalf a request is made. One that came past the guard may concern nothing.
fn authority_of<T>(request: &Request<T>) -> Arc<Authority> {
    let caller = request.extensions().get::<Arc<Caller>>();
    caller.map_or_else(
        || Arc::new(Authority::nothing()),
        |caller| caller.authority.clone(),
    )
}

/// The response to a create.
fn created<T>(message: T, is_new: bool) -> Response<T> {
    let mut response = Response::new(message);
    if !is_new {
        let metadata = response.metadata_mut();
        metadata.insert(UNCHANGED_METADATA, MetadataValue::from_static("true"));
    }
    response
}
