//! Promise: a server takes connections as long as it can, and takes nothing from the one that follows it.

mod child;

use std::{net::TcpStream, path::Path, time::Duration};

use child::ChildServer;
use icebox::{
    proto::{
        Backup, BackupMetadata, CreateBackupRequest, ListJobsRequest,
        job_service_client::JobServiceClient,
    },
    server::{Config, Listen, serve},
    store,
};
use tokio::{net::UnixStream, sync::oneshot, task::JoinHandle};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const TIMEOUT: Duration = Duration::from_secs(20);

/// A server on a Unix socket, and what asks it to end.
async fn serve_on(socket: &Path, store: &Path) -> (oneshot::Sender<()>, JoinHandle<()>) {
    let (end, ended) = oneshot::channel::<()>();
    let (ready, bound) = oneshot::channel();
    let config = Config {
        listen: Listen::Unix(socket.to_owned()),
        store: store.to_owned(),
        store_options: store::Options {
            cache_bytes: 8 << 20,
            ..store::Options::default()
        },
    };
    let serving = tokio::spawn(async move {
        let announce = |listen: &Listen| drop(ready.send(listen.clone()));
        let shutdown = async { drop(ended.await) };
        serve(config, announce, shutdown).await.expect("it serves");
    });
    bound.await.expect("it listens");
    (end, serving)
}

async fn connect(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let socket = socket.to_owned();
    let connect = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move {
            UnixStream::connect(socket)
                .await
                .map(hyper_util::rt::TokioIo::new)
        }
    });
    Endpoint::from_static("http://localhost")
        .connect_with_connector(connect)
        .await
}

#[tokio::test]
async fn a_server_that_drains_leaves_its_successors_socket_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("icebox.sock");
    let (end, first) = serve_on(&socket, &dir.path().join("a")).await;
    let channel = connect(&socket).await.expect("the first one listens");
    // A stream that has no end keeps it from ending.
    let watching = HealthClient::new(channel)
        .watch(HealthCheckRequest::default())
        .await;
    let watching = watching.expect("health is served").into_inner();
    drop(end);
    while connect(&socket).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (_end, _second) = serve_on(&socket, &dir.path().join("b")).await;
    drop(watching);
    tokio::time::timeout(TIMEOUT, first)
        .await
        .expect("it ends")
        .expect("and well");
    let channel = connect(&socket)
        .await
        .expect("the second one is still reached");
    let request = ListJobsRequest {
        project_id: "demo".into(),
        ..ListJobsRequest::default()
    };
    JobServiceClient::new(channel)
        .list_jobs(request)
        .await
        .expect("and serves");
}

#[tokio::test]
async fn idle_connections_leave_the_store_its_files_and_the_processor_idle() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = ChildServer::start_with_files(&dir.path().join("store"), 64);
    let mut backups = server.backups().await;
    let mut create = async |n: u32| {
        let metadata = BackupMetadata {
            backup_name: format!("b{n}"),
            container: "c".into(),
            hostname: "h".into(),
            path_to_backup: "/".repeat(4096),
            fs_real_path: "/".repeat(4096),
            vol_snap_path: "/".repeat(4096),
            log_file: "/".repeat(4096),
            ..BackupMetadata::default()
        };
        let backup = Backup {
            project_id: "demo".into(),
            backup_metadata: Some(metadata),
            ..Backup::default()
        };
        let request = CreateBackupRequest {
            project_id: String::new(),
            backup: Some(backup),
        };
        backups.create_backup(request).await
    };
    create(0).await.expect("it is stored");
    let idle: Vec<_> = (0..120)
        .map(|_| TcpStream::connect(server.address()).expect("the kernel takes it"))
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = server.cpu_ticks();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let spent = server.cpu_ticks() - before;
    assert!(
        spent < 20,
        "{spent} ticks of 100 a second went into waiting"
    );
    // More than a segment of the journal.
    for n in 1..1200 {
        create(n).await.expect("the store has files of its own");
    }
    drop(idle);
    let another = tokio::time::timeout(TIMEOUT, server.backups()).await;
    another.expect("there is room again");
    assert!(server.terminate().success());
}
