//! Promise: everything that was acknowledged is there, however the server ended.

use std::{
    collections::BTreeMap,
    error::Error as _,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::harness::child::ChildServer;
use icebox::proto::{
    Backup, BackupMetadata, CreateBackupRequest, DeleteBackupRequest, ListBackupsRequest,
    UpdateBackupRequest, backup_service_client::BackupServiceClient,
};
use tonic::{Code, transport::Channel};

const PROJECT: &str = "demo";
const CALLERS: u64 = 16;
/// More pages than any walk here has: a longer walk goes around in circles.
const PAGES_MAX: usize = 10_000;

/// What a caller knows about a backup that it has written.
#[derive(Clone, Debug)]
enum Known {
    /// The server has said that this is stored.
    Stored(Box<Backup>),
    /// The server has said that it is deleted.
    Deleted,
    /// The server ended before it answered: one of these is true.
    Either(Box<Backup>, Option<Box<Backup>>),
}

type Ledger = Arc<Mutex<BTreeMap<String, Known>>>;

fn backup(n: u64) -> Backup {
    Backup {
        backup_id: format!("{n:032x}"),
        project_id: PROJECT.into(),
        status: "creating".into(),
        backup_metadata: Some(BackupMetadata {
            backup_name: format!("name-{}", n % 7),
            container: "c".into(),
            hostname: "h".into(),
            path_to_backup: "/data/".repeat(20),
            ..BackupMetadata::default()
        }),
        ..Backup::default()
    }
}

/// Creates backups, updates every second one and deletes every fourth one, until the server has gone. Each answer is in the ledger
/// before the next call.
async fn write(
    mut client: BackupServiceClient<Channel>,
    next: Arc<AtomicU64>,
    ledger: Ledger,
    stop: Arc<AtomicBool>,
) {
    let note = |id: &str, known: Known| {
        ledger
            .lock()
            .expect("no caller panicked")
            .insert(id.to_owned(), known);
    };
    while !stop.load(Ordering::Relaxed) {
        let n = next.fetch_add(1, Ordering::Relaxed);
        let id = format!("{n:032x}");
        let request = CreateBackupRequest {
            project_id: String::new(),
            backup: Some(backup(n)),
        };
        let Ok(created) = client.create_backup(request).await else {
            return;
        };
        let created = Box::new(created.into_inner().decoded().expect("the backup"));
        note(&id, Known::Stored(created.clone()));
        let mut stored = created;
        if n.is_multiple_of(2) {
            let change = Backup {
                backup_id: id.clone(),
                status: "available".into(),
                ..Backup::default()
            };
            let mut changed = stored.clone();
            changed.status = "available".into();
            note(&id, Known::Either(stored.clone(), Some(changed)));
            let request = UpdateBackupRequest {
                project_id: PROJECT.into(),
                backup: Some(change),
                ..UpdateBackupRequest::default()
            };
            let Ok(updated) = client.update_backup(request).await else {
                return;
            };
            stored = Box::new(updated.into_inner().backup.expect("the backup"));
            note(&id, Known::Stored(stored.clone()));
        }
        if n.is_multiple_of(4) {
            note(&id, Known::Either(stored, None));
            let request = DeleteBackupRequest {
                project_id: PROJECT.into(),
                backup_id: id.clone(),
                ..DeleteBackupRequest::default()
            };
            if client.delete_backup(request).await.is_err() {
                return;
            }
            note(&id, Known::Deleted);
        }
    }
}

/// All backups by id, and the catalog's revision.
async fn read_all(mut client: BackupServiceClient<Channel>) -> (BTreeMap<String, Backup>, u64) {
    let mut all = BTreeMap::new();
    let mut page_token = String::new();
    for _ in 0..PAGES_MAX {
        let request = ListBackupsRequest {
            project_id: PROJECT.into(),
            limit: 1000,
            page_token,
            ..ListBackupsRequest::default()
        };
        let page = client
            .list_backups(request)
            .await
            .expect("a page")
            .into_inner();
        for backup in page.decoded().expect("backups") {
            assert_eq!(
                all.insert(backup.backup_id.clone(), backup),
                None,
                "listed twice"
            );
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return (all, page.revision);
        }
    }
    panic!("the walk does not end");
}

/// A backup without the times that the server sets, since these are not known for a change that was not acknowledged.
fn content(backup: &Backup) -> Backup {
    Backup {
        update_time: None,
        revision: 0,
        ..backup.clone()
    }
}

fn compare(ledger: &Ledger, stored: &BTreeMap<String, Backup>) {
    for (id, known) in &*ledger.lock().expect("no caller panicked") {
        let found = stored.get(id);
        match known {
            Known::Stored(expected) => {
                assert_eq!(found, Some(&**expected), "acknowledged, and not there");
            }
            Known::Deleted => assert_eq!(found, None, "acknowledged as deleted, and there"),
            Known::Either(before, after) => {
                let found = found.map(content);
                let is_one =
                    found == Some(content(before)) || found == after.as_deref().map(content);
                assert!(is_one, "neither before nor after: {found:?}");
            }
        }
    }
}

/// The n-th of a series of delays that differ from round to round: 10 to 500 ms.
fn delay(round: u64) -> Duration {
    Duration::from_millis(10 + round * 7919 % 490)
}

async fn survives_kills(rounds: u64, before_each_start: impl Fn(&std::path::Path)) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = dir.path().join("store");
    let ledger = Ledger::default();
    let next = Arc::new(AtomicU64::new(1));
    let mut last_revision = 0;
    for round in 0..=rounds {
        before_each_start(&store);
        let server = ChildServer::start_rewriting(&store);
        let (stored, revision) = read_all(server.backups().await).await;
        compare(&ledger, &stored);
        assert!(
            revision >= last_revision,
            "the catalog went back from {last_revision} to {revision}"
        );
        last_revision = revision;
        if round == rounds {
            break;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let mut callers = Vec::new();
        for _ in 0..CALLERS {
            let client = server.backups().await;
            callers.push(tokio::spawn(write(
                client,
                next.clone(),
                ledger.clone(),
                stop.clone(),
            )));
        }
        tokio::time::sleep(delay(round)).await;
        server.kill();
        for caller in callers {
            caller.await.expect("no caller panics");
        }
    }
    let acknowledged = ledger.lock().expect("no caller panicked").len();
    assert!(
        acknowledged > 100,
        "only {acknowledged} writes: this has tested nothing"
    );
}

fn rounds() -> u64 {
    if std::env::var_os("ICEBOX_LONG").is_some() {
        500
    } else {
        30
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_write_survives_kill_9() {
    survives_kills(rounds(), |_| ()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_write_survives_kill_9_and_the_loss_of_the_view() {
    survives_kills(rounds(), |store| {
        let view = store.with_extension("view");
        if view.exists() {
            std::fs::remove_dir_all(view).unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_under_way_at_sigterm_is_answered_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let ledger = Ledger::default();
    let next = Arc::new(AtomicU64::new(1));
    let server = ChildServer::start(&store);
    let stop = Arc::new(AtomicBool::new(false));
    let mut callers = Vec::new();
    for _ in 0..CALLERS {
        let client = server.backups().await;
        callers.push(tokio::spawn(write(
            client,
            next.clone(),
            ledger.clone(),
            stop.clone(),
        )));
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let asked = Instant::now();
    let status = tokio::task::spawn_blocking(|| server.terminate())
        .await
        .unwrap();
    assert!(status.success(), "{status}");
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "it took {:?}",
        asked.elapsed()
    );
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    let server = ChildServer::start(&store);
    compare(&ledger, &read_all(server.backups().await).await.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_writes_in_flight_at_sigterm_are_each_kept_or_refused() {
    const WRITES: u64 = 1000;
    for round in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let server = ChildServer::start(&store);
        let mut clients = Vec::new();
        for _ in 0..8 {
            clients.push(server.backups().await);
        }
        let calls: Vec<_> = (0..WRITES)
            .map(|n| {
                let mut client = clients[usize::try_from(n).unwrap() % clients.len()].clone();
                let request = CreateBackupRequest {
                    project_id: String::new(),
                    backup: Some(backup(n)),
                };
                tokio::spawn(async move { client.create_backup(request).await })
            })
            .collect();
        // Some writes are done, and most are under way.
        tokio::time::sleep(Duration::from_millis(5 * round)).await;
        let ended = tokio::task::spawn_blocking(|| server.terminate());
        let mut kept = BTreeMap::new();
        for call in calls {
            match call.await.unwrap() {
                Ok(created) => {
                    let backup = created.into_inner().decoded().unwrap();
                    kept.insert(backup.backup_id.clone(), backup);
                }
                // A status that the client makes for a broken connection has a source; a status from the server has none.
                Err(refused) => assert!(
                    refused.code() == Code::Unavailable || refused.source().is_some(),
                    "{refused:?}"
                ),
            }
        }
        assert!(ended.await.unwrap().success());
        let server = ChildServer::start(&store);
        let (stored, _) = read_all(server.backups().await).await;
        for (id, backup) in kept {
            assert_eq!(
                stored.get(&id),
                Some(&backup),
                "acknowledged, and not there"
            );
        }
    }
}

#[tokio::test]
async fn a_second_server_on_the_same_store_is_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let server = ChildServer::start(&store);
    // It answers, so that it has the store.
    read_all(server.backups().await).await;
    let second = Command::new(env!("CARGO_BIN_EXE_icebox"))
        .args(["serve", "--listen", "127.0.0.1:0", "--store"])
        .arg(&store)
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("in use by process "), "{said}");
}

#[tokio::test]
async fn a_client_of_a_server_that_is_gone_is_told_unavailable() {
    let dir = tempfile::tempdir().unwrap();
    let server = ChildServer::start(&dir.path().join("store"));
    let mut client = server.backups().await;
    server.kill();
    let refused = client
        .list_backups(ListBackupsRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
}
