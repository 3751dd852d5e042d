//! Promise: whatever a request contains, the answer says what is wrong with it, and nothing changes.

use crate::harness::{
    PROJECT, Server, assert_invalid, backup, backup_with, bad_fields, job, metadata_of,
};
use icebox::proto::{Backup, BackupMetadata, FreezerAction, Job, JobAction, JobSchedule};
use prost_types::{ListValue, Struct, Value, value::Kind};
use tonic::Code;
use tonic_types::StatusExt;

const ID: &str = "0123456789abcdef0123456789abcdef";

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

#[expect(clippy::unnecessary_wraps, reason = "what a message's field takes")]
fn extra_of(value: Value) -> Option<Struct> {
    Some(Struct {
        fields: [("k".to_owned(), value)].into(),
    })
}

/// An `extra` with this many levels, of lists or of structs below the first.
fn nested(levels: usize, lists: bool) -> Option<Struct> {
    let inner = (1..levels).fold(value(Kind::NullValue(0)), |inner, _| {
        value(if lists {
            Kind::ListValue(ListValue {
                values: vec![inner],
            })
        } else {
            Kind::StructValue(extra_of(inner).unwrap_or_default())
        })
    });
    extra_of(inner)
}

fn action(freezer_action: FreezerAction) -> JobAction {
    JobAction {
        freezer_action: Some(freezer_action),
        ..JobAction::default()
    }
}

