//! Promise: every change is kept with its author, origin, time and effect, in the order of revisions, across restarts and rewrites
//! of the store's file. Its pages miss nothing, and are for those who may see the project.

use crate::harness::child::ChildServer;
use crate::harness::{
    OTHER_PROJECT, PROJECT, Server, backup, backup_with, bad_fields, job, job_update,
};
use icebox::proto::{
    ChangeOperation, ChangeRecord, CreateBackupRequest, ListChangesRequest, ListChangesResponse,
    audit_service_client::AuditServiceClient,
};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

async fn page(
    channel: &Channel,
    request: ListChangesRequest,
) -> Result<ListChangesResponse, Status> {
    let mut audit = AuditServiceClient::new(channel.clone());
    Ok(audit.list_changes(request).await?.into_inner())
}

fn of(project: &str) -> ListChangesRequest {
    ListChangesRequest {
        project_id: project.into(),
        ..ListChangesRequest::default()
    }
}

/// All pages of a request.
async fn all(channel: &Channel, mut request: ListChangesRequest) -> Vec<ChangeRecord> {
    let mut changes = Vec::new();
    loop {
        let page = page(channel, request.clone()).await.expect("a page");
        assert!(
            request.limit == 0
                || page.changes.len() <= usize::try_from(request.limit).expect("positive")
        );
        changes.extend(page.changes);
        if page.is_last {
            return changes;
        }
        assert!(page.next_after_revision > request.after_revision);
        request.after_revision = page.next_after_revision;
    }
}

/// What was done to which resource, by name.
fn short(changes: &[ChangeRecord]) -> Vec<(u64, ChangeOperation, &str, &str, &str)> {
    changes
        .iter()
        .map(|change| {
            (
                change.revision,
                change.operation(),
                &*change.kind,
                &*change.project_id,
                &*change.name,
            )
        })
        .collect()
}

#[tokio::test]
async fn each_change_is_told_with_its_author() {
    use ChangeOperation::{Created, Deleted, Updated};
    let server = Server::start().await;
    let created = server.create_backup(backup("one")).await.unwrap();
    let made = server.create_job(job("nightly")).await.unwrap();
    let mut renamed = job_update(&made.job_id);
    renamed.description = "weekly".into();
    server.update_job(renamed, &["description"]).await.unwrap();
    server.start_job(PROJECT, &made.job_id).await.unwrap();
    let elsewhere = backup_with("two", |backup, _| backup.project_id = OTHER_PROJECT.into());
    server.create_backup(elsewhere).await.unwrap();
    server
        .delete_backup(PROJECT, &created.backup_id)
        .await
        .unwrap();
    // Calls that are refused or change nothing are no changes.
    server
        .delete_backup(PROJECT, &created.backup_id)
        .await
        .unwrap_err();
    server.create_job(made.clone()).await.unwrap_err();

    let own = all(&server.channel, of(PROJECT)).await;
    assert_eq!(
        short(&own),
        [
            (1, Created, "backup", PROJECT, "one"),
            (2, Created, "job", PROJECT, "nightly"),
            (3, Updated, "job", PROJECT, "weekly"),
            (4, Updated, "job", PROJECT, "weekly"),
            (6, Deleted, "backup", PROJECT, "one"),
        ]
    );
    assert_eq!(own[0].resource_id, created.backup_id);
    assert_eq!(own[2].resource_id, made.job_id);
    for change in &own {
        assert_eq!(change.caller, "local");
        assert!(change.peer.starts_with("127.0.0.1:"), "{change:?}");
        assert!(change.commit_time.is_some());
    }
    let everything = all(&server.channel, of("-")).await;
    assert_eq!(everything.len(), 6);
    let jobs = ListChangesRequest {
        kind: "job".into(),
        ..of(PROJECT)
    };
    assert_eq!(all(&server.channel, jobs).await, own[1..4]);
    let one = ListChangesRequest {
        resource_id: created.backup_id.clone(),
        ..of(PROJECT)
    };
    assert_eq!(
        all(&server.channel, one).await,
        [own[0].clone(), own[4].clone()]
    );
}

