//! The calls that store a record, and what their failures mean.

use std::time::Duration;

use prost_types::FieldMask;
use tokio::time::sleep;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;

use super::{Channel, Done, Target};
use crate::{
    freezer_json::Document,
    proto::{
        Backup, CreateBackupRequest, CreateJobRequest, GetBackupRequest, GetJobRequest, Job,
        Single, UpdateBackupRequest, UpdateJobRequest, backup_service_client::BackupServiceClient,
        job_service_client::JobServiceClient,
    },
    resource::{Resource, Stamps, Valid},
    service::UNCHANGED_METADATA,
};

/// Longer than any commit takes.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// With the waits between them, 11 seconds: a server that restarts is back by then.
const ATTEMPTS_MAX: u32 = 8;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Stores the record, or says what would become of it, again and again if the server does not answer: each of the calls may be
/// repeated.
pub(super) async fn store(target: &Target, document: &Document) -> Result<Done, Status> {
    let mut wait = FIRST_WAIT;
    let mut attempts = 1;
    loop {
        let result = match document {
            Document::Backup(backup) => store_once(target, backup.clone()).await,
            Document::Job(job) => store_once(target, job.clone()).await,
        };
        match result {
            Err(status) if passes(&status) && attempts < ATTEMPTS_MAX => {
                sleep(wait).await;
                wait = (wait * 2).min(WAIT_MAX);
                attempts += 1;
            }
            result => return result,
        }
    }
}

pub(super) async fn store_once<R: Imported>(target: &Target, resource: R) -> Result<Done, Status> {
    let channel = &target.channel;
    if target.dry_run {
        let checked = Valid::new("", Some(resource))
            .map_err(Status::from)?
            .into_inner();
        return match R::get(channel, &checked).await {
            Err(status) if status.code() == Code::NotFound => Ok(Done::Stored),
            Err(status) => Err(status),
            Ok(mut stored) => {
                stored.set_stamps(Stamps::default());
                if stored == checked {
                    Ok(Done::Unchanged)
                } else if target.overwrite {
                    Ok(Done::Updated)
                } else {
                    Err(Status::already_exists(
                        "it is there already and differs: --overwrite updates it",
                    ))
                }
            }
        };
    }
    match R::create(channel, resource.clone()).await {
        Err(status) if status.code() == Code::AlreadyExists && target.overwrite => {
            R::update(channel, resource).await.map(|()| Done::Updated)
        }
        result => result,
    }
}

/// A resource that documents describe, and the calls that store it.
pub(super) trait Imported: Resource {
    async fn create(channel: &Channel, resource: Self) -> Result<Done, Status>;
    async fn get(channel: &Channel, resource: &Self) -> Result<Self, Status>;
    async fn update(channel: &Channel, resource: Self) -> Result<(), Status>;
}

pub(super) fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// Every field, those cleared that the document does not set.
pub(super) fn everything() -> FieldMask {
    FieldMask {
        paths: vec!["*".into()],
    }
}

pub(super) fn done<T>(response: &Response<T>) -> Done {
    if response.metadata().contains_key(UNCHANGED_METADATA) {
        Done::Unchanged
    } else {
        Done::Stored
    }
}

impl Imported for Backup {
    async fn create(channel: &Channel, backup: Backup) -> Result<Done, Status> {
        let request = CreateBackupRequest {
            project_id: String::new(),
            backup: Some(backup),
        };
        let mut client = BackupServiceClient::new(channel.clone());
        Ok(done(&client.create_backup(timed(request)).await?))
    }

    async fn get(channel: &Channel, backup: &Backup) -> Result<Backup, Status> {
        let request = GetBackupRequest {
            project_id: backup.project_id.clone(),
            backup_id: backup.backup_id.clone(),
        };
        let mut client = BackupServiceClient::new(channel.clone());
        let answer = client.get_backup(timed(request)).await?.into_inner();
        decoded(&answer)
    }

    async fn update(channel: &Channel, backup: Backup) -> Result<(), Status> {
        let request = UpdateBackupRequest {
            project_id: String::new(),
            backup: Some(backup),
            update_mask: Some(everything()),
            expected_revision: None,
        };
        let mut client = BackupServiceClient::new(channel.clone());
        client.update_backup(timed(request)).await.map(drop)
    }
}

impl Imported for Job {
    async fn create(channel: &Channel, job: Job) -> Result<Done, Status> {
        let request = CreateJobRequest {
            project_id: String::new(),
            job: Some(job),
        };
        let mut client = JobServiceClient::new(channel.clone());
        Ok(done(&client.create_job(timed(request)).await?))
    }

    async fn get(channel: &Channel, job: &Job) -> Result<Job, Status> {
        let request = GetJobRequest {
            project_id: job.project_id.clone(),
            job_id: job.job_id.clone(),
        };
        let mut client = JobServiceClient::new(channel.clone());
        let answer = client.get_job(timed(request)).await?.into_inner();
        decoded(&answer)
    }

    async fn update(channel: &Channel, job: Job) -> Result<(), Status> {
        let request = UpdateJobRequest {
            project_id: String::new(),
            job: Some(job),
            update_mask: Some(everything()),
            expected_revision: None,
        };
        let mut client = JobServiceClient::new(channel.clone());
        client.update_job(timed(request)).await.map(drop)
    }
}

/// The resource that the server has.
pub(super) fn decoded<R: Resource>(answer: &Single<R>) -> Result<R, Status> {
    answer
        .decoded()
        .map_err(|error| Status::data_loss(format!("the server's answer cannot be read: {error}")))
}

/// Whether the call failed on the way. A status that was made on this side has its cause with it, one
/// that the server sent has none.
pub(super) fn connection_failed(status: &Status) -> bool {
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}

/// Whether the same call may do better in a moment.
pub(super) fn passes(status: &Status) -> bool {
    // A server that is too busy says when to come back, or was too busy to say anything.
    let busy = status.code() == Code::ResourceExhausted
        && (status.details().is_empty() || status.get_details_retry_info().is_some());
    busy || connection_failed(status)
}

/// Whether every other record would fail the same.
pub(super) fn stops_everything(status: &Status) -> bool {
    connection_failed(status)
        || matches!(status.code(), Code::Unauthenticated | Code::Unimplemented)
}

/// Every bad field by its path in the document, or else the message.
pub(super) fn reason_of(status: &Status) -> String {
    let violations = status
        .get_details_bad_request()
        .map_or_else(Vec::new, |bad| bad.field_violations);
    if violations.is_empty() {
        return status.message().to_owned();
    }
    let reasons = violations.iter().map(|violation| {
        let field = violation.field.as_str();
        let path = field
            .strip_prefix("backup.")
            .or_else(|| field.strip_prefix("job."))
            .unwrap_or(field);
        format!("{path} {}", violation.description)
    });
    reasons.collect::<Vec<_>>().join("; ")
}
