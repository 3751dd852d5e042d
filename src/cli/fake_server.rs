//! A server for the command's tests: it can be unavailable, refuse, and answer as a test says.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use prost::Message;
use tokio::time::sleep;
use tonic::{
    Request, Response, Status,
    transport::{Endpoint, server::TcpIncoming},
};

use super::connection::{Channel, without_token};
use crate::proto::{
    Backup, CreateBackupRequest, CreateBackupResponse, DeleteBackupRequest, DeleteBackupResponse,
    GetBackupRequest, GetBackupResponse, ListBackupsRequest, ListBackupsResponse, Splice,
    UpdateBackupRequest, UpdateBackupResponse, WatchBackupsRequest, WatchBackupsResponse,
    backup_service_server::{BackupService, BackupServiceServer},
};

type Answer<T> = Result<Response<T>, Status>;

/// What the server holds, and how it behaves.
#[derive(Default)]
pub(super) struct Catalog {
    /// What lists return, all in project p, one a page.
    pub(super) backups: Vec<Backup>,
    /// How many creates are answered `UNAVAILABLE` first. Backups with the name "bad" or "secret" are refused.
    pub(super) away_for_calls: AtomicU64,
    /// Creates so far, creates under way, and the most that were under way at a time.
    pub(super) calls: AtomicU64,
    pub(super) calls_now: AtomicU64,
    pub(super) calls_now_max: AtomicU64,
    /// The ids that were created.
    pub(super) ids: Mutex<BTreeSet<String>>,
}

/// Serves a catalog, for as long as the test runs.
pub(super) async fn serve(catalog: &Arc<Catalog>) -> Channel {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let service = BackupServiceServer::new(Arc::clone(catalog));
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming),
    );
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap();
    without_token(channel.connect().await.unwrap())
}

#[tonic::async_trait]
impl BackupService for Arc<Catalog> {
    async fn list_backups(
        &self,
        request: Request<ListBackupsRequest>,
    ) -> Answer<ListBackupsResponse> {
        let request = request.into_inner();
        if request.project_id != "p" {
            return Err(Status::permission_denied("not yours"));
        }
        let n: usize = request.page_token.parse().unwrap_or(0);
        let mut records = Splice::default();
        if let Some(backup) = self.backups.get(n) {
            records.push(&backup.encode_to_vec(), backup.revision);
        }
        let next = if n + 1 < self.backups.len() {
            (n + 1).to_string()
        } else {
            String::new()
        };
        Ok(Response::new(records.into_page(next, 1)))
    }

    async fn create_backup(
        &self,
        request: Request<CreateBackupRequest>,
    ) -> Answer<CreateBackupResponse> {
        let now = self.calls_now.fetch_add(1, Relaxed) + 1;
        self.calls_now_max.fetch_max(now, Relaxed);
        sleep(Duration::from_millis(2)).await;
        self.calls_now.fetch_sub(1, Relaxed);
        if self.calls.fetch_add(1, Relaxed) < self.away_for_calls.load(Relaxed) {
            return Err(Status::unavailable("starting"));
        }
        let backup = request.into_inner().backup.unwrap();
        let metadata = backup.backup_metadata.as_ref().unwrap();
        match metadata.backup_name.as_str() {
            "bad" => Err(Status::invalid_argument("it is bad")),
            "secret" => Err(Status::unauthenticated("say who you are")),
            _ => {
                self.ids.lock().unwrap().insert(backup.backup_id.clone());
                let stored = backup.encode_to_vec().into();
                Ok(Response::new(CreateBackupResponse::new(stored, 0)))
            }
        }
    }

    async fn get_backup(&self, _: Request<GetBackupRequest>) -> Answer<GetBackupResponse> {
        Err(Status::unimplemented("get"))
    }

    async fn update_backup(&self, _: Request<UpdateBackupRequest>) -> Answer<UpdateBackupResponse> {
        Err(Status::unimplemented("update"))
    }

    async fn delete_backup(&self, _: Request<DeleteBackupRequest>) -> Answer<DeleteBackupResponse> {
        Err(Status::unimplemented("delete"))
    }

    type WatchBackupsStream = tokio_stream::Empty<Result<WatchBackupsResponse, Status>>;

    async fn watch_backups(
        &self,
        _: Request<WatchBackupsRequest>,
    ) -> Answer<Self::WatchBackupsStream> {
        Err(Status::unimplemented("watch"))
    }
}
