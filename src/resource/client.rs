//! The rules for clients, and which jobs a client supports.

use prost::{DecodeError, Message};
use prost_types::Timestamp;

use super::{
    Filter, Kind, Names, Resource, ResourceId, Stamps, User, Violations,
    identity::identity,
    job::{ACTIONS, MODES},
    labels::{self, Selector},
    limits::{CLIENT_SUPPORTS_MAX, NAME_BYTES_MAX},
    rules, wants,
};
use crate::proto::{Client, ClientFilter, FreezerAction, Job};

impl Resource for Client {
    const KIND: Kind = Kind {
        tag: b'c',
        field: "client",
        id_field: "client_id",
        is_named_by_id: true,
    };
    const OUTPUT_ONLY: &'static [&'static str] = &[
        "user_id",
        "last_seen_time",
        "create_time",
        "update_time",
        "revision",
    ];
    const IMMUTABLE: &'static [&'static str] = &["client_id", "project_id"];
    const MERGED: &'static [&'static str] = &[];
    const CLIENT_TAG: Option<u32> = Some(1);
    const LABELS_TAG: Option<u32> = Some(16);
    type Filter = ClientFilter;

    identity!(client_id);

    fn name(&self) -> &str {
        &self.client_id
    }

    fn client_id(&self) -> &str {
        &self.client_id
    }

    fn set_client_id(&mut self, client_id: &str) {
        client_id.clone_into(&mut self.client_id);
    }

    fn set_user(&mut self, user: &User, stored: Option<&Self>) {
        // The user who registered it stays: no update changes that.
        if stored.is_none() {
            user.id.clone_into(&mut self.user_id);
        }
    }

    fn facets(&self) -> Self {
        Client {
            labels: self.labels.clone(),
            client_id: self.client_id.clone(),
            hostname: self.hostname.clone(),
            is_central: self.is_central,
            ..Client::default()
        }
    }

    fn check(&self, violations: &mut Violations) {
        check_client(self, Self::KIND.field, violations);
    }
}

impl Client {
    /// What is stored when an agent registers again: what the agent says about itself, and what people have said about the client.
    pub(crate) fn registered_over(mut self, stored: &Client, now: Timestamp) -> Client {
        stored.user_id.clone_into(&mut self.user_id);
        if self.description.is_empty() {
            stored.description.clone_into(&mut self.description);
        }
        if self.labels.is_empty() {
            self.labels.clone_from(&stored.labels);
        }
        self.last_seen_time = stored.last_seen_time;
        self.seen(now);
        self
    }

    /// Notes that the client has called, unless that was noted within the last minute.
    pub(crate) fn seen(&mut self, now: Timestamp) {
        let last = self.last_seen_time.map_or(i64::MIN, |time| time.seconds);
        if now.seconds.saturating_sub(last) >= SEEN_EVERY_S || now.seconds < last {
            self.last_seen_time = Some(now);
        }
    }

    /// Adds what a job needs but the client does not support. What either of them leaves open is accepted.
    pub(super) fn check_supports(&self, job: &Job, violations: &mut Violations) {
        let defaults = job.action_defaults.as_ref();
        for (n, action) in job.job_actions.iter().enumerate() {
            let own = action.freezer_action.as_ref();
            for (field, supported, value) in [
                ("action", &self.supported_actions, action_of as Field),
                ("mode", &self.supported_modes, mode_of),
                ("storage", &self.supported_storages, storage_of),
                ("engine_name", &self.supported_engines, engine_of),
            ] {
                let own = own.map(value).filter(|value| !value.is_empty());
                let wanted = own.or(defaults.map(value)).unwrap_or_default();
                if !wanted.is_empty() && !supported.is_empty() && !contains(supported, wanted) {
                    violations.add(
                        format!("job.job_actions[{n}].freezer_action.{field}"),
                        format!(
                            "{} is not supported by client {}, which supports {}",
                            rules::quoted(wanted),
                            self.client_id,
                            supported.join(", ")
                        ),
                    );
                }
            }
        }
    }
}

/// How often it is stored that a client has called, in seconds.
const SEEN_EVERY_S: i64 = 60;

