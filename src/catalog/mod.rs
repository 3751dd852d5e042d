//! The catalog: keys, pages and changes of any kind of [`Resource`].
//!
//! `resource` and `calls` decide what a request means. The catalog turns it into one batch or one range scan. No method blocks the
//! async thread that calls it.

mod audit;
mod bells;
mod changes;
mod error;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod heard;
mod keys;
mod page;
mod plan;
mod secret;
mod seen;
#[cfg(test)]
mod tests;
mod token;
mod touched;
mod transaction;
mod verify;
mod watch;

use std::{
    hash::{BuildHasher, RandomState},
    ops::ControlFlow,
    sync::Arc,
};

use bytes::Bytes;
use prost_types::Timestamp;
use tokio::sync::{self, Mutex, OwnedSemaphorePermit, Semaphore};

pub(crate) use audit::{AUDITED, AuditQuery, Author};
pub use changes::{Change, Changed, Changes};
pub use error::Error;
pub(crate) use keys::Scope;
pub(crate) use page::{After, Only, PAGE_ITEMS_MAX, Query};
pub use verify::Counts;
pub(crate) use verify::{for_each, verify};
pub(crate) use watch::{BOOKMARK_INTERVAL, Watch, WatchQuery};

use plan::Plan;
pub(crate) use transaction::Transaction;

use crate::{
    clock,
    proto::{Action, Backup, Client, Job, Session, Single},
    resource::{ProjectId, Resource, ResourceId, Stamps, Valid, Violations},
    store::{self, Entry, Found, Outcome, Reach, Read, Reading, Store},
};

/// How often a read is tried again that keeps losing a race with renames.
const GET_TRIES_MAX: usize = 16;
/// How often a change is tried again that keeps losing a race with other changes.
const CHANGE_TRIES_MAX: usize = 16;
/// The most bytes that one change may write: a store commits no more at a time.
const COMMIT_BYTES_MAX: usize = 4 << 20;
/// The number of locks at which changes of the same resource queue. Two resources that share a lock only wait for each other.
const LOCKS: usize = 1024;

/// The resources in a store. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Catalog {
    store: Arc<Store>,
    /// Lets changes of one resource in this process come one after another, so that none of them loses every race.
    changing: Arc<[Mutex<()>]>,
    hasher: RandomState,
    seen: Arc<seen::Seen>,
    heard: Arc<heard::Heard>,
    bells: Arc<bells::Bells>,
    /// Allows one snapshot at a time, since each reads the whole store.
    snapshots: Arc<Semaphore>,
}

/// The state of a store, and what it holds.
#[derive(Clone, Debug)]
pub struct Status {
    /// The store's id.
    pub store: String,
    /// The revision of the last commit.
    pub revision: u64,
    /// What is wrong with the store, if anything.
    pub condition: store::Condition,
    /// How many resources it holds.
    pub counts: Counts,
    /// What it uses on the disk.
    pub usage: store::Usage,
}

/// A stored resource together with the entries that it was read from.
pub(crate) struct Stored<R> {
    /// The resource with its secret fields.
    pub(crate) resource: R,
    locator: Entry,
    record: Entry,
    has_secret: bool,
}

/// What a create has stored, or an earlier try of it.
pub(crate) struct Made<R> {
    /// The resource with its secret fields.
    pub(crate) resource: Box<R>,
    /// The encoded resource without its secret fields and its revision.
    pub(crate) record: Bytes,
    pub(crate) is_new: bool,
}

impl Catalog {
    /// The catalog of the resources in `store`.
    #[must_use]
    pub(crate) fn new(store: Store) -> Self {
        Catalog {
            store: Arc::new(store),
            changing: (0..LOCKS).map(|_| Mutex::new(())).collect(),
            hasher: RandomState::new(),
            seen: Arc::default(),
            heard: Arc::default(),
            bells: Arc::default(),
            snapshots: Arc::new(Semaphore::new(1)),
        }
    }

