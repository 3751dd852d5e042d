//! The gRPC services, one file each. A method unpacks its request, makes one call, and replies.

mod action_service;
mod audit_service;
mod backup_service;
mod client_service;
mod job_service;
mod maintenance_service;
mod pieces;
mod resources;
mod session_service;
mod status;
mod watch;

pub(crate) use action_service::Actions;
pub(crate) use audit_service::Audit;
pub(crate) use backup_service::Backups;
pub(crate) use client_service::Clients;
pub(crate) use job_service::Jobs;
pub(crate) use maintenance_service::Maintenance;
pub(crate) use pieces::{PREFIX_BYTES, Pieces};
pub(crate) use session_service::Sessions;
pub(crate) use watch::{WatchStream, Watches};

use std::sync::{Arc, atomic::AtomicUsize};

use prost::Message;
use tonic::{Request, Response, metadata::MetadataValue};

use crate::{calls::Behalf, proto::Page};

/// Metadata of the response to a create that found an equal resource with that id and wrote nothing. Its value is `true`.
pub(crate) const UNCHANGED_METADATA: &str = "icebox-unchanged";

/// A smaller page is encoded into one piece: several frames would cost more than to copy it.
const PIECES_BYTES_MIN: usize = 16 << 10;

/// The size of an answer in bytes. It is in the extensions of an answer that may be large.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnswerBytes(pub(crate) usize);

/// The bytes that a streamed answer holds besides its last message. It is in the answer's extensions.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeldBytes(pub(crate) Arc<AtomicUsize>);

/// The response with a message that may be large.
fn large<T: Message>(message: T) -> Response<T> {
    let bytes = message.encoded_len();
    of_bytes(message, bytes)
}

/// The response with a page of a list.
fn page<R>(page: Page<R>) -> Response<Page<R>> {
    let bytes = page.encoded_len();
    let mut response = of_bytes(page, bytes);
    if bytes >= PIECES_BYTES_MIN {
        let pieces = Pieces::of(response.get_ref().encoded_pieces(), bytes);
        response.extensions_mut().insert(pieces);
    }
    response
}

fn of_bytes<T>(message: T, bytes: usize) -> Response<T> {
    let mut response = Response::new(message);
    response.extensions_mut().insert(AnswerBytes(bytes));
    response
}

/// The caller on whose behalf a request is made. Without one from the guard, nothing may be touched.
fn behalf_of<T>(request: &Request<T>) -> Behalf {
    let behalf = request.extensions().get::<Behalf>();
    behalf.cloned().unwrap_or_else(Behalf::nobodys)
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
