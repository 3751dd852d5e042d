//! The neighbours of a resource: others of its project that are read and written in the same commit.

use super::{Kind, Resource, ResourceId, Violations};

/// Why the state of other resources does not allow something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of the resource in question.
    pub kind: Kind,
    /// Its id.
    pub id: String,
    /// A code for programs.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// Access to the neighbours of a resource that is about to be stored or deleted.
pub trait Neighbours {
    /// Why they cannot be read, or do not allow something.
    type Error: From<Violations> + From<Refusal>;

    /// Reads another resource. The commit happens only if it has not changed by then.
    ///
    /// # Errors
    /// If it cannot be read.
    fn read<R: Resource>(&mut self, id: &ResourceId) -> Result<Option<R>, Self::Error>;

    /// Changes another resource, which was read before, in the same commit.
    ///
    /// # Errors
    /// If it breaks a rule of its own.
    fn write<R: Resource>(&mut self, changed: R) -> Result<(), Self::Error>;

    /// How many resources of kind `R` refer to another one. The number may change before the commit.
    ///
    /// # Errors
    /// If they cannot be read.
    fn users_count<R: Resource, Of: Resource>(
        &mut self,
        of: &ResourceId,
    ) -> Result<usize, Self::Error>;

    /// The ids of the resources of kind `R` that refer to another one: see [`Resource::references`]. The commit happens only if
    /// they are still the same.
    ///
    /// # Errors
    /// If they cannot be read.
    fn users<R: Resource, Of: Resource>(
        &mut self,
        of: &ResourceId,
    ) -> Result<Vec<ResourceId>, Self::Error>;
}
