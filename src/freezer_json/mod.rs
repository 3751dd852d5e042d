//! Freezer's JSON documents, read leniently and written as Freezer writes them.
//!
//! A field's name in `proto/` is its key in Freezer's JSON. So the descriptors say all there is to know about a resource, and a new
//! one needs only its two public functions here.
//!
//! **Reading** takes what agents and schedulers really send:
//! - `null` is "unset" everywhere, and so is `""` for a number or a bool;
//! - an integer may be written as `14`, `14.0` or `"14"`, a bool as `true` or `"True"`;
//! - what does not fit its field, and every key without a field, is kept verbatim in the message's
//!   `extra`, if it has one. A document's own key `extra` is such a key like any other
//!   (`extra.extra`), since the field `extra` never shows in a document;
//! - in a message without `extra`, a value that does not fit is refused, and a key without a field is
//!   left out and told as a note;
//! - `create_time`, `update_time` and `revision` are the server's to set, and ignored.
//!
//! **Writing** gives the set fields and what is in `extra`, side by side, and the keys of
//! [`ALWAYS_WRITTEN`](shape::ALWAYS_WRITTEN).
//!
//! Nothing here checks whether a resource makes sense: the server validates what it is sent.

mod documented;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod read;
mod shape;
#[cfg(test)]
mod tests;
mod write;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

pub(crate) use self::{
    documented::{Documented, path_in_document},
    read::{read_changes, read_document, whole_number, with_metadata_apart},
    write::Writer,
};
use crate::proto::{Action, Backup, Client, Job, Session};

/// Fields that only the server sets: ignored on reading, and written only in [`Form::Full`].
const OUTPUT_ONLY: [&str; 4] = ["create_time", "update_time", "last_seen_time", "revision"];

/// The field for keys and values that have no other place.
const EXTRA: &str = "extra";

const STRUCT: &str = "google.protobuf.Struct";
const TIMESTAMP: &str = "google.protobuf.Timestamp";

/// The resource that a document describes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Document {
    /// A backup.
    Backup(Backup),
    /// A job.
    Job(Job),
    /// A client.
    Client(Client),
    /// A stored action.
    Action(Action),
    /// A session.
    Session(Session),
}

/// The result of reading a document.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Read {
    /// The resource that it describes.
    pub document: Document,
    /// What was left out or changed: one sentence each, starting with the key's path.
    pub notes: Vec<String>,
}

/// Which fields are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The keys that Freezer knows.
    Document,
    /// These, and `create_time`, `update_time` (RFC 3339, in UTC) and `revision`.
    Full,
    /// The keys of Freezer's HTTP API: those of `Document`, and those that its clients expect always.
    Api,
}

fn extra_field(descriptor: &MessageDescriptor) -> Option<FieldDescriptor> {
    descriptor.get_field_by_name(EXTRA).filter(
        |field| matches!(field.kind(), Kind::Message(kind) if kind.full_name() == STRUCT && !field.is_list()),
    )
}

fn is_output_only(field: &FieldDescriptor) -> bool {
    OUTPUT_ONLY.contains(&field.name())
}
