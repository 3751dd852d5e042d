//! What was committed, as it is handed from the truth to the view and to whoever follows the changes.

use bytes::Bytes;

use super::state_hash::StateHash;

/// No store comes that far: a larger revision is damage, and one can always be added to it.
pub(super) const REVISION_MAX: u64 = u64::MAX / 2;

/// One absolute change of one key: repeating it changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    /// The key.
    pub key: Bytes,
    /// Its value from now on; `None` removes the key.
    pub value: Option<Bytes>,
}

/// A write as the view takes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed<'a> {
    /// The key.
    pub(super) key: &'a Bytes,
    /// Its value from now on; `None` removes the key.
    pub(super) value: Option<&'a Bytes>,
    /// The revision of the change that it belongs to.
    pub(super) revision: u64,
    /// Where else the value can be read.
    pub(super) stands: Stands,
}

/// Where the truth has a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stands {
    /// At this place of the journal, and later among the records.
    Journal(u64),
    /// Among the records, by its key.
    Records,
    /// In no place where it could be read.
    Nowhere,
}

/// What one batch changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// Its place in the catalog-wide sequence.
    pub revision: u64,
    /// Its writes, in order.
    pub writes: Vec<Write>,
    /// What the store holds after it.
    pub(super) state: StateHash,
}

/// Changes that became durable as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// The revision of the first change.
    pub first_revision: u64,
    /// When they were committed, milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// The changes, at least one, with consecutive revisions.
    pub changes: Vec<Change>,
}

impl Group {
    /// The revision of the last change.
    #[must_use]
    pub(crate) fn last_revision(&self) -> u64 {
        self.first_revision + self.changes.len() as u64 - 1
    }

    /// What the store holds after the last change.
    pub(super) fn state(&self) -> StateHash {
        let last = self.changes.last();
        last.expect("a group has at least one change").state
    }
}

/// A place between two frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// The revision of the last change before it: 0 at the very start.
    pub(super) revision: u64,
    /// The checksum of the frame before it.
    pub(super) chain: u32,
    /// What the store holds there.
    pub(super) state: StateHash,
}

impl Position {
    /// Whether it is the same place of the same history: the state hash follows from these.
    pub(super) fn is_at(&self, other: &Position) -> bool {
        (self.revision, self.chain) == (other.revision, other.chain)
    }
}
