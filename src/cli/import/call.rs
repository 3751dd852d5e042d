//! The calls that store a record, and what their errors mean.

use std::time::Duration;

use tokio::time::sleep;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{Done, Target};
use crate::{
    cli::remote::{Remote, decoded},
    freezer_json::{Document, Form, path_in_document},
    resource::{Resource, ResourceId, Valid},
};

/// Together with the waits between them, this is 11 seconds: a server that restarts is back by then.
const ATTEMPTS_MAX: u32 = 8;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Stores the record, or finds out what storing it would do. Tries again if the server does not answer: each of these calls may be
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

pub(super) async fn store_once<R: Remote>(target: &Target, resource: R) -> Result<Done, Status> {
    if target.dry_run {
        let checked = Valid::new("", Some(resource)).map_err(Status::from)?;
        return match compared(target, checked.get()).await? {
            None => Ok(Done::Stored),
            Some(true) => Ok(Done::Unchanged),
            Some(false) if target.overwrite => Ok(Done::Updated),
            Some(false) => Err(differs()),
        };
    }
    let stored = if R::KIND.is_named_by_id {
        register(target, resource.clone()).await
    } else {
        create(target, resource.clone()).await
    };
    match stored {
        Err(status) if status.code() == Code::AlreadyExists && target.overwrite => {
            // All fields, also those that the document does not set: they are cleared.
            let paths = vec!["*".to_owned()];
            let project_id = resource.project_id().to_owned();
            R::update(&target.channel, &project_id, resource, paths, None).await?;
            Ok(Done::Updated)
        }
        stored => stored,
    }
}

async fn create<R: Remote>(target: &Target, resource: R) -> Result<Done, Status> {
    let created = R::create(&target.channel, resource).await?;
    Ok(if created.is_new {
        Done::Stored
    } else {
        Done::Unchanged
    })
}

/// Registering would update a client that exists already. Only `--overwrite` allows that.
async fn register<R: Remote>(target: &Target, resource: R) -> Result<Done, Status> {
    match compared(target, &resource).await? {
        None => create(target, resource).await,
        Some(true) => Ok(Done::Unchanged),
        Some(false) => Err(differs()),
    }
}

/// Compares what is stored, if anything is, with the document.
async fn compared<R: Remote>(target: &Target, resource: &R) -> Result<Option<bool>, Status> {
    // An id may be written in several ways. This is the one in which it is stored.
    let id = ResourceId::of(R::KIND, R::KIND.id_field, Resource::id(resource));
    let id = id.map_err(Status::from)?.to_string();
    match R::get(&target.channel, resource.project_id(), id).await {
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status),
        Ok(stored) => {
            let stored = decoded(&stored)?.to_document(Form::Document);
            Ok(Some(stored == resource.to_document(Form::Document)))
        }
    }
}

fn differs() -> Status {
    Status::already_exists("it is there already and differs: --overwrite updates it")
}

/// Whether the connection failed. A status made on this side has its cause as a source; a status that the server sent has none.
pub(super) fn connection_failed(status: &Status) -> bool {
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}

/// Whether the same call may succeed in a moment.
pub(super) fn passes(status: &Status) -> bool {
    // A server that is too busy says when to come back, or is too busy to answer at all.
    let busy = status.code() == Code::ResourceExhausted
        && (status.details().is_empty() || status.get_details_retry_info().is_some());
    busy || connection_failed(status)
}

/// Whether every other record would fail in the same way.
pub(super) fn stops_everything(status: &Status) -> bool {
    connection_failed(status)
        || matches!(status.code(), Code::Unauthenticated | Code::Unimplemented)
}

/// Every bad field by its path in the document. If there is none, the status's message.
pub(super) fn reason_of(status: &Status) -> String {
    let violations = status
        .get_details_bad_request()
        .map_or_else(Vec::new, |bad| bad.field_violations);
    if violations.is_empty() {
        return status.message().to_owned();
    }
    let reasons = violations.iter().map(|violation| {
        let path = path_in_document(&violation.field);
        format!("{path} {}", violation.description)
    });
    reasons.collect::<Vec<_>>().join("; ")
}
