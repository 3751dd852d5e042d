//! What a store measures of its own work, as it goes.

use std::time::Duration;

use prometheus_client::metrics::{
    counter::Counter,
    histogram::{Histogram, exponential_buckets},
};

/// Counters and histograms of one open store.
#[derive(Clone, Debug)]
pub(crate) struct Meters {
    /// How long it took to append a group of changes to the journal and to sync it, in seconds: from 0.1 ms to 13 s.
    pub(crate) append_seconds: Histogram,
    /// Changes that were made durable as one.
    pub(crate) group_changes: Histogram,
    /// What was appended of keys and values, in bytes.
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

    /// A group was appended and synced.
    pub(super) fn appended(&self, took: Duration, changes: usize, bytes: usize) {
        self.append_seconds.observe(took.as_secs_f64());
        // No group has more than some hundred.
        #[expect(clippy::cast_precision_loss)]
        self.group_changes.observe(changes as f64);
        self.appended_bytes.inc_by(bytes as u64);
    }
}
