//! The documents of each kind of resource, as requests over HTTP bring them.

use serde_json::Value;

use crate::{
    freezer_json::{self, Documented},
    proto::{Action, Backup, BackupFilter, Client, Job, Session},
    resource::{Resource, ResourceId, Violations},
};

/// A resource that Freezer's API has.
pub(super) trait Document: Documented {
    /// Whether who changes one is shown it, instead of its version.
    const IS_SHOWN_WHEN_CHANGED: bool = false;

    /// A new one from its document, with the id that it shall have: empty lets the document choose, or else the server.
    ///
    /// # Errors
    /// If it is none.
    fn new(document: Value, id: &str) -> Result<Self, Violations> {
        let (mut resource, _notes) = Self::read(&document)?;
        named(&mut resource, id)?;
        Ok(resource)
    }

    /// A document that changes one, in the shape that its resource has.
    fn changing(document: Value) -> Value {
        document
    }

    /// The filter of a list that was asked for by time, if that can be asked.
    fn within(_time_after: Option<i64>, _time_before: Option<i64>) -> Option<Self::Filter> {
        None
    }
}

impl Document for Backup {
    const IS_SHOWN_WHEN_CHANGED: bool = true;

    /// One that is recorded is available, as Freezer has it, and its id is what clients show as its UUID, unless it has one.
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

    /// A scheduler sends an agent's metadata as it is, here too.
    fn changing(document: Value) -> Value {
        freezer_json::with_metadata_apart(&document).into_owned()
    }

    fn within(time_after: Option<i64>, time_before: Option<i64>) -> Option<BackupFilter> {
        Some(BackupFilter {
            time_after,
            // Here it is in it, as Freezer has it.
            time_before: time_before.map(|before| before.saturating_add(1)),
            ..BackupFilter::default()
        })
    }
}

impl Document for Job {
    /// One without a description is named after its first action's backup, else its id, which it has from here on.
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
    /// How it stands is not for who creates it to say: Freezer begins each anew.
    fn new(document: Value, id: &str) -> Result<Self, Violations> {
        let document = without(document, Session::OUTPUT_ONLY);
        let (mut session, _notes) = Self::read(&document)?;
        named(&mut session, id)?;
        Ok(session)
    }
}

/// A document, but for these keys.
pub(super) fn without(mut document: Value, keys: &[&str]) -> Value {
    if let Value::Object(members) = &mut document {
        members.retain(|key, _| !keys.contains(&key.as_str()));
    }
    document
}

/// Gives a resource the id that it shall have.
///
/// # Errors
/// If that is none.
fn named<R: Resource>(resource: &mut R, id: &str) -> Result<(), Violations> {
    if !id.is_empty() {
        resource.set_id(ResourceId::parse(R::KIND.id_field, id)?);
    }
    Ok(())
}
