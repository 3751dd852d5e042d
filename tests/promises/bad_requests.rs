//! Promise: whatever impossible thing a request asks for, the answer says what is wrong, and nothing changes.

use crate::harness::{self, PROJECT, Server, assert_invalid, backup, job, job_update, mask_of};
use icebox::proto::{
    AbortJobRequest, Backup, BackupFilter, CreateBackupRequest, CreateJobRequest,
    DeleteBackupRequest, DeleteJobRequest, GetBackupRequest, GetJobRequest, Job, JobFilter,
    ListBackupsRequest, ListJobsRequest, StartJobRequest, StopJobRequest, UpdateBackupRequest,
    UpdateJobRequest,
};
use tonic::Code;

const ID: &str = "0123456789abcdef0123456789abcdef";

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn every_rpc_refuses_bad_ids_and_projects() {
    let server = Server::start().await;
    let before = server.revision().await;
    let (upper, dashed) = (ID.to_uppercase(), "01234567-89ab-cdef-0123-456789abcdef");
    let (short, long) = (&ID[1..], format!("{ID}0"));
    for id in ["", &upper, dashed, short, &long, "é", "\0", &"g".repeat(32)] {
        let (project_id, job_id, backup_id) = (PROJECT.to_owned(), id.to_owned(), id.to_owned());
        let what = format!("{id:?}");
        assert_invalid(&what, server.get_job(PROJECT, id).await, &["job_id"]);
        assert_invalid(&what, server.delete_job(PROJECT, id).await, &["job_id"]);
        assert_invalid(&what, server.start_job(PROJECT, id).await, &["job_id"]);
        assert_invalid(&what, server.stop_job(PROJECT, id).await, &["job_id"]);
        assert_invalid(&what, server.abort_job(PROJECT, id).await, &["job_id"]);
        assert_invalid(
            &what,
            server.update_job(job_update(id), &["client_id"]).await,
            &["job.job_id"],
        );
        assert_invalid(&what, server.get_backup(PROJECT, id).await, &["backup_id"]);
        assert_invalid(
            &what,
            server.delete_backup(PROJECT, id).await,
            &["backup_id"],
        );
        let update = Backup {
            project_id: project_id.clone(),
            backup_id,
            ..Backup::default()
        };
        assert_invalid(
            &what,
            server.update_backup(update.clone(), &["status"]).await,
            &["backup.backup_id"],
        );
        if !id.is_empty() {
            let backup = Backup {
                backup_metadata: backup("a").backup_metadata,
                ..update
            };
            assert_invalid(
                &what,
                server.create_backup(backup).await,
                &["backup.backup_id"],
            );
            assert_invalid(
                &what,
                server.create_job(Job { job_id, ..job("a") }).await,
                &["job.job_id"],
            );
            let list = ListJobsRequest {
                project_id: PROJECT.into(),
                marker: id.into(),
                ..ListJobsRequest::default()
            };
            assert_invalid(&what, server.jobs().list_jobs(list).await, &["marker"]);
            let list = ListBackupsRequest {
                project_id: PROJECT.into(),
                marker: id.into(),
                ..ListBackupsRequest::default()
            };
            assert_invalid(
                &what,
                server.backups().list_backups(list).await,
                &["marker"],
            );
        }
    }
    for project in ["", "-", "a b", "../demo", "é", &"p".repeat(129)] {
        let what = format!("{project:?}");
        let (project_id, job_id, backup_id) = (project.to_owned(), ID.to_owned(), ID.to_owned());
        assert_invalid(&what, server.get_job(project, ID).await, &["project_id"]);
        assert_invalid(&what, server.delete_job(project, ID).await, &["project_id"]);
        assert_invalid(&what, server.start_job(project, ID).await, &["project_id"]);
        assert_invalid(&what, server.stop_job(project, ID).await, &["project_id"]);
        assert_invalid(&what, server.abort_job(project, ID).await, &["project_id"]);
        assert_invalid(&what, server.get_backup(project, ID).await, &["project_id"]);
        assert_invalid(
            &what,
            server.delete_backup(project, ID).await,
            &["project_id"],
        );
        let update = UpdateJobRequest {
            project_id: project_id.clone(),
            job: Some(Job {
                job_id,
                ..Job::default()
            }),
            ..UpdateJobRequest::default()
        };
        assert_invalid(
            &what,
            server.jobs().update_job(update).await,
            &["project_id"],
        );
        let update = UpdateBackupRequest {
            project_id: project_id.clone(),
            backup: Some(Backup {
                backup_id,
                ..Backup::default()
            }),
            ..UpdateBackupRequest::default()
        };
        assert_invalid(
            &what,
            server.backups().update_backup(update).await,
            &["project_id"],
        );
        if project != "-" {
            let list = ListJobsRequest {
                project_id: project_id.clone(),
                ..ListJobsRequest::default()
            };
            assert_invalid(&what, server.jobs().list_jobs(list).await, &["project_id"]);
            let list = ListBackupsRequest {
                project_id,
                ..ListBackupsRequest::default()
            };
            assert_invalid(
                &what,
                server.backups().list_backups(list).await,
                &["project_id"],
            );
        }
    }
    assert_eq!(server.revision().await, before);
}

