//! What a resource has to do with others of its project: read and written together with it, or not at all.

use super::{Kind, Resource, ResourceId, Violations};

/// Why something makes no sense as things stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What it is about.
    pub kind: Kind,
    /// Its id.
    pub id: String,
    /// A word for programs.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// The other resources of a project, for one that is about to be stored or removed.
pub trait Neighbours {
    /// Why they cannot be read, or why something is refused.
    type Error: From<Violations> + From<Refusal>;

    /// Another resource. What is decided by it holds only if it is still the same when all is stored.
    ///
    /// # Errors
    /// If it cannot be read.
    fn read<R: Resource>(&mut self, id: &ResourceId) -> Result<Option<R>, Self::Error>;

    /// Changes another resource, which was read before, together with this one.
    ///
    /// # Errors
    /// If it breaks a rule of its own.
    fn write<R: Resource>(&mut self, changed: R) -> Result<(), Self::Error>;

    /// How many resources of kind `R` refer to another one. Others may begin to meanwhile.
    ///
    /// # Errors
    /// If they cannot be read.
    fn users_count<R: Resource, Of: Resource>(
        &mut self,
        of: &ResourceId,
    ) -> Result<usize, Self::Error>;

    /// The ids of the resources of kind `R` that refer to another one: see [`Resource::references`]. They must still be these when all
    /// is stored.
    ///
    /// # Errors
    /// If they cannot be read.
    fn users<R: Resource, Of: Resource>(
        &mut self,
        of: &ResourceId,
    ) -> Result<Vec<ResourceId>, Self::Error>;
}
