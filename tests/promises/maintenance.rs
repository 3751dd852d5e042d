//! Promise: an operator can see the state of a server, and can take a snapshot whatever happened to the one before.

#![allow(clippy::unwrap_used, reason = "in a test, it asserts")]

use crate::harness::{OTHER_PROJECT, PROJECT, Server, backup, backup_with, bad_fields, job};
use icebox::proto::{
    DownloadSnapshotRequest, GetStatusRequest, ResolveIdRequest,
    maintenance_service_client::MaintenanceServiceClient,
};

#[tokio::test]
async fn the_status_counts_what_there_is_and_says_what_is_wrong() {
    let server = Server::start().await;
    let mut maintenance = MaintenanceServiceClient::new(server.channel.clone());
    for n in 0..3 {
        server
            .create_backup(backup(&format!("b{n}")))
            .await
            .unwrap();
    }
    let job = server.create_job(job("j")).await.unwrap();
    let first = server.create_backup(backup("b3")).await.unwrap();
    server
        .delete_backup(PROJECT, &first.backup_id)
        .await
        .unwrap();
    let status = maintenance
        .get_status(GetStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!((status.backup_count, status.job_count), (3, 1));
    assert_eq!(status.revision, server.revision().await);
    assert_eq!(status.problems, Vec::<String>::new());
    assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
    assert!(status.journal_bytes > 0 && status.view_bytes > 0 && status.available_bytes() > 0);
    server.delete_job(PROJECT, &job.job_id).await.unwrap();
    let status = maintenance
        .get_status(GetStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!((status.backup_count, status.job_count), (3, 0));
}

#[tokio::test]
async fn the_start_of_an_id_names_those_of_the_project_alone() {
    let server = Server::start().await;
    let mut maintenance = MaintenanceServiceClient::new(server.channel.clone());
    for (id, project) in [
        ("0a1", PROJECT),
        ("0a2", PROJECT),
        ("0b1", PROJECT),
        ("0a3", OTHER_PROJECT),
    ] {
        let backup = backup_with("b", |backup, _| {
            backup.backup_id = format!("{id:0<32}");
            backup.project_id = project.into();
        });
        server.create_backup(backup).await.unwrap();
    }
    let mut resolve = async |prefix: &str, kind: &str| {
        let request = ResolveIdRequest {
            project_id: PROJECT.into(),
            kind: kind.into(),
            id_prefix: prefix.into(),
        };
        maintenance
            .resolve_id(request)
            .await
            .map(|answer| answer.into_inner().ids)
    };
    let full = |id: &str| format!("{id:0<32}");
    assert_eq!(
        resolve("0a", "backup").await.unwrap(),
        [full("0a1"), full("0a2")]
    );
    assert_eq!(resolve("0a2", "backup").await.unwrap(), [full("0a2")]);
    assert_eq!(resolve("0", "job").await.unwrap(), Vec::<String>::new());
    assert_eq!(resolve("1", "backup").await.unwrap(), Vec::<String>::new());
    let refused = resolve("0A", "bckup").await.unwrap_err();
    assert_eq!(bad_fields(&refused), ["id_prefix", "kind"]);
}

#[tokio::test]
async fn a_snapshot_that_was_given_up_does_not_keep_out_the_next() {
    let server = Server::start().await;
    for n in 0..200 {
        let backup = backup_with(&format!("b{n}"), |_, metadata| {
            metadata.path_to_backup = "/".repeat(4096);
        });
        server.create_backup(backup).await.unwrap();
    }
    let mut maintenance = MaintenanceServiceClient::new(server.channel.clone());
    for _ in 0..50 {
        let started = maintenance
            .download_snapshot(DownloadSnapshotRequest {})
            .await;
        let mut chunks = started.expect("nobody else makes one").into_inner();
        chunks.message().await.unwrap();
        drop(chunks);
        // The server notices it on the connection with the next request.
        server.revision().await;
    }
}
