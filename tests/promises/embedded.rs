//! Promise: a program can hold an Icebox without a server, serve it on its own listeners, and close it.

#![allow(clippy::unwrap_used, reason = "in a test, it asserts")]

use std::{path::Path, time::Duration};

use crate::harness::{OTHER_PROJECT, PROJECT, backup, backup_with, job, metadata_of};

use hyper_util::rt::TokioIo;
use icebox::{
    Changed, Error, Icebox, OpenError, Options,
    proto::{
        Backup, DownloadSnapshotRequest, Job, ListBackupsRequest,
        backup_service_client::BackupServiceClient,
        maintenance_service_client::MaintenanceServiceClient,
    },
};
use tokio::{
    io::DuplexStream,
    net::{TcpListener, UnixListener},
};
use tonic::transport::{Channel, Endpoint};

fn options() -> Options {
    Options {
        cache_bytes: 8 << 20,
        ..Options::default()
    }
}

async fn open(path: &Path) -> Icebox {
    Icebox::open(path, options()).await.unwrap()
}

fn name(backup: &Backup) -> &str {
    &metadata_of(backup).backup_name
}

#[tokio::test]
async fn the_calls_are_those_of_the_services() {
    let dir = tempfile::tempdir().unwrap();
    let icebox = open(&dir.path().join("store")).await;
    let backups = icebox.backups();
    let mut ids = Vec::new();
    for name in ["b", "c", "a"] {
        let created = backups.create(PROJECT, backup(name)).await.unwrap();
        assert!(created.is_new);
        ids.push(created.resource.backup_id);
    }
    let again = backups.get(PROJECT, &ids[0]).await.unwrap();
    let created = backups.create(PROJECT, again.clone()).await.unwrap();
    assert!(!created.is_new && created.resource == again);

    let first = backups.list(PROJECT).limit(2).await.unwrap();
    assert_eq!(first.items.iter().map(name).collect::<Vec<_>>(), ["a", "b"]);
    let rest = backups.list(PROJECT).after(&ids[0]).await.unwrap();
    let by_token = backups.list(PROJECT).page_token(&first.next_page_token);
    assert_eq!(rest.items, by_token.await.unwrap().items);
    assert_eq!(rest.items.iter().map(name).collect::<Vec<_>>(), ["c"]);
    assert!(rest.next_page_token.is_empty());

    let Err(Error::Invalid(violations)) = backups.create("no project!", Backup::default()).await
    else {
        panic!("it breaks rules");
    };
    let fields: Vec<_> = violations.iter().map(|v| v.field.as_str()).collect();
    assert!(fields.contains(&"project_id") && fields.contains(&"backup.backup_metadata"));
    assert!(matches!(
        backups.get(OTHER_PROJECT, &ids[0]).await,
        Err(Error::NotFound { .. })
    ));

    let jobs = icebox.jobs();
    let stored = jobs.create(PROJECT, job("nightly")).await.unwrap().resource;
    let started = jobs.start(PROJECT, &stored.job_id).await.unwrap();
    assert!(started.revision > stored.revision);
    let renamed = Job {
        description: "weekly".into(),
        ..started
    };
    let stale = jobs.update("", renamed.clone()).expecting(stored.revision);
    assert!(matches!(stale.await, Err(Error::Stale { .. })));
    let updated = jobs.update("", renamed).fields(["description"]).await;
    assert_eq!(updated.unwrap().description, "weekly");
    jobs.delete(PROJECT, &stored.job_id).await.unwrap();
    let gone = jobs.delete(PROJECT, &stored.job_id).await.unwrap_err();
    assert_eq!(
        gone.to_string(),
        format!("the project has no job with job_id {}", stored.job_id)
    );
    let status = icebox.status().await.unwrap();
    assert_eq!((status.counts.backups, status.counts.jobs), (3, 0));
    assert_eq!(status.revision, icebox.revision());
    icebox.close().await.unwrap();
}

