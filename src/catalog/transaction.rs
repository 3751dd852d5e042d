//! A transaction: resources of a project, and their neighbours, read and written as one.

use std::ops::ControlFlow;

use bytes::Bytes;
use prost_types::Timestamp;

use super::{Error, Stored, find, id_of, keys, not_found, plan::Plan};
use crate::{
    resource::{Neighbours, ProjectId, Resource, ResourceId, check_changed},
    store::{Found, Read, Reading},
};

/// Collects what one commit reads and writes. It is built again if anything that it has read has changed meanwhile.
pub(crate) struct Transaction<'a> {
    view: &'a Reading<'a>,
    project: &'a ProjectId,
    now: Timestamp,
    plan: Plan,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(view: &'a Reading<'a>, project: &'a ProjectId, now: Timestamp) -> Self {
        Transaction {
            view,
            project,
            now,
            plan: Plan::default(),
        }
    }

    /// The commit, if there is anything to commit.
    pub(super) fn into_plan(self) -> Option<Plan> {
        Some(self.plan).filter(Plan::writes)
    }

    /// The time that is stamped on what is stored.
    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    /// The resource with an id. It must not change until this is committed.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub(crate) fn get<R: Resource>(&mut self, id: &ResourceId) -> Result<Option<Stored<R>>, Error> {
        let stored = find(self.view, self.project.as_str(), id)?;
        if let Some(stored) = &stored {
            self.plan.expect(stored);
        }
        Ok(stored)
    }

    /// The resource with an id. It must be at the expected revision, if one is given.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Stale`].
    pub(crate) fn expected<R: Resource>(
        &mut self,
        id: &ResourceId,
        revision: Option<u64>,
    ) -> Result<Stored<R>, Error> {
        let stored = self.get(id)?.ok_or_else(|| not_found::<R>(id))?;
        let current = stored.record.revision;
        match revision {
            Some(expected) if expected != current => Err(Error::Stale {
                kind: R::KIND,
                id: id.to_string(),
                expected,
                current,
            }),
            _ => Ok(stored),
        }
    }

    /// Stores a new, checked resource, and returns it as stored, and what its record holds.
    ///
    /// # Errors
    /// What the neighbours refuse; every broken rule, if the neighbours change the resource.
    pub(crate) fn create<R: Resource>(&mut self, mut resource: R) -> Result<(R, Bytes), Error> {
        if resource.settle(None, self)? {
            check_changed(&resource)?;
        }
        let record = self.plan.create(&mut resource, self.now);
        Ok((resource, record))
    }

    /// Puts a changed resource in place of the stored one if it differs, and returns it as stored.
    ///
    /// # Errors
    /// Every broken rule; what the neighbours refuse.
    pub(crate) fn replace<R: Resource>(
        &mut self,
        stored: &Stored<R>,
        mut changed: R,
    ) -> Result<R, Error> {
        changed.settle(Some(&stored.resource), self)?;
        check_changed(&changed)?;
        self.put(stored, &mut changed);
        Ok(changed)
    }

    /// Deletes a stored resource.
    ///
    /// # Errors
    /// What the neighbours refuse.
    pub(crate) fn delete<R: Resource>(&mut self, stored: &Stored<R>) -> Result<(), Error> {
        stored.resource.depart(self)?;
        self.remove(stored);
        Ok(())
    }

    /// Deletes a resource to which no neighbour refers any more.
    pub(crate) fn remove<R: Resource>(&mut self, stored: &Stored<R>) {
        self.plan.delete(stored);
    }

    fn all_users<R: Resource, Of: Resource>(
        &self,
        of: &ResourceId,
    ) -> Result<Vec<ResourceId>, Error> {
        let all = keys::users_of::<R>((Of::KIND.tag, *of.as_bytes()), self.project.as_str());
        let mut users = Vec::new();
        let _all = self.view.scan::<Error>(
            keys::starting_with(all.clone()),
            |Found { key, .. }| {
                // The first key is the one that stands for all of them.
                users.extend(keys::id_of_user(key).filter(|_| key.len() > all.len()));
                Ok(ControlFlow::Continue(()))
            },
        )?;
        Ok(users)
    }

    fn put<R: Resource>(&mut self, stored: &Stored<R>, changed: &mut R) {
        changed.set_stamps(stored.resource.stamps());
        if *changed != stored.resource {
            self.plan.replace(stored, changed, self.now);
        }
    }
}

