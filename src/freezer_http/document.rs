//! What is special about the documents of each kind in requests over HTTP.

use serde_json::Value;

use crate::{
    freezer_json::{self, Documented},
    proto::{Action, Backup, BackupFilter, Client, Job, Session},
    resource::{Resource, ResourceId, Violations},
};

/// A resource that Freezer's API has.
pub(super) trait Document: Documented {
    /// Whether the answer to a change is the changed resource instead of its version.
    const IS_SHOWN_WHEN_CHANGED: bool = false;

    /// A new resource from its document. If `id` is empty, the document gives the id, or else the server does.
    ///
    /// # Errors
    /// If the document does not describe one.
    fn new(document: Value, id: &str) -> Result<Self, Violations> {
        let (mut resource, _notes) = Self::read(&document)?;
        named(&mut resource, id)?;
        Ok(resource)
    }

    /// Brings a document that changes a resource into the shape of its kind.
    fn changing(document: Value) -> Value {
        document
    }

    /// The filter for a list by time, if this kind can be listed by time.
    fn within(_time_after: Option<i64>, _time_before: Option<i64>) -> Option<Self::Filter> {
        None
    }
}

impl Document for Backup {
    const IS_SHOWN_WHEN_CHANGED: bool = true;

    /// A recorded backup is available, as in Freezer. Its id becomes the UUID that clients show, unless it has one.
    fn new(document: Value, id: &str) -> Result<Self, Violations> {
        let (mut backup, _notes) = Self::read(&document)?;
        named(&mut backup, id)?;
        if backup.backup_id.is_empty() {
            backup.set_id(ResourceId::new());
        }
        for (field, default) in [
            (&mut backup.status, "available"),
            (&mut backup.backup_uuid, &backup.backup_id),
        ] {
            if field.is_empty() {
                default.clone_into(field);
            }
        }
        Ok(backup)
    }

    /// A scheduler sends an agent's bare metadata, here too.
    fn changing(document: Value) -> Value {
        freezer_json::with_metadata_apart(&document).into_owned()
    }

    fn within(time_after: Option<i64>, time_before: Option<i64>) -> Option<BackupFilter> {
        Some(BackupFilter {
            time_after,
            // Freezer's upper bound is part of the range.
            time_before: time_before.map(|before| before.saturating_add(1)),
            ..BackupFilter::default()
        })
    }
}

impl Document for Job {
    /// A job without a description is named after its first action's backup, or else after its id. So it needs an id first.
    fn new(mut document: Value, id: &str) -> Result<Self, Violations> {
        if let Value::Object(members) = &mut document {
            let own = members.get("job_id").and_then(Value::as_str);
            let id = [id, own.unwrap_or_default()]
                .into_iter()
                .find(|id| !id.is_empty())
                .map_or_else(|| ResourceId::new().to_string(), str::to_owned);
            members.insert("job_id".into(), id.into());
        }
        Ok(Self::read(&document)?.0)
    }
}

impl Document for Action {}

impl Document for Client {}

impl Document for Session {
    /// The creator does not choose a session's state: Freezer starts each one anew.
    fn new(document: Value, id: &str) -> Result<Self, Violations> {
        let document = without(document, Session::OUTPUT_ONLY);
        let (mut session, _notes) = Self::read(&document)?;
        named(&mut session, id)?;
        Ok(session)
    }
}

/// A document without these keys.
pub(super) fn without(mut document: Value, keys: &[&str]) -> Value {
    if let Value::Object(members) = &mut document {
        members.retain(|key, _| !keys.contains(&key.as_str()));
    }
    document
}

/// Sets the id of a resource.
///
/// # Errors
/// If the id is not valid.
fn named<R: Resource>(resource: &mut R, id: &str) -> Result<(), Violations> {
    if !id.is_empty() {
        resource.set_id(ResourceId::parse(R::KIND.id_field, id)?);
    }
    Ok(())
}
