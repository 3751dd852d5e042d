//! The typed calls on one kind of resource. Each call checks its input and makes one catalog call.
//!
//! Programs that embed Icebox use these calls, and so do the gRPC services: the rules exist once, here.

mod audit;
mod authority;
mod fleet;
mod list;
mod watch;

use std::{
    future::{Future, IntoFuture},
    marker::PhantomData,
    pin::Pin,
};

use prost_types::FieldMask;

pub(crate) use audit::audit;
pub(crate) use authority::{Authority, Behalf};
pub use fleet::Answered;
pub use list::{List, Listed};
pub use watch::{Watch, Watching};

use crate::{
    catalog::{Catalog, Error, Made, not_found},
    proto::{Action, Backup, Client, Job, Session, Single},
    resource::{
        Event, Patch, ProjectId, Resource, ResourceId, Valid, Violations, agreed_project,
        record_size,
    },
};

/// The most ids that one prefix is resolved to. This is enough to show that a prefix is not unique.
const IDS_MAX: usize = 10;

/// A call that starts when it is awaited.
type Call<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// The calls on backups.
pub type Backups<'a> = Calls<'a, Backup>;
/// The calls on jobs.
pub type Jobs<'a> = Calls<'a, Job>;

/// The calls on clients.
pub type Clients<'a> = Calls<'a, Client>;
/// The calls on stored actions.
pub type Actions<'a> = Calls<'a, Action>;
/// The calls on sessions.
pub type Sessions<'a> = Calls<'a, Session>;

/// The calls on one kind of resource.
///
/// Every call names the project of its resource: 1 to 128 of `A–Z a–z 0–9 _ -`. Ids are 32 lowercase hex digits.
#[derive(Clone, Copy, Debug)]
pub struct Calls<'a, R> {
    catalog: &'a Catalog,
    behalf: &'a Behalf,
    resource: PhantomData<fn() -> R>,
}

/// The result of a create.
#[derive(Clone, Debug, PartialEq)]
pub struct Created<R> {
    /// The resource as it is stored.
    pub resource: R,
    /// Whether this call stored it. If not, an earlier try of the same call did.
    pub is_new: bool,
}

impl<'a, R: Resource> Calls<'a, R> {
    /// Calls that may touch everything.
    pub(crate) fn new(catalog: &'a Catalog) -> Self {
        Calls::on_behalf(&authority::FULL, catalog)
    }

    /// Calls on behalf of somebody.
    pub(crate) fn on_behalf(behalf: &'a Behalf, catalog: &'a Catalog) -> Self {
        fleet::heard_of(catalog, behalf);
        Calls {
            catalog,
            behalf,
            resource: PhantomData,
        }
    }

    /// Stores a new resource. A resource without an id gets one.
    ///
    /// The call may be repeated if its outcome is not known. If the request has an id, the second call finds what the first one
    /// stored.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every bad field; [`Error::AlreadyExists`] if the project has a different resource with that id;
    /// [`Error::Store`] if nothing was stored. If that error is `OutcomeUnknown`, only a restart can tell whether it was.
    pub async fn create(
        &self,
        project_id: &str,
        resource: impl Into<Option<R>>,
    ) -> Result<Created<R>, Error> {
        let made = self.make(project_id, resource.into()).await?;
        Ok(Created {
            resource: self.behalf.authority.shown(*made.resource),
            is_new: made.is_new,
        })
    }

    /// Like [`Calls::create`], but the resource stays encoded. Also whether this call stored it.
    pub(crate) async fn create_encoded(
        &self,
        project_id: &str,
        resource: Option<R>,
    ) -> Result<(Single<R>, bool), Error> {
        let made = self.make(project_id, resource).await?;
        let stored = if R::HAS_SECRETS && self.behalf.authority.sees_secrets() {
            Single::new(made.resource.encode_to_vec().into(), 0)
        } else {
            Single::new(made.record, made.resource.stamps().revision)
        };
        Ok((stored, made.is_new))
    }

