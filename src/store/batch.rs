//! One commit: what it expects of the store, and what it writes if that holds.

use bytes::Bytes;

use super::change::Write;

/// A key with its value.
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

/// A key with its value, borrowed while a reader looks at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
    /// The revision of its last write.
    pub revision: u64,
    /// The value in the form that the reader asked for, if it is at hand.
    pub framed: Option<Framed<'a>>,
}

/// A value in the form that the reader's [`Framing`](super::Framing) gave it, in memory that may be shared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Framed<'a> {
    /// The memory. Values of neighbouring keys are often in the same memory, one right after the other.
    pub within: &'a Bytes,
    /// Where in the memory the value begins.
    pub start: usize,
    /// Where in the memory the value ends.
    pub end: usize,
}

/// What is committed as a whole or not at all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    /// The revision that each of these keys must have, or `None` if the key must have no value.
    pub(super) expect: Vec<(Bytes, Option<u64>)>,
    pub(super) writes: Vec<Write>,
}

/// The result of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything was written, with this revision.
    Committed(u64),
    /// Nothing was written: a key was not as expected.
    Changed,
}

impl Batch {
    /// Expects that a key's last write has this revision, or that the key has no value.
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

    /// Deletes a key.
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

    /// The bytes that it takes in memory while it waits.
    pub(crate) fn bytes(&self) -> usize {
        let expected: usize = self.expect.iter().map(|(key, _)| key.len()).sum();
        let written: usize = self
            .writes
            .iter()
            .map(|write| write.key.len() + write.value.as_ref().map_or(0, Bytes::len))
            .sum();
        expected + written
    }

    /// Whether it makes something new, for which a full disk has no room.
    pub(super) fn creates(&self) -> bool {
        self.expect.iter().any(|(_, revision)| revision.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_knows_what_it_does() {
        let batch = Batch::default().expect(&b"old"[..], Some(7));
        assert!(!batch.writes() && !batch.creates());
        assert_eq!(batch.bytes(), 3);
        let batch = batch.put(&b"new"[..], &b"value"[..]).delete(&b"old"[..]);
        assert!(batch.writes() && !batch.creates());
        assert_eq!(batch.bytes(), 3 + 3 + 5 + 3);
        assert!(batch.expect(&b"new"[..], None).creates());
    }
}
