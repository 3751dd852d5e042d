//! sled, which holds every key as of some revision, in the form that `entry.rs` describes, in blocks (`blocks.rs`). Only this module
//! knows sled.
//!
//! One key, [`SHOWN_KEY`], holds the revision that the view shows and its state hash. It is written after the writes that bring the
//! view there. So everything up to that revision is there, and perhaps more.

mod block;
mod blocks;
mod sum;

use std::{
    io,
    ops::{Bound, ControlFlow, Range},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use sled::IVec;

use self::{
    block::{CRC_BYTES, seal, unsealed},
    blocks::{Blocks, Put},
};
use super::{
    Feed,
    entry::{Held, Known, checked, store},
    filter::Filter,
    points::Points,
    runs::{At, Draft, Framing, OF_EXTRACTS, OF_RECORDS, Runs, behind, first_behind, first_within},
    values::{ValueReader, Values, Waits},
};
use crate::store::{
    Error,
    batch::{Entry, Found},
    change::{Placed, Stands},
    outside,
    reader::Reader,
    state_hash::StateHash,
};

/// Sorts before every block. Views without blocks have another key: they are made anew.
const SHOWN_KEY: &[u8] = b"\0shown by blocks";
/// How often memory is collected after a batch: it takes a few epochs until replaced memory can be freed.
const COLLECT_ROUNDS: usize = 4;
/// How often, and after which time, to try again while sled's lock is held: two seconds in all.
const LOCK_TRIES_MAX: usize = 200;
const LOCK_RETRY: Duration = Duration::from_millis(10);
/// How many bytes sled takes for each byte of its cache's capacity, measured with a million records. Its entries take about as much
/// as it counts. Buffers come on top, and pages that it does not count yet: one counts only after 64 accesses in its shard, of which
/// there are 256.
const CACHE_OVERHEAD: f64 = 1.5;

/// The direction in which a range is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Direction {
    /// From the smallest key up.
    Forward,
    /// From the largest key down.
    Backward,
}

/// What is kept of a range that is read again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// The values as a page has them.
    Framed,
    /// Small extracts of the values.
    Extracts,
}

/// An open sled.
pub(in crate::store) struct Sled {
    db: sled::Db,
    filter: Filter,
    runs: Runs,
    extracts: Runs,
    points: Points,
    values: Option<Arc<dyn Values>>,
    capacity: u64,
}

impl std::fmt::Debug for Sled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sled").finish_non_exhaustive()
    }
}

impl Sled {
    /// The last key that the view uses for itself. The store's keys sort after it.
    pub(in crate::store) const LAST_OWN_KEY: &[u8] = SHOWN_KEY;

    /// Opens the view in `dir`. Makes an empty one if it is missing.
    ///
    /// # Errors
    /// If sled fails or panics. Then the view must be made anew from the journal.
    pub(in crate::store) fn open(dir: &Path, cache_bytes: u64) -> Result<Sled, Error> {
        let filter = Filter::new(cache_bytes);
        let runs = Runs::new(OF_RECORDS, cache_bytes);
        let extracts = Runs::new(OF_EXTRACTS, cache_bytes);
        let points = Points::new(cache_bytes);
        let others_bytes =
            filter.bytes() + runs.bytes_max() + extracts.bytes_max() + points.bytes_max();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        let capacity = (cache_bytes.saturating_sub(others_bytes) as f64 / CACHE_OVERHEAD) as u64;
        let open = || {
            sled::Config::new()
                .path(dir)
                .cache_capacity(capacity)
                .flush_every_ms(Some(1000))
                .open()
        };
        // sled panics on some damage. Nothing that the closure touches is used afterwards.
        let db = catch_unwind(AssertUnwindSafe(|| unlocked(open)))
            .map_err(|_| Error::Corrupt {
                what: "sled panicked while opening the view".into(),
            })?
            .map_err(failed_to("open the view"))?;
        if db.is_empty() {
            filter.is_complete();
        }
        Ok(Sled {
            db,
            filter,
            runs,
            extracts,
            points,
            values: None,
            capacity,
        })
    }

