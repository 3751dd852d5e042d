//! The writes that sled does not have yet: one table that takes writes, and one that sled is being fed with.
//!
//! Both tables are sorted, and their size is limited: a writer that finds no room waits for sled. The table that sled is fed with
//! does not change any more, so that readers can share it. From the other one they copy what they need, because holding its lock
//! would delay every write.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;

use super::Known;
use crate::store::{
    batch::{Entry, Found},
    change::{Placed, Position, Stands},
    state_hash::StateHash,
};

/// sled is fed once this much waits, or something has waited for [`FEED_AFTER`]. When writes with neighbouring keys come together,
/// sled rewrites their leaf only once.
const FEED_BYTES: usize = 2 << 20;
/// How long a single write makes readers look in two places.
const FEED_AFTER: Duration = Duration::from_millis(50);
/// The most bytes in the table that takes writes. So the other one has no more, either.
const TABLE_BYTES_MAX: usize = 8 << 20;
/// The memory that a write takes in a table beside its key and value.
const WRITE_OVERHEAD_BYTES: usize = 128;
/// How many writes a scan copies first. Each further time it copies twice as many.
pub(super) const PART_WRITES_FIRST: usize = 64;
/// The most writes that a scan copies at a time. Their keys and values are shared, not copied.
pub(super) const PART_WRITES_MAX: usize = 8192;

/// The last write of a key.
#[derive(Clone, Debug)]
pub(in crate::store) struct Written {
    /// `None` if the write has deleted the key.
    pub(in crate::store) value: Option<Bytes>,
    pub(in crate::store) revision: u64,
    /// Where else the value can be read.
    pub(in crate::store) stands: Stands,
    /// The value's share of the state hash, if it is known already.
    pub(in crate::store) share: Option<StateHash>,
}

impl Written {
    /// What the key holds after it.
    pub(super) fn entry(&self, key: &[u8]) -> Option<Entry> {
        Some(Entry {
            key: Bytes::copy_from_slice(key),
            value: self.value.clone()?,
            revision: self.revision,
        })
    }

    /// What is known about the key after it.
    pub(super) fn known(&self, key: &[u8]) -> Option<Known> {
        let value = self.value.as_ref()?;
        Some(match self.share {
            Some(hash) => Known {
                revision: self.revision,
                len: value.len(),
                hash,
            },
            None => Known::of(key, value, self.revision),
        })
    }

    /// The write as sled takes it.
    pub(super) fn placed<'a>(&'a self, key: &'a Bytes) -> Placed<'a> {
        Placed {
            key,
            value: self.value.as_ref(),
            revision: self.revision,
            stands: self.stands,
            share: self.share,
        }
    }

    /// What the key holds after it, in the form for scans.
    pub(super) fn found<'a>(&'a self, key: &'a [u8]) -> Option<Found<'a>> {
        Some(Found {
            key,
            value: self.value.as_ref()?,
            revision: self.revision,
            framed: None,
        })
    }
}

pub(in crate::store) type Writes = BTreeMap<Bytes, Written>;

/// What sled is fed with: all writes between two positions, each key once.
#[derive(Debug)]
pub(in crate::store) struct Feed {
    pub(in crate::store) writes: Writes,
    /// The position that sled shows after it.
    pub(in crate::store) end: Position,
}

/// The two tables.
#[derive(Debug, Default)]
pub(super) struct Recent {
    tables: RwLock<Tables>,
    /// Whether there is anything in them. It saves readers the lock, and is changed only under it.
    is_used: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Tables {
    taking: Writes,
    fed: Option<Arc<Feed>>,
    end: Position,
}

/// What writers and the feeder wait for.
#[derive(Debug, Default)]
struct State {
    taking_bytes: usize,
    ends: Option<End>,
    /// Whether feeding has ended for good. Then nobody waits for room.
    is_broken: bool,
}

/// How the feeder ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum End {
    /// After sled has everything.
    Fed,
    /// Immediately.
    Now,
}

impl Recent {
    pub(super) fn new(end: Position) -> Self {
        let tables = Tables {
            end,
            ..Tables::default()
        };
        Recent {
            tables: RwLock::new(tables),
            ..Recent::default()
        }
    }

    /// The last write of a key, if sled may not have it yet.
    pub(super) fn get(&self, key: &[u8]) -> Option<Written> {
        if !self.is_used() {
            return None;
        }
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let fed = || tables.fed.as_ref()?.writes.get(key);
        tables.taking.get(key).or_else(fed).cloned()
    }

