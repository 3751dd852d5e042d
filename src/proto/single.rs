//! The answer to a get or a create. On the wire it equals a message whose field 1 is the resource, which stays encoded as it is stored.

use std::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{self, DecodeContext, WireType},
};

use super::{Action, Backup, Client, Job, Revisioned, Session};

const RECORD_TAG: u32 = 1;

/// One backup.
pub type GetBackupResponse = Single<Backup>;
/// The backup as it is stored.
pub type CreateBackupResponse = Single<Backup>;
/// One stored action.
pub type GetActionResponse = Single<Action>;
/// The action as it is stored.
pub type CreateActionResponse = Single<Action>;
/// One client.
pub type GetClientResponse = Single<Client>;
/// One session.
pub type GetSessionResponse = Single<Session>;
/// The session as it is stored.
pub type CreateSessionResponse = Single<Session>;
/// One job.
pub type GetJobResponse = Single<Job>;
/// The job as it is stored.
pub type CreateJobResponse = Single<Job>;

/// One resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Single<T> {
    record: Bytes,
    /// The revision that stands beside a stored record. On the wire it comes last, so that it counts. It is 0 in what came from the
    /// wire.
    revision: u64,
    resource: PhantomData<fn() -> T>,
}

impl<T: Revisioned> Single<T> {
    /// The answer with this encoded record and its revision.
    #[must_use]
    pub fn new(record: Bytes, revision: u64) -> Self {
        Single {
            record,
            revision,
            resource: PhantomData,
        }
    }

    /// The encoded resource, without the revision that stands beside it.
    #[must_use]
    pub fn record(&self) -> &[u8] {
        &self.record
    }

    /// Writes the resource as a field of another message.
    pub(super) fn encode_as(&self, tag: u32, buf: &mut impl BufMut) {
        encoding::encode_key(tag, WireType::LengthDelimited, buf);
        encoding::encode_varint(self.record_len() as u64, buf);
        buf.put_slice(&self.record);
        if self.revision != 0 {
            encoding::uint64::encode(T::REVISION_TAG, &self.revision, buf);
        }
    }

    /// The number of bytes that [`Single::encode_as`] writes.
    pub(super) fn encoded_len_as(&self, tag: u32) -> usize {
        let len = self.record_len();
        encoding::key_len(tag) + encoding::encoded_len_varint(len as u64) + len
    }

    fn record_len(&self) -> usize {
        match self.revision {
            0 => self.record.len(),
            revision => {
                self.record.len() + encoding::uint64::encoded_len(T::REVISION_TAG, &revision)
            }
        }
    }
}

impl<T: Revisioned + Message + Default> Single<T> {
    /// The decoded resource.
    ///
    /// # Errors
    /// If the record is not an encoded `T`.
    pub fn decoded(&self) -> Result<T, DecodeError> {
        let mut resource = T::decode(self.record.clone())?;
        if self.revision != 0 {
            let mut field = Vec::new();
            encoding::uint64::encode(T::REVISION_TAG, &self.revision, &mut field);
            resource.merge(field.as_slice())?;
        }
        Ok(resource)
    }
}

impl<T: Revisioned> Default for Single<T> {
    fn default() -> Self {
        Single::new(Bytes::new(), 0)
    }
}

impl<T: Revisioned> Message for Single<T> {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        self.encode_as(RECORD_TAG, buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        if tag == RECORD_TAG {
            encoding::bytes::merge(wire_type, &mut self.record, buf, ctx)
        } else {
            encoding::skip_field(wire_type, tag, buf, ctx)
        }
    }

    fn encoded_len(&self) -> usize {
        self.encoded_len_as(RECORD_TAG)
    }

    fn clear(&mut self) {
        *self = Single::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The response as a generator makes it from the `.proto`.
    #[derive(Clone, PartialEq, Message)]
    struct OrdinaryGetJobResponse {
        #[prost(message, optional, tag = "1")]
        job: Option<Job>,
    }

    #[test]
    fn a_single_is_an_ordinary_get_response_on_the_wire() {
        for revision in [1, 300, u64::MAX] {
            let stored = Job {
                description: "nightly".into(),
                ..Job::default()
            };
            let job = Job {
                revision,
                ..stored.clone()
            };
            let ordinary = OrdinaryGetJobResponse {
                job: Some(job.clone()),
            };
            let single = GetJobResponse::new(stored.encode_to_vec().into(), revision);
            assert_eq!(single.encode_to_vec(), ordinary.encode_to_vec());
            assert_eq!(single.encoded_len(), ordinary.encoded_len());
            assert_eq!(single.decoded().unwrap(), job);
            let read_back = GetJobResponse::decode(ordinary.encode_to_vec().as_slice()).unwrap();
            assert_eq!(read_back.decoded().unwrap(), job);
        }
    }
}
