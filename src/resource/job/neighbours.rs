//! A job's neighbours: the stored actions that it names, the client that runs it, and its session.

use crate::{
    proto::{Action, Client, Job, Session},
    resource::{Neighbours, Resource, ResourceId, Violations, limits::JOBS_PER_ACTION_MAX},
};

/// The stored actions that a job names.
pub(super) fn references(job: &Job) -> Vec<(u8, [u8; 16])> {
    let mut references = Vec::new();
    for action in &job.job_actions {
        if let Ok(id) = ResourceId::parse("action_id", &action.action_id) {
            let reference = (Action::KIND.tag, *id.as_bytes());
            if !references.contains(&reference) {
                references.push(reference);
            }
        }
    }
    references
}

/// Fills in the stored actions that the job names, and checks that the client supports what the job needs. Returns whether the job
/// names any.
pub(super) fn settle<N: Neighbours>(
    job: &mut Job,
    stored: Option<&Job>,
    neighbours: &mut N,
) -> Result<bool, N::Error> {
    let mut violations = Violations::new();
    let are_same = stored.is_some_and(|stored| stored.job_actions == job.job_actions);
    let is_changed = !are_same && expand(job, stored, neighbours, &mut violations)?;
    let is_asked = stored.is_none_or(|stored| {
        (&stored.client_id, &stored.action_defaults) != (&job.client_id, &job.action_defaults)
    });
    if (is_asked || !are_same)
        && let Ok(id) = ResourceId::of(Client::KIND, "client_id", &job.client_id)
        && let Some(client) = neighbours.read::<Client>(&id)?
    {
        client.check_supports(job, &mut violations);
    }
    Ok(violations.or(is_changed)?)
}

/// Fills in the stored actions that the job names. Returns whether there are any.
fn expand<N: Neighbours>(
    job: &mut Job,
    stored: Option<&Job>,
    neighbours: &mut N,
    violations: &mut Violations,
) -> Result<bool, N::Error> {
    let mut is_changed = false;
    for n in 0..job.job_actions.len() {
        let path = format!("job.job_actions[{n}]");
        let action = &mut job.job_actions[n];
        let Ok(id) = ResourceId::parse("action_id", &action.action_id) else {
            continue;
        };
        let had = stored.and_then(|stored| {
            let mut known = stored.job_actions.iter();
            known.find(|known| known.action_id == action.action_id)
        });
        let Some(found) = neighbours.read::<Action>(&id)? else {
            // Freezer's documents bring ids of actions that are not stored here, together with the whole actions.
            if action.freezer_action.is_none() {
                violations.add(
                    format!("{path}.action_id"),
                    "names no stored action of this project, and freezer_action is not set",
                );
            }
            continue;
        };
        if had == Some(action) {
            continue;
        }
        let mut expanded = action.clone();
        found.expand(&mut expanded);
        if action.freezer_action.is_some() && *action != expanded {
            violations.add(
                format!("{path}.freezer_action"),
                "differs from the stored action of this action_id: change that one, or leave one of the two out",
            );
        }
        is_changed |= *action != expanded;
        *action = expanded;
        if had.is_none() && neighbours.users_count::<Job, Action>(&id)? >= JOBS_PER_ACTION_MAX {
            violations.add(
                format!("{path}.action_id"),
                format!("is used by {JOBS_PER_ACTION_MAX} jobs, and may not be by more"),
            );
        }
    }
    Ok(is_changed)
}

/// Takes a deleted job out of its session.
pub(super) fn depart<N: Neighbours>(job: &Job, neighbours: &mut N) -> Result<(), N::Error> {
    let Ok(id) = ResourceId::parse("session_id", &job.session_id) else {
        return Ok(());
    };
    if let Some(mut session) = neighbours.read::<Session>(&id)?
        && session.jobs.remove(&job.job_id).is_some()
    {
        session.aggregate();
        neighbours.write(session)?;
    }
    Ok(())
}
