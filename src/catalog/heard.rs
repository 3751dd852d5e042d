//! Which clients have called lately, so that this is stored only now and then.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How often it is stored that a client has called.
const EVERY: Duration = Duration::from_secs(60);
/// The most clients to remember. Beyond that all are forgotten, and their next calls are stored again.
const CLIENTS_MAX: usize = 1 << 17;

/// When it was last stored that each client has called.
#[derive(Debug, Default)]
pub(super) struct Heard {
    hasher: RandomState,
    last: Mutex<HashMap<u64, Instant>>,
}

impl Heard {
    /// Whether it is time to store that a client of a project has just called.
    pub(super) fn is_news(&self, project: &str, client_id: &str) -> bool {
        let client = self.hasher.hash_one((project, client_id));
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last
            .get(&client)
            .is_some_and(|last| now.duration_since(*last) < EVERY)
        {
            return false;
        }
        if last.len() >= CLIENTS_MAX {
            last.clear();
        }
        last.insert(client, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_news_once_for_each_client_of_each_project() {
        let heard = Heard::default();
        for is_news in [true, false] {
            for client in [("a", "web"), ("a", "db"), ("b", "web")] {
                assert_eq!(heard.is_news(client.0, client.1), is_news);
            }
        }
    }
}
