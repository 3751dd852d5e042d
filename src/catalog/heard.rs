//! Which clients were heard of lately, so that it is written down only now and then.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How often it is written down that a client was heard of.
const EVERY: Duration = Duration::from_secs(60);
/// As many are remembered; beyond that all are forgotten, and written down once more.
const CLIENTS_MAX: usize = 1 << 17;

/// When clients were heard of last, as far as that was written down.
#[derive(Debug, Default)]
pub(super) struct Heard {
    hasher: RandomState,
    last: Mutex<HashMap<u64, Instant>>,
}

impl Heard {
    /// Whether it is to be written down that a client of a project was heard of just now.
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
