//! Where pages that were asked for by offset ended, so that a walk by offset goes on from there though something was written
//! meanwhile: as one by marker it sees each resource that exists throughout just once.
//!
//! It is remembered for a while, for as long as there are not too many others. Where it is not known, as many are left out as the
//! offset says.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, Hash, RandomState},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Pages whose end is remembered: more than there are walks under way.
const PAGES_MAX: usize = 4096;
/// For how long: a scheduler asks for its next page at once.
const PAGE_AGE_MAX: Duration = Duration::from_secs(60);

/// The ends of pages, by which page of which list comes next.
#[derive(Debug, Default)]
pub(super) struct Walks {
    hasher: RandomState,
    ends: Mutex<Ends>,
}

#[derive(Debug, Default)]
struct Ends {
    tokens: HashMap<u64, (String, Instant)>,
    /// In the order in which they came: the first goes first.
    order: VecDeque<u64>,
}

impl Walks {
    /// The page that `next` says, of a list and whoever walks it, begins at this token.
    pub(super) fn put(&self, next: &impl Hash, token: String) {
        let key = self.hasher.hash_one(next);
        let Ends { tokens, order } = &mut *self.lock();
        if tokens.insert(key, (token, Instant::now())).is_none() {
            order.push_back(key);
        }
        if order.len() > PAGES_MAX
            && let Some(oldest) = order.pop_front()
        {
            tokens.remove(&oldest);
        }
    }

    /// Where it begins, if that is known.
    pub(super) fn get(&self, page: &impl Hash) -> Option<String> {
        let key = self.hasher.hash_one(page);
        let ends = self.lock();
        let (token, since) = ends.tokens.get(&key)?;
        (since.elapsed() < PAGE_AGE_MAX).then(|| token.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_end_counts_and_the_oldest_is_forgotten() {
        let walks = Walks::default();
        let page = |offset: usize| ("a", offset);
        walks.put(&page(0), "first".into());
        walks.put(&page(0), "second".into());
        assert_eq!(walks.get(&page(0)).as_deref(), Some("second"));
        assert_eq!(walks.get(&("b", 0_usize)), None);
        for offset in 1..=PAGES_MAX {
            walks.put(&page(offset), String::new());
        }
        assert_eq!(walks.get(&page(0)), None);
        assert!(walks.get(&page(1)).is_some());
    }
}