#[tokio::test]
async fn an_empty_request_is_told_all_that_is_missing() {
    let server = Server::start().await;
    let (mut jobs, mut backups) = (server.jobs(), server.backups());
    let job_fields = ["project_id", "job_id"];
    assert_invalid(
        "create",
        jobs.create_job(CreateJobRequest::default()).await,
        &["project_id", "job"],
    );
    assert_invalid(
        "get",
        jobs.get_job(GetJobRequest::default()).await,
        &job_fields,
    );
    assert_invalid(
        "list",
        jobs.list_jobs(ListJobsRequest::default()).await,
        &["project_id"],
    );
    assert_invalid(
        "update",
        jobs.update_job(UpdateJobRequest::default()).await,
        &["job"],
    );
    assert_invalid(
        "delete",
        jobs.delete_job(DeleteJobRequest::default()).await,
        &job_fields,
    );
    assert_invalid(
        "start",
        jobs.start_job(StartJobRequest::default()).await,
        &job_fields,
    );
    assert_invalid(
        "stop",
        jobs.stop_job(StopJobRequest::default()).await,
        &job_fields,
    );
    assert_invalid(
        "abort",
        jobs.abort_job(AbortJobRequest::default()).await,
        &job_fields,
    );
    let backup_fields = ["project_id", "backup_id"];
    let create = CreateBackupRequest::default();
    assert_invalid(
        "create",
        backups.create_backup(create).await,
        &["project_id", "backup"],
    );
    assert_invalid(
        "get",
        backups.get_backup(GetBackupRequest::default()).await,
        &backup_fields,
    );
    assert_invalid(
        "list",
        backups.list_backups(ListBackupsRequest::default()).await,
        &["project_id"],
    );
    assert_invalid(
        "update",
        backups.update_backup(UpdateBackupRequest::default()).await,
        &["backup"],
    );
    assert_invalid(
        "delete",
        backups.delete_backup(DeleteBackupRequest::default()).await,
        &backup_fields,
    );
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn a_bad_list_request_is_refused_by_its_field() {
    let server = Server::start().await;
    let list = || ListJobsRequest {
        project_id: PROJECT.into(),
        ..ListJobsRequest::default()
    };
    let filter = |filter: JobFilter| ListJobsRequest {
        filter: Some(filter),
        ..list()
    };
    let cases: Vec<(ListJobsRequest, &[&str])> = vec![
        (
            ListJobsRequest {
                limit: -1,
                ..list()
            },
            &["limit"],
        ),
        (
            ListJobsRequest {
                limit: i32::MIN,
                ..list()
            },
            &["limit"],
        ),
        (
            ListJobsRequest {
                marker: ID.into(),
                ..list()
            },
            &["marker"],
        ),
        (
            ListJobsRequest {
                page_token: "not a token".into(),
                ..list()
            },
            &["page_token"],
        ),
        (
            ListJobsRequest {
                marker: ID.into(),
                page_token: "x".into(),
                ..list()
            },
            &["marker", "page_token"],
        ),
        (
            filter(JobFilter {
                status: "runing".into(),
                ..JobFilter::default()
            }),
            &["filter.status"],
        ),
        (
            filter(JobFilter {
                result: "failed".into(),
                ..JobFilter::default()
            }),
            &["filter.result"],
        ),
        (
            filter(JobFilter {
                event: "go".into(),
                ..JobFilter::default()
            }),
            &["filter.event"],
        ),
        (
            ListJobsRequest {
                project_id: "a b".into(),
                limit: -1,
                marker: "m".into(),
                page_token: String::new(),
                filter: Some(JobFilter {
                    status: "x".into(),
                    ..JobFilter::default()
                }),
            },
            &["project_id", "limit", "marker", "filter.status"],
        ),
    ];
    for (request, fields) in cases {
        assert_invalid(
            &format!("{request:?}"),
            server.jobs().list_jobs(request).await,
            fields,
        );
    }
    let request = ListBackupsRequest {
        project_id: PROJECT.into(),
        limit: -1,
        filter: Some(BackupFilter {
            status: "availible".into(),
            ..BackupFilter::default()
        }),
        ..ListBackupsRequest::default()
    };
    assert_invalid(
        "backups",
        server.backups().list_backups(request).await,
        &["limit", "filter.status"],
    );
}

#[tokio::test]
async fn a_bad_mask_is_refused_path_by_path() {
    let server = Server::start().await;
    let stored = server.create_backup(backup("a")).await.unwrap();
    let many = ["status"; 300];
    let cases: Vec<(&[&str], &[&str])> = vec![
        (&["statsu"], &["update_mask.paths[0]"]),
        (&["status", "*"], &["update_mask.paths[1]"]),
        (&[""], &["update_mask.paths[0]"]),
        (
            &["status", "", "."],
            &["update_mask.paths[1]", "update_mask.paths[2]"],
        ),
        (&["backup_metadata.*"], &["update_mask.paths[0]"]),
        (&["backup_metadata.storage.x"], &["update_mask.paths[0]"]),
        (
            &["client_id", "user_name"],
            &["update_mask.paths[0]", "update_mask.paths[1]"],
        ),
        (&many, &["update_mask.paths"]),
    ];
    for (mask, fields) in cases {
        let update = Backup {
            status: "error".into(),
            ..stored.clone()
        };
        assert_invalid(
            &format!("{mask:?}"),
            server.update_backup(update, mask).await,
            fields,
        );
    }
    assert_eq!(
        server.get_backup(PROJECT, &stored.backup_id).await.unwrap(),
        stored
    );
    // For an update, too, everything that is wrong is reported at once.
    let request = UpdateBackupRequest {
        project_id: "a b".into(),
        backup: Some(Backup {
            backup_id: "x".into(),
            ..Backup::default()
        }),
        update_mask: Some(mask_of(&["statsu"])),
        expected_revision: None,
    };
    assert_invalid(
        "all",
        server.backups().update_backup(request).await,
        &["project_id", "backup.backup_id", "update_mask.paths[0]"],
    );
}

#[tokio::test]
async fn a_request_of_2_mib_is_refused_unread() {
    let server = Server::start().await;
    let before = server.revision().await;
    let huge = Job {
        session_name: "x".repeat(2 << 20),
        ..job("a")
    };
    let status = server.create_job(huge).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(harness::reason_of(&status), "REQUEST_TOO_LARGE");
    assert_eq!(server.revision().await, before);
}