    /// Stores a new resource. The future begins with its check, so that it has no room for the resource itself.
    fn make(
        &self,
        project_id: &str,
        resource: Option<R>,
    ) -> impl Future<Output = Result<Made<R>, Error>> + Send + use<'a, R> {
        let Calls {
            catalog, behalf, ..
        } = *self;
        let checked = self.checked(project_id, resource);
        async move { catalog.create(behalf.author.as_ref(), checked?).await }
    }

    /// A resource that the caller may create.
    ///
    /// # Errors
    /// Every bad field; [`Error::Denied`] if the caller may not.
    fn checked(&self, project_id: &str, mut resource: Option<R>) -> Result<Valid<R>, Error> {
        if let Some(resource) = &mut resource {
            self.behalf.authority.sign(resource)?;
        }
        let resource = Valid::new(project_id, resource)?;
        let project = resource.get().project_id();
        self.behalf.authority.check_project(project)?;
        Ok(resource)
    }

    /// The resource with that id.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::NotFound`] if the project has no such resource.
    pub async fn get(&self, project_id: &str, id: &str) -> Result<R, Error> {
        let stored = self.get_encoded(project_id, id).await?;
        stored.decoded().map_err(|_| undecodable::<R>())
    }

    /// Like [`Calls::get`], but the resource stays encoded.
    pub(crate) async fn get_encoded(&self, project_id: &str, id: &str) -> Result<Single<R>, Error> {
        let (project, id) = one::<R>(&self.behalf.authority, project_id, id)?;
        let stored = self
            .catalog
            .get(project, id.clone(), self.behalf.authority.sees_secrets())
            .await?;
        if self.behalf.authority.client_id.is_some() {
            let resource: R = stored.decoded().map_err(|_| undecodable::<R>())?;
            if !self.behalf.authority.concerns(&resource) {
                return Err(not_found::<R>(&id));
            }
        }
        Ok(stored)
    }

    /// A page of a project's resources, sorted by name, then id. The project `-` means all projects. Call the builder's methods to
    /// choose what the page holds, then await it.
    pub fn list(&self, project_id: impl Into<String>) -> List<'a, R> {
        List::new(self.catalog, &self.behalf.authority, project_id.into())
    }

    /// Watches a project's resources: first what is stored, then each change. The project `-` means all projects. Call the
    /// builder's methods to choose what is watched, then await it.
    pub fn watch(&self, project_id: impl Into<String>) -> Watch<'a, R> {
        Watch::new(self.catalog, self.behalf, project_id.into())
    }

    /// Changes the resource whose id and project `resource` names. Call the builder's methods to choose the fields, then await it.
    pub fn update(
        &self,
        project_id: impl Into<String>,
        resource: impl Into<Option<R>>,
    ) -> Update<'a, R> {
        Update {
            catalog: self.catalog,
            behalf: self.behalf,
            project_id: project_id.into(),
            resource: resource.into(),
            mask: None,
            kept: Vec::new(),
            expected_revision: None,
        }
    }

    /// Deletes the resource with that id when the returned value is awaited.
    pub fn delete(&self, project_id: impl Into<String>, id: impl Into<String>) -> Delete<'a, R> {
        Delete {
            catalog: self.catalog,
            behalf: self.behalf,
            project_id: project_id.into(),
            id: id.into(),
            expected_revision: None,
            resource: PhantomData,
        }
    }

    /// The ids of a project's resources that start with these 1 to 32 hex digits. At most 10 are returned.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every bad field.
    pub async fn ids_starting_with(
        &self,
        project_id: &str,
        id_prefix: &str,
    ) -> Result<Vec<String>, Error> {
        let project = self
            .behalf
            .authority
            .enter(prefix(project_id, id_prefix)?)?;
        self.catalog
            .ids_starting_with::<R>(project, id_prefix.into(), IDS_MAX)
            .await
    }
}

