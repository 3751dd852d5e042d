//! Remembers where pages by offset ended, so that a walk by offset goes on from there even if others write meanwhile. Like a walk
//! by marker it sees each resource that exists all the time exactly once.
//!
//! Recent ends are remembered for a while. If the end of a page is not known, the offset counts items from the beginning.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, Hash, RandomState},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The most ends to remember: more than there are walks at a time.
const PAGES_MAX: usize = 4096;
/// How long an end is remembered. A scheduler asks for its next page at once.
const PAGE_AGE_MAX: Duration = Duration::from_secs(60);

/// The ends of pages, by the page that follows.
#[derive(Debug, Default)]
pub(super) struct Walks {
    hasher: RandomState,
    ends: Mutex<Ends>,
}

#[derive(Debug, Default)]
struct Ends {
    tokens: HashMap<u64, (String, Instant)>,
    /// The pages in the order in which they were added: the oldest is removed first.
    order: VecDeque<u64>,
}

impl Walks {
    /// Remembers that the page `next` begins at this token.
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

    /// The token at which a page begins, if it is known.
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
