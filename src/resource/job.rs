//! What a job must be.

use prost::{DecodeError, Message};

use super::{
    Filter, Kind, Names, Resource, ResourceId, Stamps, Violations,
    limits::{
        CONTAINER_BYTES_MAX, DESCRIPTION_BYTES_MAX, JOB_ACTIONS_MAX, NAME_BYTES_MAX,
        STRING_BYTES_MAX,
    },
    rules,
    schedule::{self, check_schedule},
    wants,
};
use crate::proto::{FreezerAction, Job, JobAction, JobFilter, UserCredentials};

/// Freezer API v2: what an agent can be asked to do.
const ACTIONS: &[&str] = &["backup", "restore", "info", "admin", "exec"];
/// Freezer API v2: what an action can work on.
const MODES: &[&str] = &[
    "fs",
    "mongo",
    "mysql",
    "sqlserver",
    "cinder",
    "glance",
    "cindernative",
    "nova",
];

/// Notes everything that is wrong with `job`, at `path` in its request.
///
/// It is checked as it will be stored: whoever lets the request name the project has put that into `job`, and whoever
/// lets an action name a stored one has put that in its place.
pub(super) fn check_job(job: &Job, path: &str, violations: &mut Violations) {
    rules::id(format_args!("{path}.job_id"), &job.job_id, violations);
    // A request whose project is missing or contradictory has been told so already.
    if !job.project_id.is_empty() {
        rules::project_id(
            format_args!("{path}.project_id"),
            &job.project_id,
            violations,
        );
    }
    rules::text(format_args!("{path}.user_id"), &job.user_id, violations);
    rules::client_id(format_args!("{path}.client_id"), &job.client_id, violations);
    rules::required_name(
        format_args!("{path}.description"),
        &job.description,
        DESCRIPTION_BYTES_MAX,
        violations,
    );
    if let Some(schedule) = &job.job_schedule {
        check_schedule(schedule, &format!("{path}.job_schedule"), violations);
    }
    check_actions(job, path, violations);
    rules::id(
        format_args!("{path}.session_id"),
        &job.session_id,
        violations,
    );
    rules::not_negative(
        format_args!("{path}.session_tag"),
        job.session_tag,
        violations,
    );
    rules::text(
        format_args!("{path}.session_name"),
        &job.session_name,
        violations,
    );
    if let Some(credentials) = &job.user_credentials {
        check_credentials(
            credentials,
            format_args!("{path}.user_credentials"),
            violations,
        );
    }
    if freezer_actions(job).all(|action| rules::extra_levels_fit(action.extra.as_ref())) {
        rules::record_size(
            format_args!("{path}"),
            prost::Message::encoded_len(job),
            violations,
        );
    }
}

fn freezer_actions(job: &Job) -> impl Iterator<Item = &FreezerAction> {
    job.job_actions
        .iter()
        .filter_map(|action| action.freezer_action.as_ref())
        .chain(&job.action_defaults)
}

fn check_actions(job: &Job, path: &str, violations: &mut Violations) {
    let defaults = job.action_defaults.as_ref();
    if let Some(defaults) = defaults {
        check_freezer_action(
            defaults,
            job,
            format_args!("{path}.action_defaults"),
            violations,
        );
    }
    let count = job.job_actions.len();
    if !(1..=JOB_ACTIONS_MAX).contains(&count) {
        violations.add(
            format!("{path}.job_actions"),
            format!("must be 1 to {JOB_ACTIONS_MAX} actions, not {count}"),
        );
    }
    let has_default = defaults.is_some_and(|defaults| !defaults.action.is_empty());
    // A request of 1 MiB holds half a million empty actions: those past the limit are refused unread.
    for (n, action) in job.job_actions.iter().take(JOB_ACTIONS_MAX).enumerate() {
        check_action(
            action,
            job,
            has_default,
            format_args!("{path}.job_actions[{n}]"),
            violations,
        );
    }
}