fn backup_action() -> FreezerAction {
    FreezerAction {
        action: "backup".into(),
        ..FreezerAction::default()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what a message's field takes")]
fn schedule(change: impl FnOnce(&mut JobSchedule)) -> Option<JobSchedule> {
    let mut schedule = JobSchedule::default();
    change(&mut schedule);
    Some(schedule)
}

/// Changes that make a good backup bad.
type Change = fn(&mut Backup, &mut BackupMetadata);

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn a_bad_job_is_refused_by_its_field_when_created_and_when_updated() {
    let server = Server::start().await;
    let stored = server.create_job(job("good")).await.unwrap();
    let before = server.revision().await;
    let with_action = |freezer_action| Job {
        job_actions: vec![action(freezer_action)],
        ..job("a")
    };
    let freezer_action = "job.job_actions[0].freezer_action";
    let at = |field: &str| format!("{freezer_action}.{field}");
    let cases: Vec<(Job, String)> = vec![
        (job(""), "job.description".into()),
        (job(&"x".repeat(65)), "job.description".into()),
        (
            job(&format!("{}x", "é".repeat(32))),
            "job.description".into(),
        ),
        (job("a\nb"), "job.description".into()),
        (job("\u{85}"), "job.description".into()),
        (
            Job {
                client_id: "a b".into(),
                ..job("a")
            },
            "job.client_id".into(),
        ),
        (
            Job {
                session_id: "f".repeat(31),
                ..job("a")
            },
            "job.session_id".into(),
        ),
        (
            Job {
                session_tag: -1,
                ..job("a")
            },
            "job.session_tag".into(),
        ),
        (
            Job {
                session_tag: i64::MIN,
                ..job("a")
            },
            "job.session_tag".into(),
        ),
        (
            Job {
                session_name: "x".repeat(4097),
                ..job("a")
            },
            "job.session_name".into(),
        ),
        (
            Job {
                job_actions: vec![],
                ..job("a")
            },
            "job.job_actions".into(),
        ),
        (
            Job {
                job_actions: vec![action(backup_action()); 65],
                ..job("a")
            },
            "job.job_actions".into(),
        ),
        (
            Job {
                job_actions: vec![JobAction::default()],
                ..job("a")
            },
            freezer_action.into(),
        ),
        (with_action(FreezerAction::default()), at("action")),
        (
            with_action(FreezerAction {
                action: "Backup".into(),
                ..backup_action()
            }),
            at("action"),
        ),
        (
            with_action(FreezerAction {
                mode: "filesystem".into(),
                ..backup_action()
            }),
            at("mode"),
        ),
        (
            with_action(FreezerAction {
                max_level: Some(-1),
                ..backup_action()
            }),
            at("max_level"),
        ),
        (
            with_action(FreezerAction {
                remove_older_than: Some(i32::MIN),
                ..backup_action()
            }),
            at("remove_older_than"),
        ),
        (
            with_action(FreezerAction {
                project_id: "other".into(),
                ..backup_action()
            }),
            at("project_id"),
        ),
        (
            with_action(FreezerAction {
                extra: nested(9, false),
                ..backup_action()
            }),
            at("extra"),
        ),
        (
            with_action(FreezerAction {
                extra: nested(9, true),
                ..backup_action()
            }),
            at("extra"),
        ),
        (
            with_action(FreezerAction {
                extra: extra_of(value(Kind::NumberValue(f64::NAN))),
                ..backup_action()
            }),
            at("extra[\"k\"]"),
        ),
        (
            with_action(FreezerAction {
                extra: extra_of(value(Kind::NumberValue(f64::INFINITY))),
                ..backup_action()
            }),
            at("extra[\"k\"]"),
        ),
        (
            with_action(FreezerAction {
                extra: extra_of(Value { kind: None }),
                ..backup_action()
            }),
            at("extra[\"k\"]"),
        ),
        (
            with_action(FreezerAction {
                extra: extra_of(value(Kind::StringValue("x".repeat(16 << 10)))),
                ..backup_action()
            }),
            at("extra"),
        ),
        (
            Job {
                job_actions: vec![
                    JobAction {
                        action_id: ID.to_uppercase(),
                        ..action(backup_action())
                    };
                    1
                ],
                ..job("a")
            },
            "job.job_actions[0].action_id".into(),
        ),
        (
            Job {
                job_actions: vec![JobAction {
                    max_retries: Some(-1),
                    ..action(backup_action())
                }],
                ..job("a")
            },
            "job.job_actions[0].max_retries".into(),
        ),
        (
            Job {
                job_actions: vec![
                    action(FreezerAction {
                        log_file: "x".repeat(4096),
                        ..backup_action()
                    });
                    16
                ],
                ..job("a")
            },
            "job".into(),
        ),
        (
            Job {
                job_schedule: schedule(|s| s.event = "begin".into()),
                ..job("a")
            },
            "job.job_schedule.event".into(),
        ),
        (
            Job {
                job_schedule: schedule(|s| s.status = "stopped".into()),
                ..job("a")
            },
            "job.job_schedule.status".into(),
        ),
        (
            Job {
                job_schedule: schedule(|s| s.result = "failed".into()),
                ..job("a")
            },
            "job.job_schedule.result".into(),
        ),
        (
            Job {
                job_schedule: schedule(|s| s.schedule_interval = "5 fortnights".into()),
                ..job("a")
            },
            "job.job_schedule.schedule_interval".into(),
        ),
        (
            Job {
                job_schedule: schedule(|s| s.schedule_timezone = "Mars/Olympus".into()),
                ..job("a")
            },
            "job.job_schedule.schedule_timezone".into(),
        ),
        (
            Job {
                job_schedule: schedule(|s| s.schedule_hour = "24".into()),
                ..job("a")
            },
            "job.job_schedule.schedule_hour".into(),
        ),
        (
            Job {
                job_schedule: schedule(|s| s.time_created = i64::MAX),
                ..job("a")
            },
            "job.job_schedule.time_created".into(),
        ),
    ];
    for (bad, field) in cases {
        let what = format!("{field}: {:.200}", format!("{bad:?}"));
        let field = [field.as_str()];
        assert_invalid(&what, server.create_job(bad.clone()).await, &field);
        let update = Job {
            job_id: stored.job_id.clone(),
            ..bad
        };
        assert_invalid(&what, server.update_job(update, &["*"]).await, &field);
        assert_eq!(server.revision().await, before, "{what}");
    }
    assert_eq!(
        server.get_job(PROJECT, &stored.job_id).await.unwrap(),
        stored
    );
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn a_bad_backup_is_refused_by_its_field_when_created_and_when_updated() {
    let server = Server::start().await;
    let stored = server.create_backup(backup("good")).await.unwrap();
    let before = server.revision().await;
    let cases: Vec<(&str, Change)> = vec![
        ("status", |b, _| b.status = "done".into()),
        ("status", |b, _| b.status = "Available".into()),
        ("status", |b, _| b.status = "x".repeat(60_000)),
        ("backup_metadata.hostname", |_, m| m.hostname.clear()),
        ("backup_metadata.hostname", |_, m| {
            m.hostname = "h".repeat(256);
        }),
        ("backup_metadata.container", |_, m| {
            m.container = "\u{7}".into();
        }),
        ("backup_metadata.container", |_, m| {
            m.container = "c".repeat(1025);
        }),
        ("backup_metadata.time_stamp", |_, m| m.time_stamp = -2),
        ("backup_metadata.time_stamp", |_, m| m.time_stamp = i64::MAX),
        ("backup_metadata.curr_backup_level", |_, m| {
            m.curr_backup_level = -1;
        }),
        ("backup_metadata.max_level", |_, m| {
            m.max_level = Some(i32::MIN);
        }),
        ("backup_metadata.always_level", |_, m| {
            m.always_level = Some(-1);
        }),
        ("backup_metadata.ssh_port", |_, m| m.ssh_port = 65536),
        ("backup_metadata.path_to_backup", |_, m| {
            m.path_to_backup = "a\0b".into();
        }),
        ("backup_metadata.path_to_backup", |_, m| {
            m.path_to_backup = "x".repeat(4097);
        }),
        ("backup_metadata.extra", |_, m| m.extra = nested(9, false)),
        ("backup_metadata.extra", |_, m| m.extra = nested(9, true)),
        ("backup_metadata.extra[\"k\"]", |_, m| {
            m.extra = extra_of(value(Kind::NumberValue(f64::NAN)));
        }),
    ];
    for (field, change) in cases {
        let field = format!("backup.{field}");
        let bad = backup_with("good", change);
        assert_invalid(&field, server.create_backup(bad.clone()).await, &[&field]);
        let update = Backup {
            backup_id: stored.backup_id.clone(),
            ..bad
        };
        assert_invalid(
            &field,
            server.update_backup(update, &["*"]).await,
            &[&field],
        );
        assert_eq!(server.revision().await, before, "{field}");
    }
    for (field, bad) in [
        ("backup.backup_metadata.backup_name", backup("")),
        (
            "backup.backup_metadata.backup_name",
            backup(&"n".repeat(256)),
        ),
        ("backup.backup_metadata.backup_name", backup("a\tb")),
        (
            "backup.backup_metadata",
            Backup {
                backup_metadata: None,
                ..backup("a")
            },
        ),
        (
            "backup.client_id",
            Backup {
                client_id: "_".into(),
                ..backup("a")
            },
        ),
        (
            "backup.job_id",
            Backup {
                job_id: "no id".into(),
                ..backup("a")
            },
        ),
    ] {
        assert_invalid(field, server.create_backup(bad).await, &[field]);
    }
    assert_eq!(
        server.get_backup(PROJECT, &stored.backup_id).await.unwrap(),
        stored
    );
    assert_eq!(server.revision().await, before);
}

#[tokio::test]
async fn names_are_measured_in_bytes_and_the_longest_is_accepted() {
    let server = Server::start().await;
    for name in [
        "a".to_owned(),
        "x".repeat(64),
        "é".repeat(32),
        "😀".repeat(16),
    ] {
        assert_eq!(
            server.create_job(job(&name)).await.unwrap().description,
            name
        );
        let stored = server.create_backup(backup(&name)).await.unwrap();
        assert_eq!(metadata_of(&stored).backup_name, name);
    }
    let deepest = backup_with("deep", |_, metadata| metadata.extra = nested(8, false));
    let stored = server.create_backup(deepest.clone()).await.unwrap();
    assert_eq!(stored.backup_metadata, deepest.backup_metadata);
}

#[tokio::test]
async fn several_bad_fields_are_told_at_once() {
    let server = Server::start().await;
    let bad = Job {
        job_id: "X".into(),
        client_id: "a b".into(),
        session_tag: -1,
        job_schedule: schedule(|schedule| schedule.status = "runing".into()),
        job_actions: vec![action(FreezerAction {
            mode: "fss".into(),
            ..FreezerAction::default()
        })],
        ..job("")
    };
    let status = server.create_job(bad).await.unwrap_err();
    assert_eq!(
        bad_fields(&status),
        [
            "job.job_id",
            "job.client_id",
            "job.description",
            "job.job_schedule.status",
            "job.job_actions[0].freezer_action.action",
            "job.job_actions[0].freezer_action.mode",
            "job.session_tag",
        ]
    );
    let told = status.get_details_bad_request().unwrap().field_violations;
    assert!(
        told[3].description.contains("did you mean \"running\"?"),
        "{}",
        told[3].description
    );
    assert!(
        status
            .message()
            .starts_with("job.job_id must be 32 lowercase hex digits"),
        "{status}"
    );
}

#[tokio::test]
async fn an_answer_with_many_violations_still_arrives() {
    let server = Server::start().await;
    let before = server.revision().await;
    let bad_action = JobAction {
        action_id: "X".into(),
        max_retries: Some(-1),
        freezer_action: Some(FreezerAction {
            mode: "\u{10ffff}".repeat(100),
            ..FreezerAction::default()
        }),
        ..JobAction::default()
    };
    let many_actions = Job {
        job_actions: vec![bad_action; 64],
        ..job("a")
    };
    // Keys are shown escaped. These are the longest.
    let fields = (0..40).map(|n| {
        (
            format!("{}{n}", "\u{10ffff}".repeat(60)),
            Value { kind: None },
        )
    });
    let long_keys = FreezerAction {
        extra: Some(Struct {
            fields: fields.collect(),
        }),
        ..backup_action()
    };
    let long_keys = Job {
        job_actions: vec![action(long_keys); 4],
        ..job("a")
    };
    for bad in [many_actions, long_keys] {
        let status = server.create_job(bad).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let told = status.get_details_bad_request().unwrap().field_violations;
        assert!(told.len() > 1);
        let last = told.last().unwrap();
        assert_eq!(last.field, "job");
        assert!(last.description.ends_with(" more"), "{}", last.description);
        // gRPC clients in other languages accept 8 KiB of trailers, in which the details are base64.
        let bytes = status.details().len() * 4 / 3 + 3 * status.message().len();
        assert!(bytes < 8 << 10, "{bytes} bytes");
    }
    assert_eq!(server.revision().await, before);
}

#[tokio::test]
async fn what_cannot_be_decoded_is_the_callers_mistake() {
    let server = Server::start().await;
    let before = server.revision().await;
    // This is beyond prost's limit of 100 nested messages, of which each level takes three.
    for levels in [40, 100, 150, 1000] {
        let deep = backup_with("a", |_, metadata| metadata.extra = nested(levels, false));
        let status = server.create_backup(deep).await.unwrap_err();
        assert_eq!(
            status.code(),
            Code::InvalidArgument,
            "{levels} levels: {status:?}"
        );
        assert!(
            status.message().contains("decode"),
            "{levels} levels: {status:?}"
        );
    }
    assert_eq!(server.revision().await, before);
}
