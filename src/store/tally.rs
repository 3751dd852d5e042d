//! How many keys there are of each kind, and how much memory sled needs for all of them. Both are counted as keys come and go.

use std::collections::BTreeMap;

use super::view::bytes_in_memory;

/// The number of keys by their first two bytes, which tell their kind, and the memory that sled needs for all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    keys: BTreeMap<[u8; 2], u64>,
    view_bytes: u64,
}

impl Tally {
    /// Counts a change of a key's value: its size before and after, or `None` without a value.
    pub(super) fn change(&mut self, key: &[u8], before: Option<usize>, after: Option<usize>) {
        let size = |value: Option<usize>| value.map_or(0, |value| bytes_in_memory(key, value));
        self.view_bytes = (self.view_bytes + size(after)).saturating_sub(size(before));
        let Some(count) = key
            .first_chunk()
            .map(|kind| self.keys.entry(*kind).or_default())
        else {
            return;
        };
        match (before, after) {
            (None, Some(_)) => *count += 1,
            (Some(_), None) => *count = count.saturating_sub(1),
            _ => {}
        }
    }

    /// Adds the counts of another tally.
    pub(super) fn merge(&mut self, other: &Tally) {
        self.view_bytes += other.view_bytes;
        for (kind, count) in &other.keys {
            *self.keys.entry(*kind).or_default() += count;
        }
    }

    /// The number of keys that start with these bytes.
    pub(super) fn count(&self, kind: [u8; 2]) -> u64 {
        self.keys.get(&kind).copied().unwrap_or(0)
    }

    /// The memory that sled needs for all keys.
    pub(super) fn view_bytes(&self) -> u64 {
        self.view_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_counted_by_kind_and_what_they_take_in_all() {
        let mut tally = Tally::default();
        for key in ["ab1", "ab2", "ac1"] {
            tally.change(key.as_bytes(), None, Some(10));
        }
        tally.change(b"ab1", Some(10), None);
        tally.change(b"ab2", Some(10), Some(20));
        let mut both = tally.clone();
        both.merge(&tally);
        assert_eq!((tally.count(*b"ab"), tally.count(*b"ac")), (1, 1));
        assert_eq!((both.count(*b"ab"), both.count(*b"xx")), (2, 0));
        let all = bytes_in_memory(b"ab2", 20) + bytes_in_memory(b"ac1", 10);
        assert_eq!((tally.view_bytes(), both.view_bytes()), (all, 2 * all));
    }
}
