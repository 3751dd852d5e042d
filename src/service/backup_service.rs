//! `freezer.v2.BackupService`: the catalog of backups.

use tonic::{Request, Response, Status};

use super::resources::{Served, resource_service};
use crate::proto::{
    Backup, CreateBackupRequest, CreateBackupResponse, DeleteBackupRequest, DeleteBackupResponse,
    GetBackupRequest, GetBackupResponse, ListBackupsRequest, ListBackupsResponse,
    UpdateBackupRequest, UpdateBackupResponse, WatchBackupsRequest,
    backup_service_server::BackupService,
};

/// The service.
pub(crate) type Backups = Served<Backup>;

resource_service! {
    BackupService of Backup(backup, backup_id):
    create create_backup(CreateBackupRequest) -> CreateBackupResponse;
    get get_backup(GetBackupRequest) -> GetBackupResponse;
    list list_backups(ListBackupsRequest) -> ListBackupsResponse;
    update update_backup(UpdateBackupRequest) -> UpdateBackupResponse;
    delete delete_backup(DeleteBackupRequest) -> DeleteBackupResponse;
    watch watch_backups(WatchBackupsRequest) -> WatchBackupsStream;
    own {}
}
