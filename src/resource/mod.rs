//! The resources: for each its name, its rules.

pub(crate) mod id;
pub(crate) mod limits;
pub(crate) mod patch;
pub(crate) mod schedule;
pub(crate) mod violations;

mod action;
mod backup;
mod client;
mod identity;
mod job;
mod labels;
mod neighbours;
mod rules;
mod session;
#[cfg(test)]
mod tests;

use prost_types::Timestamp;

use crate::proto;

pub(crate) use id::{ProjectId, ResourceId};
pub(crate) use job::Event;
use labels::Selector;
pub(crate) use neighbours::{Neighbours, Refusal};
pub(crate) use patch::Patch;
pub(crate) use rules::{is_steering, nearest};
pub(crate) use session::{Answer, release};
pub use violations::{Violation, Violations};

/// What the catalog needs to know of a message to store it. A new resource is a `.proto`, this trait
/// in a file here, and a file in `service/`.
pub trait Resource:
    prost::Name + proto::Revisioned + Default + Clone + PartialEq + Send + Sync + 'static
{
    /// Its place among the keys, and its name in messages to people.
    const KIND: Kind;
    /// Fields that only the server sets: ignored when created, refused in an update mask.
    const OUTPUT_ONLY: &'static [&'static str];
    /// Fields that stay as they were created.
    const IMMUTABLE: &'static [&'static str];
    /// Message fields whose set fields are merged, where an update names the message as a whole.
    const MERGED: &'static [&'static str];
    /// Whether there may be anything in it that only some may see.
    const HAS_SECRETS: bool = false;
    /// Whether it has anything to do with other resources, so that these are asked when it is stored.
    const HAS_NEIGHBOURS: bool = false;
    /// The tag of the field that its client is in, if it has one.
    const CLIENT_TAG: Option<u32> = None;
    /// The tag of the field that its labels are in, if it has any.
    const LABELS_TAG: Option<u32> = None;
    /// What a list of it can be filtered by.
    type Filter: Filter + std::fmt::Debug;

    /// The id, unique within the project. 32 lowercase hex digits once it is valid.
    fn id(&self) -> &str;
    /// Sets the id.
    fn set_id(&mut self, id: ResourceId);
    /// The project that owns it.
    fn project_id(&self) -> &str;
    /// Sets the project.
    fn set_project_id(&mut self, project: &str);
    /// The name that lists sort by.
    fn name(&self) -> &str;
    /// The client that it is of; empty where it is nobody's.
    fn client_id(&self) -> &str;
    /// Gives it to a client.
    fn set_client_id(&mut self, client_id: &str);
    /// Names the user wherever it names one, but for what it has in common with what is stored.
    fn set_user(&mut self, user: &User, stored: Option<&Self>);
    /// What of it [`Resource::Filter`] tests, and nothing else.
    #[must_use]
    fn facets(&self) -> Self;
    /// What the catalog says about the stored resource.
    fn stamps(&self) -> Stamps;
    /// Replaces what the catalog says about it.
    fn set_stamps(&mut self, stamps: Stamps);
    /// Which others it refers to, by the tags of their kinds and the keys of their ids: these find it by that.
    fn references(&self) -> Vec<(u8, [u8; 16])> {
        Vec::new()
    }
    /// Takes from others what it has in common with them, and gives it to them, before it is stored in the place of `stored`, if
    /// there is that. Says whether it has changed by that.
    ///
    /// # Errors
    /// What it is refused with.
    fn settle<N: Neighbours>(
        &mut self,
        _stored: Option<&Self>,
        _neighbours: &mut N,
    ) -> Result<bool, N::Error> {
        Ok(false)
    }
    /// Takes itself out of others, before it is removed.
    ///
    /// # Errors
    /// What it is refused with.
    fn depart<N: Neighbours>(&self, _neighbours: &mut N) -> Result<(), N::Error> {
        Ok(())
    }
    /// What of it only some may see, taken out, as a resource that has nothing else: it is stored apart, so that pages of lists,
    /// which are made of what is stored, do not hold it.
    fn take_secret(&mut self) -> Option<Self> {
        None
    }
    /// Adds every rule that it breaks to `violations`, under paths that start with [`Kind::field`].
    fn check(&self, violations: &mut Violations);
}

/// A user, as resources name one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Freezer's `user_id`.
    pub id: String,
    /// Freezer's `user_name`.
    pub name: String,
}

/// A kind of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its byte in keys. Never given to another kind.
    pub tag: u8,
    /// Its noun, which is also the field that holds it in requests.
    pub field: &'static str,
    /// The field of its id, in itself and in requests.
    pub id_field: &'static str,
    /// Whether its id is its name, instead of 32 hex digits.
    pub is_named_by_id: bool,
}

/// What the catalog says about a stored resource. Empty until it is stored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stamps {
    /// When it was created.
    pub create_time: Option<Timestamp>,
    /// When it was last changed.
    pub update_time: Option<Timestamp>,
    /// The revision that last changed it.
    pub revision: u64,
}