    /// Stores a new resource.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if the project has a different resource with that id. If it has an equal one, an earlier try of the
    /// same request made it: that one is returned.
    pub(crate) async fn create<R: Resource>(
        &self,
        author: Option<&Author>,
        resource: Valid<R>,
    ) -> Result<Made<R>, Error> {
        let mut resource = resource.into_inner();
        let id = id_of(&*resource);
        let project = project_of(&*resource);
        // Each try takes from the neighbours what they say at that time.
        let asked = R::HAS_NEIGHBOURS.then(|| Arc::new(R::clone(&resource)));
        for _ in 0..CHANGE_TRIES_MAX {
            let mut plan = Plan::default();
            let record;
            // What not every create does is boxed, so that the others have no room for it in their futures.
            if let Some(asked) = asked.clone() {
                let settled = Box::pin(self.settled(project.clone(), asked));
                (resource, record, plan) = settled.await?;
            } else {
                record = plan.create(&mut *resource, self.now());
            }
            if let Outcome::Committed(revision) = self.store.commit(plan.signed(author)).await? {
                set_revision(&mut *resource, revision);
                tell("created", &*resource);
                return Ok(Made {
                    resource,
                    record,
                    is_new: true,
                });
            }
            let made_before = self.made_before(project.clone(), id.clone(), &mut *resource);
            if let Some(record) = Box::pin(made_before).await? {
                return Ok(Made {
                    resource,
                    record,
                    is_new: false,
                });
            }
        }
        Err(store::Error::Busy.into())
    }

    /// A new resource with what its neighbours say of it, what its record holds, and the plan to store it.
    ///
    /// # Errors
    /// The same as for [`Transaction::create`].
    async fn settled<R: Resource>(
        &self,
        project: ProjectId,
        asked: Arc<R>,
    ) -> Result<(Box<R>, Bytes, Plan), Error> {
        let now = self.now();
        self.store
            .read(Reach::Page, move |view| {
                let mut transaction = Transaction::new(view, &project, now);
                let (settled, record) = transaction.create(R::clone(&asked))?;
                let plan = transaction.into_plan().unwrap_or_default();
                Ok((Box::new(settled), record, plan))
            })
            .await
    }

    /// What the record holds, if an earlier try of the same create stored the resource, which then becomes what is stored. If nothing
    /// is stored with its id, it was deleted in between, and can be created after all.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if something else is stored with that id.
    async fn made_before<R: Resource>(
        &self,
        project: ProjectId,
        id: ResourceId,
        resource: &mut R,
    ) -> Result<Option<Bytes>, Error> {
        let about = id.clone();
        let found: Option<Stored<R>> = self
            .store
            .read(Reach::Page, move |view| {
                find(view, project.as_str(), &about)
            })
            .await?;
        let Some(Stored {
            resource: stored,
            record,
            ..
        }) = found
        else {
            return Ok(None);
        };
        let mut unstamped = stored.clone();
        unstamped.set_stamps(Stamps::default());
        resource.set_stamps(Stamps::default());
        if unstamped != *resource {
            return Err(Error::AlreadyExists {
                kind: R::KIND,
                id: id.to_string(),
            });
        }
        *resource = stored;
        Ok(Some(record.value))
    }

    /// The resource with that id, with or without its secret fields.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the project has no such resource.
    pub(crate) async fn get<R: Resource>(
        &self,
        project: ProjectId,
        id: ResourceId,
        with_secret: bool,
    ) -> Result<Single<R>, Error> {
        self.store
            .read(Reach::Page, move |view| {
                let found = find_record::<R>(view, project.as_str(), &id)?;
                let (_, record) = found.ok_or_else(|| not_found::<R>(&id))?;
                let open = (&*record.key, &*record.value);
                let whole = secret::whole_in_view::<R>(view, open, with_secret)?;
                let value = whole.map_or(record.value, Bytes::from);
                Ok(Single::new(value, record.revision))
            })
            .await
    }

    /// Changes the resource with that id. Returns it as stored, and whether it was changed. If `change` leaves it equal, no
    /// revision is used. `change` may be called again if others change the resource meanwhile.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Stale`] if the resource is not at the expected revision; any error that `change` returns.
    pub(crate) async fn update<R: Resource>(
        &self,
        author: Option<&Author>,
        project: ProjectId,
        id: ResourceId,
        expected_revision: Option<u64>,
        change: impl Fn(&R) -> Result<R, Error> + Send + Sync + 'static,
    ) -> Result<(R, bool), Error> {
        // Patching and checking a large resource take a while, so that they do not run on an async thread.
        let about = (project, id.clone());
        let updated = self.transact(author, about, Reach::Far, move |transaction| {
            let stored = transaction.expected::<R>(&id, expected_revision)?;
            let changed = change(&stored.resource)?;
            transaction.replace(&stored, changed)
        });
        Ok(match updated.await? {
            (unchanged, None) => (unchanged, false),
            (changed, Some(revision)) => {
                let stored = with_revision(changed, revision);
                tell("updated", &stored);
                (stored, true)
            }
        })
    }

