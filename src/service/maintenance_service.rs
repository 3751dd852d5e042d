//! `freezer.v2.MaintenanceService`: what an operator does with the store as a whole.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use prost_types::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};

use super::behalf_of;
use crate::{
    calls::{self, Calls},
    catalog::Catalog,
    clock,
    proto::{
        Action, Backup, DownloadSnapshotRequest, DownloadSnapshotResponse, GetStatusRequest,
        GetStatusResponse, Job, ResolveIdRequest, ResolveIdResponse, Session,
        maintenance_service_server::MaintenanceService,
    },
    resource::Violations,
    store::{self, Condition},
};

/// The most chunks of 1 MiB that wait for a reader.
const CHUNKS_MAX: usize = 4;
/// How long a reader may take for the next chunk: while a snapshot is made, the journal cannot shrink.
const READER_PATIENCE: Duration = Duration::from_secs(60);

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Maintenance {
    catalog: Catalog,
    start_time: Timestamp,
}

impl Maintenance {
    /// The maintenance of `catalog`.
    #[must_use]
    pub(crate) fn new(catalog: Catalog) -> Self {
        Maintenance {
            catalog,
            start_time: clock::timestamp(clock::now_ms()),
        }
    }
}

/// The chunks of a snapshot, and the permit to make one, which ends when the reader has gone.
#[derive(Debug)]
pub(crate) struct Chunks {
    chunks: ReceiverStream<Result<DownloadSnapshotResponse, Status>>,
    _permit: OwnedSemaphorePermit,
}

impl Stream for Chunks {
    type Item = Result<DownloadSnapshotResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.chunks).poll_next(cx)
    }
}

#[tonic::async_trait]
impl MaintenanceService for Maintenance {
    type DownloadSnapshotStream = Chunks;

    async fn download_snapshot(
        &self,
        _request: Request<DownloadSnapshotRequest>,
    ) -> Result<Response<Chunks>, Status> {
        let permit = self.catalog.begin_snapshot()?;
        let (chunks, stream) = mpsc::channel(CHUNKS_MAX);
        let catalog = self.catalog.clone();
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let made = catalog.snapshot(|chunk| {
                let send =
                    chunks.send_timeout(Ok(DownloadSnapshotResponse { chunk }), READER_PATIENCE);
                runtime.block_on(send).map_err(|_| store::Error::Closed)
            });
            if let Err(error) = made {
                // Sending fails if the caller has gone.
                let _ = chunks.try_send(Err(error.into()));
            }
        });
        Ok(Response::new(Chunks {
            chunks: ReceiverStream::new(stream),
            _permit: permit,
        }))
    }

    async fn get_status(
        &self,
        _request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        let status = self.catalog.status().await?;
        let Condition {
            stopped,
            full,
            view,
        } = status.condition;
        let problems = [
            stopped.map(|error| format!("writing has stopped until a restart: {error}")),
            full.map(|why| format!("the disk is full, nothing new is taken: {why}")),
            view.map(|why| format!("the view is being made anew, writes wait: {why}")),
        ];
        let usage = status.usage;
        Ok(Response::new(GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            store_id: status.store,
            revision: status.revision,
            problems: problems.into_iter().flatten().collect(),
            backup_count: status.counts.backups,
            job_count: status.counts.jobs,
            client_count: status.counts.clients,
            action_count: status.counts.actions,
            session_count: status.counts.sessions,
            journal_bytes: usage.journal_bytes,
            records_bytes: usage.records_bytes,
            view_bytes: usage.view_bytes,
            available_bytes: usage.room_bytes,
            start_time: Some(self.start_time),
            records_time: usage.records.map(|(_, time_ms)| clock::timestamp(time_ms)),
            records_revision: usage.records.map_or(0, |(revision, _)| revision),
        }))
    }

    async fn resolve_id(
        &self,
        request: Request<ResolveIdRequest>,
    ) -> Result<Response<ResolveIdResponse>, Status> {
        let behalf = behalf_of(&request);
        let ResolveIdRequest {
            project_id,
            kind,
            id_prefix,
        } = request.into_inner();
        let ids = match kind.as_str() {
            "backup" => {
                let backups = Calls::<Backup>::on_behalf(&behalf, &self.catalog);
                backups.ids_starting_with(&project_id, &id_prefix).await?
            }
            "job" => {
                let jobs = Calls::<Job>::on_behalf(&behalf, &self.catalog);
                jobs.ids_starting_with(&project_id, &id_prefix).await?
            }
            "action" => {
                let actions = Calls::<Action>::on_behalf(&behalf, &self.catalog);
                actions.ids_starting_with(&project_id, &id_prefix).await?
            }
            "session" => {
                let sessions = Calls::<Session>::on_behalf(&behalf, &self.catalog);
                sessions.ids_starting_with(&project_id, &id_prefix).await?
            }
            _ => {
                let mut violations = Violations::new();
                violations.collect(calls::prefix(&project_id, &id_prefix));
                violations.add("kind", "must be backup, job, action or session");
                return Err(violations.into());
            }
        };
        Ok(Response::new(ResolveIdResponse { ids }))
    }
}
