//! The state hash: 16 bytes for everything that a store holds.
//!
//! It is the sum of one hash for each key with its value and revision. So each write changes it independently, and the order does
//! not matter. Every change in the journal has the sum after it: a view, a file or a snapshot with another sum does not hold what
//! was written.

use twox_hash::{XxHash3_64, XxHash3_128};

/// The sum over all keys and values. It is 0 for an empty store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StateHash(u128);

impl StateHash {
    /// Its size in bytes.
    pub(super) const BYTES: usize = 16;

    /// The share of a key with this value and revision.
    #[must_use]
    pub(super) fn of(key: &[u8], value: &[u8], revision: u64) -> Self {
        StateHash(hash(key, value, revision))
    }

    /// The sum after adding a key with this value and revision.
    #[must_use]
    pub(super) fn with(self, key: &[u8], value: &[u8], revision: u64) -> Self {
        self.plus(Self::of(key, value, revision))
    }

    /// The sum without a share that it contains.
    #[must_use]
    fn without(self, share: StateHash) -> Self {
        StateHash(self.0.wrapping_sub(share.0))
    }

    /// The sum after a key's share has changed. Without a value the key has none.
    #[must_use]
    pub(super) fn changed(self, old: Option<StateHash>, new: Option<StateHash>) -> Self {
        let rest = old.map_or(self, |old| self.without(old));
        new.map_or(rest, |new| rest.plus(new))
    }

    /// The sum of both.
    #[must_use]
    pub(super) fn plus(self, other: StateHash) -> Self {
        StateHash(self.0.wrapping_add(other.0))
    }

    /// The bytes to write.
    pub(super) fn to_le_bytes(self) -> [u8; Self::BYTES] {
        self.0.to_le_bytes()
    }

    /// Reads the bytes that [`Self::to_le_bytes`] has made.
    pub(super) fn from_le_bytes(bytes: [u8; Self::BYTES]) -> Self {
        StateHash(u128::from_le_bytes(bytes))
    }
}

fn hash(key: &[u8], value: &[u8], revision: u64) -> u128 {
    XxHash3_128::oneshot_with_seed(XxHash3_64::oneshot_with_seed(revision, key), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_writes_does_not_matter_and_what_is_held_does() {
        let empty = StateHash::default();
        let ab = empty.with(b"a", b"1", 1).with(b"b", b"2", 2);
        assert_eq!(ab, empty.with(b"b", b"2", 2).with(b"a", b"1", 1));
        let a = StateHash::of(b"a", b"1", 1);
        assert_eq!(ab.without(a), empty.with(b"b", b"2", 2));
        assert_ne!(
            ab,
            empty.with(b"a", b"2", 1).with(b"b", b"1", 2),
            "values under each other's key"
        );
        assert_ne!(
            ab,
            empty.with(b"a", b"1", 2).with(b"b", b"2", 1),
            "with each other's revision"
        );
        assert_ne!(empty.with(b"a", b"1", 1).with(b"a", b"1", 1), empty);
        assert_eq!(StateHash::from_le_bytes(ab.to_le_bytes()), ab);
    }
}
