//! Calls that only clients, stored actions or sessions have.

use prost_types::Timestamp;
use tokio::runtime::Handle;

use super::{Behalf, Calls, Created, Delete, one};
use crate::{
    catalog::{Catalog, Error, not_found},
    proto::{Action, Client, Job, Session},
    resource::{Answer, Neighbours, Resource, ResourceId, Valid, Violations, release},
    store::Reach,
};

/// The results that a member of a session may report.
const RESULTS: [&str; 3] = ["success", "fail", "aborted"];

/// The answer to a member of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// `success`, `hold-off` or `out-of-sync`, in Freezer's words.
    pub result: &'static str,
    /// The session's tag after this call.
    pub session_tag: i64,
}

/// Notes that an agent has called, at most once a minute.
pub(super) fn heard_of(catalog: &Catalog, behalf: &Behalf) {
    let (Some(client_id), Some(projects)) =
        (&behalf.authority.client_id, &behalf.authority.projects)
    else {
        return;
    };
    for project in projects {
        if catalog.is_news(project, client_id)
            && let Ok(runtime) = Handle::try_current()
            && let Ok((project, id)) = one::<Client>(&behalf.authority, project, client_id)
        {
            let (catalog, author) = (catalog.clone(), behalf.author.clone());
            runtime.spawn(async move {
                let about = id.clone();
                let noted =
                    catalog.transact(author.as_ref(), (project, about), Reach::Far, move |made| {
                        if let Some(stored) = made.get::<Client>(&id)? {
                            let mut client = stored.resource.clone();
                            client.seen(made.now());
                            made.replace(&stored, client)?;
                        }
                        Ok(())
                    });
                if let Err(error) = noted.await {
                    tracing::debug!(%error, "it is not noted that a client was heard of");
                }
            });
        }
    }
}

impl Calls<'_, Client> {
    /// Registers a client. A client that is registered already is updated from the request.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every bad field.
    pub async fn register(
        &self,
        project_id: &str,
        client: impl Into<Option<Client>>,
    ) -> Result<Created<Client>, Error> {
        self.register_over(project_id, client.into(), |stored, client, now| {
            Ok(client.registered_over(stored, now))
        })
        .await
    }

    /// Registers a client that must not be registered yet.
    ///
    /// # Errors
    /// The same as for [`Calls::register`]; [`Error::AlreadyExists`] if the client is registered.
    pub(crate) async fn register_new(
        &self,
        project_id: &str,
        client: Client,
    ) -> Result<Client, Error> {
        let registered = self.register_over(project_id, Some(client), |stored, _, _| {
            Err(Error::AlreadyExists {
                kind: Client::KIND,
                id: stored.client_id.clone(),
            })
        });
        Ok(registered.await?.resource)
    }

    /// Registers a client. `over` decides what happens to one that is registered already.
    async fn register_over(
        &self,
        project_id: &str,
        mut client: Option<Client>,
        over: impl Fn(&Client, Client, Timestamp) -> Result<Client, Error> + Send + Sync + 'static,
    ) -> Result<Created<Client>, Error> {
        let authority = &self.behalf.authority;
        if let Some(client) = &mut client {
            authority.sign(client)?;
        }
        let client = Valid::new(project_id, client)?.into_inner();
        authority.check_project(&client.project_id)?;
        let (project, id) = one::<Client>(authority, &client.project_id, &client.client_id)?;
        let author = self.behalf.author.as_ref();
        let registered =
            self.catalog
                .transact(author, (project, id.clone()), Reach::Far, move |made| {
                    let now = made.now();
                    let mut client = Client::clone(&client);
                    if let Some(stored) = made.get::<Client>(&id)? {
                        let client = over(&stored.resource, client, now)?;
                        let resource = made.replace(&stored, client)?;
                        return Ok(Created {
                            resource,
                            is_new: false,
                        });
                    }
                    client.seen(now);
                    let (resource, _) = made.create(client)?;
                    Ok(Created {
                        resource,
                        is_new: true,
                    })
                });
        let (mut registered, revision) = registered.await?;
        if let Some(revision) = revision {
            registered.resource.revision = revision;
        }
        Ok(registered)
    }
}

impl Calls<'_, Action> {
    /// Takes a stored action out of all jobs that use it and deletes it, in one commit.
    ///
    /// # Errors
    /// The same as for [`Calls::delete`]; [`Error::Precondition`] if a job would have no action left.
    pub async fn detach_and_delete(&self, delete: Delete<'_, Action>) -> Result<(), Error> {
        let authority = &self.behalf.authority;
        let (project, id) = one::<Action>(authority, &delete.project_id, &delete.id)?;
        let expected = delete.expected_revision;
        let author = self.behalf.author.as_ref();
        let about = id.clone();
        let removed = self
            .catalog
            .transact(author, (project, about), Reach::Far, move |made| {
                let stored = made.expected::<Action>(&id, expected)?;
                let mut left = Vec::new();
                for user in made.users::<Job, Action>(&id)? {
                    let Some(mut job) = made.read::<Job>(&user)? else {
                        continue;
                    };
                    let action_id = &stored.resource.action_id;
                    job.job_actions
                        .retain(|action| action.action_id != *action_id);
                    if job.job_actions.is_empty() {
                        left.push(job.job_id);
                    } else {
                        made.write(job)?;
                    }
                }
                if left.is_empty() {
                    made.remove(&stored);
                    return Ok(());
                }
                Err(Error::Precondition {
                    kind: Action::KIND,
                    id: id.to_string(),
                    reason: "ACTION_IS_ALL_THAT_JOBS_HAVE",
                    message: format!(
                        "these jobs would be left with no action: {}",
                        left.join(", ")
                    ),
                })
            });
        removed.await.map(drop)
    }
}