    /// Deletes the resource with that id.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Stale`] if the resource is not at the expected revision.
    pub(crate) async fn delete<R: Resource>(
        &self,
        author: Option<&Author>,
        project: ProjectId,
        id: ResourceId,
        expected_revision: Option<u64>,
    ) -> Result<(), Error> {
        let reach = if R::HAS_NEIGHBOURS {
            Reach::Far
        } else {
            Reach::Page
        };
        let about = (project, id.clone());
        let deleted = self.transact(author, about, reach, move |transaction| {
            let stored = transaction.expected::<R>(&id, expected_revision)?;
            transaction.delete(&stored)?;
            Ok(stored.resource)
        });
        let (deleted, revision) = deleted.await?;
        tell(
            "deleted",
            &with_revision(deleted, revision.unwrap_or_default()),
        );
        Ok(())
    }

    /// Builds a transaction from what is stored, and commits it. If what it has read changed meanwhile, it is built again. Returns
    /// the revision if there was anything to commit. Changes with the same `about` come one after another.
    ///
    /// # Errors
    /// Any error that `transaction` returns.
    pub(crate) async fn transact<T: Send + 'static>(
        &self,
        author: Option<&Author>,
        (project, about): (ProjectId, ResourceId),
        reach: Reach,
        transaction: impl Fn(&mut Transaction<'_>) -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<(T, Option<u64>), Error> {
        let _changing = self.lock_of(&project, &about).lock().await;
        let transaction = Arc::new(transaction);
        for _ in 0..CHANGE_TRIES_MAX {
            let (make, project, now) = (transaction.clone(), project.clone(), self.now());
            let planned = self.store.read(reach, move |view| {
                let mut begun = Transaction::new(view, &project, now);
                let done = make(&mut begun)?;
                let plan = begun.into_plan();
                match plan.as_ref().map_or(0, Plan::bytes) {
                    bytes if bytes > COMMIT_BYTES_MAX => Err(too_much(bytes)),
                    _ => Ok((done, plan)),
                }
            });
            let (done, plan) = planned.await?;
            let Some(plan) = plan else {
                return Ok((done, None));
            };
            if let Outcome::Committed(revision) = self.store.commit(plan.signed(author)).await? {
                return Ok((done, Some(revision)));
            }
        }
        Err(store::Error::Busy.into())
    }

    /// The ids of a project's resources of this kind that start with these hex digits. At most `limit` are returned.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub(crate) async fn ids_starting_with<R: Resource>(
        &self,
        project: ProjectId,
        prefix: String,
        limit: usize,
    ) -> Result<Vec<String>, Error> {
        self.store
            .read(Reach::Page, move |view| {
                let mut ids = Vec::new();
                let _all = view.scan::<Error>(
                    keys::locators_of_prefix::<R>(&prefix),
                    |Found { key, .. }| {
                        if keys::project_of_locator(key) == Some(project.as_str()) {
                            let id = keys::id_of_locator(key).filter(|id| id.starts_with(&prefix));
                            ids.extend(id);
                        }
                        Ok(if ids.len() < limit {
                            ControlFlow::Continue(())
                        } else {
                            ControlFlow::Break(())
                        })
                    },
                )?;
                Ok(ids)
            })
            .await
    }

    /// Whether it is time to store that a client of a project has just called.
    pub(crate) fn is_news(&self, project: &str, client_id: &str) -> bool {
        self.heard.is_news(project, client_id)
    }

    /// The store. Other clones of the catalog may still hold it.
    pub(crate) fn into_store(self) -> Arc<Store> {
        self.store
    }

    /// Reads show all commits up to this revision, and perhaps later ones.
    pub(crate) fn revision(&self) -> u64 {
        self.store.revision()
    }

    /// Follows the store's condition.
    pub(crate) fn condition(&self) -> sync::watch::Receiver<store::Condition> {
        self.store.condition()
    }

    /// Follows commits after a revision.
    pub(crate) fn changes(&self, after_revision: u64) -> Changes {
        Changes::new(self.store.changes(after_revision))
    }

    /// The state of the store, and what it holds.
    ///
    /// # Errors
    /// If the store is closing.
    pub(crate) async fn status(&self) -> Result<Status, Error> {
        let store = &self.store;
        let usage = store.local().usage().await?;
        Ok(Status {
            store: store.id().simple().to_string(),
            revision: store.revision(),
            condition: store.condition().borrow().clone(),
            counts: Counts {
                backups: store.count(keys::records_of_kind::<Backup>()),
                jobs: store.count(keys::records_of_kind::<Job>()),
                clients: store.count(keys::records_of_kind::<Client>()),
                actions: store.count(keys::records_of_kind::<Action>()),
                sessions: store.count(keys::records_of_kind::<Session>()),
            },
            usage,
        })
    }

    /// What the store measures about itself.
    pub(crate) fn meters(&self) -> &store::Meters {
        self.store.local().meters()
    }

    /// The number of changes that wait to be committed.
    pub(crate) fn queued(&self) -> usize {
        self.store.local().queued()
    }

    /// A permit to make a snapshot, until it is dropped.
    ///
    /// # Errors
    /// [`Error::SnapshotInProgress`] if somebody else holds it.
    pub(crate) fn begin_snapshot(&self) -> Result<OwnedSemaphorePermit, Error> {
        let permit = self.snapshots.clone().try_acquire_owned();
        permit.map_err(|_| Error::SnapshotInProgress)
    }

    /// Writes a snapshot of the whole store while writes go on. Blocks.
    ///
    /// # Errors
    /// If the store cannot be read; any error that `put` returns.
    pub(crate) fn snapshot(
        &self,
        put: impl FnMut(Bytes) -> Result<(), store::Error>,
    ) -> Result<store::Snapshot, Error> {
        Ok(self.store.local().snapshot(put)?)
    }

    fn lock_of(&self, project: &ProjectId, id: &ResourceId) -> &Mutex<()> {
        let hash = self.hasher.hash_one((project.as_str(), id.as_bytes()));
        let lock = usize::try_from(hash % LOCKS as u64).expect("below LOCKS");
        &self.changing[lock]
    }

    fn now(&self) -> Timestamp {
        clock::timestamp(self.store.now_ms())
    }
}

