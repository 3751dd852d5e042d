//! `freezer.v2.BackupService`: the catalog of backups.

use tokio_stream::Empty;
use tonic::{Request, Response, Status};

use super::{created, list::ListRequest, one, update};
use crate::{
    catalog::Catalog,
    proto::{
        Backup, CreateBackupRequest, CreateBackupResponse, DeleteBackupRequest,
        DeleteBackupResponse, GetBackupRequest, GetBackupResponse, ListBackupsRequest,
        ListBackupsResponse, UpdateBackupRequest, UpdateBackupResponse, WatchBackupsRequest,
        WatchBackupsResponse, backup_service_server::BackupService,
    },
    resource::Valid,
};

/// The service, over a catalog.
#[derive(Clone, Debug)]
pub struct Backups {
    catalog: Catalog,
}

impl Backups {
    /// The backups in `catalog`.
    #[must_use]
    pub fn new(catalog: Catalog) -> Self {
        Backups { catalog }
    }
}

#[tonic::async_trait]
impl BackupService for Backups {
    async fn create_backup(
        &self,
        request: Request<CreateBackupRequest>,
    ) -> Result<Response<CreateBackupResponse>, Status> {
        let request = request.into_inner();
        let backup = Valid::new(&request.project_id, request.backup)?;
        let (backup, is_new) = self.catalog.create(backup).await?;
        let response = CreateBackupResponse {
            backup: Some(backup),
        };
        Ok(created(response, is_new))
    }

    async fn get_backup(
        &self,
        request: Request<GetBackupRequest>,
    ) -> Result<Response<GetBackupResponse>, Status> {
        let request = request.into_inner();
        let (project, id) = one::<Backup>(&request.project_id, &request.backup_id)?;
        Ok(Response::new(self.catalog.get(project, id).await?))
    }

    async fn list_backups(
        &self,
        request: Request<ListBackupsRequest>,
    ) -> Result<Response<ListBackupsResponse>, Status> {
        let ListBackupsRequest {
            project_id,
            limit,
            marker,
            page_token,
            filter,
        } = request.into_inner();
        let list = ListRequest {
            project_id,
            limit,
            marker,
            page_token,
            filter,
        };
        Ok(Response::new(self.catalog.list(list.query()?).await?))
    }

    async fn update_backup(
        &self,
        request: Request<UpdateBackupRequest>,
    ) -> Result<Response<UpdateBackupResponse>, Status> {
        let UpdateBackupRequest {
            project_id,
            backup,
            update_mask,
            expected_revision,
        } = request.into_inner();
        let (project, id, patch) = update(&project_id, backup.as_ref(), update_mask.as_ref())?;
        let change = move |stored: &Backup| Ok(Valid::changed(patch.apply(stored)?)?);
        let backup = self
            .catalog
            .update(project, id, expected_revision, change)
            .await?;
        Ok(Response::new(UpdateBackupResponse {
            backup: Some(backup),
        }))
    }

    async fn delete_backup(
        &self,
        request: Request<DeleteBackupRequest>,
    ) -> Result<Response<DeleteBackupResponse>, Status> {
        let request = request.into_inner();
        let (project, id) = one::<Backup>(&request.project_id, &request.backup_id)?;
        self.catalog
            .delete::<Backup>(project, id, request.expected_revision)
            .await?;
        Ok(Response::new(DeleteBackupResponse {}))
    }

    type WatchBackupsStream = Empty<Result<WatchBackupsResponse, Status>>;

    async fn watch_backups(
        &self,
        _request: Request<WatchBackupsRequest>,
    ) -> Result<Response<Self::WatchBackupsStream>, Status> {
        Err(Status::unimplemented(
            "this version of Icebox has no watches: list instead",
        ))
    }
}
