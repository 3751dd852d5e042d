//! On whose behalf calls are made, and what these may concern. Roles, and which RPC takes which, are the server's.

use std::sync::{Arc, LazyLock};

use crate::{
    catalog::{Author, Error, Scope},
    resource::{Filter, ProjectId, Resource, User},
};

/// What calls may concern, and who is named in what they store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Authority {
    /// The projects; `None` is every one.
    pub(crate) projects: Option<Vec<String>>,
    /// The client whose resources they may concern, if it is only one.
    pub(crate) client_id: Option<String>,
    /// The user; `None` is whom the request names.
    pub(crate) user: Option<User>,
}

/// On whose behalf calls are made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Behalf {
    /// What they may concern.
    pub(crate) authority: Arc<Authority>,
    /// Who is noted beside what they change.
    pub(crate) author: Option<Author>,
}

impl Behalf {
    /// That of one who may concern nothing at all.
    #[cfg(feature = "server")]
    pub(crate) fn nobodys() -> Behalf {
        let authority = Authority {
            projects: Some(Vec::new()),
            ..Authority::default()
        };
        Behalf {
            authority: Arc::new(authority),
            author: None,
        }
    }
}

/// Everything, on nobody's behalf.
pub(super) static FULL: LazyLock<Behalf> = LazyLock::new(Behalf::default);

impl Authority {
    /// Whether they may see what is not for everybody in what they may concern: those whom everything concerns, and the client.
    pub(super) fn sees_secrets(&self) -> bool {
        self.projects.is_none() || self.client_id.is_some()
    }

    /// A resource as they may see it.
    pub(super) fn shown<R: Resource>(&self, mut resource: R) -> R {
        if !self.sees_secrets() {
            resource.take_secret();
        }
        resource
    }

    /// # Errors
    /// [`Error::Denied`] if they may not concern a project.
    pub(super) fn check_project(&self, project: &str) -> Result<(), Error> {
        let is_theirs = |projects: &Vec<String>| projects.iter().any(|own| own == project);
        if self.projects.as_ref().is_none_or(is_theirs) {
            return Ok(());
        }
        Err(Error::Denied {
            what: format!("project {project} is not yours"),
        })
    }

    /// # Errors
    /// [`Error::Denied`] if they may not concern every project.
    fn check_all_projects(&self) -> Result<(), Error> {
        if self.projects.is_none() {
            return Ok(());
        }
        Err(Error::Denied {
            what: "not every project is yours: name one".into(),
        })
    }

    /// # Errors
    /// [`Error::Denied`] if they may not concern all of it.
    pub(super) fn check_scope(&self, scope: &Scope) -> Result<(), Error> {
        match scope {
            Scope::AllProjects => self.check_all_projects(),
            Scope::Project(project) => self.check_project(project.as_str()),
        }
    }

    /// A project of theirs.
    ///
    /// # Errors
    /// As of [`Authority::check_project`].
    pub(super) fn enter(&self, project: ProjectId) -> Result<ProjectId, Error> {
        self.check_project(project.as_str())?;
        Ok(project)
    }

    /// Whether they may concern a resource of one of their projects. What they may not is as good as missing.
    pub(super) fn concerns<R: Resource>(&self, resource: &R) -> bool {
        let client_id = self.client_id.as_deref();
        client_id.is_none_or(|client_id| client_id == resource.client_id())
    }

    /// Names in a new resource who stores it, and for which client.
    ///
    /// # Errors
    /// [`Error::Denied`] if it is another client's.
    pub(super) fn sign<R: Resource>(&self, resource: &mut R) -> Result<(), Error> {
        if let Some(client_id) = &self.client_id {
            if resource.client_id().is_empty() {
                resource.set_client_id(client_id);
            }
            self.check_client(resource)?;
        }
        if let Some(user) = &self.user {
            resource.set_user(user, None);
        }
        Ok(())
    }

    /// Names in a resource that was changed who has changed it, where it says so.
    ///
    /// # Errors
    /// [`Error::Denied`] if it was given to another client.
    pub(super) fn countersign<R: Resource>(
        &self,
        changed: &mut R,
        stored: &R,
    ) -> Result<(), Error> {
        self.check_client(changed)?;
        if let Some(user) = &self.user {
            changed.set_user(user, Some(stored));
        }
        Ok(())
    }

    fn check_client<R: Resource>(&self, resource: &R) -> Result<(), Error> {
        if self.concerns(resource) {
            return Ok(());
        }
        Err(Error::Denied {
            what: format!("client {} is not yours", resource.client_id()),
        })
    }

    /// Leaves in a list what they may concern.
    ///
    /// # Errors
    /// [`Error::Denied`] if another client's resources are asked for.
    pub(super) fn narrow<F: Filter>(&self, filter: &mut F) -> Result<(), Error> {
        let Some(client_id) = &self.client_id else {
            return Ok(());
        };
        let Some(wanted) = filter.client_id() else {
            return Err(Error::Denied {
                what: "what is no client's is not yours".into(),
            });
        };
        if wanted.is_empty() || *wanted == *client_id {
            client_id.clone_into(wanted);
            return Ok(());
        }
        Err(Error::Denied {
            what: format!("client {wanted} is not yours"),
        })
    }
}