impl Calls<'_, Job> {
    /// Asks the job's client to start it: sets `job_schedule.event`.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::NotFound`]; [`Error::Precondition`] if the job's state does not allow it.
    pub async fn start(&self, project_id: &str, job_id: &str) -> Result<Job, Error> {
        Ok(self.ask(Event::Start, project_id, job_id).await?.0)
    }

    /// Asks the job's client to stop scheduling it.
    ///
    /// # Errors
    /// The same as for [`Calls::start`].
    pub async fn stop(&self, project_id: &str, job_id: &str) -> Result<Job, Error> {
        Ok(self.ask(Event::Stop, project_id, job_id).await?.0)
    }

    /// Asks the job's client to abort its run.
    ///
    /// # Errors
    /// The same as for [`Calls::start`].
    pub async fn abort(&self, project_id: &str, job_id: &str) -> Result<Job, Error> {
        Ok(self.ask(Event::Abort, project_id, job_id).await?.0)
    }

    /// Asks the job's client to do something. The flag is `true` if nobody had asked for the same before.
    pub(crate) async fn ask(
        &self,
        event: Event,
        project_id: &str,
        job_id: &str,
    ) -> Result<(Job, bool), Error> {
        let (project, id) = one::<Job>(&self.behalf.authority, project_id, job_id)?;
        let asked = id.clone();
        let authority = self.behalf.authority.clone();
        let change = move |stored: &Job| {
            if !authority.concerns(stored) {
                return Err(not_found::<Job>(&id));
            }
            let changed = event.apply(stored).map_err(|message| Error::Precondition {
                kind: Job::KIND,
                id: id.to_string(),
                reason: event.refusal(),
                message,
            })?;
            Ok(changed)
        };
        let author = self.behalf.author.as_ref();
        let updated = self.catalog.update(author, project, asked, None, change);
        let (job, is_news) = updated.await?;
        Ok((self.behalf.authority.shown(job), is_news))
    }
}

/// An update that has not been made yet. Awaiting it gives the resource as it is stored afterwards.
///
/// # Errors
/// [`Error::Invalid`] with every bad field; [`Error::NotFound`]; [`Error::Stale`] if the resource is not at the expected revision.
#[derive(Clone, Debug)]
#[must_use = "nothing is changed before it is awaited"]
pub struct Update<'a, R> {
    catalog: &'a Catalog,
    behalf: &'a Behalf,
    project_id: String,
    resource: Option<R>,
    mask: Option<FieldMask>,
    kept: Vec<String>,
    expected_revision: Option<u64>,
}

impl<R: Resource> Update<'_, R> {
    /// Changes only these fields, and clears those of them that are not set. Without this call, all fields that are set are
    /// changed.
    pub fn fields(self, paths: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.mask(Some(FieldMask {
            paths: paths.into_iter().map(Into::into).collect(),
        }))
    }

    /// Calls [`Update::fields`] if there is a mask.
    pub fn mask(mut self, mask: Option<FieldMask>) -> Self {
        self.mask = mask;
        self
    }

    /// Refuses the update if one of these fields differs from what is stored: they cannot be changed, but a request may repeat
    /// them.
    pub(crate) fn keeping(mut self, paths: Vec<String>) -> Self {
        self.kept = paths;
        self
    }

    /// Refuses the update unless the resource is at this revision, if one is given. Otherwise somebody else has changed it.
    pub fn expecting(mut self, revision: impl Into<Option<u64>>) -> Self {
        self.expected_revision = revision.into();
        self
    }
}

impl<'a, R: Resource> IntoFuture for Update<'a, R> {
    type Output = Result<R, Error>;
    type IntoFuture = Call<'a, R>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (project, id, mut patch) =
                patch(&self.project_id, self.resource.as_ref(), self.mask.as_ref())?;
            patch.keep(&self.kept)?;
            let project = self.behalf.authority.enter(project)?;
            let named = id.clone();
            let authority = self.behalf.authority.clone();
            let change = move |stored: &R| {
                if !authority.concerns(stored) {
                    return Err(not_found::<R>(&id));
                }
                let mut changed = patch.apply(stored)?;
                authority.countersign(&mut changed, stored)?;
                Ok(changed)
            };
            let author = self.behalf.author.as_ref();
            let expected = self.expected_revision;
            let updated = self
                .catalog
                .update(author, project, named, expected, change);
            let (updated, _) = updated.await?;
            Ok(self.behalf.authority.shown(updated))
        })
    }
}

