//! Projects' ids and resources' ids, each known to be well-formed.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use uuid::{ContextV7, Timestamp, Uuid};

use super::{Kind, Violations, rules};
use crate::clock;

/// Keeps new ids in order within a millisecond, and if the clock goes back.
static NEW_IDS: Mutex<ContextV7> = Mutex::new(ContextV7::new());

/// The namespace of the `UUIDv5` that stands in keys for an id that is a name. Stores depend on it.
const NAMED: Uuid = uuid::uuid!("6f1c1b0e-6a0c-4d55-9a44-7d1f6d4f0c11");

/// A project, OpenStack's unit of tenancy: 1 to 128 of `A–Z a–z 0–9 _ -`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProjectId(String);

impl ProjectId {
    /// Reads a project's id.
    ///
    /// # Errors
    /// A violation of `field`.
    pub(crate) fn parse(field: impl Into<String>, value: &str) -> Result<ProjectId, Violations> {
        let field = field.into();
        let mut violations = Violations::new();
        if value.is_empty() {
            violations.add(field, "is required");
        } else {
            rules::project_id(format_args!("{field}"), value, &mut violations);
        }
        violations.or(ProjectId(value.to_owned()))
    }

    /// The id as text.
    #[must_use]
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A resource's id: 32 lowercase hex digits. For kinds whose id is their name, it is that name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResourceId {
    /// The id in keys.
    key: Uuid,
    name: Option<Arc<str>>,
}

impl ResourceId {
    /// A new id, greater than all that this process made before.
    #[must_use]
    pub fn new() -> ResourceId {
        let now = clock::now_since_epoch();
        // `Uuid::now_v7` panics before 1970.
        let time = Timestamp::from_unix(&NEW_IDS, now.as_secs(), now.subsec_nanos());
        ResourceId {
            key: Uuid::new_v7(time),
            name: None,
        }
    }

    /// Reads the id of a resource of some kind.
    ///
    /// # Errors
    /// A violation of `field`.
    pub(crate) fn of(
        kind: Kind,
        field: impl Into<String>,
        value: &str,
    ) -> Result<ResourceId, Violations> {
        if !kind.is_named_by_id {
            return ResourceId::parse(field, value);
        }
        let field = field.into();
        let mut violations = Violations::new();
        rules::client_id(format_args!("{field}"), value, &mut violations);
        if value.is_empty() {
            violations.add(field, "is required");
        }
        violations.or(())?;
        Ok(ResourceId {
            key: Uuid::new_v5(&NAMED, value.as_bytes()),
            name: Some(value.into()),
        })
    }

    /// Reads an id of 32 hex digits.
    ///
    /// # Errors
    /// A violation of `field`.
    pub fn parse(field: impl Into<String>, value: &str) -> Result<ResourceId, Violations> {
        let field = field.into();
        let mut violations = Violations::new();
        rules::id(format_args!("{field}"), value, &mut violations);
        if value.is_empty() {
            violations.add(field, "is required");
        }
        violations.or(())?;
        Ok(ResourceId {
            key: Uuid::try_parse(value).expect("32 hex digits are a UUID"),
            name: None,
        })
    }

    /// The id in keys. Hex ids sort as their text does.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.key.as_bytes()
    }
}

impl Default for ResourceId {
    fn default() -> Self {
        ResourceId::new()
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => f.write_str(name),
            None => self.key.as_simple().fmt(f),
        }
    }
}
