//! Committed changes, as the truth hands them to the view and to those who follow them.

use bytes::Bytes;

use super::state_hash::StateHash;

/// No store reaches this: a larger revision is damage, and adding to a smaller one cannot overflow.
pub(super) const REVISION_MAX: u64 = u64::MAX / 2;

/// One absolute write of one key: repeating it changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    /// The key.
    pub key: Bytes,
    /// Its new value; `None` deletes the key.
    pub value: Option<Bytes>,
}

/// A write as the view takes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed<'a> {
    /// The key.
    pub(super) key: &'a Bytes,
    /// Its new value; `None` deletes the key.
    pub(super) value: Option<&'a Bytes>,
    /// The revision of its change.
    pub(super) revision: u64,
    /// Where the value can be read later.
    pub(super) stands: Stands,
    /// The value's share of the state hash, if it is known already.
    pub(super) share: Option<StateHash>,
}

/// Where the truth keeps a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stands {
    /// At this place in the journal, and later also among the records.
    Journal(u64),
    /// Among the records, by its key.
    Records,
    /// Nowhere that it could be read from.
    Nowhere,
}

/// What one batch has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// Its place in the sequence of all commits.
    pub revision: u64,
    /// Its writes, in order.
    pub writes: Vec<Write>,
    /// The hash of what the store holds after it.
    pub(super) state: StateHash,
}

/// Changes that became durable together.
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

    /// The hash of what the store holds after the last change.
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
    /// The hash of what the store holds there.
    pub(super) state: StateHash,
}

impl Position {
    /// Whether both are the same place in the same history. The state hash follows from the rest.
    pub(super) fn is_at(&self, other: &Position) -> bool {
        (self.revision, self.chain) == (other.revision, other.chain)
    }
}