/// Chooses among the resources of a list.
pub trait Filter: prost::Message + Default + Clone + PartialEq + 'static {
    /// Adds what can never match to `violations`, under paths that start with `filter`.
    fn check(&self, violations: &mut Violations);
    /// The client whose resources match; empty is every one. None where they are nobody's.
    fn client_id(&mut self) -> Option<&mut String>;
    /// What is asked of labels; empty is nothing.
    fn label_selector(&self) -> &str;
    /// Which names can match: what the range scan is narrowed to.
    fn names(&self) -> Names<'_>;
    /// What is left to be compared where only what [`Filter::names`] lets through is looked at.
    #[must_use]
    fn beyond_names(&self) -> Self;
    /// Whether an encoded resource matches, but for its labels: see [`Chosen`].
    ///
    /// # Errors
    /// If `record` is not an encoded resource.
    fn matches(&self, record: &[u8]) -> Result<bool, prost::DecodeError>;
}

/// What a filter lets through, ready to be compared.
#[derive(Clone, Debug)]
pub(crate) struct Chosen<R: Resource> {
    filter: R::Filter,
    selector: Selector,
}

impl<R: Resource> Chosen<R> {
    /// By a filter that keeps its rules, if it asks for anything.
    pub(crate) fn of(filter: R::Filter) -> Option<Self> {
        (filter != R::Filter::default()).then(|| Chosen::by(filter))
    }

    fn by(filter: R::Filter) -> Self {
        let selector = Selector::parse(filter.label_selector());
        Chosen {
            selector: selector.expect("a checked filter has a selector"),
            filter,
        }
    }

    /// Whether an encoded resource matches.
    ///
    /// # Errors
    /// If `record` is not an encoded resource.
    pub(crate) fn matches(&self, record: &[u8]) -> Result<bool, prost::DecodeError> {
        // Labels first: they are found without decoding anything else.
        if let Some(tag) = R::LABELS_TAG
            && !self.selector.matches(record, tag)?
        {
            return Ok(false);
        }
        self.filter.matches(record)
    }
}

/// The names that a filter lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names<'a> {
    /// This one only. Never empty.
    Exactly(&'a str),
    /// Those that start with this, which is empty where all do.
    StartingWith(&'a str),
}

/// Whether a filter's wanted value, where empty means any, is the record's.
fn wants(wanted: &str, value: &str) -> bool {
    wanted.is_empty() || wanted == value
}

/// A resource that keeps all its rules, with its project and id: ready to be stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Valid<R>(R);

impl<R: Resource> Valid<R> {
    /// A new resource from a create request: `project_id` is the request's own, which may also stand in
    /// the resource. One that brings no id gets a time-ordered one.
    ///
    /// # Errors
    /// Every bad field.
    pub(crate) fn new(project_id: &str, resource: Option<R>) -> Result<Valid<R>, Violations> {
        let mut violations = Violations::new();
        let Some(mut resource) = resource else {
            violations.collect(ProjectId::parse("project_id", project_id));
            violations.add(R::KIND.field, "is required");
            return Err(violations);
        };
        record_size(&resource)?;
        match violations.collect(agreed_project(project_id, &resource)) {
            Some(project) => resource.set_project_id(project.as_str()),
            None => resource.set_project_id(""),
        }
        if resource.id().is_empty() && !R::KIND.is_named_by_id {
            resource.set_id(ResourceId::new());
        }
        resource.set_stamps(Stamps::default());
        resource.check(&mut violations);
        violations.or(Valid(resource))
    }

    /// A resource as an update left it.
    ///
    /// # Errors
    /// Every bad field.
    pub(crate) fn changed(resource: R) -> Result<Valid<R>, Violations> {
        let mut violations = Violations::new();
        resource.check(&mut violations);
        violations.or(Valid(resource))
    }

    /// The resource, to look at.
    #[must_use]
    pub(crate) fn get(&self) -> &R {
        &self.0
    }

    /// The resource.
    #[must_use]
    pub(crate) fn into_inner(self) -> R {
        self.0
    }
}

/// Checks that a resource is not larger than what may be stored, before anything of it is copied or searched.
///
/// # Errors
/// If it is.
pub(crate) fn record_size<R: Resource>(resource: &R) -> Result<(), Violations> {
    let mut violations = Violations::new();
    let field = R::KIND.field;
    rules::record_size(
        format_args!("{field}"),
        resource.encoded_len(),
        &mut violations,
    );
    violations.or(())
}

/// The project of a request that may name it beside the resource, in it, or both.
///
/// # Errors
/// If they disagree, or none is named, or it is no project's.
pub(crate) fn agreed_project<R: Resource>(
    project_id: &str,
    resource: &R,
) -> Result<ProjectId, Violations> {
    let inner = resource.project_id();
    let inner_field = || format!("{}.project_id", R::KIND.field);
    if project_id.is_empty() && !inner.is_empty() {
        return ProjectId::parse(inner_field(), inner);
    }
    if !inner.is_empty() && inner != project_id {
        let description =
            format!("is {inner:?}, but project_id is {project_id:?}: they must agree");
        return Err(Violations::one(inner_field(), description));
    }
    ProjectId::parse("project_id", project_id)
}
