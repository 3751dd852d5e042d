//! Who has changed what: read from the journal, in which each change has its author.

use std::sync::Arc;

use prost::Message;

use super::{Catalog, Error, Scope, keys};
use crate::{
    clock,
    proto::{Backup, ChangeOperation, ChangeRecord, Job, ListChangesResponse},
    resource::{Kind, Resource},
    store::{Pulled, Write},
};

/// What may be audited.
pub(crate) const AUDITED: [Kind; 2] = [Backup::KIND, Job::KIND];

/// Who changes something, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Author {
    /// What the caller is called.
    pub(crate) caller: Arc<str>,
    /// The other end of the connection.
    pub(crate) peer: Arc<str>,
}

/// An author as it is stored.
#[derive(Clone, PartialEq, Message)]
struct StoredAuthor {
    #[prost(string, tag = "1")]
    caller: String,
    #[prost(string, tag = "2")]
    peer: String,
}

impl Author {
    pub(super) fn encode(&self) -> Vec<u8> {
        let stored = StoredAuthor {
            caller: (*self.caller).to_owned(),
            peer: (*self.peer).to_owned(),
        };
        stored.encode_to_vec()
    }
}

/// Which changes are asked for.
#[derive(Clone, Debug)]
pub(crate) struct AuditQuery {
    pub(crate) scope: Scope,
    /// Those after this revision; 0 is from the oldest on.
    pub(crate) after_revision: u64,
    pub(crate) limit: usize,
    /// Only of this kind.
    pub(crate) kind: Option<Kind>,
    /// Only of the resource with this id; empty is every one.
    pub(crate) resource_id: String,
}

impl AuditQuery {
    fn wants(&self, change: &ChangeRecord) -> bool {
        let is_of_scope = match &self.scope {
            Scope::AllProjects => true,
            Scope::Project(project) => change.project_id == project.as_str(),
        };
        is_of_scope
            && self.kind.is_none_or(|kind| kind.field == change.kind)
            && (self.resource_id.is_empty() || self.resource_id == change.resource_id)
    }
}

impl Catalog {
    /// A page of what was changed. It reads on until it is full, or all that is committed by now was looked at.
    ///
    /// # Errors
    /// [`Error::Compacted`] if what comes next is gone; what the disk says.
    pub(crate) async fn audit(&self, query: AuditQuery) -> Result<ListChangesResponse, Error> {
        let until = self.revision();
        let oldest = self.store.local().oldest_revision();
        // The beginning is where there is one.
        let after = match query.after_revision {
            0 => oldest - 1,
            after => after,
        };
        let mut changes = self.store.changes(after);
        let mut page = ListChangesResponse {
            next_after_revision: after,
            oldest_revision: oldest,
            ..ListChangesResponse::default()
        };
        while page.next_after_revision < until {
            let group = match changes.next().await? {
                Pulled::Group(group) => group,
                Pulled::Compacted { oldest } => return Err(Error::Compacted { oldest }),
            };
            for change in &group.changes {
                if page.changes.len() == query.limit {
                    return Ok(page);
                }
                page.next_after_revision = change.revision;
                if let Some(mut record) = record_of(&change.writes)
                    && query.wants(&record)
                {
                    record.revision = change.revision;
                    record.commit_time = Some(clock::timestamp(group.time_ms));
                    page.changes.push(record);
                }
            }
        }
        page.is_last = true;
        Ok(page)
    }
}

/// What a change's writes say. A resource is known by its locator, which is written when it is made, named anew, or removed; and by
/// its record, which is written when it is changed.
fn record_of(writes: &[Write]) -> Option<ChangeRecord> {
    let mut record = ChangeRecord::default();
    let (mut locator_put, mut removed) = (false, false);
    let mut is_of_resource = false;
    for Write { key, value } in writes {
        if *key == keys::AUTHOR[..] {
            let author = StoredAuthor::decode(value.clone().unwrap_or_default());
            let author = author.unwrap_or_default();
            (record.caller, record.peer) = (author.caller, author.peer);
            continue;
        }
        match keys::parse(key)? {
            keys::Parsed::Locator => match value {
                Some(_) => locator_put = true,
                None => record.operation = ChangeOperation::Deleted.into(),
            },
            keys::Parsed::Secret => {}
            keys::Parsed::Record {
                tag,
                project,
                name,
                id,
            } => {
                removed |= value.is_none();
                // Of two it is the one that stays that counts.
                if value.is_some() || !is_of_resource {
                    let kind = AUDITED.iter().find(|kind| kind.tag == tag)?;
                    record.kind = kind.field.into();
                    record.project_id = project.into();
                    record.name = name.into();
                    record.resource_id = id;
                    is_of_resource = true;
                }
            }
        }
    }
    if record.operation() != ChangeOperation::Deleted {
        let operation = if locator_put && !removed {
            ChangeOperation::Created
        } else {
            ChangeOperation::Updated
        };
        record.operation = operation.into();
    }
    is_of_resource.then_some(record)
}
