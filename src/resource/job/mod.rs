//! Jobs: which actions a client runs, and when.

mod event;
mod filter;
mod neighbours;
mod rules;
#[cfg(test)]
mod tests;

pub(crate) use self::event::Event;
use self::rules::check_job;
pub(super) use self::rules::{ACTIONS, MODES, check_freezer_action};
use super::{Kind, Neighbours, Resource, ResourceId, Stamps, User, Violations, identity::identity};
use crate::proto::{Job, JobAction, JobFilter, JobSchedule};

impl Resource for Job {
    const KIND: Kind = Kind {
        tag: b'j',
        field: "job",
        id_field: "job_id",
        is_named_by_id: false,
    };
    const OUTPUT_ONLY: &'static [&'static str] =
        &["user_id", "create_time", "update_time", "revision"];
    const IMMUTABLE: &'static [&'static str] = &["job_id", "project_id"];
    const MERGED: &'static [&'static str] = &[];
    const HAS_SECRETS: bool = true;
    const HAS_NEIGHBOURS: bool = true;
    const CLIENT_TAG: Option<u32> = Some(4);
    const LABELS_TAG: Option<u32> = Some(16);
    type Filter = JobFilter;

    identity!(job_id);

    fn name(&self) -> &str {
        &self.description
    }

    fn client_id(&self) -> &str {
        &self.client_id
    }

    fn set_client_id(&mut self, client_id: &str) {
        client_id.clone_into(&mut self.client_id);
    }

    fn set_user(&mut self, user: &User, stored: Option<&Self>) {
        // The user who stored it stays: no update changes that.
        if stored.is_none() {
            user.id.clone_into(&mut self.user_id);
        }
        for action in &mut self.job_actions {
            let known = stored.and_then(|stored| {
                let mut actions = stored.job_actions.iter();
                actions.find(|known| is_same(action, known))
            });
            let id = known.map_or(&user.id, |known| &known.user_id);
            id.clone_into(&mut action.user_id);
        }
    }

    fn references(&self) -> Vec<(u8, [u8; 16])> {
        neighbours::references(self)
    }

    fn settle<N: Neighbours>(
        &mut self,
        stored: Option<&Self>,
        others: &mut N,
    ) -> Result<bool, N::Error> {
        neighbours::settle(self, stored, others)
    }

    fn depart<N: Neighbours>(&self, others: &mut N) -> Result<(), N::Error> {
        neighbours::depart(self, others)
    }

    fn take_secret(&mut self) -> Option<Self> {
        let credentials = self.user_credentials.take()?;
        Some(Job {
            user_credentials: Some(credentials),
            ..Job::default()
        })
    }

    fn facets(&self) -> Self {
        let schedule = self.job_schedule.as_ref();
        Job {
            labels: self.labels.clone(),
            client_id: self.client_id.clone(),
            description: self.description.clone(),
            session_id: self.session_id.clone(),
            job_schedule: schedule.map(|schedule| JobSchedule {
                event: schedule.event.clone(),
                status: schedule.status.clone(),
                result: schedule.result.clone(),
                ..JobSchedule::default()
            }),
            ..Job::default()
        }
    }

    fn check(&self, violations: &mut Violations) {
        check_job(self, Self::KIND.field, violations);
    }
}

/// Whether an action equals a known one, whichever user it names.
fn is_same(action: &JobAction, known: &JobAction) -> bool {
    if !action.action_id.is_empty() || !known.action_id.is_empty() {
        return action.action_id == known.action_id;
    }
    let with_its_user = JobAction {
        user_id: known.user_id.clone(),
        ..action.clone()
    };
    with_its_user == *known
}
