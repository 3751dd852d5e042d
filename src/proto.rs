//! The messages on the wire: the generated messages, clients and servers of `freezer.v2`, their descriptors, and hand-written
//! messages that pass stored records on without decoding them: pages of lists, answers to gets, and events of watches.

#[cfg(feature = "server")]
pub mod codec;
pub(crate) mod fields;
mod page;
mod single;
mod watched;

use std::sync::LazyLock;

use prost::{DecodeError, Message};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

#[allow(
    missing_docs,
    clippy::pedantic,
    clippy::large_enum_variant,
    unreachable_pub
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/freezer.v2.rs"));
}

pub use generated::*;
pub use page::{
    ListActionsResponse, ListBackupsResponse, ListClientsResponse, ListJobsResponse,
    ListSessionsResponse, Page, Revisioned, Splice,
};
pub use single::{
    CreateActionResponse, CreateBackupResponse, CreateJobResponse, CreateSessionResponse,
    GetActionResponse, GetBackupResponse, GetClientResponse, GetJobResponse, GetSessionResponse,
    Single,
};
pub use watched::{
    WatchBackupsResponse, WatchClientsResponse, WatchEvent, WatchJobsResponse,
    WatchSessionsResponse, Watched,
};

/// The encoded `FileDescriptorSet` of `proto/` with its imports and comments.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/freezer.v2.bin"));

static DESCRIPTOR_POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(DESCRIPTOR_SET).expect("build.rs wrote this set, and protox checked it")
});

/// The descriptor of a generated message.
#[must_use]
pub fn descriptor_of<M: prost::Name>() -> MessageDescriptor {
    DESCRIPTOR_POOL
        .get_message_by_name(&M::full_name())
        .expect("the descriptors are of the same files as the generated messages")
}

/// The same message, with its fields accessible by descriptor.
#[must_use]
pub fn to_dynamic<M: prost::Name>(message: &M) -> DynamicMessage {
    DynamicMessage::decode(descriptor_of::<M>(), message.encode_to_vec().as_slice())
        .expect("a message reads back under its own descriptor")
}

/// The generated message with the same fields.
///
/// # Errors
/// If `message` is not of `M`'s type and cannot be read as one.
pub fn from_dynamic<M: prost::Name + Default>(message: &DynamicMessage) -> Result<M, DecodeError> {
    M::decode(message.encode_to_vec().as_slice())
}
