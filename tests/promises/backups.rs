//! What clients are promised about backups.

use crate::harness::{
    OTHER_PROJECT, PROJECT, Server, backup, backup_update, backup_with, bad_fields, metadata_of,
};
use icebox::proto::{Backup, BackupFilter, BackupMetadata};
use prost_types::{Struct, Value, value::Kind};
use tonic::Code;

const ID: &str = "0123456789abcdef0123456789abcdef";

fn text(value: &str) -> Value {
    Value {
        kind: Some(Kind::StringValue(value.into())),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what a message's field takes")]
fn extra(keys: &[(&str, &str)]) -> Option<Struct> {
    let fields = keys
        .iter()
        .map(|(key, value)| ((*key).to_owned(), text(value)))
        .collect();
    Some(Struct { fields })
}

#[tokio::test]
async fn updates_merge_into_the_metadata() {
    let server = Server::start().await;
    let stored = server
        .create_backup(backup_with("a", |_, metadata| {
            metadata.mode = "fs".into();
            metadata.extra = extra(&[("kept", "1"), ("changed", "1")]);
        }))
        .await
        .unwrap();
    let id = &stored.backup_id;
    let sent = BackupMetadata {
        storage: "s3".into(),
        extra: extra(&[("changed", "2"), ("a.dotted key", "new")]),
        ..BackupMetadata::default()
    };
    let merged = backup_with("a", |_, metadata| {
        metadata.mode = "fs".into();
        metadata.storage = "s3".into();
        metadata.extra = extra(&[("kept", "1"), ("changed", "2"), ("a.dotted key", "new")]);
    });
    for mask in [&[][..], &["backup_metadata"]] {
        let updated = server
            .update_backup(backup_update(id, sent.clone()), mask)
            .await
            .unwrap();
        assert_eq!(updated.backup_metadata, merged.backup_metadata, "{mask:?}");
    }
    // With single paths: fields that are sent but not named stay as they are, and a named field that is not set is cleared.
    let sent = BackupMetadata {
        storage: "swift".into(),
        compression: "not named".into(),
        extra: extra(&[("kept", "3"), ("changed", "not named")]),
        ..BackupMetadata::default()
    };
    let mask = [
        "backup_metadata.storage",
        "backup_metadata.mode",
        "backup_metadata.extra.kept",
        "backup_metadata.extra.a.dotted key",
    ];
    let updated = server
        .update_backup(backup_update(id, sent), &mask)
        .await
        .unwrap();
    let expected = backup_with("a", |_, metadata| {
        metadata.storage = "swift".into();
        metadata.extra = extra(&[("kept", "3"), ("changed", "2")]);
    });
    assert_eq!(updated.backup_metadata, expected.backup_metadata);
    // `extra` is a field like others: it is replaced as a whole.
    let sent = BackupMetadata {
        extra: extra(&[("only", "1")]),
        ..BackupMetadata::default()
    };
    let updated = server
        .update_backup(backup_update(id, sent), &["backup_metadata.extra"])
        .await
        .unwrap();
    assert_eq!(metadata_of(&updated).extra, extra(&[("only", "1")]));
    assert_eq!(server.get_backup(PROJECT, id).await.unwrap(), updated);
}

#[tokio::test]
async fn a_status_is_changed_and_cleared_alone() {
    let server = Server::start().await;
    let stored = server
        .create_backup(backup_with("a", |b, _| b.status = "creating".into()))
        .await
        .unwrap();
    let update = |status: &str| Backup {
        project_id: PROJECT.into(),
        backup_id: stored.backup_id.clone(),
        status: status.into(),
        ..Backup::default()
    };
    let error = server.update_backup(update("error"), &[]).await.unwrap();
    assert_eq!(error.status, "error");
    assert_eq!(error.backup_metadata, stored.backup_metadata);
    assert_eq!(error.create_time, stored.create_time);
    assert!(error.revision > stored.revision);
    let cleared = server.update_backup(update(""), &["status"]).await.unwrap();
    assert_eq!(cleared.status, "");
    assert!(cleared.revision > error.revision);
}

#[tokio::test]
async fn the_name_of_a_backup_cannot_be_changed() {
    let server = Server::start().await;
    let stored = server.create_backup(backup("a")).await.unwrap();
    let renamed = BackupMetadata {
        backup_name: "b".into(),
        ..BackupMetadata::default()
    };
    for (mask, field) in [
        (&["backup_metadata.backup_name"][..], "update_mask.paths[0]"),
        (&[], "backup.backup_metadata.backup_name"),
        (&["backup_metadata"], "backup.backup_metadata.backup_name"),
    ] {
        let status = server
            .update_backup(backup_update(&stored.backup_id, renamed.clone()), mask)
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{mask:?}");
        assert_eq!(bad_fields(&status), [field], "{mask:?}");
    }
    assert_eq!(
        server.get_backup(PROJECT, &stored.backup_id).await.unwrap(),
        stored
    );
    // Sent unchanged, it is no change.
    let same = BackupMetadata {
        backup_name: "a".into(),
        mode: "fs".into(),
        ..BackupMetadata::default()
    };
    for mask in [&[][..], &["backup_metadata"]] {
        let same = backup_update(&stored.backup_id, same.clone());
        assert_eq!(
            metadata_of(&server.update_backup(same, mask).await.unwrap()).mode,
            "fs"
        );
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn every_filter_narrows_the_list_alone_and_with_others() {
    let server = Server::start().await;
    let other_id = "f".repeat(32);
    for backup in [
        backup_with("db-1", |backup, metadata| {
            backup.client_id = "demo_node1".into();
            backup.job_id = ID.into();
            metadata.time_stamp = 100;
            metadata.mode = "mysql".into();
        }),
        backup_with("db-2", |backup, metadata| {
            backup.status = "available".into();
            metadata.time_stamp = 200;
            metadata.hostname = "node2".into();
            metadata.curr_backup_level = 1;
        }),
        backup_with("fs-1", |backup, metadata| {
            backup.status = "error".into();
            backup.job_id.clone_from(&other_id);
            metadata.time_stamp = 300;
            metadata.container = "bucket".into();
            metadata.storage = "s3".into();
        }),
        backup_with("not mine", |backup, _| {
            backup.project_id = OTHER_PROJECT.into();
        }),
    ] {
        server.create_backup(backup).await.unwrap();
    }
    let none = BackupFilter::default;
    let cases: Vec<(BackupFilter, &[&str])> = vec![
        (none(), &["db-1", "db-2", "fs-1"]),
        (
            BackupFilter {
                backup_name: "db-1".into(),
                ..none()
            },
            &["db-1"],
        ),
        (
            BackupFilter {
                backup_name: "db".into(),
                ..none()
            },
            &[],
        ),
        (
            BackupFilter {
                backup_name_prefix: "db".into(),
                ..none()
            },
            &["db-1", "db-2"],
        ),
        (
            BackupFilter {
                backup_name_prefix: "db-1".into(),
                ..none()
            },
            &["db-1"],
        ),
        (
            BackupFilter {
                backup_name: "db-1".into(),
                backup_name_prefix: "fs".into(),
                ..none()
            },
            &[],
        ),
        (
            BackupFilter {
                client_id: "demo_node1".into(),
                ..none()
            },
            &["db-1"],
        ),
        (
            BackupFilter {
                job_id: ID.into(),
                ..none()
            },
            &["db-1"],
        ),
        (
            BackupFilter {
                job_id: other_id.clone(),
                ..none()
            },
            &["fs-1"],
        ),
        (
            BackupFilter {
                hostname: "node2".into(),
                ..none()
            },
            &["db-2"],
        ),
        (
            BackupFilter {
                container: "bucket".into(),
                ..none()
            },
            &["fs-1"],
        ),
        (
            BackupFilter {
                storage: "s3".into(),
                ..none()
            },
            &["fs-1"],
        ),
        (
            BackupFilter {
                mode: "mysql".into(),
                ..none()
            },
            &["db-1"],
        ),
        (
            BackupFilter {
                status: "available".into(),
                ..none()
            },
            &["db-1", "db-2"],
        ),
        (
            BackupFilter {
                status: "error".into(),
                ..none()
            },
            &["fs-1"],
        ),
        (
            BackupFilter {
                status: "deleted".into(),
                ..none()
            },
            &[],
        ),
        (
            BackupFilter {
                time_after: Some(200),
                ..none()
            },
            &["db-2", "fs-1"],
        ),
        (
            BackupFilter {
                time_after: Some(201),
                ..none()
            },
            &["fs-1"],
        ),
        (
            BackupFilter {
                time_before: Some(200),
                ..none()
            },
            &["db-1"],
        ),
        (
            BackupFilter {
                time_before: Some(201),
                ..none()
            },
            &["db-1", "db-2"],
        ),
        (
            BackupFilter {
                time_before: Some(0),
                ..none()
            },
            &[],
        ),
        (
            BackupFilter {
                time_after: Some(100),
                time_before: Some(300),
                ..none()
            },
            &["db-1", "db-2"],
        ),
        (
            BackupFilter {
                curr_backup_level: Some(0),
                ..none()
            },
            &["db-1", "fs-1"],
        ),
        (
            BackupFilter {
                curr_backup_level: Some(1),
                ..none()
            },
            &["db-2"],
        ),
        (
            BackupFilter {
                backup_name_prefix: "db".into(),
                status: "available".into(),
                time_after: Some(150),
                hostname: "node2".into(),
                container: "/srv/backups".into(),
                curr_backup_level: Some(1),
                ..none()
            },
            &["db-2"],
        ),
        (
            BackupFilter {
                backup_name_prefix: "db".into(),
                status: "error".into(),
                ..none()
            },
            &[],
        ),
    ];
    for (filter, expected) in cases {
        assert_eq!(
            server.backup_names(filter.clone()).await,
            expected,
            "{filter:?}"
        );
    }
}
