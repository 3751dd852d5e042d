//! On whose behalf calls are made, and which resources they may touch. The server decides which roles exist, and which role may
//! call which RPC.

use std::sync::{Arc, LazyLock};

use crate::{
    catalog::{Author, Error, Scope},
    resource::{Filter, ProjectId, Resource, User},
};

/// Which resources a caller may touch, and which user is named in what it stores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Authority {
    /// The projects that the caller may touch; `None` means every project.
    pub(crate) projects: Option<Vec<String>>,
    /// The only client whose resources the caller may touch, if it is bound to one.
    pub(crate) client_id: Option<String>,
    /// The user to name in records; `None` means the user that the request names.
    pub(crate) user: Option<User>,
}

/// The caller on whose behalf calls are made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Behalf {
    /// Which resources the caller may touch.
    pub(crate) authority: Arc<Authority>,
    /// Who is noted as the author of its changes.
    pub(crate) author: Option<Author>,
}

impl Behalf {
    /// The authority of a caller that may touch nothing.
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

/// A caller that may touch everything, and is no user.
pub(super) static FULL: LazyLock<Behalf> = LazyLock::new(Behalf::default);

impl Authority {
    /// Whether the caller may see the secret fields of what it may touch: those who may touch every project may, and so may the
    /// client itself.
    pub(super) fn sees_secrets(&self) -> bool {
        self.projects.is_none() || self.client_id.is_some()
    }

    /// A resource as the caller may see it.
    pub(super) fn shown<R: Resource>(&self, mut resource: R) -> R {
        if !self.sees_secrets() {
            resource.take_secret();
        }
        resource
    }

    /// # Errors
    /// [`Error::Denied`] if the caller may not touch the project.
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
    /// [`Error::Denied`] if the caller may not touch every project.
    fn check_all_projects(&self) -> Result<(), Error> {
        if self.projects.is_none() {
            return Ok(());
        }
        Err(Error::Denied {
            what: "not every project is yours: name one".into(),
        })
    }

    /// # Errors
    /// [`Error::Denied`] if the caller may not touch all of the scope.
    pub(super) fn check_scope(&self, scope: &Scope) -> Result<(), Error> {
        match scope {
            Scope::AllProjects => self.check_all_projects(),
            Scope::Project(project) => self.check_project(project.as_str()),
        }
    }

    /// Returns the project if the caller may touch it.
    ///
    /// # Errors
    /// The same as for [`Authority::check_project`].
    pub(super) fn enter(&self, project: ProjectId) -> Result<ProjectId, Error> {
        self.check_project(project.as_str())?;
        Ok(project)
    }

    /// Whether the caller may touch this resource of a project that it may touch. If it may not, the resource counts as missing.
    pub(super) fn concerns<R: Resource>(&self, resource: &R) -> bool {
        let client_id = self.client_id.as_deref();
        client_id.is_none_or(|client_id| client_id == resource.client_id())
    }

    /// Writes into a new resource which user stores it, and for which client.
    ///
    /// # Errors
    /// [`Error::Denied`] if the resource belongs to another client.
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

    /// Writes into a changed resource which user has changed it, if resources of this kind say so.
    ///
    /// # Errors
    /// [`Error::Denied`] if the change gives the resource to another client.
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

    /// Limits a list to the resources that the caller may touch.
    ///
    /// # Errors
    /// [`Error::Denied`] if the filter asks for another client's resources.
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

#[cfg(all(test, feature = "server"))]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_no_guard_has_let_in_may_touch_nothing() {
        let nobodys = Behalf::nobodys().authority;
        let project = ProjectId::parse("project_id", "demo").expect("an id");
        assert!(nobodys.check_project("demo").is_err());
        assert!(nobodys.check_scope(&Scope::Project(project)).is_err());
        assert!(nobodys.check_scope(&Scope::AllProjects).is_err());
        assert!(!nobodys.sees_secrets());
    }
}
