//! What is said on the wire: the generated messages, clients and servers of `freezer.v2`, their
//! descriptors, and the one hand-written message, a page of a list.

pub mod codec;

use std::{marker::PhantomData, sync::LazyLock};

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{self, DecodeContext, WireType},
};
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

/// One page of a list, on the wire the same as `repeated T = 1`, `next_page_token = 2` and
/// `revision = 3` of the `.proto`.
///
/// The records are kept encoded: a server writes them as they are stored, and a client decodes them
/// when, and if, it looks at them.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    /// The encoded `T`s, in order.
    pub records: Vec<Record>,
    /// Where the next page starts. Empty on the last page.
    pub next_page_token: String,
    /// The catalog revision that this page shows at least.
    pub revision: u64,
    resource: PhantomData<fn() -> T>,
}

/// An encoded resource. The revision of a stored one stands beside it, since it is known only after the resource is encoded; on
/// the wire it is the last field, which counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    encoded: Bytes,
    revision: Option<u64>,
}

impl Record {
    /// A stored resource, with its revision.
    #[must_use]
    pub fn stamped(encoded: Bytes, revision: u64) -> Self {
        Record {
            encoded,
            revision: Some(revision),
        }
    }

    fn len(&self, revision_tag: u32) -> usize {
        let stamp = |revision| encoding::uint64::encoded_len(revision_tag, &revision);
        self.encoded.len() + self.revision.map_or(0, stamp)
    }
}

/// A message that keeps the revision of a stored resource.
pub trait Revisioned {
    /// The number of its field `revision`.
    const REVISION_TAG: u32;
}

impl Revisioned for Backup {
    const REVISION_TAG: u32 = 12;
}

impl Revisioned for Job {
    const REVISION_TAG: u32 = 14;
}

/// A page of backups.
pub type ListBackupsResponse = Page<Backup>;
/// A page of jobs.
pub type ListJobsResponse = Page<Job>;

impl<T> Page<T> {
    /// A page of these encoded records.
    #[must_use]
    pub fn new(records: Vec<Record>, next_page_token: String, revision: u64) -> Self {
        Page {
            records,
            next_page_token,
            revision,
            resource: PhantomData,
        }
    }
}

impl<T: Message + Default + Revisioned> Page<T> {
    /// The records, decoded.
    ///
    /// # Errors
    /// If a record is not an encoded `T`.
    pub fn decoded(&self) -> Result<Vec<T>, DecodeError> {
        let decoded = |record: &Record| match record.revision {
            None => T::decode(record.encoded.clone()),
            Some(revision) => {
                let mut stamped = record.encoded.to_vec();
                encoding::uint64::encode(T::REVISION_TAG, &revision, &mut stamped);
                T::decode(stamped.as_slice())
            }
        };
        self.records.iter().map(decoded).collect()
    }
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Page::new(Vec::new(), String::new(), 0)
    }
}

const RECORDS_TAG: u32 = 1;
const NEXT_PAGE_TOKEN_TAG: u32 = 2;
const REVISION_TAG: u32 = 3;

impl<T: Revisioned + Send + Sync> Message for Page<T> {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        for record in &self.records {
            encoding::encode_key(RECORDS_TAG, WireType::LengthDelimited, buf);
            encoding::encode_varint(record.len(T::REVISION_TAG) as u64, buf);
            buf.put_slice(&record.encoded);
            if let Some(revision) = record.revision {
                encoding::uint64::encode(T::REVISION_TAG, &revision, buf);
            }
        }
        if !self.next_page_token.is_empty() {
            encoding::string::encode(NEXT_PAGE_TOKEN_TAG, &self.next_page_token, buf);
        }
        if self.revision != 0 {
            encoding::uint64::encode(REVISION_TAG, &self.revision, buf);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            RECORDS_TAG => {
                let mut encoded = Bytes::new();
                encoding::bytes::merge(wire_type, &mut encoded, buf, ctx)?;
                self.records.push(Record {
                    encoded,
                    revision: None,
                });
                Ok(())
            }
            NEXT_PAGE_TOKEN_TAG => {
                encoding::string::merge(wire_type, &mut self.next_page_token, buf, ctx)
            }
            REVISION_TAG => encoding::uint64::merge(wire_type, &mut self.revision, buf, ctx),
            _ => encoding::skip_field(wire_type, tag, buf, ctx),
        }
    }

    fn encoded_len(&self) -> usize {
        let with_length = |record: &Record| {
            let len = record.len(T::REVISION_TAG);
            encoding::key_len(RECORDS_TAG) + encoding::encoded_len_varint(len as u64) + len
        };
        let mut len: usize = self.records.iter().map(with_length).sum();
        if !self.next_page_token.is_empty() {
            len += encoding::string::encoded_len(NEXT_PAGE_TOKEN_TAG, &self.next_page_token);
        }
        if self.revision != 0 {
            len += encoding::uint64::encoded_len(REVISION_TAG, &self.revision);
        }
        len
    }

    fn clear(&mut self) {
        *self = Page::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The response as any other client generates it from the `.proto`.
    #[derive(Clone, PartialEq, Message)]
    struct OrdinaryListJobsResponse {
        #[prost(message, repeated, tag = "1")]
        jobs: Vec<Job>,
        #[prost(string, tag = "2")]
        next_page_token: String,
        #[prost(uint64, tag = "3")]
        revision: u64,
    }

    #[test]
    fn a_page_is_an_ordinary_list_response_on_the_wire() {
        let ordinary = OrdinaryListJobsResponse {
            jobs: vec![
                Job {
                    description: "nightly".into(),
                    revision: 7,
                    ..Job::default()
                },
                Job {
                    revision: 1 << 40,
                    ..Job::default()
                },
                Job {
                    job_actions: vec![JobAction::default()],
                    revision: u64::MAX,
                    ..Job::default()
                },
            ],
            next_page_token: "token".into(),
            revision: 300,
        };
        let page = Page::<Job>::new(
            ordinary
                .jobs
                .iter()
                .map(|job| {
                    let unstamped = Job {
                        revision: 0,
                        ..job.clone()
                    };
                    Record::stamped(unstamped.encode_to_vec().into(), job.revision)
                })
                .collect(),
            "token".into(),
            300,
        );
        assert_eq!(page.encode_to_vec(), ordinary.encode_to_vec());
        assert_eq!(page.encoded_len(), ordinary.encoded_len());
        let read_back = Page::<Job>::decode(ordinary.encode_to_vec().as_slice()).unwrap();
        assert_eq!(read_back.decoded().unwrap(), ordinary.jobs);
        assert_eq!(page.decoded().unwrap(), ordinary.jobs);
    }
}
