//! The rules for stored actions, and how an action gets into the jobs that name it.

use prost::{DecodeError, Message};

use super::{
    Filter, Kind, Names, Neighbours, Refusal, Resource, ResourceId, Stamps, User, Violations,
    identity::identity,
    job::{ACTIONS, MODES, check_freezer_action},
    rules, wants,
};
use crate::proto::{Action, ActionFilter, Job, JobAction};

impl Resource for Action {
    const KIND: Kind = Kind {
        tag: b'a',
        field: "action",
        id_field: "action_id",
        is_named_by_id: false,
    };
    const OUTPUT_ONLY: &'static [&'static str] =
        &["user_id", "create_time", "update_time", "revision"];
    const IMMUTABLE: &'static [&'static str] = &["action_id", "project_id"];
    const MERGED: &'static [&'static str] = &[];
    const HAS_NEIGHBOURS: bool = true;
    type Filter = ActionFilter;

    identity!(action_id);

    fn name(&self) -> &str {
        let action = self.freezer_action.as_ref();
        action.map_or("", |action| &action.backup_name)
    }

    fn client_id(&self) -> &'static str {
        ""
    }

    fn set_client_id(&mut self, _client_id: &str) {}

    fn set_user(&mut self, user: &User, stored: Option<&Self>) {
        // The user who stored it stays: no update changes that.
        if stored.is_none() {
            user.id.clone_into(&mut self.user_id);
        }
    }

    fn facets(&self) -> Self {
        let action = self.freezer_action.as_ref();
        Action {
            freezer_action: action.map(|action| crate::proto::FreezerAction {
                action: action.action.clone(),
                mode: action.mode.clone(),
                backup_name: action.backup_name.clone(),
                ..Default::default()
            }),
            ..Action::default()
        }
    }

    /// When an action changes, it changes in the jobs that use it, too.
    fn settle<N: Neighbours>(
        &mut self,
        stored: Option<&Self>,
        neighbours: &mut N,
    ) -> Result<bool, N::Error> {
        if stored.is_none_or(|stored| self.is_same(stored)) {
            return Ok(false);
        }
        let id = ResourceId::parse("action.action_id", &self.action_id)?;
        for user in neighbours.users::<Job, Action>(&id)? {
            if let Some(mut job) = neighbours.read::<Job>(&user)? {
                let uses = job.job_actions.iter_mut();
                uses.filter(|action| action.action_id == self.action_id)
                    .for_each(|action| self.expand(action));
                neighbours.write(job)?;
            }
        }
        Ok(false)
    }

    /// An action cannot be deleted while jobs use it.
    fn depart<N: Neighbours>(&self, neighbours: &mut N) -> Result<(), N::Error> {
        let id = ResourceId::parse("action.action_id", &self.action_id)?;
        let users = neighbours.users::<Job, Action>(&id)?;
        if users.is_empty() {
            return Ok(());
        }
        let users: Vec<_> = users.iter().map(ToString::to_string).collect();
        Err(N::Error::from(Refusal {
            kind: Self::KIND,
            id: self.action_id.clone(),
            reason: "ACTION_IN_USE",
            message: format!(
                "these jobs use it: {}. Take it out of them, or say detach",
                users.join(", ")
            ),
        }))
    }

    fn check(&self, violations: &mut Violations) {
        check_stored_action(self, Self::KIND.field, violations);
    }
}

impl Action {
    /// Fills in the action that a job's action names.
    pub(super) fn expand(&self, action: &mut JobAction) {
        action.freezer_action.clone_from(&self.freezer_action);
        action.max_retries = self.max_retries;
        action.max_retries_interval = self.max_retries_interval;
        action.mandatory = self.mandatory;
    }

    fn is_same(&self, stored: &Action) -> bool {
        let (mut new, mut old) = (JobAction::default(), JobAction::default());
        self.expand(&mut new);
        stored.expand(&mut old);
        new == old
    }
}

/// Adds everything that is wrong with `action`, at `path` in its request.
fn check_stored_action(action: &Action, path: &str, violations: &mut Violations) {
    rules::id(
        format_args!("{path}.action_id"),
        &action.action_id,
        violations,
    );
    // A missing or contradictory project has been reported already.
    if !action.project_id.is_empty() {
        rules::project_id(
            format_args!("{path}.project_id"),
            &action.project_id,
            violations,
        );
    }
    rules::text(format_args!("{path}.user_id"), &action.user_id, violations);
    if let Some(freezer_action) = &action.freezer_action {
        let path = format_args!("{path}.freezer_action");
        if freezer_action.action.is_empty() {
            let one_of = rules::one_of(ACTIONS);
            violations.add(format!("{path}.action"), format!("is required: {one_of}"));
        }
        check_freezer_action(freezer_action, &action.project_id, path, violations);
    } else {
        violations.add(format!("{path}.freezer_action"), "is required");
    }
    for (field, count) in [
        ("max_retries", action.max_retries),
        ("max_retries_interval", action.max_retries_interval),
    ] {
        let path = format_args!("{path}.{field}");
        rules::not_negative(path, count.unwrap_or_default(), violations);
    }
    let extra = action.freezer_action.as_ref();
    if rules::extra_levels_fit(extra.and_then(|action| action.extra.as_ref())) {
        rules::record_size(format_args!("{path}"), action.encoded_len(), violations);
    }
}

/// The fields that a filter tests. They are decoded without the rest of an [`Action`]; the tags are the `.proto`'s.
#[derive(Clone, PartialEq, Message)]
struct ActionFacets {
    #[prost(message, optional, tag = "4")]
    freezer_action: Option<FreezerActionFacets>,
}

#[derive(Clone, PartialEq, Message)]
struct FreezerActionFacets {
    #[prost(string, tag = "1")]
    action: String,
    #[prost(string, tag = "2")]
    mode: String,
    #[prost(string, tag = "3")]
    backup_name: String,
}

impl Filter for ActionFilter {
    fn check(&self, violations: &mut Violations) {
        rules::word(
            format_args!("filter.action"),
            &self.action,
            ACTIONS,
            violations,
        );
        rules::word(format_args!("filter.mode"), &self.mode, MODES, violations);
    }

    fn label_selector(&self) -> &'static str {
        ""
    }

    fn client_id(&mut self) -> Option<&mut String> {
        None
    }

    fn names(&self) -> Names<'_> {
        Names::StartingWith(&self.backup_name_prefix)
    }

    fn beyond_names(&self) -> Self {
        ActionFilter {
            backup_name_prefix: String::new(),
            ..self.clone()
        }
    }

    fn matches(&self, record: &[u8]) -> Result<bool, DecodeError> {
        let action = ActionFacets::decode(record)?;
        let action = action.freezer_action.unwrap_or_default();
        Ok(action.backup_name.starts_with(&self.backup_name_prefix)
            && wants(&self.action, &action.action)
            && wants(&self.mode, &action.mode))
    }
}
