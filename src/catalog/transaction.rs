//! What is read and written as one: resources of a project, and those that have to do with them.

use std::ops::ControlFlow;

use prost_types::Timestamp;

use super::{Error, Stored, find, id_of, keys, not_found, plan::Plan};
use crate::{
    resource::{Neighbours, ProjectId, Resource, ResourceId, Valid},
    store::{Found, Read, Reading},
};

/// What one commit comes from, and what it does. It may be made several times, until nothing has changed meanwhile.
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

    /// What is to be committed, if anything is.
    pub(super) fn into_plan(self) -> Option<Plan> {
        Some(self.plan).filter(Plan::writes)
    }

    /// The time that is stamped on what is stored.
    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    /// What is stored under an id. It must still be so when this is committed.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn get<R: Resource>(&mut self, id: &ResourceId) -> Result<Option<Stored<R>>, Error> {
        let stored = find(self.view, self.project.as_str(), id)?;
        if let Some(stored) = &stored {
            self.plan.expect(stored);
        }
        Ok(stored)
    }

    /// What is stored under an id, if it is at the revision that is expected, if one is.
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

    /// Stores a new resource, which has been checked, and says how.
    ///
    /// # Errors
    /// What it is refused with by what it has to do with, and by its rules, if it changes by that.
    pub(crate) fn create<R: Resource>(&mut self, mut resource: R) -> Result<R, Error> {
        if resource.settle(None, self)? {
            resource = Valid::changed(resource)?.into_inner();
        }
        self.plan.create(&mut resource, self.now);
        Ok(resource)
    }

    /// Puts a changed resource in the place of what is stored, if it differs, and says how it is then.
    ///
    /// # Errors
    /// What it is refused with by its rules, and by what it has to do with.
    pub(crate) fn replace<R: Resource>(
        &mut self,
        stored: &Stored<R>,
        mut changed: R,
    ) -> Result<R, Error> {
        changed.settle(Some(&stored.resource), self)?;
        let mut changed = Valid::changed(changed)?.into_inner();
        self.put(stored, &mut changed);
        Ok(changed)
    }

    /// Removes what is stored.
    ///
    /// # Errors
    /// What it is refused with by what it has to do with.
    pub(crate) fn delete<R: Resource>(&mut self, stored: &Stored<R>) -> Result<(), Error> {
        stored.resource.depart(self)?;
        self.remove(stored);
        Ok(())
    }

    /// Removes what has been taken out of all that it had to do with.
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
                // The first is that of all of them.
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

    fn write<R: Resource>(&mut self, changed: R) -> Result<(), Error> {
        let id = id_of(&changed);
        let stored = find(self.view, self.project.as_str(), &id)?;
        let stored: Stored<R> = stored.ok_or_else(|| not_found::<R>(&id))?;
        let mut changed = Valid::changed(changed)?.into_inner();
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
        // Read first: who comes meanwhile has it written anew.
        let key = keys::users_of::<R>((Of::KIND.tag, *of.as_bytes()), self.project.as_str());
        let last = self.view.get(&key)?.map(|entry| entry.revision);
        self.plan.expect_key(key, last);
        self.all_users::<R, Of>(of)
    }
}
