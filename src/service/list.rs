//! What list requests have in common: they are read into one [`Query`].

use crate::{
    catalog::{After, PAGE_ITEMS_MAX, Query, Scope},
    resource::{Filter, ProjectId, Resource, ResourceId, Violations},
};

/// Items in a page whose request names no limit (Freezer's default).
const PAGE_ITEMS_DEFAULT: usize = 100;
/// What stands for every project.
const ALL_PROJECTS: &str = "-";

/// The fields of a list request.
pub(super) struct ListRequest<R: Resource> {
    pub(super) project_id: String,
    pub(super) limit: i32,
    pub(super) marker: String,
    pub(super) page_token: String,
    pub(super) filter: Option<R::Filter>,
}

impl<R: Resource> ListRequest<R> {
    /// The query, if every field is well-formed.
    pub(super) fn query(self) -> Result<Query<R>, Violations> {
        let mut violations = Violations::new();
        let scope = if self.project_id == ALL_PROJECTS {
            Some(Scope::AllProjects)
        } else {
            violations
                .collect(ProjectId::parse("project_id", &self.project_id))
                .map(Scope::Project)
        };
        let limit = match usize::try_from(self.limit) {
            Ok(0) => PAGE_ITEMS_DEFAULT,
            Ok(limit) => limit.min(PAGE_ITEMS_MAX),
            Err(_) => {
                violations.add(
                    "limit",
                    format!("must not be negative, as {} is", self.limit),
                );
                0
            }
        };
        let after = match (self.marker.as_str(), self.page_token.as_str()) {
            ("", "") => Some(After::Nothing),
            (marker, "") => violations
                .collect(ResourceId::parse("marker", marker))
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
            }),
            _ => Err(violations),
        }
    }
}
