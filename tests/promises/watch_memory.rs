//! Promise: a watcher that stops reading costs a limited amount of memory, however much is written meanwhile, and catches up when
//! it reads again.

use crate::harness::child::ChildServer;
use crate::harness::{PROJECT, backup_with};
use crate::resident::resident_mib;
use icebox::proto::{
    Backup, CreateBackupRequest, WatchBackupsRequest, WatchBackupsResponse, WatchEvent,
    backup_service_client::BackupServiceClient,
};
use prost_types::{Struct, Value, value::Kind};
use tonic::{Streaming, transport::Channel};

/// The watchers that do not read, on as many connections as they need.
const WATCHERS: usize = 200;
const STREAMS: usize = 100;
/// How much is written meanwhile: 30 MB. An unlimited queue for each watcher would be 6 GB.
const BACKUPS: usize = 2000;
const NOTE_BYTES: usize = 15_000;
/// How much they may take: windows, one message each, and the store's memory for the writes themselves.
const GROWTH_MIB_MAX: u64 = 128;

fn large(n: usize) -> Backup {
    let note = Value {
        kind: Some(Kind::StringValue("n".repeat(NOTE_BYTES))),
    };
    let note = [("note".to_owned(), note)];
    backup_with(&format!("backup {n:05}"), |_, metadata| {
        metadata.extra = Some(Struct {
            fields: note.into(),
        });
    })
}

async fn write(client: &BackupServiceClient<Channel>, numbers: std::ops::Range<usize>) {
    for start in numbers.clone().step_by(32) {
        let creates = (start..numbers.end.min(start + 32)).map(|n| {
            let mut client = client.clone();
            async move {
                let request = CreateBackupRequest {
                    project_id: PROJECT.into(),
                    backup: Some(large(n)),
                };
                client.create_backup(request).await.expect("created");
            }
        });
        futures_util::future::join_all(creates).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_reading_costs_a_bounded_amount_of_memory_and_catches_up() {
    let dir = tempfile::tempdir().unwrap();
    let server = ChildServer::start(&dir.path().join("icebox.db"));
    let writer = server.backups().await;
    // The memory for writing alone is taken before.
    write(&writer, 0..BACKUPS / 2).await;
    let mut watches: Vec<Streaming<WatchBackupsResponse>> = Vec::new();
    let mut client = server.backups().await;
    for n in 0..WATCHERS {
        if n % STREAMS == 0 {
            client = server.backups().await;
        }
        let request = WatchBackupsRequest {
            project_id: PROJECT.into(),
            after_revision: (BACKUPS / 2) as u64,
            filter: None,
        };
        let watch = client.watch_backups(request).await.unwrap();
        watches.push(watch.into_inner());
    }
    let before = resident_mib(server.pid()).expect("it runs");
    write(&writer, BACKUPS..2 * BACKUPS).await;
    let now = resident_mib(server.pid()).expect("it runs");
    let grown = now.saturating_sub(before);
    assert!(grown <= GROWTH_MIB_MAX, "it has grown by {grown} MiB");
    println!(
        "{WATCHERS} watchers that do not read, {BACKUPS} changes: it has grown by {grown} MiB"
    );
    let mut watch = watches.swap_remove(WATCHERS / 2);
    drop(watches);
    let mut seen = 0;
    while seen < BACKUPS {
        let said = watch.message().await.unwrap().expect("it goes on");
        if let Some(WatchEvent::Put(_)) = said.decoded().unwrap() {
            seen += 1;
        }
    }
    drop(watch);
    assert!(server.terminate().success());
}
