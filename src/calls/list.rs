//! A list, page by page.

use std::{future::IntoFuture, sync::Arc};

use super::{Authority, Call, undecodable};
use crate::{
    catalog::{After, Catalog, Error, Only, PAGE_ITEMS_MAX, Query, Scope},
    proto,
    resource::{Filter, ProjectId, Resource, ResourceId, Violations},
};

/// Items in a page if the caller sets no limit (Freezer's default).
const PAGE_ITEMS_DEFAULT: usize = 100;
/// The project id that means every project.
const ALL_PROJECTS: &str = "-";

/// A list call that has not been made yet. Awaiting it gives a [`Listed`].
///
/// A walk that follows a marker or token from page to page sees each resource that exists all the time exactly once, whatever is
/// written meanwhile.
///
/// # Errors
/// [`Error::Invalid`] with every bad field. A marker is bad if the list does not hold it, or no longer does.
#[derive(Clone, Debug)]
#[must_use = "nothing is read before it is awaited"]
pub struct List<'a, R: Resource> {
    catalog: &'a Catalog,
    authority: &'a Arc<Authority>,
    project_id: String,
    limit: i32,
    marker: String,
    page_token: String,
    filter: Option<R::Filter>,
    only: Option<Only>,
    skip: usize,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed<R> {
    /// The items, sorted by name, then id.
    pub items: Vec<R>,
    /// The token of the next page, for [`List::page_token`]. Empty on the last page.
    pub next_page_token: String,
    /// The page shows all changes up to this revision. It may show later ones, too.
    pub revision: u64,
}

impl<'a, R: Resource> List<'a, R> {
    pub(super) fn new(
        catalog: &'a Catalog,
        authority: &'a Arc<Authority>,
        project_id: String,
    ) -> Self {
        List {
            catalog,
            authority,
            project_id,
            limit: 0,
            marker: String::new(),
            page_token: String::new(),
            filter: None,
            only: None,
            skip: 0,
        }
    }

    /// Sets how many items the page may hold: 100 if this is 0 or not called, and never more than 1,000.
    pub fn limit(mut self, limit: i32) -> Self {
        self.limit = limit;
        self
    }

    /// Starts right after the item with this id, the last one that the caller has seen. Empty means the beginning.
    pub fn after(mut self, marker: impl Into<String>) -> Self {
        self.marker = marker.into();
        self
    }

    /// Starts where an earlier page of the same list ended, even if the last item of that page has been deleted since. Empty means
    /// the beginning.
    pub fn page_token(mut self, page_token: impl Into<String>) -> Self {
        self.page_token = page_token.into();
        self
    }

    /// Keeps only items that this filter lets through. A filtered page that was asked for by its token may be empty: only an empty
    /// [`Listed::next_page_token`] ends a walk.
    pub fn filter(mut self, filter: impl Into<Option<R::Filter>>) -> Self {
        self.filter = filter.into();
        self
    }

    /// Keeps only items that are chosen by their stored bytes. Secret fields are not part of these.
    pub(crate) fn only(mut self, only: Option<Only>) -> Self {
        self.only = only;
        self
    }

    /// Leaves out this many of the first items. This takes as long as returning them would.
    pub(crate) fn skip(mut self, skip: usize) -> Self {
        self.skip = skip;
        self
    }

    /// Returns the page with its items still encoded, for a caller that only passes them on.
    ///
    /// # Errors
    /// The same as for awaiting the list.
    pub async fn encoded(self) -> Result<proto::Page<R>, Error> {
        let List {
            catalog, authority, ..
        } = self;
        let mut query = self.query()?;
        authority.check_scope(&query.scope)?;
        authority.narrow(&mut query.filter)?;
        query.with_secrets = authority.sees_secrets();
        catalog.list(query).await
    }

    /// The query, if every field is well-formed.
    fn query(self) -> Result<Query<R>, Violations> {
        let mut violations = Violations::new();
        let scope = scope(&self.project_id, &mut violations);
        let limit = limit(self.limit, &mut violations);
        let after = match (self.marker.as_str(), self.page_token.as_str()) {
            ("", "") => Some(After::Nothing),
            (marker, "") => violations
                .collect(ResourceId::of(R::KIND, "marker", marker))
                .map(After::Marker),
            ("", _) => Some(After::Token(self.page_token)),
            _ => {
                violations.add(
                    "marker",
                    "must not be set together with page_token: each names a place",
                );
                violations.add(
                    "page_token",
                    "must not be set together with marker: each names a place",
                );
                None
            }
        };
        let filter = self.filter.unwrap_or_default();
        filter.check(&mut violations);
        match (scope, after) {
            (Some(scope), Some(after)) => violations.or(Query {
                scope,
                limit,
                after,
                filter,
                only: self.only,
                skip: self.skip,
                with_secrets: false,
            }),
            _ => Err(violations),
        }
    }
}

impl<'a, R: Resource> IntoFuture for List<'a, R> {
    type Output = Result<Listed<R>, Error>;
    type IntoFuture = Call<'a, Listed<R>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let page = self.encoded().await?;
            let items = page.decoded().map_err(|_| undecodable::<R>())?;
            Ok(Listed {
                items,
                next_page_token: page.next_page_token,
                revision: page.revision,
            })
        })
    }
}

/// The scope that a project id names.
pub(super) fn scope(project_id: &str, violations: &mut Violations) -> Option<Scope> {
    if project_id == ALL_PROJECTS {
        return Some(Scope::AllProjects);
    }
    let project = violations.collect(ProjectId::parse("project_id", project_id));
    project.map(Scope::Project)
}

/// The number of items that a limit asks for.
pub(super) fn limit(wanted: i32, violations: &mut Violations) -> usize {
    match usize::try_from(wanted) {
        Ok(0) => PAGE_ITEMS_DEFAULT,
        Ok(limit) => limit.min(PAGE_ITEMS_MAX),
        Err(_) => {
            violations.add("limit", format!("must not be negative, as {wanted} is"));
            0
        }
    }
}