/// A delete that has not been made yet.
///
/// # Errors
/// [`Error::Invalid`] with every bad field; [`Error::NotFound`]; [`Error::Stale`] if the resource is not at the expected revision.
#[derive(Clone, Debug)]
#[must_use = "nothing is removed before it is awaited"]
pub struct Delete<'a, R> {
    catalog: &'a Catalog,
    behalf: &'a Behalf,
    project_id: String,
    id: String,
    expected_revision: Option<u64>,
    resource: PhantomData<fn() -> R>,
}

impl<R> Delete<'_, R> {
    /// Refuses the delete unless the resource is at this revision, if one is given. Otherwise somebody else has changed it.
    pub fn expecting(mut self, revision: impl Into<Option<u64>>) -> Self {
        self.expected_revision = revision.into();
        self
    }
}

impl<'a, R: Resource> IntoFuture for Delete<'a, R> {
    type Output = Result<(), Error>;
    type IntoFuture = Call<'a, ()>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (project, id) = one::<R>(&self.behalf.authority, &self.project_id, &self.id)?;
            let (author, expected) = (self.behalf.author.as_ref(), self.expected_revision);
            self.catalog
                .delete::<R>(author, project, id, expected)
                .await
        })
    }
}

/// The error for stored bytes whose checksum is right but which do not decode.
pub(crate) fn undecodable<R: Resource>() -> Error {
    Error::undecodable(R::KIND.field.as_bytes())
}

/// The project and the id that a call names.
///
/// # Errors
/// Both violations if both are bad; [`Error::Denied`] if the caller may not touch the project.
fn one<R: Resource>(
    authority: &Authority,
    project_id: &str,
    id: &str,
) -> Result<(ProjectId, ResourceId), Error> {
    let mut violations = Violations::new();
    let project = violations.collect(ProjectId::parse("project_id", project_id));
    let id = violations.collect(ResourceId::of(R::KIND, R::KIND.id_field, id));
    let (project, id) = project.zip(id).ok_or(violations)?;
    Ok((authority.enter(project)?, id))
}

/// What an update changes, and where.
///
/// # Errors
/// Every bad field.
fn patch<R: Resource>(
    project_id: &str,
    resource: Option<&R>,
    mask: Option<&FieldMask>,
) -> Result<(ProjectId, ResourceId, Patch<R>), Violations> {
    let kind = R::KIND;
    let Some(resource) = resource else {
        return Err(Violations::one(kind.field, "is required"));
    };
    // Checked before anything is copied or searched. A resource that is too large cannot be stored, whatever the mask takes from
    // it.
    record_size(resource)?;
    let mut violations = Violations::new();
    let project = violations.collect(agreed_project(project_id, resource));
    let id_field = format!("{}.{}", kind.field, kind.id_field);
    let id = violations.collect(ResourceId::of(kind, id_field, resource.id()));
    let patch = violations.collect(Patch::new(resource, mask));
    match (project, id, patch) {
        (Some(project), Some(id), Some(patch)) => Ok((project, id, patch)),
        _ => Err(violations),
    }
}

/// The project in which to look for ids that start with `id_prefix`.
///
/// # Errors
/// Both violations if both are bad.
pub(crate) fn prefix(project_id: &str, id_prefix: &str) -> Result<ProjectId, Violations> {
    let mut violations = Violations::new();
    let project = violations.collect(ProjectId::parse("project_id", project_id));
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if !(1..=32).contains(&id_prefix.len()) || !id_prefix.bytes().all(is_hex) {
        violations.add("id_prefix", "must be 1 to 32 lowercase hex digits");
    }
    Ok(violations.or(project)?.expect("there is no violation"))
}
