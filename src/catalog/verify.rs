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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        catalog::{
            Catalog,
            tests::{Tested, job, project_id, resource_id},
        },
        proto::{FreezerAction, JobAction, UserCredentials},
        resource::Valid,
        store::{Batch, Outcome},
    };

    pub(in crate::catalog) const PROJECT: &str = "a";

    pub(in crate::catalog) fn id(digit: u8) -> ResourceId {
        resource_id(&job(PROJECT, digit, "", "").job_id)
    }

    pub(in crate::catalog) fn action(backup_name: &str) -> Action {
        Action {
            action_id: id(1).to_string(),
            project_id: PROJECT.into(),
            freezer_action: Some(FreezerAction {
                action: "backup".into(),
                backup_name: backup_name.into(),
                ..FreezerAction::default()
            }),
            ..Action::default()
        }
    }

    /// A job that names a stored action, and has a secret.
    pub(in crate::catalog) fn using() -> Job {
        let named = JobAction {
            action_id: id(1).to_string(),
            ..JobAction::default()
        };
        let secret = UserCredentials {
            trust_id: "trust".into(),
            trustor_user_id: "user".into(),
        };
        Job {
            job_actions: vec![named],
            user_credentials: Some(secret),
            ..job(PROJECT, 2, "uses", "")
        }
    }

    pub(in crate::catalog) async fn create<R: Resource>(catalog: &Catalog, resource: R) {
        let new = Valid::new(PROJECT, Some(resource)).unwrap();
        assert!(catalog.create(None, new).await.unwrap().is_new);
    }

    /// A catalog with an action and two jobs, of which one uses it.
    pub(in crate::catalog) async fn catalog(dir: &tempfile::TempDir) -> Catalog {
        let catalog = Tested::open(dir).catalog;
        create(&catalog, action("etc")).await;
        create(&catalog, using()).await;
        create(&catalog, job(PROJECT, 3, "other", "")).await;
        catalog
    }

    async fn verified(catalog: &Catalog) -> Result<Counts, Error> {
        catalog.store.read_far(|view| verify(view)).await
    }

    #[tokio::test]
    async fn an_action_is_in_its_jobs_as_it_is_now() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = catalog(&dir).await;
        let of_job = async || {
            let job = catalog.get::<Job>(project_id(PROJECT), id(2), false).await;
            let job = job.unwrap().decoded().unwrap();
            let action = job.job_actions[0].freezer_action.clone().unwrap();
            (action.backup_name, job.revision)
        };
        assert_eq!(of_job().await.0, "etc");
        let before = catalog.revision();
        let update = |_: &Action| Ok(action("var"));
        let updated = catalog.update(None, project_id(PROJECT), id(1), None, update);
        updated.await.unwrap();
        assert_eq!(of_job().await, ("var".into(), before + 1));
        let deleted = || catalog.delete::<Action>(None, project_id(PROJECT), id(1), None);
        let refused = deleted().await.unwrap_err().to_string();
        assert!(refused.contains(&id(2).to_string()), "{refused}");
        assert!(!refused.contains(&id(3).to_string()), "{refused}");
        let job = catalog.delete::<Job>(None, project_id(PROJECT), id(2), None);
        job.await.unwrap();
        deleted().await.unwrap();
        let counts = verified(&catalog).await.unwrap();
        assert_eq!((counts.actions, counts.jobs), (0, 1));
    }

    #[tokio::test]
    async fn what_does_not_agree_is_told() {
        let record = keys::record::<Job>(PROJECT, "uses", &id(2));
        let (of, nobody) = ((Action::KIND.tag, *id(1).as_bytes()), id(9));
        let put = |key: Vec<u8>, value: Vec<u8>| Batch::default().put(key, value);
        let delete = |key: Vec<u8>| Batch::default().delete(key);
        let lone = keys::record::<Job>(PROJECT, "lone", &nobody);
        let cases = [
            (put(record.clone(), b"\xff".to_vec()), "not there"),
            (
                put(
                    keys::record::<Job>(PROJECT, "other", &id(3)),
                    b"\xff".to_vec(),
                ),
                "cannot be read",
            ),
            (
                put(lone.clone(), using().encode_to_vec()),
                "stands under another's name",
            ),
            (
                put(
                    lone,
                    Job {
                        description: "lone".into(),
                        job_id: nobody.to_string(),
                        ..using()
                    }
                    .encode_to_vec(),
                ),
                "is not found by its id",
            ),
            (
                put(keys::locator::<Job>(PROJECT, &id(3)), b"another".to_vec()),
                "is not found by its id",
            ),
            (
                put(keys::locator::<Job>(PROJECT, &nobody), b"name".to_vec()),
                "3 ids lead to 2 jobs",
            ),
            (
                put(
                    keys::secret_of(&keys::record::<Job>(PROJECT, "gone", &nobody)),
                    Vec::new(),
                ),
                "is not there, but a part of it is",
            ),
            (
                put(keys::users_of_kind::<Action>().to_vec(), Vec::new()),
                "refers from",
            ),
            (
                put(keys::user::<Job>(of, PROJECT, &nobody), Vec::new()),
                "refers from",
            ),
            (
                put(keys::user::<Job>(of, PROJECT, &id(3)), Vec::new()),
                "refers from",
            ),
            (delete(record), "refers from"),
        ];
        for (damage, told) in cases {
            let dir = tempfile::tempdir().unwrap();
            let catalog = catalog(&dir).await;
            let counts = verified(&catalog).await.unwrap();
            assert_eq!((counts.actions, counts.jobs, counts.backups), (1, 2, 0));
            let outcome = catalog.store.commit(damage).await.unwrap();
            assert!(matches!(outcome, Outcome::Committed(_)));
            let error = verified(&catalog).await.unwrap_err().to_string();
            assert!(error.contains(told), "{told}: {error}");
        }
    }
}
