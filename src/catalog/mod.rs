//! Any resource, stored: keys, pages and mutations, generic over [`Resource`].
//!
//! What a request means is decided in `resource` and `service`; here it is made one transaction or one
//! range scan. No method blocks the async thread that calls it.

mod error;
mod keys;
mod page;
mod token;
mod verify;

use std::sync::Arc;

use bytes::Bytes;
use prost_types::Timestamp;

pub use error::Error;
pub use keys::Scope;
pub use page::{After, PAGE_BYTES_MAX, PAGE_ITEMS_MAX, Query};
pub use verify::verify;

use crate::{
    resource::{ProjectId, Resource, ResourceId, Stamps, Valid},
    store::{self, Store, Transaction},
};

/// How often a read that keeps losing a race with renames is tried again.
const GET_TRIES_MAX: usize = 16;

/// The resources in a store. Clones share it.
#[derive(Clone, Debug)]
pub struct Catalog {
    store: Arc<Store>,
}

impl Catalog {
    /// The catalog in `store`.
    #[must_use]
    pub fn new(store: Arc<Store>) -> Self {
        Catalog { store }
    }

    /// Stores a new resource and returns it as stored.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if the project has a different one with that id. An equal one is what an
    /// earlier try of the same request made: it is returned as it is.
    pub async fn create<R: Resource>(&self, resource: Valid<R>) -> Result<R, Error> {
        let resource = resource.into_inner();
        let id = id_of(&resource);
        self.commit(move |transaction| {
            let found = find::<R>(|key| transaction.get(key), resource.project_id(), id)?;
            if let Some(stored) = found {
                let mut unstamped = stored.clone();
                unstamped.set_stamps(Stamps::default());
                return if unstamped == resource {
                    Ok(stored)
                } else {
                    Err(Error::AlreadyExists {
                        kind: R::KIND,
                        id: id.to_string(),
                    })
                };
            }
            let name = resource.name().as_bytes().to_vec();
            transaction.put(keys::locator::<R>(resource.project_id(), id), name);
            let create_time = Some(time_of(transaction));
            Ok(put(transaction, resource, id, create_time))
        })
        .await
    }

    /// The resource with that id.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the project has none.
    pub async fn get<R: Resource>(&self, project: ProjectId, id: ResourceId) -> Result<R, Error> {
        self.read(move |store| {
            find(|key| store.get(key), project.as_str(), id)?.ok_or_else(|| not_found::<R>(id))
        })
        .await
    }

    /// Changes the resource with that id and returns it as stored. What `change` leaves as it is takes no
    /// revision.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Stale`] if the resource is not at the expected revision; whatever
    /// `change` refuses with.
    pub async fn update<R: Resource>(
        &self,
        project: ProjectId,
        id: ResourceId,
        expected_revision: Option<u64>,
        change: impl FnOnce(&R) -> Result<Valid<R>, Error> + Send + 'static,
    ) -> Result<R, Error> {
        self.commit(move |transaction| {
            let stored: R = expected(transaction, &project, id, expected_revision)?;
            let mut changed = change(&stored)?.into_inner();
            changed.set_stamps(stored.stamps());
            if changed == stored {
                return Ok(stored);
            }
            assert_eq!(changed.id(), stored.id(), "an update keeps the id");
            assert_eq!(
                changed.project_id(),
                stored.project_id(),
                "an update keeps the project"
            );
            if changed.name() != stored.name() {
                transaction.delete(keys::record::<R>(project.as_str(), stored.name(), id));
                let name = changed.name().as_bytes().to_vec();
                transaction.put(keys::locator::<R>(project.as_str(), id), name);
            }
            Ok(put(transaction, changed, id, stored.stamps().create_time))
        })
        .await
    }

    /// Removes the resource with that id.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Stale`] if the resource is not at the expected revision.
    pub async fn delete<R: Resource>(
        &self,
        project: ProjectId,
        id: ResourceId,
        expected_revision: Option<u64>,
    ) -> Result<(), Error> {
        self.commit(move |transaction| {
            let stored: R = expected(transaction, &project, id, expected_revision)?;
            transaction.delete(keys::record::<R>(project.as_str(), stored.name(), id));
            transaction.delete(keys::locator::<R>(project.as_str(), id));
            Ok(())
        })
        .await
    }

    /// Writes a snapshot of the whole store, while writes go on. Blocks.
    ///
    /// # Errors
    /// If the store cannot be read; what `put` refuses with.
    pub fn snapshot(
        &self,
        put: impl FnMut(Bytes) -> Result<(), store::Error>,
    ) -> Result<store::Snapshot, Error> {
        Ok(self.store.snapshot(put)?)
    }

    async fn commit<T: Send + 'static>(
        &self,
        transaction: impl FnOnce(&mut Transaction<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.store.commit(transaction).await.map(|(value, _)| value)
    }

    /// Runs a read on a thread that may wait for the disk.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || read(&store)).await {
            Ok(result) => result,
            Err(stopped) => match stopped.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(Error::Interrupted),
            },
        }
    }
}

/// Puts a resource under its name, stamped with the transaction's revision and time.
fn put<R: Resource>(
    transaction: &mut Transaction<'_>,
    mut resource: R,
    id: ResourceId,
    create_time: Option<Timestamp>,
) -> R {
    let update_time = Some(time_of(transaction));
    resource.set_stamps(Stamps {
        create_time,
        update_time,
        revision: transaction.revision(),
    });
    let key = keys::record::<R>(resource.project_id(), resource.name(), id);
    transaction.put(key, resource.encode_to_vec());
    resource
}

fn expected<R: Resource>(
    transaction: &Transaction<'_>,
    project: &ProjectId,
    id: ResourceId,
    expected_revision: Option<u64>,
) -> Result<R, Error> {
    let stored: R = find(|key| transaction.get(key), project.as_str(), id)?
        .ok_or_else(|| not_found::<R>(id))?;
    let current = stored.stamps().revision;
    match expected_revision {
        Some(expected) if expected != current => Err(Error::Stale {
            kind: R::KIND,
            id: id.to_string(),
            expected,
            current,
        }),
        _ => Ok(stored),
    }
}

/// The resource with that id, through its locator.
fn find<R: Resource>(
    get: impl Fn(&[u8]) -> Result<Option<Bytes>, store::Error>,
    project: &str,
    id: ResourceId,
) -> Result<Option<R>, Error> {
    let locator = keys::locator::<R>(project, id);
    // Outside a transaction a rename may come between the two reads: then the locator has changed, too.
    for _ in 0..GET_TRIES_MAX {
        let Some(name) = get(&locator)? else {
            return Ok(None);
        };
        let name = std::str::from_utf8(&name).map_err(|_| page::undecodable(&locator))?;
        let key = keys::record::<R>(project, name, id);
        if let Some(record) = get(&key)? {
            return R::decode(record)
                .map(Some)
                .map_err(|_| page::undecodable(&key));
        }
    }
    Err(page::undecodable(&locator))
}

fn not_found<R: Resource>(id: ResourceId) -> Error {
    Error::NotFound {
        kind: R::KIND,
        id: id.to_string(),
    }
}

fn id_of<R: Resource>(resource: &R) -> ResourceId {
    ResourceId::parse(R::KIND.id_field, resource.id()).expect("a valid resource has an id")
}

fn time_of(transaction: &Transaction<'_>) -> Timestamp {
    let time_ms = transaction.time_ms();
    let nanos = i32::try_from(time_ms % 1000).expect("below 1000") * 1_000_000;
    Timestamp {
        seconds: i64::try_from(time_ms / 1000).unwrap_or(i64::MAX),
        nanos,
    }
}
