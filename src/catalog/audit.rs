//! The audit log: who has changed what. It is read from the journal, where each change has its author.

use std::sync::Arc;

use prost_types::Timestamp;

use super::{
    Catalog, Error, Scope,
    plan::Note,
    touched::{Deed, touched},
};
use crate::{
    clock,
    proto::{
        Action, Backup, ChangeOperation, ChangeRecord, Client, Job, ListChangesResponse, Session,
    },
    resource::{Kind, Resource},
    store::{Pulled, Write},
};

/// The kinds whose changes the audit log shows.
pub(crate) const AUDITED: [Kind; 5] = [
    Backup::KIND,
    Job::KIND,
    Client::KIND,
    Action::KIND,
    Session::KIND,
];

/// Who makes a change, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Author {
    /// The caller's name.
    pub(crate) caller: Arc<str>,
    /// The address of the other end of the connection.
    pub(crate) peer: Arc<str>,
}

/// Which changes a page of the audit log shows.
#[derive(Clone, Debug)]
pub(crate) struct AuditQuery {
    pub(crate) scope: Scope,
    /// Only changes after this revision; 0 starts at the oldest one that is kept.
    pub(crate) after_revision: u64,
    pub(crate) limit: usize,
    /// Only changes of this kind.
    pub(crate) kind: Option<Kind>,
    /// Only changes of the resource with this id; empty means every resource.
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
    /// A page of the audit log. It reads until the page is full, or everything that was committed when it began has been looked at.
    ///
    /// # Errors
    /// [`Error::Compacted`] if the next changes are no longer kept; any error of reading the disk.
    pub(crate) async fn audit(&self, query: AuditQuery) -> Result<ListChangesResponse, Error> {
        let until = self.revision();
        let oldest = self.store.local().oldest_revision();
        // The log starts at the oldest change that is kept.
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
                if page.changes.len() >= query.limit {
                    return Ok(page);
                }
                page.next_after_revision = change.revision;
                let time = clock::timestamp(group.time_ms);
                let records = records_of(&change.writes, change.revision, time);
                page.changes
                    .extend(records.filter(|record| query.wants(record)));
            }
        }
        page.is_last = true;
        Ok(page)
    }
}

/// The audit records of one commit: one for each resource that it wrote.
fn records_of(
    writes: &[Write],
    revision: u64,
    time: Timestamp,
) -> impl Iterator<Item = ChangeRecord> {
    let note = Note::of(writes);
    let touched = touched(writes, |_, _| true).into_iter();
    touched.filter_map(move |touched| {
        let kind = AUDITED.iter().find(|kind| kind.tag == touched.tag)?;
        let operation = match touched.deed {
            Deed::Created => ChangeOperation::Created,
            Deed::Updated => ChangeOperation::Updated,
            Deed::Deleted => ChangeOperation::Deleted,
        };
        Some(ChangeRecord {
            revision,
            commit_time: Some(time),
            operation: operation.into(),
            kind: kind.field.into(),
            project_id: touched.project.into(),
            resource_id: touched.id_of(*kind),
            name: touched.name.into(),
            caller: note.caller.clone(),
            peer: note.peer.clone(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::{Tested, job};

    #[tokio::test]
    async fn a_page_behind_the_last_change_is_empty_and_says_where_the_log_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut tested = Tested::open(&dir);
        tested.create(job("a", 1, "name", "")).await;
        let page = async |after_revision| {
            let query = AuditQuery {
                scope: Scope::AllProjects,
                after_revision,
                limit: 10,
                kind: None,
                resource_id: String::new(),
            };
            tested.catalog.audit(query).await.unwrap()
        };
        for (after_revision, changes) in [(0, 1), (1, 0)] {
            let page = page(after_revision).await;
            assert_eq!(page.changes.len(), changes);
            assert!(page.is_last);
            assert_eq!((page.next_after_revision, page.oldest_revision), (1, 1));
        }
    }
}