impl Calls<'_, Session> {
    /// Makes a job a member of a session: the job gets the session's schedule, id and tag. Nothing changes if it is a member
    /// already.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::NotFound`]; [`Error::Precondition`] if the job is in another session.
    pub async fn add_job(
        &self,
        project_id: &str,
        session_id: &str,
        job_id: &str,
    ) -> Result<Session, Error> {
        self.with_job(project_id, session_id, job_id, |session, job| {
            if !job.session_id.is_empty() && job.session_id != session.session_id {
                return Err(Error::Precondition {
                    kind: Job::KIND,
                    id: job.job_id.clone(),
                    reason: "JOB_IN_ANOTHER_SESSION",
                    message: format!(
                        "the job is in session {}: remove it there first",
                        job.session_id
                    ),
                });
            }
            Ok(session.join(job)?)
        })
        .await
    }

    /// Takes a job out of a session, and asks the job's client to end its schedule.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::NotFound`] if the job is not a member.
    pub async fn remove_job(
        &self,
        project_id: &str,
        session_id: &str,
        job_id: &str,
    ) -> Result<Session, Error> {
        self.with_job(project_id, session_id, job_id, |session, job| {
            if !session.leave(&job.job_id) {
                return Err(Error::NotFound {
                    kind: Job::KIND,
                    id: job.job_id.clone(),
                });
            }
            release(job);
            Ok(())
        })
        .await
    }

    /// A member asks whether it may run now.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the job is not a member, or its tag is higher than the session's; [`Error::NotFound`].
    pub async fn start(
        &self,
        project_id: &str,
        session_id: &str,
        job_id: &str,
        current_tag: i64,
    ) -> Result<Answered, Error> {
        self.ask_as(
            project_id,
            session_id,
            job_id,
            move |session, job_id, now_s| session.start(job_id, current_tag, now_s),
        )
        .await
    }

    /// A member reports how its run has ended: `success`, `fail` or `aborted`.
    ///
    /// # Errors
    /// The same as for [`Calls::start`].
    pub async fn end(
        &self,
        project_id: &str,
        session_id: &str,
        job_id: &str,
        current_tag: i64,
        result: &str,
    ) -> Result<Answered, Error> {
        let mut violations = Violations::new();
        if !RESULTS.contains(&result) {
            violations.add("result", "must be one of success, fail or aborted");
        }
        violations.or(())?;
        let result = result.to_owned();
        self.ask_as(
            project_id,
            session_id,
            job_id,
            move |session, job_id, now_s| session.end(job_id, current_tag, &result, now_s),
        )
        .await
    }

    /// Changes a session and one job of the same project in one commit.
    async fn with_job(
        &self,
        project_id: &str,
        session_id: &str,
        job_id: &str,
        change: impl Fn(&mut Session, &mut Job) -> Result<(), Error> + Send + Sync + 'static,
    ) -> Result<Session, Error> {
        let (project, id) = one::<Session>(&self.behalf.authority, project_id, session_id)?;
        let job_id = ResourceId::parse("job_id", job_id)?;
        let author = self.behalf.author.as_ref();
        let changed =
            self.catalog
                .transact(author, (project, id.clone()), Reach::Far, move |made| {
                    let stored = made.expected::<Session>(&id, None)?;
                    let mut job = made
                        .read::<Job>(&job_id)?
                        .ok_or_else(|| not_found::<Job>(&job_id))?;
                    let mut session = stored.resource.clone();
                    change(&mut session, &mut job)?;
                    made.write(job)?;
                    made.replace(&stored, session)
                });
        let (mut session, revision) = changed.await?;
        if let Some(revision) = revision {
            session.revision = revision;
        }
        Ok(session)
    }

    /// Answers a member, and stores what the answer changes.
    async fn ask_as(
        &self,
        project_id: &str,
        session_id: &str,
        job_id: &str,
        ask: impl Fn(&mut Session, &str, i64) -> Result<Answer, Violations> + Send + Sync + 'static,
    ) -> Result<Answered, Error> {
        let authority = self.behalf.authority.clone();
        let (project, id) = one::<Session>(&authority, project_id, session_id)?;
        let job_id = ResourceId::parse("job_id", job_id)?;
        let author = self.behalf.author.as_ref();
        let answered =
            self.catalog
                .transact(author, (project, id.clone()), Reach::Far, move |made| {
                    let stored = made.expected::<Session>(&id, None)?;
                    // An agent speaks for its own jobs only. Another client's job counts as missing, so that the agent learns
                    // nothing about it.
                    if authority.client_id.is_some() {
                        let job = made.read::<Job>(&job_id)?;
                        job.filter(|job| authority.concerns(job))
                            .ok_or_else(|| not_found::<Job>(&job_id))?;
                    }
                    let mut session = stored.resource.clone();
                    let answer = ask(&mut session, &job_id.to_string(), made.now().seconds)?;
                    let session = made.replace(&stored, session)?;
                    Ok(Answered {
                        result: answer.word(),
                        session_tag: session.session_tag,
                    })
                });
        Ok(answered.await?.0)
    }
}
