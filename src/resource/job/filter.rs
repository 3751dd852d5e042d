//! The filter for jobs.

use prost::{DecodeError, Message};

use crate::{
    proto::JobFilter,
    resource::{Filter, Names, Violations, labels::Selector, rules, schedule, wants},
};

/// The fields that a filter tests. They are decoded without the rest of a [`Job`]; the tags are the `.proto`'s.
#[derive(Clone, PartialEq, prost::Message)]
struct JobFacets {
    #[prost(string, tag = "4")]
    client_id: String,
    #[prost(string, tag = "5")]
    description: String,
    #[prost(message, optional, tag = "6")]
    job_schedule: Option<JobScheduleFacets>,
    #[prost(string, tag = "8")]
    session_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct JobScheduleFacets {
    #[prost(string, tag = "20")]
    event: String,
    #[prost(string, tag = "21")]
    status: String,
    #[prost(string, tag = "22")]
    result: String,
}

impl Filter for JobFilter {
    fn check(&self, violations: &mut Violations) {
        Selector::check(&self.label_selector, violations);
        rules::word(
            format_args!("filter.status"),
            &self.status,
            schedule::STATUSES,
            violations,
        );
        rules::word(
            format_args!("filter.result"),
            &self.result,
            schedule::RESULTS,
            violations,
        );
        rules::word(
            format_args!("filter.event"),
            &self.event,
            schedule::EVENTS,
            violations,
        );
    }

    fn label_selector(&self) -> &str {
        &self.label_selector
    }

    fn client_id(&mut self) -> Option<&mut String> {
        Some(&mut self.client_id)
    }

    fn names(&self) -> Names<'_> {
        Names::StartingWith(&self.description_prefix)
    }

    fn beyond_names(&self) -> Self {
        JobFilter {
            description_prefix: String::new(),
            ..self.clone()
        }
    }

    fn matches(&self, record: &[u8]) -> Result<bool, DecodeError> {
        let job = JobFacets::decode(record)?;
        let schedule = job.job_schedule.unwrap_or_default();
        Ok(wants(&self.client_id, &job.client_id)
            && job.description.starts_with(&self.description_prefix)
            && wants(&self.session_id, &job.session_id)
            && wants(&self.status, &schedule.status)
            && wants(&self.result, &schedule.result)
            && wants(&self.event, &schedule.event))
    }
}