impl Neighbours for Transaction<'_> {
    type Error = Error;

    fn read<R: Resource>(&mut self, id: &ResourceId) -> Result<Option<R>, Error> {
        let stored = self.get(id)?;
        Ok(stored.map(|stored: Stored<R>| stored.resource))
    }

    fn write<R: Resource>(&mut self, mut changed: R) -> Result<(), Error> {
        let id = id_of(&changed);
        let stored = find(self.view, self.project.as_str(), &id)?;
        let stored: Stored<R> = stored.ok_or_else(|| not_found::<R>(&id))?;
        check_changed(&changed)?;
        self.put(&stored, &mut changed);
        Ok(())
    }

    fn users_count<R: Resource, Of: Resource>(&mut self, of: &ResourceId) -> Result<usize, Error> {
        Ok(self.all_users::<R, Of>(of)?.len())
    }

    fn users<R: Resource, Of: Resource>(
        &mut self,
        of: &ResourceId,
    ) -> Result<Vec<ResourceId>, Error> {
        // Read first: a reference that is added meanwhile writes this key again.
        let key = keys::users_of::<R>((Of::KIND.tag, *of.as_bytes()), self.project.as_str());
        let last = self.view.get(&key)?.map(|entry| entry.revision);
        self.plan.expect_key(key, last);
        self.all_users::<R, Of>(of)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::runtime::Handle;

    use super::*;
    use crate::{
        catalog::{
            tests::project_id,
            verify::tests::{PROJECT, action, catalog, id},
        },
        proto::{Action, Job},
        store::{Batch, Reach},
    };

    /// How often a change of the action is built if this key is written again while it is built for the first time.
    async fn builds(key: Vec<u8>) -> usize {
        let dir = tempfile::tempdir().unwrap();
        let catalog = catalog(&dir).await;
        let built = Arc::new(AtomicUsize::new(0));
        let (counted, store) = (built.clone(), catalog.store.clone());
        let about = (project_id(PROJECT), id(1));
        let changed = catalog.transact(None, about, Reach::Far, move |transaction| {
            assert!(transaction.get::<Job>(&id(3))?.is_some());
            let stored = transaction.expected::<Action>(&id(1), None)?;
            transaction.replace(&stored, action("var"))?;
            if counted.fetch_add(1, Ordering::SeqCst) == 0 {
                let value = transaction.view.get(&key)?.map(|entry| entry.value);
                let again = Batch::default().put(key.clone(), value.unwrap_or_default());
                Handle::current().block_on(store.commit(again)).unwrap();
            }
            Ok(())
        });
        let ((), revision) = changed.await.unwrap();
        assert_eq!(revision, Some(catalog.revision()));
        built.load(Ordering::SeqCst)
    }

    #[tokio::test]
    async fn a_change_is_built_again_if_what_it_has_read_has_changed() {
        assert_eq!(builds(b"another".to_vec()).await, 1);
        // A job that it has read, one that uses the action, and the action itself.
        let job = |digit, name| keys::record::<Job>(PROJECT, name, &id(digit));
        assert_eq!(builds(job(3, "other")).await, 2);
        assert_eq!(builds(keys::locator::<Job>(PROJECT, &id(3))).await, 2);
        assert_eq!(builds(job(2, "uses")).await, 2);
        assert_eq!(
            builds(keys::record::<Action>(PROJECT, "etc", &id(1))).await,
            2
        );
        // The key that is written when other jobs begin or cease to use the action.
        let of = (Action::KIND.tag, *id(1).as_bytes());
        assert_eq!(builds(keys::users_of::<Job>(of, PROJECT)).await, 2);
    }
}
