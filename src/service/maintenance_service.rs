//! `freezer.v2.MaintenanceService`: what an operator does to the store as a whole.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::{
    catalog::{Catalog, Error},
    proto::{
        DownloadSnapshotRequest, DownloadSnapshotResponse,
        maintenance_service_server::MaintenanceService,
    },
    store,
};

/// Chunks of 1 MiB that wait for a reader.
const CHUNKS_MAX: usize = 4;
/// How long a reader may take for the next chunk: the journal cannot shrink while a snapshot is made.
const READER_PATIENCE: Duration = Duration::from_secs(60);

/// The service, over a catalog.
#[derive(Clone, Debug)]
pub struct Maintenance {
    catalog: Catalog,
    /// One snapshot at a time: each reads all of the store.
    snapshots: Arc<Semaphore>,
}

impl Maintenance {
    /// The maintenance of `catalog`.
    #[must_use]
    pub fn new(catalog: Catalog) -> Self {
        Maintenance {
            catalog,
            snapshots: Arc::new(Semaphore::new(1)),
        }
    }
}

#[tonic::async_trait]
impl MaintenanceService for Maintenance {
    type DownloadSnapshotStream = ReceiverStream<Result<DownloadSnapshotResponse, Status>>;

    async fn download_snapshot(
        &self,
        _request: Request<DownloadSnapshotRequest>,
    ) -> Result<Response<Self::DownloadSnapshotStream>, Status> {
        let permit = self.snapshots.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Error::SnapshotInProgress)?;
        let (chunks, stream) = mpsc::channel(CHUNKS_MAX);
        let catalog = self.catalog.clone();
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let made = catalog.snapshot(|chunk| {
                let send =
                    chunks.send_timeout(Ok(DownloadSnapshotResponse { chunk }), READER_PATIENCE);
                runtime.block_on(send).map_err(|_| store::Error::Closed)
            });
            if let Err(error) = made {
                // Nobody listens when the caller has gone.
                let _ = chunks.try_send(Err(error.into()));
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