fn check_action(
    action: &JobAction,
    job: &Job,
    has_default: bool,
    path: rules::Path<'_>,
    violations: &mut Violations,
) {
    rules::id(
        format_args!("{path}.action_id"),
        &action.action_id,
        violations,
    );
    rules::text(format_args!("{path}.user_id"), &action.user_id, violations);
    if let Some(freezer_action) = &action.freezer_action {
        let path = format_args!("{path}.freezer_action");
        if freezer_action.action.is_empty() && !has_default {
            violations.add(
                format!("{path}.action"),
                format!(
                    "is required, here or in action_defaults: {}",
                    rules::one_of(ACTIONS)
                ),
            );
        }
        check_freezer_action(freezer_action, job, path, violations);
    } else {
        violations.add(format!("{path}.freezer_action"), "is required");
    }
    rules::not_negative(
        format_args!("{path}.max_retries"),
        action.max_retries.unwrap_or_default(),
        violations,
    );
    rules::not_negative(
        format_args!("{path}.max_retries_interval"),
        action.max_retries_interval.unwrap_or_default(),
        violations,
    );
}

/// Freezer API v2 closes the sets of actions and modes; storages and engines can be added to an agent.
fn check_freezer_action(
    action: &FreezerAction,
    job: &Job,
    path: rules::Path<'_>,
    violations: &mut Violations,
) {
    rules::word(
        format_args!("{path}.action"),
        &action.action,
        ACTIONS,
        violations,
    );
    rules::word(format_args!("{path}.mode"), &action.mode, MODES, violations);
    // What the backup will be recorded under.
    rules::name(
        format_args!("{path}.backup_name"),
        &action.backup_name,
        NAME_BYTES_MAX,
        violations,
    );
    rules::name(
        format_args!("{path}.container"),
        &action.container,
        CONTAINER_BYTES_MAX,
        violations,
    );
    for (field, text) in [
        ("path_to_backup", &action.path_to_backup),
        ("restore_abs_path", &action.restore_abs_path),
        ("storage", &action.storage),
        ("log_file", &action.log_file),
        ("engine_name", &action.engine_name),
    ] {
        rules::text(format_args!("{path}.{field}"), text, violations);
    }
    for (field, count) in [
        ("remove_older_than", action.remove_older_than),
        ("max_level", action.max_level),
        ("always_level", action.always_level),
    ] {
        rules::not_negative(
            format_args!("{path}.{field}"),
            count.unwrap_or_default(),
            violations,
        );
    }
    check_project(
        &action.project_id,
        &job.project_id,
        format_args!("{path}.project_id"),
        violations,
    );
    rules::extra(
        format_args!("{path}.extra"),
        action.extra.as_ref(),
        violations,
    );
}

/// An action works for its job's project: with another, its backups would be recorded where the job's owner may not look.
fn check_project(
    project_id: &str,
    of_job: &str,
    path: rules::Path<'_>,
    violations: &mut Violations,
) {
    if project_id.is_empty() || project_id == of_job {
        return;
    }
    let mut wrong = Violations::new();
    rules::project_id(path, project_id, &mut wrong);
    if wrong.is_empty() && !of_job.is_empty() {
        wrong.add(
            path.to_string(),
            format!(
                "must be the job's, {}, not {}",
                rules::quoted(of_job),
                rules::quoted(project_id)
            ),
        );
    }
    violations.collect(wrong.or(()));
}

/// Freezer API v2: both are required, and the trustor is `[\w-]+`.
fn check_credentials(
    credentials: &UserCredentials,
    path: rules::Path<'_>,
    violations: &mut Violations,
) {
    rules::required_name(
        format_args!("{path}.trust_id"),
        &credentials.trust_id,
        STRING_BYTES_MAX,
        violations,
    );
    rules::keystone_id(
        format_args!("{path}.trustor_user_id"),
        &credentials.trustor_user_id,
        violations,
    );
}

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

/// The fields that a filter tests, decoded without the rest of a [`Job`]; tags are the `.proto`'s.
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

/// What a job's client can be asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Run the job, from whatever state it is in.
    Start,
    /// End its schedule, after the run that may be under way.
    Stop,
    /// End the run that is under way.
    Abort,
}

