//! A commit before it is made: what it does to resources, and what the journal keeps beside that.

use bytes::Bytes;
use prost::Message;
use prost_types::Timestamp;

use super::{Author, Stored, id_of, keys, secret};
use crate::{
    resource::{Resource, Stamps},
    store::{Batch, Write},
};

/// What one commit does. It writes each resource only once.
#[derive(Debug, Default)]
pub(super) struct Plan {
    batch: Batch,
    note: Note,
}

/// What the journal keeps of a commit beside its writes: who made it, and what it replaced.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Note {
    #[prost(string, tag = "1")]
    pub(super) caller: String,
    #[prost(string, tag = "2")]
    pub(super) peer: String,
    #[prost(message, repeated, tag = "3")]
    replaced: Vec<Replaced>,
}

/// The fields that filters test, as they were before a change. A watch of matching resources learns from them that one no longer
/// matches.
#[derive(Clone, PartialEq, Message)]
struct Replaced {
    /// The key of the resource's locator.
    #[prost(bytes = "bytes", tag = "1")]
    locator: Bytes,
    /// An encoded resource that has only these fields.
    #[prost(bytes = "bytes", tag = "2")]
    facets: Bytes,
}

impl Plan {
    /// Stores a resource that must not exist yet, stamped with the time. Returns what its record holds.
    pub(super) fn create<R: Resource>(&mut self, resource: &mut R, now: Timestamp) -> Bytes {
        resource.set_stamps(Stamps {
            create_time: Some(now),
            update_time: Some(now),
            revision: 0,
        });
        let id = id_of(resource);
        let locator = keys::locator::<R>(resource.project_id(), &id);
        let record = keys::record::<R>(resource.project_id(), resource.name(), &id);
        let batch = self.take().expect(locator.clone(), None);
        let batch = batch.put(locator, resource.name().as_bytes().to_vec());
        let (batch, record) = secret::put(batch, record, resource);
        self.batch = batch;
        self.refer(resource, &resource.references(), &[]);
        record
    }

    /// Puts a changed resource, stamped with the time, in place of the stored one. That one must still be as it was read.
    pub(super) fn replace<R: Resource>(
        &mut self,
        stored: &Stored<R>,
        changed: &mut R,
        now: Timestamp,
    ) {
        assert_eq!(changed.id(), stored.resource.id(), "an update keeps the id");
        assert_eq!(
            changed.project_id(),
            stored.resource.project_id(),
            "an update keeps the project"
        );
        changed.set_stamps(Stamps {
            create_time: stored.resource.stamps().create_time,
            update_time: Some(now),
            revision: 0,
        });
        self.expect(stored);
        self.note_replaced(stored);
        let Stored {
            locator,
            record,
            has_secret,
            ..
        } = stored;
        let mut batch = self.take();
        if *has_secret {
            // If the resource still has secret fields, they are put again below.
            batch = batch.delete(keys::secret_of(&record.key));
        }
        if changed.name() != stored.resource.name() {
            batch = batch
                .delete(record.key.clone())
                .put(locator.key.clone(), changed.name().as_bytes().to_vec());
        }
        let key = keys::record::<R>(changed.project_id(), changed.name(), &id_of(changed));
        (self.batch, _) = secret::put(batch, key, changed);
        self.refer(
            changed,
            &changed.references(),
            &stored.resource.references(),
        );
    }

    /// Deletes a resource that must still be as it was read.
    pub(super) fn delete<R: Resource>(&mut self, stored: &Stored<R>) {
        self.expect(stored);
        self.note_replaced(stored);
        let mut batch = self.take();
        if stored.has_secret {
            batch = batch.delete(keys::secret_of(&stored.record.key));
        }
        let batch = batch.delete(stored.record.key.clone());
        self.batch = batch.delete(stored.locator.key.clone());
        let resource = &stored.resource;
        self.refer(resource, &[], &resource.references());
    }

    /// Lets the commit happen only if a key is still at this revision, or still has no value.
    pub(super) fn expect_key(&mut self, key: Vec<u8>, revision: Option<u64>) {
        self.batch = self.take().expect(key, revision);
    }

    /// Keeps the references of a resource findable.
    fn refer<R: Resource>(
        &mut self,
        resource: &R,
        now: &[(u8, [u8; 16])],
        before: &[(u8, [u8; 16])],
    ) {
        let (project, id) = (resource.project_id(), id_of(resource));
        let mut batch = self.take();
        // A transaction that has read all references to a resource must notice that these have changed.
        let changed = |batch: Batch, of| batch.put(keys::users_of::<R>(of, project), Bytes::new());
        for &of in before.iter().filter(|of| !now.contains(of)) {
            batch = changed(batch.delete(keys::user::<R>(of, project, &id)), of);
        }
        for &of in now.iter().filter(|of| !before.contains(of)) {
            let key = keys::user::<R>(of, project, &id);
            batch = changed(batch.put(key, Bytes::new()), of);
        }
        self.batch = batch;
    }

    /// How many bytes the commit writes.
    pub(super) fn bytes(&self) -> usize {
        self.batch.bytes()
    }

    /// Whether the commit does anything.
    pub(super) fn writes(&self) -> bool {
        self.batch.writes()
    }

    /// Lets the commit happen only if a resource is still as it was read.
    pub(super) fn expect<R: Resource>(&mut self, stored: &Stored<R>) {
        let Stored {
            locator, record, ..
        } = stored;
        self.batch = self
            .take()
            .expect(locator.key.clone(), Some(locator.revision))
            .expect(record.key.clone(), Some(record.revision));
    }

    /// The commit as a batch, with its author.
    pub(super) fn signed(mut self, author: Option<&Author>) -> Batch {
        if let Some(author) = author {
            (*author.caller).clone_into(&mut self.note.caller);
            (*author.peer).clone_into(&mut self.note.peer);
        }
        if self.note == Note::default() {
            return self.batch;
        }
        self.batch.put(&keys::NOTE[..], self.note.encode_to_vec())
    }

    fn note_replaced<R: Resource>(&mut self, stored: &Stored<R>) {
        self.note.replaced.push(Replaced {
            locator: stored.locator.key.clone(),
            facets: stored.resource.facets().encode_to_vec().into(),
        });
    }

    fn take(&mut self) -> Batch {
        std::mem::take(&mut self.batch)
    }
}

impl Note {
    /// The note among a commit's writes.
    pub(super) fn of(writes: &[Write]) -> Note {
        let note = writes.iter().rfind(|write| write.key == keys::NOTE[..]);
        let value = note.and_then(|note| note.value.clone());
        Note::decode(value.unwrap_or_default()).unwrap_or_default()
    }

    /// The facets of a resource before the commit, by the key of its locator.
    pub(super) fn replaced(&self, locator: &[u8]) -> Option<&[u8]> {
        let replaced = self.replaced.iter();
        let mut replaced = replaced.filter(|replaced| replaced.locator == locator);
        replaced.next().map(|replaced| &*replaced.facets)
    }
}
