//! Promise: each backup behaves like one register that changes at one moment for everybody, even if the server is killed.
//!
//! Callers create, update, get and delete a few backups at the same time while the server is killed and started again. The history
//! has the answer to each call, and between which moments it was made. A search looks for an order that explains the history.

use std::{
    collections::HashSet,
    error::Error as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::harness::child::ChildServer;
use icebox::proto::{
    Backup, BackupMetadata, CreateBackupRequest, DeleteBackupRequest, GetBackupRequest,
    UpdateBackupRequest, backup_service_client::BackupServiceClient,
};
use prost_types::FieldMask;
use tonic::{Code, Status, transport::Channel};

const PROJECT: &str = "demo";
const BACKUPS: u64 = 3;
const CALLERS: u64 = 4;
const LIVES: u64 = 8;

/// What a call does to a backup, and the value that it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Create(u64),
    Update(u64),
    Get,
    Delete,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Done,
    /// The value of the backup.
    Has(u64),
    AlreadyExists,
    NotFound,
    /// No answer: the call may have happened at any time since then, or not at all.
    Nothing,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    act: Act,
    told: Told,
    began: Instant,
    ended: Instant,
}

impl Call {
    /// The backup's value after the call.
    ///
    /// # Errors
    /// If the call cannot have happened while the value was `before`.
    fn apply(&self, before: Option<u64>) -> Result<Option<u64>, ()> {
        match (self.act, self.told, before) {
            (Act::Create(value), Told::Done | Told::Nothing, None)
            | (Act::Update(value), Told::Done | Told::Nothing, Some(_)) => Ok(Some(value)),
            (Act::Delete, Told::Done | Told::Nothing, Some(_)) => Ok(None),
            (Act::Create(_), Told::AlreadyExists, Some(_))
            | (Act::Update(_) | Act::Get | Act::Delete, Told::NotFound, None) => Ok(before),
            (Act::Get, Told::Has(value), Some(now)) if now == value => Ok(before),
            _ => Err(()),
        }
    }
}

/// Whether the calls can have happened one after the other, each at a moment between its beginning and its end.
fn is_linearizable(calls: &[Call]) -> bool {
    // The remaining calls and the value at that point. The same combination need not be tried twice.
    let mut tried: HashSet<(Vec<bool>, Option<u64>)> = HashSet::new();
    let mut next = vec![(vec![false; calls.len()], None)];
    while let Some((happened, value)) = next.pop() {
        let left = || (0..calls.len()).filter(|n| !happened[*n]);
        let Some(first_end) = left()
            .filter(|n| calls[*n].told != Told::Nothing)
            .map(|n| calls[n].ended)
            .min()
        else {
            return true;
        };
        for n in left().filter(|n| calls[*n].began <= first_end) {
            let Ok(after) = calls[n].apply(value) else {
                continue;
            };
            let mut happened = happened.clone();
            happened[n] = true;
            if tried.insert((happened.clone(), after)) {
                next.push((happened, after));
            }
        }
    }
    false
}

#[test]
fn the_search_tells_histories_that_cannot_be() {
    let start = Instant::now();
    let call = |act, told, began, ended| Call {
        act,
        told,
        began: start + Duration::from_millis(began),
        ended: start + Duration::from_millis(ended),
    };
    let created = call(Act::Create(1), Told::Done, 0, 10);
    let updated = call(Act::Update(2), Told::Done, 20, 30);
    let old_while_updating = call(Act::Get, Told::Has(1), 21, 29);
    assert!(is_linearizable(&[created, updated, old_while_updating]));
    let stale = call(Act::Get, Told::Has(1), 40, 50);
    assert!(!is_linearizable(&[created, updated, stale]));
    let lost = call(Act::Get, Told::NotFound, 40, 50);
    assert!(!is_linearizable(&[created, lost]));
    let unanswered = call(Act::Delete, Told::Nothing, 31, 32);
    assert!(is_linearizable(&[created, updated, unanswered, lost]));
    let back = call(Act::Get, Told::Has(2), 60, 70);
    assert!(!is_linearizable(&[
        created, updated, unanswered, lost, back
    ]));
}

