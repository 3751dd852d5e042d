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
        Action, Backup, Client, CreateActionRequest, CreateBackupRequest, CreateJobRequest,
        CreateSessionRequest, GetActionRequest, GetBackupRequest, GetClientRequest, GetJobRequest,
        GetSessionRequest, Job, RegisterClientRequest, Session, Single, UpdateActionRequest,
        UpdateBackupRequest, UpdateClientRequest, UpdateJobRequest, UpdateSessionRequest,
        action_service_client::ActionServiceClient, backup_service_client::BackupServiceClient,
        client_service_client::ClientServiceClient, job_service_client::JobServiceClient,
        session_service_client::SessionServiceClient,
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
            Document::Client(client) => store_once(target, client.clone()).await,
            Document::Action(action) => store_once(target, action.clone()).await,
            Document::Session(session) => store_once(target, session.clone()).await,
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
                    Err(differs())
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

/// The calls of one service, by their names and their requests.
macro_rules! imported {
    (
        $resource:ident, $field:ident, $id:ident, $client:ident,
        $create:ident($create_request:ident), $get:ident($get_request:ident),
        $update:ident($update_request:ident)
    ) => {
        impl Imported for $resource {
            async fn create(channel: &Channel, resource: Self) -> Result<Done, Status> {
                let request = $create_request {
                    project_id: String::new(),
                    $field: Some(resource),
                };
                let mut client = $client::new(channel.clone());
                Ok(done(&client.$create(timed(request)).await?))
            }

            async fn get(channel: &Channel, resource: &Self) -> Result<Self, Status> {
                let request = $get_request {
                    project_id: resource.project_id.clone(),
                    $id: resource.$id.clone(),
                };
                let mut client = $client::new(channel.clone());
                decoded(&client.$get(timed(request)).await?.into_inner())
            }

            async fn update(channel: &Channel, resource: Self) -> Result<(), Status> {
                let request = $update_request {
                    project_id: String::new(),
                    $field: Some(resource),
                    update_mask: Some(everything()),
                    expected_revision: None,
                };
                let mut client = $client::new(channel.clone());
                client.$update(timed(request)).await.map(drop)
            }
        }
    };
}

imported!(
    Backup,
    backup,
    backup_id,
    BackupServiceClient,
    create_backup(CreateBackupRequest),
    get_backup(GetBackupRequest),
    update_backup(UpdateBackupRequest)
);
imported!(
    Job,
    job,
    job_id,
    JobServiceClient,
    create_job(CreateJobRequest),
    get_job(GetJobRequest),
    update_job(UpdateJobRequest)
);
imported!(
    Action,
    action,
    action_id,
    ActionServiceClient,
    create_action(CreateActionRequest),
    get_action(GetActionRequest),
    update_action(UpdateActionRequest)
);
imported!(
    Session,
    session,
    session_id,
    SessionServiceClient,
    create_session(CreateSessionRequest),
    get_session(GetSessionRequest),
    update_session(UpdateSessionRequest)
);

impl Imported for Client {
    /// One that registers takes the place of one that is there: that is for `--overwrite` to say.
    async fn create(channel: &Channel, client: Client) -> Result<Done, Status> {
        match Self::get(channel, &client).await {
            Err(status) if status.code() == Code::NotFound => {
                let request = RegisterClientRequest {
                    project_id: String::new(),
                    client: Some(client),
                };
                let mut clients = ClientServiceClient::new(channel.clone());
                clients.register_client(timed(request)).await?;
                Ok(Done::Stored)
            }
            Err(status) => Err(status),
            Ok(mut stored) => {
                stored.set_stamps(Stamps::default());
                if stored == client {
                    Ok(Done::Unchanged)
                } else {
                    Err(differs())
                }
            }
        }
    }

    async fn get(channel: &Channel, client: &Client) -> Result<Client, Status> {
        let request = GetClientRequest {
            project_id: client.project_id.clone(),
            client_id: client.client_id.clone(),
        };
        let mut clients = ClientServiceClient::new(channel.clone());
        let answer = clients.get_client(timed(request)).await?.into_inner();
        // When it was last heard of is no document's to say.
        Ok(Client {
            last_seen_time: None,
            ..decoded(&answer)?
        })
    }

    async fn update(channel: &Channel, client: Client) -> Result<(), Status> {
        let request = UpdateClientRequest {
            project_id: String::new(),
            client: Some(client),
            update_mask: Some(everything()),
            expected_revision: None,
        };
        let mut clients = ClientServiceClient::new(channel.clone());
        clients.update_client(timed(request)).await.map(drop)
    }
}

fn differs() -> Status {
    Status::already_exists("it is there already and differs: --overwrite updates it")
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
            .or_else(|| field.strip_prefix("client."))
            .or_else(|| field.strip_prefix("action."))
            .or_else(|| field.strip_prefix("session."))
            .unwrap_or(field);
        format!("{path} {}", violation.description)
    });
    reasons.collect::<Vec<_>>().join("; ")
}
