//! Promise: a server accepts connections as long as it can, and takes nothing from the server that follows it.

use std::{net::TcpStream, time::Duration};

use crate::harness::child::ChildServer;
use icebox::proto::{
    Backup, BackupMetadata, CreateBackupRequest, ListJobsRequest,
    job_service_client::JobServiceClient,
};
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const TIMEOUT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_server_that_drains_leaves_its_successors_socket_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("icebox.sock");
    let listen = format!("unix:{}", socket.display());
    let endpoint = Endpoint::from_shared(listen.clone()).expect("an address");
    let first = ChildServer::start_on(&listen, &dir.path().join("a"));
    let channel = endpoint.connect().await.expect("the first one listens");
    // A stream without end keeps it from ending.
    let watching = HealthClient::new(channel)
        .watch(HealthCheckRequest::default())
        .await;
    let watching = watching.expect("health is served").into_inner();
    first.ask_to_end();
    while endpoint.connect().await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let _second = ChildServer::start_on(&listen, &dir.path().join("b"));
    drop(watching);
    let first = tokio::task::spawn_blocking(move || first.wait());
    let first = tokio::time::timeout(TIMEOUT, first).await;
    assert!(first.expect("it ends").expect("no panic").success());
    let channel = endpoint
        .connect()
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
    // More than the journal keeps in memory.
    for n in 1..1200 {
        create(n).await.expect("the store has files of its own");
    }
    drop(idle);
    let another = tokio::time::timeout(TIMEOUT, server.backups()).await;
    another.expect("there is room again");
    assert!(server.terminate().success());
}