/// The error for a change that would write too much at once.
fn too_much(bytes: usize) -> Error {
    Error::Invalid(Violations::one(
        "request",
        format!(
            "would change {bytes} bytes in one commit, with all that it has to do with: {COMMIT_BYTES_MAX} are the most"
        ),
    ))
}

/// Logs one line for each change. The request's span says who made it.
fn tell<R: Resource>(what: &'static str, resource: &R) {
    tracing::info!(
        kind = R::KIND.field,
        id = resource.id(),
        project = resource.project_id(),
        revision = resource.stamps().revision,
        "{what}"
    );
}

fn with_revision<R: Resource>(mut resource: R, revision: u64) -> R {
    set_revision(&mut resource, revision);
    resource
}

fn set_revision<R: Resource>(resource: &mut R, revision: u64) {
    let stamps = resource.stamps();
    resource.set_stamps(Stamps { revision, ..stamps });
}

/// The resource with that id.
fn find<R: Resource>(
    view: &Reading<'_>,
    project: &str,
    id: &ResourceId,
) -> Result<Option<Stored<R>>, Error> {
    let Some((locator, record)) = find_record::<R>(view, project, id)? else {
        return Ok(None);
    };
    let secret = secret::in_view::<R>(view, &record.key)?;
    Ok(Some(Stored {
        resource: secret::decode_whole(record.found(), secret.as_deref())?,
        locator,
        record,
        has_secret: secret.is_some(),
    }))
}

/// The locator with that id, and the record that it leads to, if both exist.
fn find_record<R: Resource>(
    view: &Reading<'_>,
    project: &str,
    id: &ResourceId,
) -> Result<Option<(Entry, Entry)>, Error> {
    let key = keys::locator::<R>(project, id);
    // A rename may come between the two reads. Then the locator has changed, too.
    for _ in 0..GET_TRIES_MAX {
        let Some(locator) = view.get_again(&key)? else {
            return Ok(None);
        };
        let name = std::str::from_utf8(&locator.value).map_err(|_| Error::undecodable(&key))?;
        let record = keys::record::<R>(project, name, id);
        if let Some(record) = view.get_scanned(&record)? {
            return Ok(Some((locator, record)));
        }
    }
    Err(Error::undecodable(&key))
}

/// The resource in a record, with its revision.
fn decode<R: Resource>(record: Found<'_>) -> Result<R, Error> {
    let resource = R::decode(record.value).map_err(|_| Error::undecodable(record.key))?;
    Ok(with_revision(resource, record.revision))
}

/// The error for a resource that does not exist, or that the caller may not know of.
pub(crate) fn not_found<R: Resource>(id: &ResourceId) -> Error {
    Error::NotFound {
        kind: R::KIND,
        id: id.to_string(),
    }
}

fn project_of<R: Resource>(resource: &R) -> ProjectId {
    let project = ProjectId::parse("project_id", resource.project_id());
    project.expect("a valid resource has a project")
}

fn id_of<R: Resource>(resource: &R) -> ResourceId {
    ResourceId::of(R::KIND, R::KIND.id_field, resource.id()).expect("a valid resource has an id")
}