#[tokio::test]
async fn pages_miss_nothing_and_tell_nothing_twice() {
    let server = Server::start().await;
    for n in 0..40 {
        let project = if n % 3 == 0 { OTHER_PROJECT } else { PROJECT };
        let named = backup_with(&format!("b{n}"), |backup, _| {
            backup.project_id = project.into();
        });
        server.create_backup(named).await.unwrap();
    }
    let whole = all(&server.channel, of(PROJECT)).await;
    assert_eq!(whole.len(), 26);
    for limit in [1, 2, 7, 26, 1000] {
        let paged = ListChangesRequest {
            limit,
            ..of(PROJECT)
        };
        assert_eq!(all(&server.channel, paged).await, whole, "{limit}");
    }
    let later = ListChangesRequest {
        after_revision: whole[9].revision,
        ..of(PROJECT)
    };
    assert_eq!(all(&server.channel, later).await, whole[10..]);
    let future = ListChangesRequest {
        after_revision: 1 << 60,
        ..of(PROJECT)
    };
    let none = page(&server.channel, future).await.unwrap();
    assert!(none.is_last && none.changes.is_empty(), "{none:?}");
}

#[tokio::test]
async fn a_bad_request_is_refused_by_its_fields() {
    let server = Server::start().await;
    let bad = ListChangesRequest {
        project_id: "a b".into(),
        limit: -1,
        kind: "dog".into(),
        resource_id: "x".into(),
        ..ListChangesRequest::default()
    };
    let refused = page(&server.channel, bad).await.unwrap_err();
    assert_eq!(
        bad_fields(&refused),
        ["project_id", "limit", "kind", "resource_id"]
    );
}

// The clients have to notice that a server ends while this thread waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn it_outlives_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("icebox.db");
    let mut before = Vec::new();
    for round in 0..3 {
        let server = ChildServer::start(&store);
        let channel = connected(&server).await;
        assert_eq!(all(&channel, of(PROJECT)).await, before);
        let mut backups = server.backups().await;
        let request = CreateBackupRequest {
            project_id: String::new(),
            backup: Some(backup(&format!("b{round}"))),
        };
        backups.create_backup(request).await.unwrap();
        before = all(&channel, of(PROJECT)).await;
        assert_eq!(before.len(), round + 1);
        if round == 1 {
            server.kill();
        } else {
            server.terminate();
        }
    }
}

/// The output of `icebox`.
fn icebox(arguments: &[&str]) -> String {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_icebox"))
        .args(arguments)
        .output()
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).expect("text")
}

async fn connected(server: &ChildServer) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{}", server.address())).expect("a URI");
    endpoint.connect().await.expect("it listens")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_prints_it_and_a_snapshot_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (store, snapshot) = (dir.path().join("icebox.db"), dir.path().join("copy.db"));
    let server = ChildServer::start(&store);
    for n in 0..3 {
        let request = CreateBackupRequest {
            project_id: String::new(),
            backup: Some(backup(&format!("b{n}"))),
        };
        let mut backups = server.backups().await;
        backups.create_backup(request).await.unwrap();
    }
    let printed = icebox(&[
        "audit",
        "--server",
        server.address(),
        "--project",
        PROJECT,
        "-o",
        "jsonl",
    ]);
    assert_eq!(printed.lines().count(), 3);
    let first: serde_json::Value = serde_json::from_str(printed.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["operation"], &first["caller"]),
        (&"created".into(), &"local".into())
    );
    let table = icebox(&["audit", "--server", server.address(), "--project", PROJECT]);
    assert!(table.starts_with("REVISION"), "{table}");
    // Once the view has everything, a snapshot needs no journal.
    server.terminate();
    let server = ChildServer::start(&store);
    let out = snapshot.to_str().unwrap();
    icebox(&["snapshot", "--server", server.address(), "--out", out]);
    server.terminate();
    let server = ChildServer::start(&snapshot);
    let channel = connected(&server).await;
    assert_eq!(all(&channel, of(PROJECT)).await, []);
    let gone = ListChangesRequest {
        after_revision: 1,
        ..of(PROJECT)
    };
    let refused = page(&channel, gone).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    let details = refused.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!(info.reason, "REVISION_COMPACTED");
    assert_eq!(info.metadata["oldest_revision"], "4");
}
