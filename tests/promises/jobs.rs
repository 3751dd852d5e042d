//! What clients are promised about jobs.

use crate::harness::{
    OTHER_PROJECT, PROJECT, Server, backup, bad_fields, job, job_update, reason_of,
};
use icebox::proto::{FreezerAction, Job, JobFilter, JobSchedule};
use tonic::{Code, Status};
use tonic_types::StatusExt;

const ID: &str = "0123456789abcdef0123456789abcdef";

#[expect(clippy::unnecessary_wraps, reason = "what a message's field takes")]
fn scheduled(status: &str) -> Option<JobSchedule> {
    Some(JobSchedule {
        status: status.into(),
        ..JobSchedule::default()
    })
}

fn schedule_of(job: &Job) -> JobSchedule {
    job.job_schedule.clone().unwrap_or_default()
}

#[tokio::test]
async fn nobody_is_asked_to_do_anything_with_another_projects_job() {
    let server = Server::start().await;
    let stored = server
        .create_job(Job {
            job_schedule: scheduled("running"),
            ..job("a")
        })
        .await
        .unwrap();
    let id = &stored.job_id;
    for (rpc, status) in [
        (
            "start",
            server.start_job(OTHER_PROJECT, id).await.unwrap_err(),
        ),
        (
            "stop",
            server.stop_job(OTHER_PROJECT, id).await.unwrap_err(),
        ),
        (
            "abort",
            server.abort_job(OTHER_PROJECT, id).await.unwrap_err(),
        ),
    ] {
        assert_eq!(status.code(), Code::NotFound, "{rpc}");
        assert_eq!(
            &status.get_details_resource_info().unwrap().resource_name,
            id,
            "{rpc}"
        );
    }
    assert_eq!(server.get_job(PROJECT, id).await.unwrap(), stored);
    assert_eq!(server.revision().await, stored.revision);
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn a_path_in_the_mask_changes_that_field_alone() {
    let server = Server::start().await;
    let stored = server
        .create_job(Job {
            client_id: "node1".into(),
            session_name: "weekly".into(),
            job_schedule: Some(JobSchedule {
                schedule_interval: "2 days".into(),
                event: "start".into(),
                ..JobSchedule::default()
            }),
            ..job("a")
        })
        .await
        .unwrap();
    let running = Job {
        job_schedule: scheduled("running"),
        ..job_update(&stored.job_id)
    };
    let with_schedule = |change: fn(&mut JobSchedule)| {
        let mut schedule = schedule_of(&stored);
        change(&mut schedule);
        Some(schedule)
    };
    let defaults = Some(FreezerAction {
        mode: "fs".into(),
        ..FreezerAction::default()
    });
    let two_actions = vec![stored.job_actions[0].clone(); 2];
    let id = &stored.job_id;
    // Each update starts from the stored job.
    let cases: Vec<(&[&str], Job, Job)> = vec![
        (
            &["job_schedule.status"],
            running.clone(),
            Job {
                job_schedule: with_schedule(|s| s.status = "running".into()),
                ..stored.clone()
            },
        ),
        // Without a mask, the set fields are merged.
        (
            &[],
            running.clone(),
            Job {
                job_schedule: with_schedule(|s| s.status = "running".into()),
                ..stored.clone()
            },
        ),
        (
            &["job_schedule"],
            running,
            Job {
                job_schedule: scheduled("running"),
                ..stored.clone()
            },
        ),
        (
            &["job_schedule"],
            job_update(id),
            Job {
                job_schedule: None,
                ..stored.clone()
            },
        ),
        (
            &["job_schedule.schedule_interval"],
            job_update(id),
            Job {
                job_schedule: with_schedule(|s| s.schedule_interval.clear()),
                ..stored.clone()
            },
        ),
        (
            &["client_id"],
            Job {
                client_id: "node2".into(),
                session_name: "not named".into(),
                ..job_update(id)
            },
            Job {
                client_id: "node2".into(),
                ..stored.clone()
            },
        ),
        (
            &["client_id"],
            job_update(id),
            Job {
                client_id: String::new(),
                ..stored.clone()
            },
        ),
        (
            &["job_actions"],
            Job {
                job_actions: two_actions.clone(),
                ..job_update(id)
            },
            Job {
                job_actions: two_actions,
                ..stored.clone()
            },
        ),
        (
            &["action_defaults.mode"],
            Job {
                action_defaults: defaults.clone(),
                ..job_update(id)
            },
            Job {
                action_defaults: defaults,
                ..stored.clone()
            },
        ),
        (
            &["session_tag", "session_id"],
            Job {
                session_tag: 3,
                session_id: ID.into(),
                ..job_update(id)
            },
            Job {
                session_tag: 3,
                session_id: ID.into(),
                ..stored.clone()
            },
        ),
        // All fields that may be set are replaced: those that are not set are cleared.
        (
            &["*"],
            Job {
                job_id: id.clone(),
                ..job("b")
            },
            Job {
                description: "b".into(),
                client_id: String::new(),
                session_name: String::new(),
                job_schedule: None,
                ..stored.clone()
            },
        ),
    ];
    for (mask, update, expected) in cases {
        let before = server.revision().await;
        let updated = server.update_job(update, mask).await.unwrap();
        assert!(updated.revision > before, "{mask:?}");
        let stamped = Job {
            revision: updated.revision,
            update_time: updated.update_time,
            ..expected
        };
        assert_eq!(updated, stamped, "{mask:?}");
        assert_eq!(
            server.get_job(PROJECT, id).await.unwrap(),
            updated,
            "{mask:?}"
        );
        server.update_job(stored.clone(), &["*"]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_found_while_it_is_renamed() {
    let server = Server::start().await;
    let id = server.create_job(job("a")).await.unwrap().job_id;
    let ends = std::sync::atomic::AtomicBool::new(false);
    let rename = async {
        for n in 0..1500 {
            let renamed = Job {
                description: format!("name {}", n % 9),
                ..job_update(&id)
            };
            server.update_job(renamed, &["description"]).await.unwrap();
        }
        ends.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let get = async || {
        while !ends.load(std::sync::atomic::Ordering::Relaxed) {
            server.get_job(PROJECT, &id).await.unwrap();
        }
    };
    tokio::join!(rename, get(), get(), get(), get());
}

#[tokio::test]
async fn a_new_description_moves_the_job_in_the_list() {
    let server = Server::start().await;
    let a = server.create_job(job("a")).await.unwrap();
    server.create_job(job("b")).await.unwrap();
    let renamed = Job {
        description: "c".into(),
        ..job_update(&a.job_id)
    };
    let renamed = server.update_job(renamed, &["description"]).await.unwrap();
    assert_eq!(server.job_names(JobFilter::default()).await, ["b", "c"]);
    assert_eq!(server.get_job(PROJECT, &a.job_id).await.unwrap(), renamed);
    server.delete_job(PROJECT, &a.job_id).await.unwrap();
    assert_eq!(server.job_names(JobFilter::default()).await, ["b"]);
}

#[tokio::test]
async fn revisions_increase_over_all_kinds() {
    let server = Server::start().await;
    let mut revisions = Vec::new();
    for n in 0..3 {
        let job = server.create_job(job("a")).await.unwrap();
        let backup = server.create_backup(backup("a")).await.unwrap();
        let started = server.start_job(PROJECT, &job.job_id).await.unwrap();
        revisions.extend([job.revision, backup.revision, started.revision]);
        server
            .delete_backup(PROJECT, &backup.backup_id)
            .await
            .unwrap();
        revisions.push(server.revision().await);
        assert_eq!(revisions.len(), (n + 1) * 4);
    }
    assert!(
        revisions.is_sorted_by(|before, after| before < after),
        "{revisions:?}"
    );
}

#[tokio::test]
async fn a_mask_that_names_what_cannot_change_is_refused_with_a_hint() {
    let server = Server::start().await;
    let stored = server.create_job(job("a")).await.unwrap();
    for (path, said) in [
        ("user_id", "user_id is set by the server"),
        ("create_time", "create_time is set by the server"),
        (
            "update_time.seconds",
            "update_time.seconds is set by the server",
        ),
        ("revision", "revision is set by the server"),
        ("job_id", "job_id cannot be changed"),
        ("project_id", "project_id cannot be changed"),
        ("descripton", "did you mean \"description\"?"),
        ("job_schedule.staus", "did you mean \"status\"?"),
        ("jobSchedule", "did you mean \"job_schedule\"?"),
        ("description.x", "description has no fields to name"),
        ("job_actions.mandatory", "job_actions has no fields to name"),
        ("nothing_like_it", "Job has no \"nothing_like_it\""),
        ("", "names no field"),
        ("job_schedule.", "names no field"),
    ] {
        let status = server
            .update_job(stored.clone(), &["client_id", path])
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{path:?}");
        assert_eq!(bad_fields(&status), ["update_mask.paths[1]"], "{path:?}");
        let told = &status.get_details_bad_request().unwrap().field_violations[0].description;
        assert!(told.contains(said), "{path:?}: {told}");
    }
    assert_eq!(
        server.get_job(PROJECT, &stored.job_id).await.unwrap(),
        stored
    );
}

/// Every state of a job.
const STATES: [&str; 7] = [
    "",
    "scheduled",
    "running",
    "completed",
    "stop",
    "aborting",
    "removed",
];

#[tokio::test]
async fn a_job_can_be_started_from_any_state() {
    let server = Server::start().await;
    for state in STATES {
        let schedule = JobSchedule {
            schedule_interval: "1 hours".into(),
            status: state.into(),
            result: "fail".into(),
            event: "stop".into(),
            ..JobSchedule::default()
        };
        let stored = server
            .create_job(Job {
                job_schedule: Some(schedule.clone()),
                ..job("a")
            })
            .await
            .unwrap();
        let started = server.start_job(PROJECT, &stored.job_id).await.unwrap();
        let expected = JobSchedule {
            event: "start".into(),
            status: String::new(),
            result: String::new(),
            ..schedule
        };
        assert_eq!(schedule_of(&started), expected, "{state:?}");
        assert!(started.revision > stored.revision);
    }
    let unscheduled = server.create_job(job("a")).await.unwrap();
    let started = server
        .start_job(PROJECT, &unscheduled.job_id)
        .await
        .unwrap();
    assert_eq!(schedule_of(&started).event, "start");
}

fn assert_refused(status: &Status, reason: &str, id: &str) {
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(reason_of(status), reason);
    let violations = status
        .get_details_precondition_failure()
        .expect("a PreconditionFailure")
        .violations;
    assert_eq!(violations.len(), 1);
    assert_eq!(
        (
            violations[0].r#type.as_str(),
            violations[0].subject.as_str()
        ),
        (reason, &*format!("job/{id}"))
    );
    assert_eq!(violations[0].description, status.message());
}

#[tokio::test]
async fn only_a_scheduled_or_running_job_can_be_stopped_and_only_a_running_one_aborted() {
    let server = Server::start().await;
    for state in STATES {
        let stored = server
            .create_job(Job {
                job_schedule: scheduled(state),
                ..job("a")
            })
            .await
            .unwrap();
        let id = &stored.job_id;
        match server.stop_job(PROJECT, id).await {
            Ok(stopped) => {
                assert!(["scheduled", "running"].contains(&state), "{state:?}");
                let asked = (schedule_of(&stopped).event, schedule_of(&stopped).status);
                assert_eq!(asked, ("stop".to_owned(), state.to_owned()));
            }
            Err(status) => {
                assert!(!["scheduled", "running"].contains(&state), "{state:?}");
                assert_refused(&status, "JOB_NOT_SCHEDULED_OR_RUNNING", id);
                assert_eq!(server.get_job(PROJECT, id).await.unwrap(), stored);
            }
        }
        match server.abort_job(PROJECT, id).await {
            Ok(aborted) => {
                assert_eq!(state, "running");
                let asked = (schedule_of(&aborted).event, schedule_of(&aborted).status);
                assert_eq!(asked, ("abort".to_owned(), state.to_owned()));
            }
            Err(status) => {
                assert_ne!(state, "running");
                assert_refused(&status, "JOB_NOT_RUNNING", id);
            }
        }
    }
}

#[tokio::test]
async fn asking_twice_is_asking_once() {
    let server = Server::start().await;
    let stored = server.create_job(job("a")).await.unwrap();
    let id = &stored.job_id;
    let started = server.start_job(PROJECT, id).await.unwrap();
    assert_eq!(server.start_job(PROJECT, id).await.unwrap(), started);
    // What the agent has reported in between stays.
    let reported = Job {
        job_schedule: scheduled("running"),
        ..job_update(id)
    };
    let running = server
        .update_job(reported, &["job_schedule.status"])
        .await
        .unwrap();
    assert_eq!(server.start_job(PROJECT, id).await.unwrap(), running);
    let stopped = server.stop_job(PROJECT, id).await.unwrap();
    assert_eq!(server.stop_job(PROJECT, id).await.unwrap(), stopped);
    let aborted = server.abort_job(PROJECT, id).await.unwrap();
    assert_eq!(server.abort_job(PROJECT, id).await.unwrap(), aborted);
    assert_eq!(server.revision().await, aborted.revision);
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn every_filter_narrows_the_list_alone_and_with_others() {
    let server = Server::start().await;
    let schedule = |event: &str, status: &str, result: &str| {
        Some(JobSchedule {
            event: event.into(),
            status: status.into(),
            result: result.into(),
            ..JobSchedule::default()
        })
    };
    for job in [
        Job {
            client_id: "node1".into(),
            job_schedule: schedule("start", "", ""),
            ..job("db 1")
        },
        Job {
            session_id: ID.into(),
            job_schedule: schedule("", "running", "fail"),
            ..job("db 2")
        },
        Job {
            client_id: "node1".into(),
            job_schedule: schedule("", "running", ""),
            ..job("fs 1")
        },
        job("fs 2"),
        Job {
            project_id: OTHER_PROJECT.into(),
            ..job("not mine")
        },
    ] {
        server.create_job(job).await.unwrap();
    }
    let none = JobFilter::default;
    let cases: Vec<(JobFilter, &[&str])> = vec![
        (none(), &["db 1", "db 2", "fs 1", "fs 2"]),
        (
            JobFilter {
                client_id: "node1".into(),
                ..none()
            },
            &["db 1", "fs 1"],
        ),
        (
            JobFilter {
                client_id: "node".into(),
                ..none()
            },
            &[],
        ),
        (
            JobFilter {
                description_prefix: "db".into(),
                ..none()
            },
            &["db 1", "db 2"],
        ),
        (
            JobFilter {
                description_prefix: "db 2".into(),
                ..none()
            },
            &["db 2"],
        ),
        (
            JobFilter {
                description_prefix: "db 22".into(),
                ..none()
            },
            &[],
        ),
        (
            JobFilter {
                session_id: ID.into(),
                ..none()
            },
            &["db 2"],
        ),
        (
            JobFilter {
                status: "running".into(),
                ..none()
            },
            &["db 2", "fs 1"],
        ),
        (
            JobFilter {
                result: "fail".into(),
                ..none()
            },
            &["db 2"],
        ),
        (
            JobFilter {
                event: "start".into(),
                ..none()
            },
            &["db 1"],
        ),
        (
            JobFilter {
                event: "abort".into(),
                ..none()
            },
            &[],
        ),
        (
            JobFilter {
                status: "running".into(),
                client_id: "node1".into(),
                ..none()
            },
            &["fs 1"],
        ),
        (
            JobFilter {
                description_prefix: "db".into(),
                session_id: ID.into(),
                status: "running".into(),
                result: "fail".into(),
                ..none()
            },
            &["db 2"],
        ),
        (
            JobFilter {
                description_prefix: "fs".into(),
                event: "start".into(),
                ..none()
            },
            &[],
        ),
    ];
    for (filter, expected) in cases {
        assert_eq!(
            server.job_names(filter.clone()).await,
            expected,
            "{filter:?}"
        );
    }
}
