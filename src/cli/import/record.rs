//! Turns a document into a record that a call can store.

use serde_json::Value;
use uuid::Uuid;

use super::{Target, documents::Expected};
use crate::{
    cli::ids,
    freezer_json::{self, Document, Documented, Read},
    proto::{Action, Backup, Client, Job, Session},
};

/// The most characters of a record's name that are shown.
const NAME_CHARS_MAX: usize = 100;
/// The namespace for the ids of documents without an id.
const ID_NAMESPACE: Uuid = Uuid::from_u128(0x5f0e_93b1_6a0c_4f0e_9d7b_31c6_1ceb_0c01);

/// The record that a document describes, with its project and id.
pub(super) fn prepare(value: &Value, expected: Expected, target: &Target) -> Result<Read, String> {
    let read = match expected {
        Expected::Any => freezer_json::read_document(value),
        Expected::Backup => Backup::read(value).map(as_read(Document::Backup)),
        Expected::Job => Job::read(value).map(as_read(Document::Job)),
        Expected::Client => Client::read(value).map(as_read(Document::Client)),
        Expected::Action => Action::read(value).map(as_read(Document::Action)),
        Expected::Session => Session::read(value).map(as_read(Document::Session)),
    };
    let mut read = read.map_err(|violations| violations.to_string())?;
    let meant = target.project.as_deref();
    let (own_project, id) = match &mut read.document {
        Document::Backup(backup) => {
            target.placing.place(backup, meant)?;
            (&backup.project_id, &mut backup.backup_id)
        }
        Document::Job(job) => {
            target.placing.place(job, meant)?;
            (&job.project_id, &mut job.job_id)
        }
        Document::Client(client) => {
            target.placing.place(client, meant)?;
            // A resource of this kind has its name as its id.
            return Ok(read);
        }
        Document::Action(action) => {
            target.placing.place(action, meant)?;
            (&action.project_id, &mut action.action_id)
        }
        Document::Session(session) => {
            target.placing.place(session, meant)?;
            (&session.project_id, &mut session.session_id)
        }
    };
    *id = ids::normalized(id);
    if id.is_empty() {
        // The same document must get the same id each time; otherwise a repeated import would create it again. Key order and white
        // space do not make it another document.
        let mut sorted = value.clone();
        sorted.sort_all_objects();
        let content = format!("{own_project}\n{sorted}");
        *id = Uuid::new_v5(&ID_NAMESPACE, content.as_bytes())
            .simple()
            .to_string();
    }
    if let Document::Job(job) = &mut read.document
        && job.description.is_empty()
    {
        job.description.clone_from(&job.job_id);
    }
    Ok(read)
}

fn as_read<T>(document: fn(T) -> Document) -> impl FnOnce((T, Vec<String>)) -> Read {
    move |(resource, notes)| Read {
        document: document(resource),
        notes,
    }
}

/// The name by which a person knows the document, even if it cannot be read as a record.
pub(super) fn name_of(value: &Value) -> Option<String> {
    [
        "/backup_metadata/backup_name",
        "/backup_name",
        "/description",
        "/client/client_id",
        "/freezer_action/backup_name",
        "/backup_id",
        "/job_id",
        "/action_id",
        "/session_id",
        "/client_id",
    ]
    .iter()
    .filter_map(|path| value.pointer(path)?.as_str())
    .find(|name| !name.is_empty())
    .map(|name| name.chars().take(NAME_CHARS_MAX).collect())
}
