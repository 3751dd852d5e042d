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
