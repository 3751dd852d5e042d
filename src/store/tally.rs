//! How many keys there are of each kind, counted as they come and go.

use std::collections::BTreeMap;

/// Keys by their first two bytes, which are what the catalog tells kinds of keys by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally(BTreeMap<[u8; 2], u64>);

impl Tally {
    /// A key that was not there is there now.
    pub(super) fn add(&mut self, key: &[u8]) {
        if let Some(kind) = key.first_chunk() {
            *self.0.entry(*kind).or_default() += 1;
        }
    }

    /// A key that was there is gone.
    pub(super) fn remove(&mut self, key: &[u8]) {
        if let Some(count) = key.first_chunk().and_then(|kind| self.0.get_mut(kind)) {
            *count = count.saturating_sub(1);
        }
    }

    /// Adds what another has counted.
    pub(super) fn merge(&mut self, other: &Tally) {
        for (kind, count) in &other.0 {
            *self.0.entry(*kind).or_default() += count;
        }
    }

    /// How many keys start with these bytes.
    pub(super) fn count(&self, kind: [u8; 2]) -> u64 {
        self.0.get(&kind).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_counted_by_kind() {
        let mut tally = Tally::default();
        for key in ["ab1", "ab2", "ac", "a"] {
            tally.add(key.as_bytes());
        }
        tally.remove(b"ab1");
        let mut both = tally.clone();
        both.merge(&tally);
        assert_eq!((tally.count(*b"ab"), tally.count(*b"ac")), (1, 1));
        assert_eq!((both.count(*b"ab"), both.count(*b"xx")), (2, 0));
    }
}
