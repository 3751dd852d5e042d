//! The rules for jobs.

use crate::{
    proto::{FreezerAction, Job, JobAction, UserCredentials},
    resource::{
        Violations, labels,
        limits::{
            CONTAINER_BYTES_MAX, DESCRIPTION_BYTES_MAX, JOB_ACTIONS_MAX, NAME_BYTES_MAX,
            STRING_BYTES_MAX,
        },
        rules,
        schedule::check_schedule,
    },
};

/// Freezer API v2: what an agent can be asked to do.
pub(crate) const ACTIONS: &[&str] = &["backup", "restore", "info", "admin", "exec"];
/// Freezer API v2: what an action can work on.
pub(crate) const MODES: &[&str] = &[
    "fs",
    "mongo",
    "mysql",
    "sqlserver",
    "cinder",
    "glance",
    "cindernative",
    "nova",
];

/// Adds everything that is wrong with `job`, at `path` in its request.
///
/// The job is checked as it will be stored: if the request names the project, the caller has put that into `job`, and has filled in
/// the stored actions that it names.
pub(super) fn check_job(job: &Job, path: &str, violations: &mut Violations) {
    rules::id(format_args!("{path}.job_id"), &job.job_id, violations);
    // A missing or contradictory project has been reported already.
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
    labels::check(&job.labels, format_args!("{path}.labels"), violations);
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
            &job.project_id,
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
    // A request of 1 MiB can hold half a million empty actions: those past the limit are not looked at.
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
        check_freezer_action(freezer_action, &job.project_id, path, violations);
    } else if action.action_id.is_empty() {
        violations.add(
            format!("{path}.freezer_action"),
            "is required, or action_id, which names a stored action",
        );
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

/// Freezer API v2 has fixed sets of actions and modes. Storages and engines can be added to an agent.
pub(crate) fn check_freezer_action(
    action: &FreezerAction,
    owner: &str,
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
    // The backup will be recorded under this name.
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
        owner,
        format_args!("{path}.project_id"),
        violations,
    );
    rules::extra(
        format_args!("{path}.extra"),
        action.extra.as_ref(),
        violations,
    );
}

/// An action works for its owner's project: in another project, its backups would be recorded where the job's owner may not look.
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

/// Freezer API v2: both fields are required, and the trustor is `[\w-]+`.
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
