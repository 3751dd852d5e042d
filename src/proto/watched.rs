//! One message of a watch. On the wire it equals `revision = 1`, `put = 2`, `removed_…_id = 3` and `synced = 4` of the `.proto`.
//!
//! A resource is passed on as it is stored, so that all its watches share what was encoded once.

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{self, DecodeContext, WireType},
};

use super::{Backup, Client, Job, Revisioned, Session, Single};

const REVISION_TAG: u32 = 1;
const PUT_TAG: u32 = 2;
const REMOVED_TAG: u32 = 3;
const SYNCED_TAG: u32 = 4;

/// A message of a watch of backups.
pub type WatchBackupsResponse = Watched<Backup>;
/// A message of a watch of clients.
pub type WatchClientsResponse = Watched<Client>;
/// A message of a watch of sessions.
pub type WatchSessionsResponse = Watched<Session>;
/// A message of a watch of jobs.
pub type WatchJobsResponse = Watched<Job>;

/// One message of a watch.
#[derive(Clone, Debug, PartialEq)]
pub struct Watched<T> {
    /// The revision to resume after: a watch that does so misses nothing, and repeats nothing. It is 0 while what is stored is
    /// still being sent.
    pub revision: u64,
    said: Said<T>,
}

#[derive(Clone, Debug, PartialEq)]
enum Said<T> {
    Nothing,
    /// An encoded resource, with its revision beside it.
    Put(Single<T>),
    Removed(String),
    Synced(bool),
}

/// An event of a watch.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent<T> {
    /// A resource as it is stored now.
    Put(T),
    /// The id of a resource that was deleted, or no longer matches.
    Removed(String),
    /// Everything that was committed so far has been sent.
    Synced,
}

impl<T: Revisioned> Watched<T> {
    /// The message that a resource is stored, with its revision.
    #[must_use]
    pub fn put(revision: u64, record: Bytes, record_revision: u64) -> Self {
        Watched {
            revision,
            said: Said::Put(Single::new(record, record_revision)),
        }
    }

    /// The message that a resource is gone.
    #[must_use]
    pub fn removed(revision: u64, id: String) -> Self {
        Watched {
            revision,
            said: Said::Removed(id),
        }
    }

    /// The message that everything has been sent.
    #[must_use]
    pub fn synced(revision: u64) -> Self {
        Watched {
            revision,
            said: Said::Synced(true),
        }
    }
}

impl<T: Revisioned + Message + Default> Watched<T> {
    /// The event, or `None` for an event that only a later version knows.
    ///
    /// # Errors
    /// If the resource is not an encoded `T`.
    pub fn decoded(&self) -> Result<Option<WatchEvent<T>>, DecodeError> {
        Ok(match &self.said {
            Said::Put(resource) => Some(WatchEvent::Put(resource.decoded()?)),
            Said::Removed(id) => Some(WatchEvent::Removed(id.clone())),
            Said::Synced(true) => Some(WatchEvent::Synced),
            Said::Synced(false) | Said::Nothing => None,
        })
    }
}

impl<T> Default for Watched<T> {
    fn default() -> Self {
        Watched {
            revision: 0,
            said: Said::Nothing,
        }
    }
}

impl<T: Revisioned> Message for Watched<T> {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        if self.revision != 0 {
            encoding::uint64::encode(REVISION_TAG, &self.revision, buf);
        }
        match &self.said {
            Said::Nothing => {}
            Said::Put(resource) => resource.encode_as(PUT_TAG, buf),
            Said::Removed(id) => encoding::string::encode(REMOVED_TAG, id, buf),
            Said::Synced(synced) => encoding::bool::encode(SYNCED_TAG, synced, buf),
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
            REVISION_TAG => encoding::uint64::merge(wire_type, &mut self.revision, buf, ctx),
            PUT_TAG => {
                let mut record = Bytes::new();
                encoding::bytes::merge(wire_type, &mut record, buf, ctx)?;
                self.said = Said::Put(Single::new(record, 0));
                Ok(())
            }
            REMOVED_TAG => {
                let mut id = String::new();
                encoding::string::merge(wire_type, &mut id, buf, ctx)?;
                self.said = Said::Removed(id);
                Ok(())
            }
            SYNCED_TAG => {
                let mut synced = false;
                encoding::bool::merge(wire_type, &mut synced, buf, ctx)?;
                self.said = Said::Synced(synced);
                Ok(())
            }
            _ => encoding::skip_field(wire_type, tag, buf, ctx),
        }
    }

    fn encoded_len(&self) -> usize {
        let revision = match self.revision {
            0 => 0,
            revision => encoding::uint64::encoded_len(REVISION_TAG, &revision),
        };
        let said = match &self.said {
            Said::Nothing => 0,
            Said::Put(resource) => resource.encoded_len_as(PUT_TAG),
            Said::Removed(id) => encoding::string::encoded_len(REMOVED_TAG, id),
            Said::Synced(synced) => encoding::bool::encoded_len(SYNCED_TAG, synced),
        };
        revision + said
    }

    fn clear(&mut self) {
        *self = Watched::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The response as a generator makes it from the `.proto`.
    #[derive(Clone, PartialEq, Message)]
    struct OrdinaryWatchJobsResponse {
        #[prost(uint64, tag = "1")]
        revision: u64,
        #[prost(oneof = "Change", tags = "2, 3, 4")]
        change: Option<Change>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    enum Change {
        #[prost(message, tag = "2")]
        Put(Job),
        #[prost(string, tag = "3")]
        RemovedJobId(String),
        #[prost(bool, tag = "4")]
        Synced(bool),
    }

    #[test]
    fn what_a_watch_says_is_an_ordinary_response_on_the_wire() {
        let stored = Job {
            description: "nightly".into(),
            ..Job::default()
        };
        let job = Job {
            revision: 300,
            ..stored.clone()
        };
        let record = Bytes::from(stored.encode_to_vec());
        for (watched, change, event) in [
            (
                Watched::put(7, record, 300),
                Change::Put(job.clone()),
                WatchEvent::Put(job),
            ),
            (
                Watched::removed(7, "0a".into()),
                Change::RemovedJobId("0a".into()),
                WatchEvent::Removed("0a".into()),
            ),
            (Watched::synced(7), Change::Synced(true), WatchEvent::Synced),
        ] {
            let ordinary = OrdinaryWatchJobsResponse {
                revision: 7,
                change: Some(change),
            };
            assert_eq!(watched.encode_to_vec(), ordinary.encode_to_vec());
            assert_eq!(watched.encoded_len(), ordinary.encoded_len());
            let read_back = WatchJobsResponse::decode(&*ordinary.encode_to_vec()).unwrap();
            for watched in [watched, read_back] {
                assert_eq!(watched.revision, 7);
                assert_eq!(watched.decoded().unwrap().as_ref(), Some(&event));
            }
        }
    }
}