fn backup(id: &str, value: u64) -> Backup {
    Backup {
        backup_id: id.into(),
        project_id: PROJECT.into(),
        backup_metadata: Some(BackupMetadata {
            backup_name: "name".into(),
            container: "c".into(),
            hostname: "h".into(),
            path_to_backup: value.to_string(),
            ..BackupMetadata::default()
        }),
        ..Backup::default()
    }
}

fn value_of(backup: &Backup) -> u64 {
    let metadata = backup.backup_metadata.as_ref().expect("it was sent");
    metadata.path_to_backup.parse().expect("a value")
}

async fn ask(
    client: &mut BackupServiceClient<Channel>,
    id: &str,
    act: Act,
) -> Result<Told, Status> {
    match act {
        Act::Create(value) => {
            let request = CreateBackupRequest {
                project_id: String::new(),
                backup: Some(backup(id, value)),
            };
            client.create_backup(request).await.map(|_| Told::Done)
        }
        Act::Update(value) => {
            let request = UpdateBackupRequest {
                project_id: PROJECT.into(),
                backup: Some(backup(id, value)),
                update_mask: Some(FieldMask {
                    paths: vec!["backup_metadata.path_to_backup".into()],
                }),
                expected_revision: None,
            };
            client.update_backup(request).await.map(|_| Told::Done)
        }
        Act::Get => {
            let request = GetBackupRequest {
                project_id: PROJECT.into(),
                backup_id: id.into(),
            };
            let got = client.get_backup(request).await?.into_inner();
            Ok(Told::Has(value_of(&got.decoded().expect("a backup"))))
        }
        Act::Delete => {
            let request = DeleteBackupRequest {
                project_id: PROJECT.into(),
                backup_id: id.into(),
                expected_revision: None,
            };
            client.delete_backup(request).await.map(|_| Told::Done)
        }
    }
}

type Histories = Arc<Vec<Mutex<Vec<Call>>>>;

/// Makes calls until the server has gone.
async fn call(
    mut client: BackupServiceClient<Channel>,
    next: Arc<AtomicU64>,
    histories: Histories,
) {
    loop {
        let value = next.fetch_add(1, Ordering::Relaxed);
        let dice = value.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let which = usize::try_from(dice % BACKUPS).expect("few");
        let act = match dice / BACKUPS % 8 {
            0 | 1 => Act::Create(value),
            2 | 3 => Act::Update(value),
            4 => Act::Delete,
            _ => Act::Get,
        };
        let began = Instant::now();
        let answer = ask(&mut client, &format!("{which:032x}"), act).await;
        let told = match answer {
            Ok(told) => told,
            Err(status) if status.code() == Code::NotFound => Told::NotFound,
            Err(status) if status.code() == Code::AlreadyExists => Told::AlreadyExists,
            // A status that the client makes for a broken connection has a source.
            Err(status) if status.code() == Code::Unavailable || status.source().is_some() => {
                Told::Nothing
            }
            Err(status) => panic!("{act:?}: {status:?}"),
        };
        let call = Call {
            act,
            told,
            began,
            ended: Instant::now(),
        };
        histories[which]
            .lock()
            .expect("no caller panics")
            .push(call);
        if told == Told::Nothing {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_backup_is_one_register_whatever_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let histories: Histories = Arc::new((0..BACKUPS).map(|_| Mutex::default()).collect());
    let next = Arc::new(AtomicU64::new(1));
    for life in 0..LIVES {
        let server = ChildServer::start_rewriting(&store);
        // It answers once the store is open.
        drop(
            ask(
                &mut server.backups().await,
                &format!("{:032x}", 0),
                Act::Get,
            )
            .await,
        );
        let mut callers = Vec::new();
        for _ in 0..CALLERS {
            let client = server.backups().await;
            callers.push(tokio::spawn(call(client, next.clone(), histories.clone())));
        }
        tokio::time::sleep(Duration::from_millis(20 + life * 13)).await;
        server.kill();
        for caller in callers {
            caller.await.unwrap();
        }
    }
    for history in &*histories {
        let history = history.lock().unwrap();
        assert!(
            history.len() > 30,
            "only {} calls: this has tested nothing",
            history.len()
        );
        assert!(is_linearizable(&history), "{history:#?}");
    }
}