impl Event {
    /// A word for programs that the event makes no sense.
    #[must_use]
    pub(crate) fn refusal(self) -> &'static str {
        match self {
            Event::Start => "JOB_CANNOT_START",
            Event::Stop => "JOB_NOT_SCHEDULED_OR_RUNNING",
            Event::Abort => "JOB_NOT_RUNNING",
        }
    }

    /// The job with this event set, as Freezer sets it.
    ///
    /// # Errors
    /// Why the event makes no sense for the job as it is.
    pub(crate) fn apply(self, job: &Job) -> Result<Job, String> {
        let mut job = job.clone();
        let schedule = job.job_schedule.get_or_insert_default();
        let status = schedule.status.as_str();
        let state = if status.is_empty() {
            "not scheduled yet".to_owned()
        } else {
            format!("{status:?}")
        };
        let event = match self {
            Event::Start => "start",
            Event::Stop if matches!(status, "scheduled" | "running") => "stop",
            Event::Stop => {
                return Err(format!(
                    "only a scheduled or running job can be stopped: this one is {state}"
                ));
            }
            Event::Abort if status == "running" => "abort",
            Event::Abort => {
                return Err(format!(
                    "only a running job can be aborted: this one is {state}"
                ));
            }
        };
        // Asked twice is asked once: what the client reports in between must stay.
        if schedule.event != event {
            event.clone_into(&mut schedule.event);
            if self == Event::Start {
                schedule.status.clear();
                schedule.result.clear();
            }
        }
        Ok(job)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost_reflect::{Kind, ReflectMessage, Value};
    use prost_types::Struct;

    use super::*;
    use crate::proto::{JobSchedule, from_dynamic, to_dynamic};

    fn action(freezer_action: FreezerAction) -> JobAction {
        JobAction {
            freezer_action: Some(freezer_action),
            ..JobAction::default()
        }
    }

    fn backup() -> FreezerAction {
        FreezerAction {
            action: "backup".into(),
            ..FreezerAction::default()
        }
    }

    fn good() -> Job {
        Job {
            project_id: "demo".into(),
            description: "nightly".into(),
            job_actions: vec![action(backup())],
            ..Job::default()
        }
    }

    /// What is wrong with a good job after `change`.
    fn said(change: impl FnOnce(&mut Job)) -> Vec<String> {
        let mut job = good();
        change(&mut job);
        let mut violations = Violations::new();
        check_job(&job, "job", &mut violations);
        violations
            .iter()
            .map(|v| format!("{} {}", v.field, v.description))
            .collect()
    }

    fn said_of_action(change: impl FnOnce(&mut FreezerAction)) -> Vec<String> {
        said(|job| change(job.job_actions[0].freezer_action.as_mut().unwrap()))
    }

    #[test]
    fn a_description_has_1_to_64_bytes() {
        for good in ["a".to_owned(), "x".repeat(64), "é".repeat(32)] {
            assert!(said(|job| job.description = good).is_empty());
        }
        assert_eq!(
            said(|job| job.description.clear()),
            ["job.description is required: 1 to 64 bytes"]
        );
        assert_eq!(
            said(|job| job.description = "é".repeat(33)),
            ["job.description must be at most 64 bytes, not 66"]
        );
        assert_eq!(said(|job| job.description = "a\u{7}".into()).len(), 1);
    }

    #[test]
    fn a_job_has_1_to_64_actions() {
        assert!(said(|job| job.job_actions = vec![action(backup()); 64]).is_empty());
        assert_eq!(
            said(|job| job.job_actions.clear()),
            ["job.job_actions must be 1 to 64 actions, not 0"]
        );
        assert_eq!(
            said(|job| job.job_actions = vec![JobAction::default(); 65])[..2],
            [
                "job.job_actions must be 1 to 64 actions, not 65",
                "job.job_actions[0].freezer_action is required",
            ]
        );
        // The 64 that are looked at, their number and their size.
        let many = said(|job| job.job_actions = vec![JobAction::default(); 100_000]);
        assert_eq!(many.last().map(String::as_str), Some("job has 34 more"));
    }

    #[test]
    fn an_action_may_come_from_the_defaults() {
        let required = "job.job_actions[0].freezer_action.action is required, here or in action_defaults: \
                        one of backup, restore, info, admin or exec";
        assert_eq!(said_of_action(|action| action.action.clear()), [required]);
        assert!(
            said(|job| {
                job.job_actions = vec![action(FreezerAction::default())];
                job.action_defaults = Some(backup());
            })
            .is_empty()
        );
        assert_eq!(
            said(|job| {
                job.job_actions = vec![action(FreezerAction::default())];
                job.action_defaults = Some(FreezerAction {
                    mode: "fs".into(),
                    ..FreezerAction::default()
                });
            }),
            [required]
        );
        // Said where it is wrong, not again at each action that takes it.
        assert_eq!(
            said(|job| {
                job.job_actions = vec![action(FreezerAction::default()); 3];
                job.action_defaults = Some(FreezerAction {
                    action: "backups".into(),
                    ..FreezerAction::default()
                });
            }),
            [
                "job.action_defaults.action must be one of backup, restore, info, admin or exec, not \"backups\"; \
                 did you mean \"backup\"?"
            ]
        );
    }

    #[test]
    fn actions_and_modes_are_closed_storages_and_engines_open() {
        for word in ACTIONS {
            assert!(said_of_action(|action| action.action = (*word).into()).is_empty());
        }
        for word in MODES {
            assert!(said_of_action(|action| action.mode = (*word).into()).is_empty());
        }
        assert_eq!(
            said_of_action(|action| action.mode = "mongodb".into()),
            [
                "job.job_actions[0].freezer_action.mode must be one of fs, mongo, mysql, sqlserver, cinder, glance, \
                 cindernative or nova, not \"mongodb\"; did you mean \"mongo\"?"
            ]
        );
        assert!(
            said_of_action(|action| {
                action.storage = "tape".into();
                action.engine_name = "restic".into();
            })
            .is_empty()
        );
    }

    #[test]
    fn an_action_stays_in_its_jobs_project() {
        assert!(said_of_action(|action| action.project_id = "demo".into()).is_empty());
        assert_eq!(
            said_of_action(|action| action.project_id = "other".into()),
            [
                "job.job_actions[0].freezer_action.project_id must be the job's, \"demo\", not \"other\""
            ]
        );
        assert_eq!(
            said_of_action(|action| action.project_id = "-".into()).len(),
            1
        );
        assert_eq!(
            said(|job| job.action_defaults = Some(FreezerAction {
                project_id: "other".into(),
                ..FreezerAction::default()
            })),
            ["job.action_defaults.project_id must be the job's, \"demo\", not \"other\""]
        );
    }

    #[test]
    fn credentials_are_whole_or_absent() {
        let said = |trust_id: &str, trustor_user_id: &str| {
            said(|job| {
                job.user_credentials = Some(UserCredentials {
                    trust_id: trust_id.into(),
                    trustor_user_id: trustor_user_id.into(),
                });
            })
        };
        assert!(said("t1", "u-1_x").is_empty());
        assert_eq!(said("", "").len(), 2);
        assert_eq!(said("t1", "u 1").len(), 1);
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let said = said(|job| {
            job.job_id = "X".into();
            job.project_id = "a b".into();
            job.client_id = "a b".into();
            job.job_schedule = Some(JobSchedule {
                event: "go".into(),
                ..JobSchedule::default()
            });
            job.session_id = "S".into();
            job.session_tag = -1;
            job.session_name = "\0".into();
            job.job_actions.push(JobAction {
                action_id: "A".into(),
                max_retries: Some(-1),
                max_retries_interval: Some(-1),
                freezer_action: Some(FreezerAction {
                    action: "x".into(),
                    remove_older_than: Some(-1),
                    max_level: Some(-1),
                    always_level: Some(-1),
                    backup_name: "\n".into(),
                    container: "x".repeat(1025),
                    log_file: "\0".into(),
                    extra: Some(Struct {
                        fields: [("k".into(), prost_types::Value { kind: None })].into(),
                    }),
                    ..FreezerAction::default()
                }),
                ..JobAction::default()
            });
        });
        let fields: Vec<_> = said
            .iter()
            .map(|line| line.split(' ').next().unwrap())
            .collect();
        assert_eq!(
            fields,
            [
                "job.job_id",
                "job.project_id",
                "job.client_id",
                "job.job_schedule.event",
                "job.job_actions[1].action_id",
                "job.job_actions[1].freezer_action.action",
                "job.job_actions[1].freezer_action.backup_name",
                "job.job_actions[1].freezer_action.container",
                "job.job_actions[1].freezer_action.log_file",
                "job.job_actions[1].freezer_action.remove_older_than",
                "job.job_actions[1].freezer_action.max_level",
                "job.job_actions[1].freezer_action.always_level",
                "job.job_actions[1].freezer_action.extra[\"k\"]",
                "job.job_actions[1].max_retries",
                "job.job_actions[1].max_retries_interval",
                "job.session_id",
                "job.session_tag",
                "job.session_name",
            ]
        );
    }

    #[test]
    fn a_whole_job_has_at_most_64_kib() {
        let said = said(|job| {
            let long = FreezerAction {
                log_file: "x".repeat(4096),
                ..backup()
            };
            job.job_actions = vec![action(long); 16];
        });
        assert_eq!(said.len(), 1);
        assert!(
            said[0].starts_with("job must be at most 65536 bytes encoded, not 6"),
            "{said:?}"
        );
    }

    /// A field added to the proto and forgotten here would be stored unchecked.
    #[test]
    fn no_string_field_is_forgotten() {
        fn with_nul<M: prost::Name + Default>(message: &M) -> Vec<(String, M)> {
            let dynamic = to_dynamic(message);
            let descriptor = dynamic.descriptor();
            let strings = descriptor
                .fields()
                .filter(|field| field.kind() == Kind::String);
            strings
                .map(|field| {
                    let mut bad = dynamic.clone();
                    bad.set_field(&field, Value::String("\0".into()));
                    (field.name().to_owned(), from_dynamic(&bad).unwrap())
                })
                .collect()
        }
        let mut bad: Vec<(String, Job)> = Vec::new();
        bad.extend(with_nul(&good()));
        bad.extend(
            with_nul(&backup())
                .into_iter()
                .map(|(field, freezer_action)| {
                    (
                        format!("job_actions[0].freezer_action.{field}"),
                        Job {
                            job_actions: vec![action(freezer_action)],
                            ..good()
                        },
                    )
                }),
        );
        bad.extend(
            with_nul(&action(backup()))
                .into_iter()
                .map(|(field, action)| {
                    (
                        format!("job_actions[0].{field}"),
                        Job {
                            job_actions: vec![action],
                            ..good()
                        },
                    )
                }),
        );
        bad.extend(
            with_nul(&JobSchedule::default())
                .into_iter()
                .map(|(field, schedule)| {
                    (
                        format!("job_schedule.{field}"),
                        Job {
                            job_schedule: Some(schedule),
                            ..good()
                        },
                    )
                }),
        );
        let credentials = UserCredentials {
            trust_id: "t".into(),
            trustor_user_id: "u".into(),
        };
        bad.extend(
            with_nul(&credentials)
                .into_iter()
                .map(|(field, credentials)| {
                    (
                        format!("user_credentials.{field}"),
                        Job {
                            user_credentials: Some(credentials),
                            ..good()
                        },
                    )
                }),
        );
        assert_eq!(bad.len(), 7 + 10 + 2 + 16 + 2);
        for (field, job) in bad {
            let mut violations = Violations::new();
            check_job(&job, "job", &mut violations);
            let told: Vec<_> = violations.iter().map(|v| v.field.clone()).collect();
            assert_eq!(told, [format!("job.{field}")]);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_check_panic(bytes: Vec<u8>, text: String, number: i64) {
            let mut violations = Violations::new();
            if let Ok(job) = <Job as prost::Message>::decode(bytes.as_slice()) {
                check_job(&job, "job", &mut violations);
            }
            let mut job = good();
            job.session_tag = number;
            job.description.clone_from(&text);
            job.job_actions[0].freezer_action.as_mut().unwrap().project_id = text;
            check_job(&job, "job", &mut violations);
        }
    }
}
