//! The rules for jobs, one by one.

use proptest::prelude::*;
use prost_reflect::{Kind, ReflectMessage, Value};
use prost_types::Struct;

use super::{
    rules::{ACTIONS, MODES},
    *,
};
use crate::proto::{
    FreezerAction, JobAction, JobSchedule, UserCredentials, from_dynamic, to_dynamic,
};

fn action(freezer_action: FreezerAction) -> JobAction {
    JobAction {
        freezer_action: Some(freezer_action),
        ..JobAction::default()
    }
}

fn backup() -> FreezerAction {
    FreezerAction {
        action: "backup".into(),
        ..FreezerAction::default()
    }
}

fn good() -> Job {
    Job {
        project_id: "demo".into(),
        description: "nightly".into(),
        job_actions: vec![action(backup())],
        ..Job::default()
    }
}

/// What is wrong with a good job after `change`.
fn said(change: impl FnOnce(&mut Job)) -> Vec<String> {
    let mut job = good();
    change(&mut job);
    let mut violations = Violations::new();
    check_job(&job, "job", &mut violations);
    violations
        .iter()
        .map(|v| format!("{} {}", v.field, v.description))
        .collect()
}

fn said_of_action(change: impl FnOnce(&mut FreezerAction)) -> Vec<String> {
    said(|job| change(job.job_actions[0].freezer_action.as_mut().unwrap()))
}

#[test]
fn a_description_has_1_to_64_bytes() {
    for good in ["a".to_owned(), "x".repeat(64), "é".repeat(32)] {
        assert!(said(|job| job.description = good).is_empty());
    }
    assert_eq!(
        said(|job| job.description.clear()),
        ["job.description is required: 1 to 64 bytes"]
    );
    assert_eq!(
        said(|job| job.description = "é".repeat(33)),
        ["job.description must be at most 64 bytes, not 66"]
    );
    assert_eq!(said(|job| job.description = "a\u{7}".into()).len(), 1);
}

#[test]
fn a_job_has_1_to_64_actions() {
    assert!(said(|job| job.job_actions = vec![action(backup()); 64]).is_empty());
    assert_eq!(
        said(|job| job.job_actions.clear()),
        ["job.job_actions must be 1 to 64 actions, not 0"]
    );
    assert_eq!(
        said(|job| job.job_actions = vec![JobAction::default(); 65])[..2],
        [
            "job.job_actions must be 1 to 64 actions, not 65",
            "job.job_actions[0].freezer_action is required, or action_id, which names a stored action",
        ]
    );
    // 64 are looked at; their number and their size are wrong, too.
    let many = said(|job| job.job_actions = vec![JobAction::default(); 100_000]);
    assert_eq!(many.last().map(String::as_str), Some("job has 34 more"));
}

#[test]
fn an_action_may_come_from_the_defaults() {
    let required = "job.job_actions[0].freezer_action.action is required, here or in action_defaults: \
                    one of backup, restore, info, admin or exec";
    assert_eq!(said_of_action(|action| action.action.clear()), [required]);
    assert!(
        said(|job| {
            job.job_actions = vec![action(FreezerAction::default())];
            job.action_defaults = Some(backup());
        })
        .is_empty()
    );
    assert_eq!(
        said(|job| {
            job.job_actions = vec![action(FreezerAction::default())];
            job.action_defaults = Some(FreezerAction {
                mode: "fs".into(),
                ..FreezerAction::default()
            });
        }),
        [required]
    );
    // Reported where it is wrong, and not again at each action that inherits it.
    assert_eq!(
        said(|job| {
            job.job_actions = vec![action(FreezerAction::default()); 3];
            job.action_defaults = Some(FreezerAction {
                action: "backups".into(),
                ..FreezerAction::default()
            });
        }),
        [
            "job.action_defaults.action must be one of backup, restore, info, admin or exec, not \"backups\"; \
             did you mean \"backup\"?"
        ]
    );
}

#[test]
fn actions_and_modes_are_closed_storages_and_engines_open() {
    for word in ACTIONS {
        assert!(said_of_action(|action| action.action = (*word).into()).is_empty());
    }
    for word in MODES {
        assert!(said_of_action(|action| action.mode = (*word).into()).is_empty());
    }
    assert_eq!(
        said_of_action(|action| action.mode = "mongodb".into()),
        [
            "job.job_actions[0].freezer_action.mode must be one of fs, mongo, mysql, sqlserver, cinder, glance, \
             cindernative or nova, not \"mongodb\"; did you mean \"mongo\"?"
        ]
    );
    assert!(
        said_of_action(|action| {
            action.storage = "tape".into();
            action.engine_name = "restic".into();
        })
        .is_empty()
    );
}

#[test]
fn an_action_stays_in_its_jobs_project() {
    assert!(said_of_action(|action| action.project_id = "demo".into()).is_empty());
    assert_eq!(
        said_of_action(|action| action.project_id = "other".into()),
        ["job.job_actions[0].freezer_action.project_id must be the job's, \"demo\", not \"other\""]
    );
    assert_eq!(
        said_of_action(|action| action.project_id = "-".into()).len(),
        1
    );
    assert_eq!(
        said(|job| job.action_defaults = Some(FreezerAction {
            project_id: "other".into(),
            ..FreezerAction::default()
        })),
        ["job.action_defaults.project_id must be the job's, \"demo\", not \"other\""]
    );
}