type Field = fn(&FreezerAction) -> &str;

fn action_of(action: &FreezerAction) -> &str {
    &action.action
}

fn mode_of(action: &FreezerAction) -> &str {
    &action.mode
}

fn storage_of(action: &FreezerAction) -> &str {
    &action.storage
}

fn engine_of(action: &FreezerAction) -> &str {
    &action.engine_name
}

fn contains(supported: &[String], wanted: &str) -> bool {
    supported.iter().any(|supported| supported == wanted)
}

/// Adds everything that is wrong with `client`, at `path` in its request.
fn check_client(client: &Client, path: &str, violations: &mut Violations) {
    if client.client_id.is_empty() {
        violations.add(format!("{path}.client_id"), "is required");
    }
    rules::client_id(
        format_args!("{path}.client_id"),
        &client.client_id,
        violations,
    );
    // A missing or contradictory project has been reported already.
    if !client.project_id.is_empty() {
        rules::project_id(
            format_args!("{path}.project_id"),
            &client.project_id,
            violations,
        );
    }
    rules::required_name(
        format_args!("{path}.hostname"),
        &client.hostname,
        NAME_BYTES_MAX,
        violations,
    );
    for (field, text) in [
        ("user_id", &client.user_id),
        ("uuid", &client.uuid),
        ("description", &client.description),
    ] {
        rules::text(format_args!("{path}.{field}"), text, violations);
    }
    labels::check(&client.labels, format_args!("{path}.labels"), violations);
    for (field, supported, words) in [
        (
            "supported_actions",
            &client.supported_actions,
            Some(ACTIONS),
        ),
        ("supported_modes", &client.supported_modes, Some(MODES)),
        ("supported_storages", &client.supported_storages, None),
        ("supported_engines", &client.supported_engines, None),
    ] {
        check_supported(supported, words, format_args!("{path}.{field}"), violations);
    }
    rules::record_size(format_args!("{path}"), client.encoded_len(), violations);
}

fn check_supported(
    supported: &[String],
    words: Option<&[&str]>,
    path: rules::Path<'_>,
    violations: &mut Violations,
) {
    let count = supported.len();
    if count > CLIENT_SUPPORTS_MAX {
        violations.add(
            path.to_string(),
            format!("must be at most {CLIENT_SUPPORTS_MAX}, not {count}"),
        );
    }
    for (n, value) in supported.iter().take(CLIENT_SUPPORTS_MAX).enumerate() {
        let path = format_args!("{path}[{n}]");
        rules::required_name(path, value, NAME_BYTES_MAX, violations);
        if let Some(words) = words {
            rules::word(path, value, words, violations);
        }
    }
}

/// The fields that a filter tests. They are decoded without the rest of a [`Client`]; the tags are the `.proto`'s.
#[derive(Clone, PartialEq, Message)]
struct ClientFacets {
    #[prost(string, tag = "1")]
    client_id: String,
    #[prost(string, tag = "4")]
    hostname: String,
    #[prost(bool, tag = "7")]
    is_central: bool,
}

impl Filter for ClientFilter {
    fn check(&self, violations: &mut Violations) {
        Selector::check(&self.label_selector, violations);
        rules::client_id(
            format_args!("filter.client_id"),
            &self.client_id,
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
        if self.client_id.is_empty() {
            Names::StartingWith(&self.client_id_prefix)
        } else {
            Names::Exactly(&self.client_id)
        }
    }

    fn beyond_names(&self) -> Self {
        let mut beyond = self.clone();
        if beyond.client_id.is_empty() {
            beyond.client_id_prefix.clear();
        } else {
            beyond.client_id.clear();
        }
        beyond
    }

    fn matches(&self, record: &[u8]) -> Result<bool, DecodeError> {
        let client = ClientFacets::decode(record)?;
        Ok(wants(&self.client_id, &client.client_id)
            && client.client_id.starts_with(&self.client_id_prefix)
            && wants(&self.hostname, &client.hostname)
            && self
                .is_central
                .is_none_or(|is_central| is_central == client.is_central))
    }
}
