//! Tells which keys sled certainly does not have. Most creates ask for keys that do not exist, and sled would read a leaf for each.
//!
//! It is a Bloom filter that keeps all bits of one key in one word. A deleted key stays in it. Too many keys make it useless, but
//! never wrong.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use twox_hash::XxHash3_64;

/// Its share of the memory for sled's cache. With 256 MiB it has 10 bits for each of three million keys.
const SHARE_OF_CACHE: u64 = 64;
const WORDS_MIN: usize = 1024;

#[derive(Debug)]
pub(super) struct Filter {
    words: Box<[AtomicU64]>,
    /// Whether every existing key was added.
    is_complete: AtomicBool,
}

impl Filter {
    /// An empty filter for a cache of this size.
    pub(super) fn new(cache_bytes: u64) -> Self {
        let words = usize::try_from(cache_bytes / SHARE_OF_CACHE / 8).unwrap_or(WORDS_MIN);
        Filter {
            words: (0..words.max(WORDS_MIN))
                .map(|_| AtomicU64::new(0))
                .collect(),
            is_complete: AtomicBool::new(false),
        }
    }

    /// The memory that it takes.
    pub(super) fn bytes(&self) -> u64 {
        self.words.len() as u64 * 8
    }

    /// Adds a key that may exist from now on.
    pub(super) fn insert(&self, key: &[u8]) {
        let (word, bits) = self.place(key);
        // In a busy word most bits are set already. Checking them is cheaper than a write, which other cores would have to notice.
        if word.load(Ordering::Relaxed) & bits != bits {
            word.fetch_or(bits, Ordering::Relaxed);
        }
    }

    /// Notes that every existing key was added.
    pub(super) fn is_complete(&self) {
        self.is_complete.store(true, Ordering::Release);
    }

    /// Whether a key certainly does not exist.
    pub(super) fn lacks(&self, key: &[u8]) -> bool {
        if !self.is_complete.load(Ordering::Acquire) {
            return false;
        }
        let (word, bits) = self.place(key);
        word.load(Ordering::Relaxed) & bits != bits
    }

    fn place(&self, key: &[u8]) -> (&AtomicU64, u64) {
        let hash = XxHash3_64::oneshot(key);
        let word = (u128::from(hash) * self.words.len() as u128) >> 64;
        let word = usize::try_from(word).expect("below the number of words");
        // The upper bits of the hash have chosen the word.
        let bits = (0..4).fold(0, |bits, n| bits | 1 << (hash >> (6 * n) & 63));
        (&self.words[word], bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lacks_nothing_that_was_inserted_and_most_of_what_was_not() {
        let filter = Filter::new(8 << 20);
        assert!(!filter.lacks(b"anything"), "it has not seen all yet");
        assert_eq!(filter.bytes() * SHARE_OF_CACHE, 8 << 20);
        let key = |n: u32| format!("key {n}").into_bytes();
        let keys = u32::try_from(filter.bytes() * 8 / 10).unwrap();
        (0..keys).for_each(|n| filter.insert(&key(n)));
        filter.is_complete();
        assert!((0..keys).all(|n| !filter.lacks(&key(n))));
        let wrong = (keys..2 * keys).filter(|n| !filter.lacks(&key(*n))).count();
        assert!(wrong < keys as usize / 40, "{wrong} of {keys}");
    }
}
