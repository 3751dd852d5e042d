//! Which keys sled is being fed with, for those who keep copies of what sled has: a copy that was read before a feed must not be
//! kept after it.

use std::{
    ops::Bound,
    sync::{Arc, PoisonError, RwLock, RwLockWriteGuard},
};

use super::Feed;

/// How many keys' copies are removed under one lock. Readers wait no longer than that.
const FORGET_STEP: usize = 64;

/// The feed that is being written to sled, and how many have ended.
#[derive(Debug, Default)]
pub(super) struct Feeding {
    feed: Option<Arc<Feed>>,
    ended: u64,
}

/// When sled was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(u64);

/// Copies of what sled has.
pub(super) trait Copies {
    fn feeding(&mut self) -> &mut Feeding;

    fn is_empty(&self) -> bool;

    /// Removes what was copied of a key.
    fn forget(&mut self, key: &[u8]);
}

/// Removes the copies that a feed makes outdated. Call this before sled is fed.
pub(super) fn begin(copies: &RwLock<impl Copies>, feed: &Arc<Feed>) {
    write(copies).feeding().feed = Some(feed.clone());
    let mut keys = feed.writes.keys().peekable();
    while keys.peek().is_some() {
        let mut copies = write(copies);
        if copies.is_empty() {
            return;
        }
        for key in keys.by_ref().take(FORGET_STEP) {
            copies.forget(key);
        }
    }
}

/// Call this after sled was fed, or feeding has failed.
pub(super) fn end(copies: &RwLock<impl Copies>) {
    let fed = write(copies).feeding().end();
    // It may be the last owner, and then drops thousands of values. Nobody waits for that.
    drop(fed);
}

fn write<C>(copies: &RwLock<C>) -> RwLockWriteGuard<'_, C> {
    copies.write().unwrap_or_else(PoisonError::into_inner)
}

impl Feeding {
    fn end(&mut self) -> Option<Arc<Feed>> {
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
