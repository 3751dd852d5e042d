//! One commit: what it expects of the store, and what it writes if it finds that.

use bytes::Bytes;

use super::change::Write;

/// A key with what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// The revision of its last write.
    pub revision: u64,
}

impl Entry {
    /// The same, borrowed.
    #[must_use]
    pub(crate) fn found(&self) -> Found<'_> {
        Found {
            key: &self.key,
            value: &self.value,
            revision: self.revision,
            framed: None,
        }
    }
}

/// A key with what it holds, for as long as it is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
    /// The revision of its last write.
    pub revision: u64,
    /// The value as its reader wants to have it, where that is at hand.
    pub framed: Option<Framed<'a>>,
}

/// A value as the [`Framing`](super::Framing) of its reader made it, in memory that may be shared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Framed<'a> {
    /// What it lies in. The values of neighbouring keys often lie in the same, one right after the other.
    pub within: &'a Bytes,
    /// Where in there it begins.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
}

/// What is committed as a whole, or not at all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    /// What each of these keys must be at: the revision of its last write, or `None` where it must hold nothing.
    pub(super) expect: Vec<(Bytes, Option<u64>)>,
    pub(super) writes: Vec<Write>,
}

/// How a commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All of it was written, with this revision.
    Committed(u64),
    /// Nothing was: one of the keys does not hold any more what was expected.
    Changed,
}

impl Batch {
    /// Expects that a key's last write has this revision, or that it holds nothing.
    #[must_use]
    pub(crate) fn expect(mut self, key: impl Into<Bytes>, revision: Option<u64>) -> Self {
        self.expect.push((key.into(), revision));
        self
    }

    /// Sets a key.
    #[must_use]
    pub(crate) fn put(mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.writes.push(Write {
            key: key.into(),
            value: Some(value.into()),
        });
        self
    }

    /// Removes a key.
    #[must_use]
    pub(crate) fn delete(mut self, key: impl Into<Bytes>) -> Self {
        self.writes.push(Write {
            key: key.into(),
            value: None,
        });
        self
    }

    /// Whether it writes anything.
    #[must_use]
    pub(crate) fn writes(&self) -> bool {
        !self.writes.is_empty()
    }

    /// What it takes of the memory while it waits.
    pub(crate) fn bytes(&self) -> usize {
        let expected: usize = self.expect.iter().map(|(key, _)| key.len()).sum();
        let written: usize = self
            .writes
            .iter()
            .map(|write| write.key.len() + write.value.as_ref().map_or(0, Bytes::len))
            .sum();
        expected + written
    }

    /// Whether it makes something new, which a full disk has no room for.
    pub(super) fn creates(&self) -> bool {
        self.expect.iter().any(|(_, revision)| revision.is_none())
    }
}
