//! What resources are called by: their project and their id, each known to be well-formed.

use std::{fmt, sync::Mutex};

use uuid::{ContextV7, Timestamp, Uuid};

use super::{Violations, rules};
use crate::clock;

/// Keeps new ids in order within a millisecond, and when the clock goes back.
static NEW_IDS: Mutex<ContextV7> = Mutex::new(ContextV7::new());

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

/// A resource's id, written as 32 lowercase hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResourceId(Uuid);

impl ResourceId {
    /// A new one, greater than those that this process made before.
    #[must_use]
    pub fn new() -> ResourceId {
        let now = clock::now_since_epoch();
        // `Uuid::now_v7` panics before 1970.
        let time = Timestamp::from_unix(&NEW_IDS, now.as_secs(), now.subsec_nanos());
        ResourceId(Uuid::new_v7(time))
    }

    /// Reads an id.
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
        Ok(ResourceId(
            Uuid::try_parse(value).expect("32 hex digits are a UUID"),
        ))
    }

    /// The id as it stands in keys, which sorts as its text does.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl Default for ResourceId {
    fn default() -> Self {
        ResourceId::new()
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_simple().fmt(f)
    }
}
