//! Reads the whole catalog: checks that records and locators agree, and visits all resources of a scope.

use prost::Message;

use super::{Scope, keys, secret};
use crate::{
    proto::{Action, Backup, Client, Job, Session},
    resource::{Names, Resource, ResourceId},
    store::{Error, Found, Read},
};

/// How many resources a store holds in all projects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Backups.
    pub backups: u64,
    /// Jobs.
    pub jobs: u64,
    /// Clients.
    pub clients: u64,
    /// Stored actions.
    pub actions: u64,
    /// Sessions.
    pub sessions: u64,
}

/// Checks that each resource decodes, stands under its own name and is found by its id, and that each id leads to a resource. This
/// reads everything, and the store must not be written to meanwhile.
///
/// # Errors
/// [`Error::Corrupt`] with the key that is wrong.
pub(crate) fn verify(store: &impl Read) -> Result<Counts, Error> {
    verify_references(store)?;
    Ok(Counts {
        backups: verify_kind::<Backup>(store)?,
        jobs: verify_kind::<Job>(store)?,
        clients: verify_kind::<Client>(store)?,
        actions: verify_kind::<Action>(store)?,
        sessions: verify_kind::<Session>(store)?,
    })
}

fn verify_kind<R: Resource>(store: &impl Read) -> Result<u64, Error> {
    let wrong = |key: &[u8], what: &str| Error::Corrupt {
        what: format!(
            "the {} under key {} {what}",
            R::KIND.field,
            key.escape_ascii()
        ),
    };
    let mut records = 0;
    let all = keys::starting_with(keys::records_of_kind::<R>().to_vec());
    store.for_each::<Error>(all, |Found { key, value, .. }| {
        let resource = R::decode(value).map_err(|_| wrong(key, "cannot be read"))?;
        let id = ResourceId::of(R::KIND, R::KIND.id_field, resource.id())
            .map_err(|_| wrong(key, "has no id"))?;
        if keys::record::<R>(resource.project_id(), resource.name(), &id) != key {
            return Err(wrong(key, "stands under another's name"));
        }
        let name = store.get(&keys::locator::<R>(resource.project_id(), &id))?;
        if name.is_none_or(|name| name.value != resource.name().as_bytes()) {
            return Err(wrong(key, "is not found by its id"));
        }
        records += 1;
        Ok(())
    })?;
    let secrets = keys::starting_with(keys::secrets_of_kind::<R>().to_vec());
    store.for_each::<Error>(secrets, |Found { key, .. }| {
        let record = keys::record_at::<R>(keys::place(key));
        match store.get(&record)? {
            Some(_) => Ok(()),
            None => Err(wrong(key, "is not there, but a part of it is")),
        }
    })?;
    // Each record has its own locator. So if there are as many locators as records, each of them leads to a record.
    let mut locators = 0;
    let all = keys::starting_with(keys::locators_of_kind::<R>().to_vec());
    store.for_each::<Error>(all, |_| {
        locators += 1;
        Ok(())
    })?;
    if locators == records {
        Ok(records)
    } else {
        Err(Error::Corrupt {
            what: format!("{locators} ids lead to {records} {}s", R::KIND.field),
        })
    }
}

/// Checks that each reference leads from a resource that has it to a resource that exists.
fn verify_references(store: &impl Read) -> Result<(), Error> {
    let all = keys::starting_with(keys::users_of_kind::<Action>().to_vec());
    store.for_each::<Error>(all, |Found { key, .. }| {
        let wrong = || Error::Corrupt {
            what: format!("what key {} refers from is not there", key.escape_ascii()),
        };
        let user = keys::parse_user(key).ok_or_else(wrong)?;
        if user.id.is_empty() {
            return Ok(());
        }
        let locator = keys::locator_of(Job::KIND.tag, user.project, user.id);
        let name = store.get(&locator)?.ok_or_else(wrong)?;
        let record = keys::record_of(Job::KIND.tag, user.project, &name.value, user.id);
        let record = store.get(&record)?.ok_or_else(wrong)?;
        let job = Job::decode(record.value).map_err(|_| wrong())?;
        if job.references().contains(&user.of) {
            Ok(())
        } else {
            Err(wrong())
        }
    })
}

/// Calls `visit` for every resource of a scope, in order.
///
/// # Errors
/// If a record cannot be read; any error that `visit` returns.
pub(crate) fn for_each<R: Resource, E: From<Error> + From<super::Error>>(
    read: &impl Read,
    scope: &Scope,
    mut visit: impl FnMut(R) -> Result<(), E>,
) -> Result<(), E> {
    let all = keys::records::<R>(scope, Names::StartingWith(""), None);
    read.for_each(all, |found| {
        let secret = secret::of::<R>(read, found.key)?;
        visit(secret::decode_whole(found, secret.as_deref())?)
    })
}
