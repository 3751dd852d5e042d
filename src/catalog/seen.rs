//! Where each page's last item stood, so that a walk by marker goes on from there even if the item has been renamed meanwhile.
//!
//! A marker names an item, but a walk means the place where it saw that item. The server remembers the last items of recent pages.
//! If two walks have seen an item at different places, or if the server has restarted, the place is not known. Then the item's
//! present place counts. A page token always knows its place.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;

/// The most places to remember. They take some MiB, and there are more of them than walks at a time.
const PLACES_MAX: usize = 16_384;

/// The places, by the key of the item's locator.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    places: HashMap<Vec<u8>, Bytes>,
    /// The keys in the order in which they were added: the oldest is removed first.
    order: VecDeque<Vec<u8>>,
}

impl Seen {
    /// Remembers that the item with this locator was the last of a page, at this place.
    pub(super) fn put(&self, locator: Vec<u8>, place: Bytes) {
        let Places { places, order } = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if places.insert(locator.clone(), place).is_none() {
            order.push_back(locator);
        }
        if order.len() > PLACES_MAX
            && let Some(oldest) = order.pop_front()
        {
            places.remove(&oldest);
        }
    }

    /// The place where the item with this locator was last seen.
    pub(super) fn get(&self, locator: &[u8]) -> Option<Bytes> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.places.get(locator).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_place_counts_and_the_oldest_item_is_forgotten() {
        let seen = Seen::default();
        let key = |n: usize| n.to_le_bytes().to_vec();
        seen.put(key(0), Bytes::from_static(b"a"));
        seen.put(key(0), Bytes::from_static(b"b"));
        assert_eq!(seen.get(&key(0)), Some(Bytes::from_static(b"b")));
        for n in 1..=PLACES_MAX {
            seen.put(key(n), Bytes::from_static(b"c"));
        }
        assert_eq!(seen.get(&key(0)), None);
        assert!(seen.get(&key(1)).is_some());
    }
}
