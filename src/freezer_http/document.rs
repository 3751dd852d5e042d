//! The documents of each kind of resource, as requests bring them and answers give them.

use serde_json::Value;

use crate::{
    freezer_json::{self, Form, Writer},
    proto::{Action, Backup, BackupFilter, Client, FreezerAction, Job, Session},
    resource::{Resource, ResourceId, Violations},
};

/// A resource that Freezer's API has documents of.
pub(super) trait Document: Resource {
    /// What a list of them is called.
    const PLURAL: &'static str;

    /// A new one from its document, with the id that it shall have: empty lets the server choose.
    ///
    /// # Errors
    /// If it is none.
    fn read(document: &Value, id: &str) -> Result<Self, Violations>;

    /// A document that changes one, in the shape that its resource has.
    fn changing(document: Value) -> Value {
        document
    }

    /// Gives it to the project whose URL it was sent to, whatever it says: what is taken along from another place fits.
    fn belong_to(&mut self, project_id: &str) {
        self.set_project_id(project_id);
    }

    /// What writes them.
    fn writer() -> Writer {
        Writer::of_fields::<Self>(Form::Api)
    }

    /// The filter of a list that was asked for by time, if that can be asked.
    fn within(_time_after: Option<i64>, _time_before: Option<i64>) -> Option<Self::Filter> {
        None
    }
}

impl Document for Backup {
    const PLURAL: &'static str = "backups";

    /// One that is recorded is available, as Freezer has it, and its id is what clients show as its UUID, unless it has one.
    fn read(document: &Value, id: &str) -> Result<Self, Violations> {
        let (mut backup, _notes) = freezer_json::read_backup(document)?;
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
        freezer_json::with_metadata_apart(document)
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
    const PLURAL: &'static str = "jobs";

    /// One without a description is named after its first action's backup, else its id, which it has from here on.
    fn read(document: &Value, id: &str) -> Result<Self, Violations> {
        let mut document = document.clone();
        if let Value::Object(members) = &mut document {
            let own = members.get("job_id").and_then(Value::as_str);
            let id = [id, own.unwrap_or_default()]
                .into_iter()
                .find(|id| !id.is_empty())
                .map_or_else(|| ResourceId::new().to_string(), str::to_owned);
            members.insert("job_id".into(), id.into());
        }
        Ok(freezer_json::read_job(&document)?.0)
    }

    fn belong_to(&mut self, project_id: &str) {
        let actions = self.job_actions.iter_mut();
        let actions = actions.filter_map(|action| action.freezer_action.as_mut());
        for action in actions.chain(&mut self.action_defaults) {
            follow(action, &self.project_id, project_id);
        }
        self.set_project_id(project_id);
    }
}

impl Document for Action {
    const PLURAL: &'static str = "actions";

    fn read(document: &Value, id: &str) -> Result<Self, Violations> {
        let (mut action, _notes) = freezer_json::read_resource::<Action>(document)?;
        named(&mut action, id)?;
        Ok(action)
    }

    fn belong_to(&mut self, project_id: &str) {
        if let Some(action) = &mut self.freezer_action {
            follow(action, &self.project_id, project_id);
        }
        self.set_project_id(project_id);
    }
}

impl Document for Client {
    const PLURAL: &'static str = "clients";

    fn read(document: &Value, _id: &str) -> Result<Self, Violations> {
        Ok(freezer_json::read_client(document)?.0)
    }

    fn writer() -> Writer {
        Writer::of_clients(Form::Api)
    }
}

impl Document for Session {
    const PLURAL: &'static str = "sessions";

    /// How it stands is not for who creates it to say: Freezer begins each anew.
    fn read(document: &Value, id: &str) -> Result<Self, Violations> {
        let document = without(document.clone(), Session::OUTPUT_ONLY);
        let (mut session, _notes) = freezer_json::read_session(&document)?;
        named(&mut session, id)?;
        Ok(session)
    }
}

/// An action that names the project of what it is in names the one that this comes to.
fn follow(action: &mut FreezerAction, from: &str, to: &str) {
    if action.project_id == from && !from.is_empty() {
        to.clone_into(&mut action.project_id);
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
