//! What is special about the documents of each kind of resource.

use serde_json::Value;

use super::{
    Form, Writer,
    read::{read_backup, read_client, read_job, read_resource, read_session},
};
use crate::{
    proto::{Action, Backup, Client, FreezerAction, Job, Session},
    resource::{Kind, Resource, Violations},
};

/// A resource that Freezer has documents for.
pub(crate) trait Documented: Resource {
    /// The key of a list of them.
    const PLURAL: &'static str;

    /// Reads a document. Returns a note for each thing that has no place in the resource.
    ///
    /// # Errors
    /// If it does not describe such a resource, or has values that fit neither their field nor an `extra`.
    fn read(document: &Value) -> Result<(Self, Vec<String>), Violations> {
        read_resource(document)
    }

    /// Reads only the fields that a document has.
    ///
    /// # Errors
    /// The same as for [`Documented::read`].
    fn read_fields(document: &Value) -> Result<(Self, Vec<String>), Violations> {
        read_resource(document)
    }

    /// The writer for their documents.
    fn writer(form: Form) -> Writer {
        Writer::of_fields::<Self>(form)
    }

    /// The resource's document.
    fn to_document(&self, form: Form) -> Value {
        Self::writer(form).json_of(self)
    }

    /// Moves the resource into a project: a document from elsewhere may name another one.
    fn belong_to(&mut self, project_id: &str) {
        self.set_project_id(project_id);
    }
}

impl Documented for Backup {
    const PLURAL: &'static str = "backups";

    fn read(document: &Value) -> Result<(Self, Vec<String>), Violations> {
        read_backup(document)
    }

    fn read_fields(document: &Value) -> Result<(Self, Vec<String>), Violations> {
        read_backup(document)
    }
}

impl Documented for Job {
    const PLURAL: &'static str = "jobs";

    fn read(document: &Value) -> Result<(Self, Vec<String>), Violations> {
        read_job(document)
    }

    fn belong_to(&mut self, project_id: &str) {
        let actions = self.job_actions.iter_mut();
        let actions = actions.filter_map(|action| action.freezer_action.as_mut());
        for action in actions.chain(&mut self.action_defaults) {
            follow(action, project_id);
        }
        self.set_project_id(project_id);
    }
}

impl Documented for Action {
    const PLURAL: &'static str = "actions";

    fn belong_to(&mut self, project_id: &str) {
        if let Some(action) = &mut self.freezer_action {
            follow(action, project_id);
        }
        self.set_project_id(project_id);
    }
}

impl Documented for Client {
    const PLURAL: &'static str = "clients";

    fn read(document: &Value) -> Result<(Self, Vec<String>), Violations> {
        read_client(document)
    }

    fn writer(form: Form) -> Writer {
        Writer::of_clients(form)
    }
}

impl Documented for Session {
    const PLURAL: &'static str = "sessions";

    fn read(document: &Value) -> Result<(Self, Vec<String>), Violations> {
        read_session(document)
    }
}

/// The path in a document for a field's path in a request. They differ if the document is named by the resource.
pub(crate) fn path_in_document(field: &str) -> &str {
    let kinds = [
        Backup::KIND,
        Job::KIND,
        Action::KIND,
        Client::KIND,
        Session::KIND,
    ];
    let within = |kind: Kind| field.strip_prefix(kind.field)?.strip_prefix('.');
    kinds.into_iter().find_map(within).unwrap_or(field)
}

/// An action that names a project has to name the project that it moves to.
fn follow(action: &mut FreezerAction, project_id: &str) {
    if !action.project_id.is_empty() {
        project_id.clone_into(&mut action.project_id);
    }
}