#[test]
fn credentials_are_whole_or_absent() {
    let said = |trust_id: &str, trustor_user_id: &str| {
        said(|job| {
            job.user_credentials = Some(UserCredentials {
                trust_id: trust_id.into(),
                trustor_user_id: trustor_user_id.into(),
            });
        })
    };
    assert!(said("t1", "u-1_x").is_empty());
    assert_eq!(said("", "").len(), 2);
    assert_eq!(said("t1", "u 1").len(), 1);
}

#[test]
fn everything_wrong_is_told_at_once() {
    let said = said(|job| {
        job.job_id = "X".into();
        job.project_id = "a b".into();
        job.client_id = "a b".into();
        job.job_schedule = Some(JobSchedule {
            event: "go".into(),
            ..JobSchedule::default()
        });
        job.session_id = "S".into();
        job.session_tag = -1;
        job.session_name = "\0".into();
        job.job_actions.push(JobAction {
            action_id: "A".into(),
            max_retries: Some(-1),
            max_retries_interval: Some(-1),
            freezer_action: Some(FreezerAction {
                action: "x".into(),
                remove_older_than: Some(-1),
                max_level: Some(-1),
                always_level: Some(-1),
                backup_name: "\n".into(),
                container: "x".repeat(1025),
                log_file: "\0".into(),
                extra: Some(Struct {
                    fields: [("k".into(), prost_types::Value { kind: None })].into(),
                }),
                ..FreezerAction::default()
            }),
            ..JobAction::default()
        });
    });
    let fields: Vec<_> = said
        .iter()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert_eq!(
        fields,
        [
            "job.job_id",
            "job.project_id",
            "job.client_id",
            "job.job_schedule.event",
            "job.job_actions[1].action_id",
            "job.job_actions[1].freezer_action.action",
            "job.job_actions[1].freezer_action.backup_name",
            "job.job_actions[1].freezer_action.container",
            "job.job_actions[1].freezer_action.log_file",
            "job.job_actions[1].freezer_action.remove_older_than",
            "job.job_actions[1].freezer_action.max_level",
            "job.job_actions[1].freezer_action.always_level",
            "job.job_actions[1].freezer_action.extra[\"k\"]",
            "job.job_actions[1].max_retries",
            "job.job_actions[1].max_retries_interval",
            "job.session_id",
            "job.session_tag",
            "job.session_name",
        ]
    );
}

#[test]
fn a_whole_job_has_at_most_64_kib() {
    let said = said(|job| {
        let long = FreezerAction {
            log_file: "x".repeat(4096),
            ..backup()
        };
        job.job_actions = vec![action(long); 16];
    });
    assert_eq!(said.len(), 1);
    assert!(
        said[0].starts_with("job must be at most 65536 bytes encoded, not 6"),
        "{said:?}"
    );
}

/// A field that is added to the proto and forgotten here would be stored unchecked.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn no_string_field_is_forgotten() {
    fn with_nul<M: prost::Name + Default>(message: &M) -> Vec<(String, M)> {
        let dynamic = to_dynamic(message);
        let descriptor = dynamic.descriptor();
        let strings = descriptor
            .fields()
            .filter(|field| field.kind() == Kind::String);
        strings
            .map(|field| {
                let mut bad = dynamic.clone();
                bad.set_field(&field, Value::String("\0".into()));
                (field.name().to_owned(), from_dynamic(&bad).unwrap())
            })
            .collect()
    }
    let mut bad: Vec<(String, Job)> = Vec::new();
    bad.extend(with_nul(&good()));
    bad.extend(
        with_nul(&backup())
            .into_iter()
            .map(|(field, freezer_action)| {
                (
                    format!("job_actions[0].freezer_action.{field}"),
                    Job {
                        job_actions: vec![action(freezer_action)],
                        ..good()
                    },
                )
            }),
    );
    bad.extend(
        with_nul(&action(backup()))
            .into_iter()
            .map(|(field, action)| {
                (
                    format!("job_actions[0].{field}"),
                    Job {
                        job_actions: vec![action],
                        ..good()
                    },
                )
            }),
    );
    bad.extend(
        with_nul(&JobSchedule::default())
            .into_iter()
            .map(|(field, schedule)| {
                (
                    format!("job_schedule.{field}"),
                    Job {
                        job_schedule: Some(schedule),
                        ..good()
                    },
                )
            }),
    );
    let credentials = UserCredentials {
        trust_id: "t".into(),
        trustor_user_id: "u".into(),
    };
    bad.extend(
        with_nul(&credentials)
            .into_iter()
            .map(|(field, credentials)| {
                (
                    format!("user_credentials.{field}"),
                    Job {
                        user_credentials: Some(credentials),
                        ..good()
                    },
                )
            }),
    );
    assert_eq!(bad.len(), 7 + 10 + 2 + 16 + 2);
    for (field, job) in bad {
        let mut violations = Violations::new();
        check_job(&job, "job", &mut violations);
        let told: Vec<_> = violations.iter().map(|v| v.field.clone()).collect();
        assert_eq!(told, [format!("job.{field}")]);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_check_panic(bytes: Vec<u8>, text: String, number: i64) {
        let mut violations = Violations::new();
        if let Ok(job) = <Job as prost::Message>::decode(bytes.as_slice()) {
            check_job(&job, "job", &mut violations);
        }
        let mut job = good();
        job.session_tag = number;
        job.description.clone_from(&text);
        job.job_actions[0].freezer_action.as_mut().unwrap().project_id = text;
        check_job(&job, "job", &mut violations);
    }
}