    /// The same view with the truth that has its values. Without it, only values in sled itself can be read.
    pub(in crate::store) fn reading(self, values: Arc<dyn Values>) -> Sled {
        Sled {
            values: Some(values),
            ..self
        }
    }

    fn reader<'a>(&self, waits: Waits<'a>) -> Option<Box<dyn ValueReader + 'a>> {
        self.values.as_ref().map(|values| values.reader(waits))
    }

    /// How many bytes of entries it keeps in memory.
    pub(in crate::store) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The revision that the view shows, and its state hash.
    ///
    /// # Errors
    /// If sled fails, or the view has no such key: then it was being made when the process ended.
    pub(in crate::store) fn shown(&self) -> Result<(u64, StateHash), Error> {
        let Some(held) = self.db.get(SHOWN_KEY).map_err(failed_to("read the view"))? else {
            return if self.db.is_empty() {
                Ok((0, StateHash::default()))
            } else {
                Err(Error::Corrupt {
                    what: "the view does not say its revision: it was not finished, or another version has made it"
                        .into(),
                })
            };
        };
        let shown = || {
            let mut reader = Reader(unsealed(SHOWN_KEY, &held)?);
            reader.u64().zip(reader.state_hash())
        };
        shown().ok_or_else(|| Error::Corrupt {
            what: "the view's revision fails its checksum".into(),
        })
    }

    /// What a key holds.
    ///
    /// # Errors
    /// If sled fails, or the value is damaged; [`Error::Busy`] if it may not wait for the disk but would have to.
    pub(in crate::store) fn get(
        &self,
        key: &[u8],
        waits: Waits<'_>,
    ) -> Result<Option<Entry>, Error> {
        let mut reader = self.reader(waits);
        let stored = self.stored(key)?;
        stored
            .map(|stored| checked(Bytes::copy_from_slice(key), stored, &mut reader))
            .transpose()
    }

    /// Like [`Sled::get`], for keys that [`Sled::scan_runs`] reads: found in a run, if one covers the key.
    ///
    /// # Errors
    /// The same as for [`Sled::get`].
    pub(super) fn get_scanned(&self, key: &[u8], waits: Waits<'_>) -> Result<Option<Entry>, Error> {
        match self.runs.covering(key) {
            Some(run) => Ok(run.get(key)),
            None => self.get(key, waits),
        }
    }

    /// Like [`Sled::get`], for small values that are read again and again: found among the points, if it was read lately.
    ///
    /// # Errors
    /// The same as for [`Sled::get`].
    pub(super) fn get_again(&self, key: &[u8], waits: Waits<'_>) -> Result<Option<Entry>, Error> {
        let missing_since = match self.points.get(key) {
            Ok(entry) => return Ok(Some(entry)),
            Err(since) => since,
        };
        let entry = self.get(key, waits)?;
        if let Some(entry) = &entry {
            self.points.keep(entry, missing_since);
        }
        Ok(entry)
    }

    /// What is known about a key's value without reading it.
    ///
    /// # Errors
    /// If sled fails, or its entry is damaged.
    pub(in crate::store) fn known(&self, key: &[u8]) -> Result<Option<Known>, Error> {
        let stored = self.stored(key)?;
        stored
            .map(|stored| Ok(Held::parse(key, &stored)?.known(key)))
            .transpose()
    }

    fn stored(&self, key: &[u8]) -> Result<Option<IVec>, Error> {
        if self.filter.lacks(key) {
            return Ok(None);
        }
        Blocks(&self.db).get(key)
    }

    /// The keys within the bounds with their entries, in order. Nobody may write while they are read backward.
    ///
    /// # Errors
    /// If sled fails. The items are errors if it fails later, or a value is damaged.
    pub(in crate::store) fn range(
        &self,
        bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>),
        direction: Direction,
    ) -> Result<impl Iterator<Item = Result<Entry, Error>> + use<>, Error> {
        let mut reader = self.reader(Waits::Yes);
        let entries = Blocks(&self.db).range(bounds, direction)?;
        Ok(entries.map(move |entry| {
            let (key, stored) = entry?;
            checked(key, stored, &mut reader)
        }))
    }

    /// Calls `visit` in order with what the keys within the bounds hold, until `visit` breaks off. Returns whether it did.
    ///
    /// # Errors
    /// If sled fails, or a value is damaged.
    pub(in crate::store) fn scan(
        &self,
        bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>),
        waits: Waits<'_>,
        mut visit: impl FnMut(Found<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Error> {
        let mut reader = self.reader(waits);
        for entry in Blocks(&self.db).range(bounds, Direction::Forward)? {
            let (key, stored) = entry?;
            let held = Held::parse(&key, &stored)?;
            let read = held.read(&key, &mut reader)?;
            let found = Found {
                key: &key,
                value: held.checked(&key, read.as_deref())?,
                revision: held.revision,
                framed: None,
            };
            if visit(found).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn kept(&self, kept: Kept) -> &Runs {
        match kept {
            Kept::Framed => &self.runs,
            Kept::Extracts => &self.extracts,
        }
    }

    /// Like [`Sled::scan`], but from what is kept. What is missing is read; it ends before `limit`.
    ///
    /// # Errors
    /// The same as for [`Sled::scan`].
    pub(super) fn scan_runs(
        &self,
        (lower, upper): &(Bound<Vec<u8>>, Bound<Vec<u8>>),
        limit: &Bound<Vec<u8>>,
        (kept, framing): (Kept, Framing),
        waits: Waits<'_>,
        visit: &mut dyn FnMut(Found<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Error> {
        let (Some(upper), Some(limit)) = (first_behind(upper), first_behind(limit)) else {
            return self.scan((lower.clone(), upper.clone()), waits, visit);
        };
        let runs = self.kept(kept);
        let mut from = first_within(lower);
        while from < upper {
            let run = match runs.at(&from, framing) {
                At::Run(run) => run,
                At::Gap(draft, next) => {
                    let limit = next.filter(|next| *next < limit).unwrap_or(limit.clone());
                    let (draft, to) = self.fill(draft, limit, waits)?;
                    runs.keep(draft, to)
                }
            };
            if run.visit(&from, &upper, visit).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            from.clear();
            from.extend_from_slice(run.to());
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Fills a run, which ends before `limit`. Returns it with its end.
    fn fill(
        &self,
        mut draft: Draft,
        limit: Vec<u8>,
        waits: Waits<'_>,
    ) -> Result<(Draft, Vec<u8>), Error> {
        let from = Bound::Included(draft.from().to_vec());
        let bounds = (from, Bound::Excluded(limit.clone()));
        let mut to = limit;
        let _ = self.scan(bounds, waits, |found| {
            if draft.push(&found) {
                return ControlFlow::Continue(());
            }
            to = behind(found.key);
            ControlFlow::Break(())
        })?;
        Ok((draft, to))
    }

    /// Applies writes in order, and shows the position after them.
    ///
    /// # Errors
    /// If sled fails. Then some of the writes may be there, but the revision that it shows is the old one.
    pub(in crate::store) fn apply(
        &self,
        writes: &[Placed<'_>],
        revision: u64,
        state: StateHash,
    ) -> Result<(), Error> {
        self.put(writes.iter().copied())?;
        self.shows(revision, state)
    }

    /// Applies a feed to what it shows.
    ///
    /// # Errors
    /// The same as for [`Sled::apply`].
    pub(in crate::store) fn feed(&self, feed: &Arc<Feed>) -> Result<(), Error> {
        self.runs.begin_feed(feed);
        self.extracts.begin_feed(feed);
        self.points.begin_feed(feed);
        let writes = feed.writes.iter();
        let put = self.put(writes.map(|(key, written)| written.placed(key)));
        self.runs.end_feed();
        self.extracts.end_feed();
        self.points.end_feed();
        put?;
        self.shows(feed.end.revision, feed.end.state)
    }

    /// Puts the records of a file into a new view. It shows nothing until [`Sled::shows`] is called.
    ///
    /// # Errors
    /// If sled fails.
    pub(in crate::store) fn load(&self, entries: &[Entry], stands: Stands) -> Result<(), Error> {
        self.put(entries.iter().map(|entry| Placed {
            key: &entry.key,
            value: Some(&entry.value),
            revision: entry.revision,
            stands,
            share: None,
        }))
    }

    /// Writes which revision the view shows, and its state hash.
    ///
    /// # Errors
    /// If sled fails.
    pub(in crate::store) fn shows(&self, revision: u64, state: StateHash) -> Result<(), Error> {
        let mut shown = vec![0; CRC_BYTES];
        shown.extend_from_slice(&revision.to_le_bytes());
        shown.extend_from_slice(&state.to_le_bytes());
        seal(SHOWN_KEY, &mut shown);
        written(|| {
            let written = self.db.insert(SHOWN_KEY, shown);
            written.map(drop).map_err(failed_to("write the view"))
        })
    }

    /// Puts and deletes keys. One of sled's own batches would delay every reader until it is done.
    fn put<'a>(&self, writes: impl Iterator<Item = Placed<'a>>) -> Result<(), Error> {
        let mut stored = Vec::new();
        let mut places = Vec::with_capacity(writes.size_hint().0);
        for write in writes {
            let start = stored.len();
            if let Some(value) = write.value {
                self.filter.insert(write.key);
                store(&write, value, &mut stored);
            }
            let place = write.value.map(|_| start..stored.len());
            places.push((write.key, place));
        }
        let put = |(key, place): (&'a Bytes, Option<Range<usize>>)| Put {
            key,
            stored: place.map(|place| &stored[place]),
        };
        let mut puts: Vec<Put<'_>> = places.into_iter().map(put).collect();
        puts.sort_by_key(|put| put.key);
        // Of a key's writes, the last one counts.
        puts.dedup_by(|later, put| {
            let is_again = later.key == put.key;
            if is_again {
                *put = *later;
            }
            is_again
        });
        written(|| Blocks(&self.db).put(&puts))
    }

    /// Writes everything to sled's files. The next open checks by itself whether it reached the disk: on Linux, sled's flush never
    /// calls fsync.
    ///
    /// # Errors
    /// If sled fails.
    pub(in crate::store) fn flush(&self) -> Result<(), Error> {
        let flushed = self.db.flush();
        flushed.map(drop).map_err(failed_to("flush the view"))
    }
}

#[cfg(test)]
impl Sled {
    /// Loses a key without noticing.
    pub(in crate::store) fn lose(&self, key: &[u8]) -> Result<(), Error> {
        Blocks(&self.db).put(&[Put { key, stored: None }])
    }

    /// Flips a bit of the block that has a key.
    pub(in crate::store) fn damage(&self, key: &[u8]) {
        Blocks(&self.db).damage(key);
        self.runs.clear();
        self.extracts.clear();
    }
}

/// Tries again while sled's own lock is held. It is not the store's lock: if this process has just closed a sled while one of its
/// writes was running, that write still holds the lock.
fn unlocked(open: impl Fn() -> sled::Result<sled::Db>) -> sled::Result<sled::Db> {
    for _ in 0..LOCK_TRIES_MAX {
        match open() {
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => {
                outside::sleep(LOCK_RETRY);
            }
            opened => return opened,
        }
    }
    open()
}

/// Says what sled has failed to do.
fn failed_to(action: &str) -> impl Fn(sled::Error) -> Error {
    move |error| match error {
        sled::Error::Io(io) if io.kind() == io::ErrorKind::StorageFull => Error::Full {
            action: action.into(),
        },
        sled::Error::Corruption { .. } => Error::Corrupt {
            what: format!("could not {action}: {error}"),
        },
        _ => Error::Io {
            action: action.into(),
            reason: error.to_string(),
        },
    }
}

/// Runs what writes to sled.
fn written(write: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    let written = catch_unwind(AssertUnwindSafe(write));
    // sled itself frees replaced memory too rarely: without this it piles up.
    for _ in 0..COLLECT_ROUNDS {
        sled::pin().flush();
    }
    written.unwrap_or_else(|_| {
        Err(Error::Corrupt {
            what: "sled panicked while writing the view".into(),
        })
    })
}

#[cfg(test)]
mod tests;
