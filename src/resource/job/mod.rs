//! Jobs: which actions a client runs, and when.

mod event;
mod filter;
mod rules;
#[cfg(test)]
mod tests;

pub(crate) use self::event::Event;
use self::rules::check_job;
use super::{Kind, Resource, ResourceId, Stamps, Violations};
use crate::proto::{Job, JobFilter};

impl Resource for Job {
    const KIND: Kind = Kind {
        tag: b'j',
        field: "job",
        id_field: "job_id",
    };
    const OUTPUT_ONLY: &'static [&'static str] =
        &["user_id", "create_time", "update_time", "revision"];
    const IMMUTABLE: &'static [&'static str] = &["job_id", "project_id"];
    const MERGED: &'static [&'static str] = &[];
    type Filter = JobFilter;

    fn id(&self) -> &str {
        &self.job_id
    }

    fn set_id(&mut self, id: ResourceId) {
        self.job_id = id.to_string();
    }

    fn project_id(&self) -> &str {
        &self.project_id
    }

    fn set_project_id(&mut self, project: &str) {
        project.clone_into(&mut self.project_id);
    }

    fn name(&self) -> &str {
        &self.description
    }

    fn stamps(&self) -> Stamps {
        Stamps {
            create_time: self.create_time,
            update_time: self.update_time,
            revision: self.revision,
        }
    }

    fn set_stamps(&mut self, stamps: Stamps) {
        Stamps {
            create_time: self.create_time,
            update_time: self.update_time,
            revision: self.revision,
        } = stamps;
    }

    fn check(&self, violations: &mut Violations) {
        check_job(self, Self::KIND.field, violations);
    }
}
