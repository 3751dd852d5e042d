//! What a store measures about itself while it works.

use std::time::Duration;

use prometheus_client::metrics::{
    counter::Counter,
    histogram::{Histogram, exponential_buckets},
};

/// Counters and histograms of one open store.
#[derive(Clone, Debug)]
pub(crate) struct Meters {
    /// The time to append a group of changes to the journal and to sync it, in seconds: from 0.1 ms to 13 s.
    pub(crate) append_seconds: Histogram,
    /// The changes that became durable together.
    pub(crate) group_changes: Histogram,
    /// The bytes of the keys and values that were appended.
    pub(crate) appended_bytes: Counter,
    /// How often the file was written anew.
    pub(crate) rewrites: Counter,
}

impl Meters {
    pub(super) fn new() -> Self {
        Meters {
            append_seconds: Histogram::new(exponential_buckets(0.0001, 2.0, 18)),
            group_changes: Histogram::new(exponential_buckets(1.0, 2.0, 9)),
            appended_bytes: Counter::default(),
            rewrites: Counter::default(),
        }
    }

    /// Counts a group that was appended and synced.
    pub(super) fn appended(&self, took: Duration, changes: usize, bytes: usize) {
        self.append_seconds.observe(took.as_secs_f64());
        // No group has more than a few hundred.
        #[expect(clippy::cast_precision_loss)]
        self.group_changes.observe(changes as f64);
        self.appended_bytes.inc_by(bytes as u64);
    }
}
