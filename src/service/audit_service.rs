//! `freezer.v2.AuditService`: who has changed what.

use tonic::{Request, Response, Status};

use super::behalf_of;
use crate::{
    calls::audit,
    catalog::Catalog,
    proto::{ListChangesRequest, ListChangesResponse, audit_service_server::AuditService},
};

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Audit {
    catalog: Catalog,
}

impl Audit {
    /// The audit log of `catalog`.
    #[must_use]
    pub(crate) fn new(catalog: Catalog) -> Self {
        Audit { catalog }
    }
}

#[tonic::async_trait]
impl AuditService for Audit {
    async fn list_changes(
        &self,
        request: Request<ListChangesRequest>,
    ) -> Result<Response<ListChangesResponse>, Status> {
        let behalf = behalf_of(&request);
        let page = audit(&self.catalog, &behalf, request.into_inner()).await?;
        Ok(super::large(page))
    }
}
