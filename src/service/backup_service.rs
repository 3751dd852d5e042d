//! `freezer.v2.BackupService`: the catalog of backups.

use tonic::{Request, Response, Status};

use super::{WatchStream, Watches, behalf_of, created};
use crate::{
    calls::{Behalf, Calls, Created},
    catalog::Catalog,
    proto::{
        Backup, CreateBackupRequest, CreateBackupResponse, DeleteBackupRequest,
        DeleteBackupResponse, GetBackupRequest, GetBackupResponse, ListBackupsRequest,
        ListBackupsResponse, UpdateBackupRequest, UpdateBackupResponse, WatchBackupsRequest,
        backup_service_server::BackupService,
    },
};

/// The service, over a catalog.
#[derive(Clone, Debug)]
pub(crate) struct Backups {
    catalog: Catalog,
    watches: Watches,
}

impl Backups {
    /// The backups in `catalog`.
    #[must_use]
    pub(crate) fn new(catalog: Catalog, watches: Watches) -> Self {
        Backups { catalog, watches }
    }

    fn calls<'a>(&'a self, behalf: &'a Behalf) -> Calls<'a, Backup> {
        Calls::on_behalf(behalf, &self.catalog)
    }
}

#[tonic::async_trait]
impl BackupService for Backups {
    async fn create_backup(
        &self,
        request: Request<CreateBackupRequest>,
    ) -> Result<Response<CreateBackupResponse>, Status> {
        let behalf = behalf_of(&request);
        let CreateBackupRequest { project_id, backup } = request.into_inner();
        let Created { resource, is_new } = self.calls(&behalf).create(&project_id, backup).await?;
        let response = CreateBackupResponse {
            backup: Some(resource),
        };
        Ok(created(response, is_new))
    }

    async fn get_backup(
        &self,
        request: Request<GetBackupRequest>,
    ) -> Result<Response<GetBackupResponse>, Status> {
        let behalf = behalf_of(&request);
        let GetBackupRequest {
            project_id,
            backup_id,
        } = request.into_inner();
        let backup = self
            .calls(&behalf)
            .get_encoded(&project_id, &backup_id)
            .await?;
        Ok(Response::new(backup))
    }

    async fn list_backups(
        &self,
        request: Request<ListBackupsRequest>,
    ) -> Result<Response<ListBackupsResponse>, Status> {
        let behalf = behalf_of(&request);
        let ListBackupsRequest {
            project_id,
            limit,
            marker,
            page_token,
            filter,
        } = request.into_inner();
        let list = self
            .calls(&behalf)
            .list(project_id)
            .limit(limit)
            .filter(filter);
        let page = list.after(marker).page_token(page_token).encoded().await?;
        Ok(super::page(page))
    }

    async fn update_backup(
        &self,
        request: Request<UpdateBackupRequest>,
    ) -> Result<Response<UpdateBackupResponse>, Status> {
        let behalf = behalf_of(&request);
        let UpdateBackupRequest {
            project_id,
            backup,
            update_mask,
            expected_revision,
        } = request.into_inner();
        let update = self
            .calls(&behalf)
            .update(project_id, backup)
            .mask(update_mask);
        let backup = update.expecting(expected_revision).await?;
        Ok(Response::new(UpdateBackupResponse {
            backup: Some(backup),
        }))
    }

    async fn delete_backup(
        &self,
        request: Request<DeleteBackupRequest>,
    ) -> Result<Response<DeleteBackupResponse>, Status> {
        let behalf = behalf_of(&request);
        let DeleteBackupRequest {
            project_id,
            backup_id,
            expected_revision,
        } = request.into_inner();
        let delete = self.calls(&behalf).delete(project_id, backup_id);
        delete.expecting(expected_revision).await?;
        Ok(Response::new(DeleteBackupResponse {}))
    }

    type WatchBackupsStream = WatchStream<Backup>;

    async fn watch_backups(
        &self,
        request: Request<WatchBackupsRequest>,
    ) -> Result<Response<Self::WatchBackupsStream>, Status> {
        let behalf = behalf_of(&request);
        let WatchBackupsRequest {
            project_id,
            after_revision,
            filter,
        } = request.into_inner();
        let watch = self
            .calls(&behalf)
            .watch(project_id)
            .after(after_revision)
            .filter(filter)
            .bookmark_interval(self.watches.bookmark_interval);
        Ok(Response::new(self.watches.stream(watch.await?)))
    }
}
