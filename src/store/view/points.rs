//! Points: small entries that were read lately, by their keys.
//!
//! Each get begins with a small entry, which says where the record is. sled walks down a tree for it. Here it takes one look into a
//! map.

use std::{
    collections::HashMap,
    ops::Bound,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;

use super::{
    Feed,
    feeding::{self, Copies, Feeding, Moment},
};
use crate::store::batch::Entry;

/// The share of the cache that points may take: 8 MiB of 256, for about 20,000 points.
const SHARE_OF_CACHE: u64 = 32;
/// A larger value is not kept.
const VALUE_BYTES_MAX: usize = 256;
/// The memory that a point takes beside its key and value: a place in the map, of which up to half are empty, and what counts who
/// holds them.
const POINT_OVERHEAD_BYTES: usize = 256;

/// The points of one sled. Their size is limited.
#[derive(Debug, Default)]
pub(super) struct Points {
    inner: RwLock<Inner>,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Inner {
    /// When these take half of what all may, they become the old ones, and the old ones go. What is read often soon comes again.
    young: HashMap<Bytes, Entry>,
    young_bytes: usize,
    old: HashMap<Bytes, Entry>,
    feeding: Feeding,
}

impl Points {
    /// Points that take their share of a cache.
    pub(super) fn new(cache_bytes: u64) -> Self {
        let bytes_max = cache_bytes / SHARE_OF_CACHE;
        Points {
            bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
            ..Points::default()
        }
    }

    /// The most bytes that they take.
    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max as u64
    }

    /// What a key holds, if it is here.
    ///
    /// # Errors
    /// If not. Then [`Points::keep`] takes what sled has.
    pub(super) fn get(&self, key: &[u8]) -> Result<Entry, Moment> {
        let inner = self.read();
        let point = inner.young.get(key).or_else(|| inner.old.get(key));
        point.cloned().ok_or_else(|| inner.feeding.now())
    }

    /// Keeps what sled had for a key that was missing here, unless sled has been fed with the key since.
    pub(super) fn keep(&self, entry: &Entry, missing_since: Moment) {
        let bytes = POINT_OVERHEAD_BYTES + entry.key.len() + entry.value.len();
        if entry.value.len() > VALUE_BYTES_MAX || bytes > self.bytes_max / 2 {
            return;
        }
        let mut inner = self.write();
        let only_it = (
            Bound::Included(&entry.key[..]),
            Bound::Included(&entry.key[..]),
        );
        if !inner.feeding.spares(only_it, missing_since) {
            return;
        }
        let mut gone = HashMap::new();
        if inner.young_bytes + bytes > self.bytes_max / 2 {
            let young = std::mem::take(&mut inner.young);
            gone = std::mem::replace(&mut inner.old, young);
            inner.young_bytes = 0;
        }
        let point = Entry {
            // A slice may keep a whole leaf of sled in memory.
            value: Bytes::copy_from_slice(&entry.value),
            ..entry.clone()
        };
        if inner.young.insert(point.key.clone(), point).is_none() {
            inner.young_bytes += bytes;
        }
        drop(inner);
        drop(gone);
    }

    /// Removes the points that a feed makes outdated. Call this before sled is fed.
    pub(super) fn begin_feed(&self, feed: &Arc<Feed>) {
        feeding::begin(&self.inner, feed);
    }

    /// Call this after sled was fed, or feeding has failed.
    pub(super) fn end_feed(&self) {
        feeding::end(&self.inner);
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Copies for Inner {
    fn feeding(&mut self) -> &mut Feeding {
        &mut self.feeding
    }

    fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }

    fn forget(&mut self, key: &[u8]) {
        // What it took stays counted until the young ones become old.
        self.young.remove(key);
        self.old.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        change::{Position, Stands},
        view::recent::Written,
    };

    fn points(bytes_max: u64) -> Points {
        Points::new(bytes_max * SHARE_OF_CACHE)
    }

    fn entry(key: &str, value: impl Into<Bytes>) -> Entry {
        Entry {
            key: key.to_owned().into(),
            value: value.into(),
            revision: 1,
        }
    }

    fn feed(key: &str) -> Arc<Feed> {
        let written = Written {
            value: None,
            revision: 2,
            stands: Stands::Nowhere,
            share: None,
        };
        Arc::new(Feed {
            writes: [(key.to_owned().into(), written)].into(),
            end: Position::default(),
        })
    }

    fn missing(points: &Points, key: &str) -> Moment {
        points.get(key.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_point_is_kept_until_sled_is_fed_with_its_key() {
        let points = points(1 << 20);
        for key in ["a", "b"] {
            points.keep(&entry(key, key), missing(&points, key));
            assert_eq!(points.get(key.as_bytes()).unwrap(), entry(key, key));
        }
        points.begin_feed(&feed("a"));
        let during = missing(&points, "a");
        assert!(points.get(b"b").is_ok());
        points.keep(&entry("a", "outdated"), during);
        missing(&points, "a");
        let other = missing(&points, "c");
        points.keep(&entry("c", "c"), other);
        assert!(points.get(b"c").is_ok());
        points.end_feed();
        points.keep(&entry("a", "outdated"), during);
        points.keep(&entry("a", "new"), missing(&points, "a"));
        assert_eq!(points.get(b"a").unwrap(), entry("a", "new"));
    }

    #[test]
    fn points_are_small_and_take_no_more_than_their_share() {
        let points = points(100_000);
        let large = entry("large", vec![7; VALUE_BYTES_MAX + 1]);
        points.keep(&large, missing(&points, "large"));
        missing(&points, "large");
        let mut kept = 0;
        for n in 0..5000 {
            let (key, value) = (format!("key{n:05}"), vec![7; 100]);
            points.keep(&entry(&key, value), missing(&points, &key));
            assert!(points.get(key.as_bytes()).is_ok());
            let inner = points.read();
            kept = inner.young.len() + inner.old.len();
            assert!(kept * (POINT_OVERHEAD_BYTES + 108) <= 100_000);
        }
        assert!(kept >= 130, "{kept}");
    }

    #[test]
    fn points_that_just_fit_are_kept() {
        assert_eq!(Points::new(256 << 20).bytes_max(), 8 << 20);
        let largest = |key: &str| entry(key, vec![7; VALUE_BYTES_MAX]);
        let bytes = (POINT_OVERHEAD_BYTES + 1 + VALUE_BYTES_MAX) as u64;
        let kept = |bytes_max, keys: [&str; 4]| {
            let points = points(bytes_max);
            for key in keys {
                points.keep(&largest(key), missing(&points, key));
            }
            keys.map(|key| points.get(key.as_bytes()).is_ok())
        };
        let keys = ["a", "b", "c", "d"];
        assert_eq!(kept(4 * bytes, keys), [true; 4]);
        assert_eq!(kept(2 * bytes, keys), [false, false, true, true]);
        assert_eq!(kept(2 * bytes - 1, keys), [false; 4]);
    }
}
