//! Which keys sled is being fed with, for those who keep copies of what sled has: a copy that was read before a feed must not be
//! kept after it.

use std::{ops::Bound, sync::Arc};

use super::Feed;

/// The feed that is being written to sled, and how many have ended.
#[derive(Debug, Default)]
pub(super) struct Feeding {
    feed: Option<Arc<Feed>>,
    ended: u64,
}

/// When sled was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(u64);

impl Feeding {
    /// Call this before sled is fed, and before copies are removed.
    pub(super) fn begin(&mut self, feed: &Arc<Feed>) {
        self.feed = Some(feed.clone());
    }

    /// Call this after sled was fed, or feeding has failed. Returns the feed, so that it can be dropped without a lock.
    pub(super) fn end(&mut self) -> Option<Arc<Feed>> {
        self.ended += 1;
        self.feed.take()
    }

    /// A read of sled that begins now sees nothing older than this.
    pub(super) fn now(&self) -> Moment {
        Moment(self.ended)
    }

    /// Whether sled still has of these keys what it had then.
    pub(super) fn spares(&self, keys: (Bound<&[u8]>, Bound<&[u8]>), since: Moment) -> bool {
        let touches = |feed: &Arc<Feed>| feed.writes.range::<[u8], _>(keys).next().is_some();
        self.ended == since.0 && !self.feed.as_ref().is_some_and(touches)
    }
}