    /// The first keys in the tables within the bounds, in order.
    ///
    /// Call this before reading sled. Then writes that sled is fed with meanwhile are in both, and never in neither.
    pub(super) fn part(
        &self,
        lower: &Bound<Vec<u8>>,
        upper: &Bound<Vec<u8>>,
        writes_max: usize,
    ) -> Part {
        if !self.is_used() || is_empty(lower, upper) {
            return Part::default();
        }
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let bounds = (as_slice(lower), as_slice(upper));
        let mut range = tables.taking.range::<[u8], _>(bounds);
        let taken: Vec<(Bytes, Written)> = range
            .by_ref()
            .take(writes_max)
            .map(|(key, written)| (key.clone(), written.clone()))
            .collect();
        let is_all = range.next().is_none();
        Part {
            until: taken.last().filter(|_| !is_all).map(|(key, _)| key.clone()),
            taken,
            fed: tables.fed.clone(),
        }
    }

    /// Adds writes, which can be read from now on.
    pub(super) fn put(&self, writes: &[Placed<'_>], end: Position) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        self.is_used.store(true, Ordering::Release);
        let mut bytes = 0;
        for write in writes {
            bytes += WRITE_OVERHEAD_BYTES + write.key.len() + write.value.map_or(0, Bytes::len);
            let written = Written {
                value: write.value.cloned(),
                revision: write.revision,
                stands: write.stands,
                share: write.share,
            };
            tables.taking.insert(write.key.clone(), written);
        }
        tables.end = end;
        // Count them before anybody can take them. Otherwise they could be counted after they are gone.
        let mut state = self.lock();
        let before = state.taking_bytes;
        state.taking_bytes += bytes;
        // Between these two points the feeder waits whatever comes, and waking it costs more than the write.
        let wakes = before == 0 || before < FEED_BYTES && state.taking_bytes >= FEED_BYTES;
        drop(state);
        drop(tables);
        if wakes {
            self.changed.notify_all();
        }
    }

    /// Waits until there is room for another group.
    pub(super) fn wait_for_room(&self) {
        let is_full = |state: &mut State| state.taking_bytes >= TABLE_BYTES_MAX && !state.is_broken;
        drop(
            self.changed
                .wait_while(self.lock(), is_full)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Waits until it is time to feed sled. Returns how to end, if it is time to end.
    pub(super) fn wait_for_work(&self) -> Option<End> {
        let nothing = |state: &mut State| state.taking_bytes == 0 && state.ends.is_none();
        let state = self
            .changed
            .wait_while(self.lock(), nothing)
            .unwrap_or_else(PoisonError::into_inner);
        let little = |state: &mut State| state.taking_bytes < FEED_BYTES && state.ends.is_none();
        let (state, _) = self
            .changed
            .wait_timeout_while(state, FEED_AFTER, little)
            .unwrap_or_else(PoisonError::into_inner);
        state.ends
    }

    /// The next feed for sled, if there is anything.
    pub(super) fn next_feed(&self) -> Option<Arc<Feed>> {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        if tables.fed.is_none() && !tables.taking.is_empty() {
            tables.fed = Some(Arc::new(Feed {
                writes: std::mem::take(&mut tables.taking),
                end: tables.end,
            }));
            self.lock().taking_bytes = 0;
            self.changed.notify_all();
        }
        tables.fed.clone()
    }

    /// Notes that sled has its feed.
    pub(super) fn is_fed(&self) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let fed = tables.fed.take();
        if tables.taking.is_empty() {
            self.is_used.store(false, Ordering::Release);
        }
        drop(tables);
        // These are thousands of keys and values. They are dropped without the lock, so that nobody waits for that.
        drop(fed);
    }

    /// Tells the feeder to end.
    pub(super) fn end(&self, end: End) {
        self.lock().ends = Some(end);
        self.changed.notify_all();
    }

    /// Notes that sled will not be fed any more.
    pub(super) fn break_off(&self) {
        self.lock().is_broken = true;
        self.changed.notify_all();
    }

    /// Whether a read has to look here.
    pub(super) fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of the tables that a scan has reached.
#[derive(Debug, Default)]
pub(super) struct Part {
    taken: Vec<(Bytes, Written)>,
    fed: Option<Arc<Feed>>,
    /// The last key that it covers. `None` if it covers all keys within the bounds.
    pub(super) until: Option<Bytes>,
}

impl Part {
    /// Its writes within the bounds in order, each key once.
    pub(super) fn writes<'a>(
        &'a self,
        lower: &'a Bound<Vec<u8>>,
        upper: &'a Bound<Vec<u8>>,
    ) -> impl Iterator<Item = (&'a Bytes, &'a Written)> {
        let bounds = (as_slice(lower), as_slice(upper));
        let fed = self.fed.as_ref().filter(|_| !is_empty(lower, upper));
        let mut fed = fed
            .into_iter()
            .flat_map(move |feed| feed.writes.range::<[u8], _>(bounds))
            .peekable();
        let mut taken = self
            .taken
            .iter()
            .map(|(key, written)| (key, written))
            .peekable();
        std::iter::from_fn(move || {
            let (Some((newer, _)), Some((older, _))) = (taken.peek(), fed.peek()) else {
                return taken.next().or_else(|| fed.next());
            };
            match newer.cmp(older) {
                std::cmp::Ordering::Greater => fed.next(),
                std::cmp::Ordering::Less => taken.next(),
                std::cmp::Ordering::Equal => {
                    fed.next();
                    taken.next()
                }
            }
        })
    }
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

/// Whether the bounds allow no key. A map panics for such bounds.
fn is_empty(lower: &Bound<Vec<u8>>, upper: &Bound<Vec<u8>>) -> bool {
    match (lower, upper) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(lower), Bound::Included(upper)) => lower > upper,
        (
            Bound::Excluded(lower) | Bound::Included(lower),
            Bound::Excluded(upper) | Bound::Included(upper),
        ) => lower >= upper,
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use std::{
        sync::mpsc::{self, Receiver},
        thread,
        time::Instant,
    };

    use super::*;

    const KEY: &[u8] = b"key";
    /// Longer than a wait that should end takes.
    const LONG: Duration = Duration::from_secs(20);
    /// Shorter than a wait that should not end takes.
    const SHORT: Duration = Duration::from_millis(100);

    /// Puts a key that takes this much memory.
    fn put(recent: &Recent, bytes: usize) {
        let value = vec![7; bytes - WRITE_OVERHEAD_BYTES - KEY.len()];
        let write = Placed {
            key: &Bytes::from_static(KEY),
            value: Some(&value.into()),
            revision: 1,
            stands: Stands::Nowhere,
            share: None,
        };
        recent.put(&[write], Position::default());
    }

    /// Says when a wait has ended.
    fn waiting<T: Send + 'static>(
        recent: &Arc<Recent>,
        wait: impl FnOnce(&Recent) -> T + Send + 'static,
    ) -> Receiver<T> {
        let (says, hears) = mpsc::channel();
        let recent = recent.clone();
        thread::spawn(move || drop(says.send(wait(&recent))));
        hears
    }

    #[test]
    fn a_writer_waits_for_room_while_the_table_is_full() {
        let recent = Arc::new(Recent::new(Position::default()));
        let half = TABLE_BYTES_MAX / 2;
        put(&recent, half);
        put(&recent, half - 1);
        recent.wait_for_room();
        put(&recent, WRITE_OVERHEAD_BYTES + KEY.len());
        let writer = waiting(&recent, Recent::wait_for_room);
        assert!(writer.recv_timeout(SHORT).is_err());
        assert_eq!(recent.next_feed().unwrap().writes.len(), 1);
        assert!(writer.recv_timeout(LONG).is_ok());
        // Both tables are full, and sled will take nothing any more.
        put(&recent, TABLE_BYTES_MAX);
        let writer = waiting(&recent, Recent::wait_for_room);
        assert!(writer.recv_timeout(SHORT).is_err());
        recent.break_off();
        assert!(writer.recv_timeout(LONG).is_ok());
    }

    #[test]
    fn the_feeder_waits_for_much_or_for_some_time() {
        let recent = Arc::new(Recent::new(Position::default()));
        let feeder = waiting(&recent, Recent::wait_for_work);
        assert!(feeder.recv_timeout(SHORT).is_err());
        let began = Instant::now();
        put(&recent, FEED_BYTES - 1);
        assert_eq!(feeder.recv_timeout(LONG), Ok(None));
        assert!(began.elapsed() >= FEED_AFTER);
        // The machine may be busy for some of these rounds, but hardly for all.
        let is_prompt = |_| {
            assert!(recent.next_feed().is_some());
            recent.is_fed();
            assert_eq!(recent.next_feed().map(|feed| feed.writes.len()), None);
            put(&recent, FEED_BYTES - 1);
            let feeder = waiting(&recent, Recent::wait_for_work);
            thread::sleep(FEED_AFTER / 10);
            let began = Instant::now();
            put(&recent, WRITE_OVERHEAD_BYTES + KEY.len());
            assert_eq!(feeder.recv_timeout(LONG), Ok(None));
            began.elapsed() < FEED_AFTER / 2
        };
        assert!((0..10).any(is_prompt));
    }

    #[test]
    fn the_feeder_ends_when_it_is_told_to() {
        let recent = Arc::new(Recent::new(Position::default()));
        let feeder = waiting(&recent, Recent::wait_for_work);
        assert!(feeder.recv_timeout(SHORT).is_err());
        recent.end(End::Fed);
        assert_eq!(feeder.recv_timeout(LONG), Ok(Some(End::Fed)));
    }
}
