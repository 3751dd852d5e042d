//! The resources: for each kind its name and its rules.

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

/// What the catalog needs to know about a message to store it. A new resource is a `.proto`, this trait in a file here, and a file
/// in `service/`.
pub trait Resource:
    prost::Name + proto::Revisioned + Default + Clone + PartialEq + Send + Sync + 'static
{
    /// Its byte in the keys, and its name in messages to people.
    const KIND: Kind;
    /// Fields that only the server sets. They are ignored in a create, and refused in an update mask.
    const OUTPUT_ONLY: &'static [&'static str];
    /// Fields that cannot change after the create.
    const IMMUTABLE: &'static [&'static str];
    /// Message fields whose set fields are merged if an update names the whole message.
    const MERGED: &'static [&'static str];
    /// Whether it may have secret fields, which only some callers may see.
    const HAS_SECRETS: bool = false;
    /// Whether it depends on other resources, which must then be read when it is stored.
    const HAS_NEIGHBOURS: bool = false;
    /// The tag of the field with its client, if it has one.
    const CLIENT_TAG: Option<u32> = None;
    /// The tag of the field with its labels, if it has any.
    const LABELS_TAG: Option<u32> = None;
    /// The filter for lists of it.
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
    /// The client that it belongs to. Empty if there is none.
    fn client_id(&self) -> &str;
    /// Sets the client that it belongs to.
    fn set_client_id(&mut self, client_id: &str);
    /// Writes the user wherever the resource names one, except where it equals what is stored.
    fn set_user(&mut self, user: &User, stored: Option<&Self>);
    /// A resource with only the fields that [`Resource::Filter`] tests.
    #[must_use]
    fn facets(&self) -> Self;
    /// The fields that the catalog has set.
    fn stamps(&self) -> Stamps;
    /// Sets the fields that the catalog sets.
    fn set_stamps(&mut self, stamps: Stamps);
    /// The resources that it refers to, by the tags of their kinds and the keys of their ids. They are found again by that.
    fn references(&self) -> Vec<(u8, [u8; 16])> {
        Vec::new()
    }
    /// Takes over what it shares with its neighbours, and hands on to them what they share with it, before it replaces `stored`, if
    /// that exists. Returns whether it has changed.
    ///
    /// # Errors
    /// Why the neighbours do not allow it.
    fn settle<N: Neighbours>(
        &mut self,
        _stored: Option<&Self>,
        _neighbours: &mut N,
    ) -> Result<bool, N::Error> {
        Ok(false)
    }
    /// Takes itself out of its neighbours before it is deleted.
    ///
    /// # Errors
    /// Why the neighbours do not allow it.
    fn depart<N: Neighbours>(&self, _neighbours: &mut N) -> Result<(), N::Error> {
        Ok(())
    }
    /// Moves its secret fields into a resource that has nothing else. They are stored apart, so that pages of lists, which are made
    /// from the records, do not hold them.
    fn take_secret(&mut self) -> Option<Self> {
        None
    }
    /// Adds every rule that it breaks to `violations`. Their paths start with [`Kind::field`].
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
    /// Its byte in keys. No other kind may ever have the same.
    pub tag: u8,
    /// Its noun, which is also the field that holds it in requests.
    pub field: &'static str,
    /// The field of its id, in itself and in requests.
    pub id_field: &'static str,
    /// Whether its id is a name instead of 32 hex digits.
    pub is_named_by_id: bool,
}

/// The fields of a resource that the catalog sets. They are empty until it is stored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stamps {
    /// When it was created.
    pub create_time: Option<Timestamp>,
    /// When it was last changed.
    pub update_time: Option<Timestamp>,
    /// The revision of its last change.
    pub revision: u64,
}

/// Chooses among the resources of a list.
pub trait Filter: prost::Message + Default + Clone + PartialEq + 'static {
    /// Adds criteria that can never match to `violations`. Their paths start with `filter`.
    fn check(&self, violations: &mut Violations);
    /// The client whose resources match; empty means every client. `None` for kinds that belong to no client.
    fn client_id(&mut self) -> Option<&mut String>;
    /// The selector for labels; empty means any.
    fn label_selector(&self) -> &str;
    /// The names that can match: the range scan is limited to them.
    fn names(&self) -> Names<'_>;
    /// The rest of the filter, once only names that [`Filter::names`] allows are looked at.
    #[must_use]
    fn beyond_names(&self) -> Self;
    /// Whether an encoded resource matches. Labels are not compared here: see [`Chosen`].
    ///
    /// # Errors
    /// If `record` is not an encoded resource.
    fn matches(&self, record: &[u8]) -> Result<bool, prost::DecodeError>;
}

/// A filter that is ready to compare resources.
#[derive(Clone, Debug)]
pub(crate) struct Chosen<R: Resource> {
    filter: R::Filter,
    selector: Selector,
}

impl<R: Resource> Chosen<R> {
    /// From a valid filter. `None` if it lets everything through.
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
        // Compare labels first: they are found without decoding anything else.
        if let Some(tag) = R::LABELS_TAG
            && !self.selector.matches(record, tag)?
        {
            return Ok(false);
        }
        self.filter.matches(record)
    }
}

/// The names that a filter allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names<'a> {
    /// Only this name. Never empty.
    Exactly(&'a str),
    /// Names with this prefix. If it is empty, all names.
    StartingWith(&'a str),
}

/// Whether a value is the wanted one. An empty wanted value means any.
fn wants(wanted: &str, value: &str) -> bool {
    wanted.is_empty() || wanted == value
}

/// A valid resource, with its project and id: ready to be stored.
///
/// It is boxed, because it is handed from future to future. Each of them would have room for all of it, twice, and a call's future
/// is copied when it begins.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Valid<R>(Box<R>);

impl<R: Resource> Valid<R> {
    /// A new resource from a create request. The request's `project_id` may also stand in the resource. A resource without an id
    /// gets a time-ordered one.
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
        violations.or(Valid(Box::new(resource)))
    }

    /// A reference to the resource.
    #[must_use]
    pub(crate) fn get(&self) -> &R {
        &self.0
    }

    /// The resource.
    #[must_use]
    #[expect(clippy::unnecessary_box_returns, reason = "it is boxed already")]
    pub(crate) fn into_inner(self) -> Box<R> {
        self.0
    }
}

/// Checks a resource after a change.
///
/// # Errors
/// Every bad field.
pub(crate) fn check_changed<R: Resource>(changed: &R) -> Result<(), Violations> {
    let mut violations = Violations::new();
    changed.check(&mut violations);
    violations.or(())
}

/// Checks that a resource is not too large to be stored, before anything of it is copied or searched.
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

/// The project of a request, which may name it beside the resource, in it, or both.
///
/// # Errors
/// If they disagree, or no project is named, or it is not valid.
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
