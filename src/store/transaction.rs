//! One transaction: what it reads, and what it will have written if it succeeds.

use bytes::Bytes;

use super::{Error, committer::Overlay, frame::Write};

/// Reads and writes of one transaction. Transactions run one after another, each seeing all before it.
pub struct Transaction<'a> {
    before: &'a Overlay,
    revision: u64,
    time_ms: u64,
    writes: Vec<Write>,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(before: &'a Overlay, revision: u64, time_ms: u64) -> Self {
        Transaction {
            before,
            revision,
            time_ms,
            writes: Vec::new(),
        }
    }

    /// The revision that this transaction gets if it writes anything.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// When it is committed, milliseconds since the Unix epoch.
    #[must_use]
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// A key's value as this transaction sees it.
    ///
    /// # Errors
    /// If the view cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        // A transaction writes a handful of keys: a scan is the fastest map.
        match self.writes.iter().rev().find(|write| write.key == key) {
            Some(write) => Ok(write.value.clone()),
            None => self.before.get(key),
        }
    }

    /// Sets a key.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.writes.push(Write {
            key: key.into(),
            value: Some(value.into()),
        });
    }

    /// Removes a key.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.writes.push(Write {
            key: key.into(),
            value: None,
        });
    }

    pub(super) fn into_writes(self) -> Vec<Write> {
        self.writes
    }
}
