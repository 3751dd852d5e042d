//! Committed changes in order, one for each resource.

use super::{
    Error, secret,
    touched::{Touched, touched},
};
use crate::{
    proto::{Action, Backup, Client, Job, Session},
    resource::Resource,
    store::{self, Found, Pulled},
};

/// Follows commits after a revision. The reader pulls changes at its own pace: a slow reader delays nobody.
#[derive(Debug)]
pub struct Changes {
    changes: store::Changes,
}

/// A change of one resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The revision of its commit. To resume after it, first take all changes with this revision.
    pub revision: u64,
    /// The change itself.
    pub changed: Changed,
}

/// A change of one resource.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Changed {
    /// A backup was created or updated: this is how it was stored.
    Backup(Backup),
    /// A backup was deleted.
    BackupDeleted {
        /// The project that owned it.
        project_id: String,
        /// Its id.
        backup_id: String,
    },
    /// A job was created or updated: this is how it was stored.
    Job(Job),
    /// A job was deleted.
    JobDeleted {
        /// The project that owned it.
        project_id: String,
        /// Its id.
        job_id: String,
    },
    /// A client was registered or updated: this is how it was stored.
    Client(Client),
    /// A client was deleted.
    ClientDeleted {
        /// The project that owned it.
        project_id: String,
        /// Its id.
        client_id: String,
    },
    /// A stored action was created or updated: this is how it was stored.
    Action(Action),
    /// A stored action was deleted.
    ActionDeleted {
        /// The project that owned it.
        project_id: String,
        /// Its id.
        action_id: String,
    },
    /// A session was created, was updated, or has moved on: this is how it was stored.
    Session(Session),
    /// A session was deleted.
    SessionDeleted {
        /// The project that owned it.
        project_id: String,
        /// Its id.
        session_id: String,
    },
}

impl Changes {
    pub(super) fn new(changes: store::Changes) -> Self {
        Changes { changes }
    }

    /// The revision up to which all changes have been returned.
    #[must_use]
    pub fn after(&self) -> u64 {
        self.changes.after()
    }

    /// Waits for the next commits, and returns all changes that became durable together. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Error::Compacted`] if the next changes are no longer kept: read everything, and follow from there. [`Error::Store`] if the
    /// store is closing, or cannot be read.
    pub async fn next(&mut self) -> Result<Vec<Change>, Error> {
        let group = match self.changes.next().await? {
            Pulled::Group(group) => group,
            Pulled::Compacted { oldest } => return Err(Error::Compacted { oldest }),
        };
        let mut changes = Vec::new();
        for change in &group.changes {
            for touched in touched(&change.writes, |_, _| true) {
                let revision = change.revision;
                let what = match touched.tag {
                    tag if tag == Backup::KIND.tag => {
                        of(&touched, revision, Changed::Backup, backup_deleted)?
                    }
                    tag if tag == Job::KIND.tag => {
                        of(&touched, revision, Changed::Job, job_deleted)?
                    }
                    tag if tag == Client::KIND.tag => {
                        of(&touched, revision, Changed::Client, client_deleted)?
                    }
                    tag if tag == Action::KIND.tag => {
                        of(&touched, revision, Changed::Action, action_deleted)?
                    }
                    tag if tag == Session::KIND.tag => {
                        of(&touched, revision, Changed::Session, session_deleted)?
                    }
                    _ => continue,
                };
                changes.push(Change {
                    revision,
                    changed: what,
                });
            }
        }
        Ok(changes)
    }
}

fn backup_deleted(project_id: String, backup_id: String) -> Changed {
    Changed::BackupDeleted {
        project_id,
        backup_id,
    }
}

fn job_deleted(project_id: String, job_id: String) -> Changed {
    Changed::JobDeleted { project_id, job_id }
}

fn client_deleted(project_id: String, client_id: String) -> Changed {
    Changed::ClientDeleted {
        project_id,
        client_id,
    }
}

fn action_deleted(project_id: String, action_id: String) -> Changed {
    Changed::ActionDeleted {
        project_id,
        action_id,
    }
}

fn session_deleted(project_id: String, session_id: String) -> Changed {
    Changed::SessionDeleted {
        project_id,
        session_id,
    }
}

/// The changes that a commit made to resources of one kind.
fn of<R: Resource>(
    touched: &Touched<'_>,
    revision: u64,
    put: fn(R) -> Changed,
    deleted: fn(String, String) -> Changed,
) -> Result<Changed, Error> {
    let Some((key, value)) = touched.record else {
        let id = touched.id_of(R::KIND);
        return Ok(deleted(touched.project.to_owned(), id));
    };
    let found = Found {
        key,
        value,
        revision,
        framed: None,
    };
    let secret = touched.secret.map(|secret| &**secret);
    Ok(put(secret::decode_whole(found, secret)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        catalog::{
            Catalog, id_of,
            tests::{Tested, all_changes, job, project_id},
            verify::tests::{PROJECT, action, create},
        },
        proto::BackupMetadata,
    };

    /// What is told of a resource that is created, as it is stored, and deleted.
    async fn made_and_gone<R: Resource>(
        catalog: &Catalog,
        resource: R,
        put: fn(R) -> Changed,
        deleted: fn(String, String) -> Changed,
    ) -> [Changed; 2] {
        let (id, name) = (id_of(&resource), resource.id().to_owned());
        create(catalog, resource).await;
        let found = catalog
            .get::<R>(project_id(PROJECT), id.clone(), true)
            .await;
        let stored = found.unwrap().decoded().unwrap();
        let delete = catalog.delete::<R>(None, project_id(PROJECT), id, None);
        delete.await.unwrap();
        [put(stored), deleted(PROJECT.into(), name)]
    }

    #[tokio::test]
    async fn each_kind_is_told_as_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Tested::open(&dir).catalog;
        let job = job(PROJECT, 2, "nightly", "");
        let metadata = BackupMetadata {
            backup_name: "etc".into(),
            container: "/backups".into(),
            hostname: "web".into(),
            ..BackupMetadata::default()
        };
        let backup = Backup {
            backup_id: job.job_id.clone(),
            project_id: PROJECT.into(),
            client_id: "web".into(),
            backup_metadata: Some(metadata),
            ..Backup::default()
        };
        let client = Client {
            client_id: job.job_id.clone(),
            project_id: PROJECT.into(),
            hostname: "web".into(),
            ..Client::default()
        };
        let session = Session {
            session_id: job.job_id.clone(),
            project_id: PROJECT.into(),
            description: "all".into(),
            ..Session::default()
        };
        let expected = [
            made_and_gone(&catalog, backup, Changed::Backup, backup_deleted).await,
            made_and_gone(&catalog, job, Changed::Job, job_deleted).await,
            made_and_gone(&catalog, client, Changed::Client, client_deleted).await,
            made_and_gone(&catalog, action("etc"), Changed::Action, action_deleted).await,
            made_and_gone(&catalog, session, Changed::Session, session_deleted).await,
        ];
        let found = all_changes(&catalog).await.into_iter();
        let found: Vec<_> = found.map(|change| change.changed).collect();
        assert_eq!(found, expected.concat());
    }
}
