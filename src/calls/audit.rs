//! The calls that read the audit log.

use super::{Behalf, list};
use crate::{
    catalog::{AUDITED, AuditQuery, Catalog, Error},
    proto::{ListChangesRequest, ListChangesResponse},
    resource::{ResourceId, Violations},
};

/// A page of the audit log.
///
/// # Errors
/// [`Error::Invalid`] with every bad field; [`Error::Denied`]; [`Error::Compacted`] if the changes asked for are no longer kept.
pub(crate) async fn audit(
    catalog: &Catalog,
    behalf: &Behalf,
    request: ListChangesRequest,
) -> Result<ListChangesResponse, Error> {
    let query = query(request)?;
    behalf.authority.check_scope(&query.scope)?;
    catalog.audit(query).await
}

/// The query, if every field is well-formed.
fn query(request: ListChangesRequest) -> Result<AuditQuery, Violations> {
    let ListChangesRequest {
        project_id,
        after_revision,
        limit,
        kind: wanted,
        resource_id,
    } = request;
    let mut violations = Violations::new();
    let scope = list::scope(&project_id, &mut violations);
    let limit = list::limit(limit, &mut violations);
    let kind = AUDITED.into_iter().find(|kind| kind.field == wanted);
    if kind.is_none() && !wanted.is_empty() {
        violations.add(
            "kind",
            "must be backup, job, client, action or session, or left out",
        );
    }
    let is_named = kind.is_some_and(|kind| kind.is_named_by_id);
    if !resource_id.is_empty() && !is_named {
        violations.collect(ResourceId::parse("resource_id", &resource_id));
    }
    match scope {
        Some(scope) => violations.or(AuditQuery {
            scope,
            after_revision,
            limit,
            kind,
            resource_id,
        }),
        None => Err(violations),
    }
}