#[tokio::test]
async fn a_store_that_is_let_go_opens_at_once_with_all_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    // The same options can be used again. Giving up one opening does not harm another.
    for round in 0..6 {
        drop(tokio::time::timeout(Duration::ZERO, Icebox::open(&path, options())).await);
        let icebox = loop {
            match Icebox::open(&path, options()).await {
                // The opening that was given up may not have ended yet.
                Err(OpenError::Locked { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
                opened => break opened.unwrap(),
            }
        };
        assert!(matches!(
            Icebox::open(&path, options()).await,
            Err(OpenError::Locked { .. })
        ));
        assert_eq!(icebox.status().await.unwrap().counts.backups, round);
        icebox.backups().create(PROJECT, backup("b")).await.unwrap();
        if round % 2 == 0 {
            drop(icebox);
        } else {
            icebox.close().await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_is_committed_can_be_followed() {
    let dir = tempfile::tempdir().unwrap();
    let icebox = open(&dir.path().join("store")).await;
    let (backups, jobs) = (icebox.backups(), icebox.jobs());
    let created = backups.create(PROJECT, backup("b")).await.unwrap().resource;
    let nightly = jobs.create(PROJECT, job("nightly")).await.unwrap().resource;
    let weekly = Job {
        description: "weekly".into(),
        ..nightly.clone()
    };
    // Jobs are listed by description, so that the record moves.
    let weekly = jobs.update("", weekly).await.unwrap();
    backups.delete(PROJECT, &created.backup_id).await.unwrap();
    jobs.delete(PROJECT, &nightly.job_id).await.unwrap();

    let expected = [
        Changed::Backup(created.clone()),
        Changed::Job(nightly.clone()),
        Changed::Job(weekly),
        Changed::BackupDeleted {
            project_id: PROJECT.into(),
            backup_id: created.backup_id,
        },
        Changed::JobDeleted {
            project_id: PROJECT.into(),
            job_id: nightly.job_id,
        },
    ];
    let mut changes = icebox.changes(0);
    let mut found = Vec::new();
    while found.len() < expected.len() {
        found.extend(changes.next().await.unwrap());
    }
    assert!(found.is_sorted_by_key(|change| change.revision));
    assert_eq!(found.last().unwrap().revision, icebox.revision());
    assert_eq!(changes.after(), icebox.revision());
    let found: Vec<_> = found.into_iter().map(|change| change.changed).collect();
    assert_eq!(found, expected);

    let next = tokio::spawn(async move { changes.next().await });
    icebox.close().await.unwrap();
    assert!(matches!(next.await.unwrap(), Err(Error::Store(_))));
}

/// A channel over the only connection that there is.
async fn over(stream: DuplexStream) -> Channel {
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_| {
        let stream = stream.take().map(TokioIo::new);
        async { stream.ok_or_else(|| std::io::Error::other("it is taken")) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    endpoint.connect_with_connector(connector).await.unwrap()
}

async fn connected(uri: String) -> Channel {
    Endpoint::from_shared(uri).unwrap().connect().await.unwrap()
}

#[tokio::test]
async fn it_serves_on_listeners_of_ones_own_until_it_is_closed() {
    const BACKUPS: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    let icebox = open(&dir.path().join("store")).await;
    for n in 0..BACKUPS {
        // Pages of all sizes, from a hundred bytes to some hundred thousand.
        let long = backup_with(&format!("b{n:03}"), |_, metadata| {
            metadata.container = "/srv".repeat(1 + n * 7 % 250);
        });
        icebox.backups().create(PROJECT, long).await.unwrap();
    }
    let stored = icebox.backups().list(PROJECT).limit(1000).await.unwrap();

    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let socket = dir.path().join("socket");
    let unix = UnixListener::bind(&socket).unwrap();
    let (client, server) = tokio::io::duplex(64 << 10);
    let serving = [icebox.serve(tcp), icebox.serve(unix), icebox.serve(server)];

    let channels = [
        connected(format!("http://{address}")).await,
        connected(format!("unix:{}", socket.display())).await,
        over(client).await,
    ];
    for channel in &channels {
        let pages = (0..40).map(async |n| {
            let limit = [1, 3, 30, 299, 1000][n % 5];
            let marker = n * 7 % BACKUPS;
            let request = ListBackupsRequest {
                project_id: PROJECT.into(),
                limit: i32::try_from(limit).unwrap(),
                marker: stored.items[marker].backup_id.clone(),
                ..ListBackupsRequest::default()
            };
            let mut backups = BackupServiceClient::new(channel.clone());
            let page = backups.list_backups(request).await.unwrap().into_inner();
            let behind = &stored.items[marker + 1..];
            assert_eq!(page.decoded().unwrap(), behind[..limit.min(behind.len())]);
        });
        futures_util::future::join_all(pages).await;
    }
    icebox.close().await.unwrap();
    for serving in serving {
        serving.await.unwrap();
    }
}

#[tokio::test]
async fn an_icebox_that_is_dropped_serves_no_longer_and_can_be_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let icebox = open(&path).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let serving = icebox.serve(listener);
    drop(icebox);
    let ended = tokio::time::timeout(Duration::from_secs(20), serving).await;
    ended.expect("it ends").unwrap();
    open(&path).await.close().await.unwrap();
}

#[tokio::test]
async fn a_reader_that_takes_nothing_does_not_keep_it_from_closing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let icebox = open(&path).await;
    // More than what may wait for a reader.
    for n in 0..4000 {
        let made = backup_with(&format!("b{n}"), |_, metadata| {
            metadata.path_to_backup = "/".repeat(4096);
        });
        icebox.backups().create(PROJECT, made).await.unwrap();
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    drop(icebox.serve(listener));
    let snapshot = MaintenanceServiceClient::new(connected(uri).await)
        .download_snapshot(DownloadSnapshotRequest {})
        .await
        .unwrap();
    tokio::time::timeout(Duration::from_secs(30), icebox.close())
        .await
        .expect("it does not wait for the reader")
        .unwrap();
    drop(snapshot);
    open(&path).await.close().await.unwrap();
}

#[tokio::test]
async fn a_snapshot_goes_where_one_likes() {
    let dir = tempfile::tempdir().unwrap();
    let icebox = open(&dir.path().join("store")).await;
    icebox.backups().create(PROJECT, backup("b")).await.unwrap();
    let file = dir.path().join("snapshot");
    let taken = icebox.snapshot(std::fs::File::create(&file).unwrap()).await;
    assert_eq!(taken.unwrap().revision, icebox.revision());
    let refused = icebox.snapshot(NoRoom).await.unwrap_err();
    assert!(refused.to_string().contains("no room"), "{refused}");
    icebox.close().await.unwrap();
}

struct NoRoom;

impl std::io::Write for NoRoom {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other("no room"))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
