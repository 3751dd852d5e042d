//! The frames of the file that is written to, for those who read them meanwhile.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use bytes::Bytes;
use uuid::Uuid;

use super::file::{Checked, Frames, Place, Sink, Status, Stored, Trailer, check};
use crate::store::{Error, change::Group, outside, state_hash::StateHash};

/// The least distance between two places in memory. This much is read to find a revision.
const PLACES_BYTES: u64 = 256 << 10;
/// How much is read or copied at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// How much is read at a time to find a single frame.
const FRAME_CHUNK_BYTES: usize = 4 << 10;

/// The frames of a file. When the file is written anew, the log of the new file replaces this one.
pub(super) struct Log {
    pub(super) stored: Arc<Stored>,
    pub(super) trailer: Trailer,
    places: Mutex<Places>,
    /// The log that has replaced this one.
    next: OnceLock<Arc<Log>>,
}

/// How much of the frames to keep that the records already cover, for those who follow changes and for the audit. All three limits
/// hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    /// At most this many bytes.
    pub(super) bytes: u64,
    /// At most this many changes.
    pub(super) changes: u64,
    /// Nothing that was committed before this time, in milliseconds since the Unix epoch.
    pub(super) since_ms: u64,
}

impl Keep {
    pub(super) const NOTHING: Keep = Keep {
        bytes: 0,
        changes: 0,
        since_ms: 0,
    };
}

/// The frames that are copied to another file.
#[derive(Clone, Copy)]
pub(super) struct Copied {
    pub(super) start: Place,
    /// The place behind which the frames belong on top of the records.
    fed: Place,
}

impl Copied {
    /// The place in the copy that matches a place in the old file.
    pub(super) fn place_in_copy(&self, place: Place, trailer: &Trailer) -> Place {
        Place {
            position: place.position,
            offset: place.offset - self.start.offset + trailer.frames_at(),
        }
    }
}

/// Some places between frames, so that every frame is near one of them.
#[derive(Clone)]
struct Places {
    /// The places in order. The first one is where the frames start.
    some: Vec<Place>,
    /// The place behind which the frames are on top of the records.
    fed: Place,
    /// The place behind the last durable frame.
    end: Place,
}

impl Places {
    fn starting_at(start: Place) -> Self {
        Places {
            some: vec![start],
            fed: start,
            end: start,
        }
    }

    fn add(&mut self, place: Place, fed: u64) {
        if place.position.revision <= fed {
            self.fed = place;
        }
        let last = self.some.last().expect("there is the first");
        if place.offset >= last.offset + PLACES_BYTES {
            self.some.push(place);
        }
        self.end = place;
    }
}

impl Log {
    /// Checks the frames of a file, and its records.
    ///
    /// # Errors
    /// The same as for [`check`] and [`Stored::blocks`].
    pub(super) fn open(stored: &Arc<Stored>) -> Result<(Log, Checked), Error> {
        let trailer = stored.trailer.clone()?;
        let mut places: Option<Places> = None;
        let check_frames = || {
            check(stored, &mut |place| match &mut places {
                Some(places) => places.add(*place, trailer.fed),
                None => places = Some(Places::starting_at(*place)),
            })
        };
        let (blocks, checked) = outside::both(|| stored.blocks().map(drop), check_frames);
        blocks?;
        let checked = checked?;
        let places = places.expect("the first place is shown");
        let log = Log {
            stored: stored.clone(),
            trailer,
            places: Mutex::new(places),
            next: OnceLock::new(),
        };
        Ok((log, checked))
    }

    pub(super) fn store(&self) -> Uuid {
        self.stored.store()
    }

    /// The place behind the last durable frame.
    pub(super) fn end(&self) -> Place {
        self.places().end
    }

    /// Adds a durable frame that ends at this place.
    pub(super) fn add(&self, end: Place) {
        self.places().add(end, self.trailer.fed);
    }

    /// Corrects the state hash at the end, if the frames' own is wrong.
    pub(super) fn correct_state(&self, state: StateHash) {
        self.places().end.position.state = state;
    }

    /// The status to write into the file.
    pub(super) fn status(&self, is_open: bool) -> Status {
        Status {
            owner: if is_open { std::process::id() } else { 0 },
            reached: self.end().position.revision,
            trailer_at: self.trailer.at,
        }
    }

    /// The bytes of frames that the records do not cover.
    pub(super) fn uncovered_bytes(&self) -> u64 {
        let places = self.places();
        places.end.offset - places.fed.offset
    }

    /// The bytes of all frames.
    pub(super) fn bytes(&self) -> u64 {
        self.end().offset - self.trailer.frames_at()
    }

    /// The oldest revision that has a frame, or will have one.
    pub(super) fn oldest(&self) -> u64 {
        self.trailer.start.revision + 1
    }

    /// A known place shortly before the frame with a revision.
    fn place_before(&self, revision: u64) -> Place {
        let places = self.places();
        let behind = places
            .some
            .partition_point(|place| place.position.revision < revision);
        places.some[behind.saturating_sub(1)]
    }

    /// The place behind a revision, which must be the last one of its frame.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is missing.
    fn place_behind(&self, revision: u64) -> Result<Place, Error> {
        let place = self.place_at(revision)?;
        place.ok_or_else(|| self.missing(revision + 1))
    }

    /// The place behind a revision, or `None` if no frame ends there.
    fn place_at(&self, revision: u64) -> Result<Option<Place>, Error> {
        let mut frames = self.frames(self.place_before(revision + 1), FRAME_CHUNK_BYTES);
        while frames.place().position.revision < revision && frames.next()?.is_some() {}
        let place = frames.place();
        Ok((place.position.revision == revision).then_some(place))
    }

    /// The state hash at a revision, or `None` if no frame ends there.
    ///
    /// # Errors
    /// Errors of the disk.
    pub(super) fn state_at(&self, revision: u64) -> Result<Option<StateHash>, Error> {
        let (exact_at, state) = self.trailer.exact;
        // The frame's own hash may have been made from a damaged view; this one was proved.
        if revision == exact_at {
            return Ok(Some(state));
        }
        let place = self.place_at(revision)?;
        Ok(place.map(|place| place.position.state))
    }

    /// The frames to copy to another file whose records are of the revision `fed`: all behind that, and before it about as much as
    /// should be kept.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if `fed` is missing; errors of the disk.
    pub(super) fn to_copy(&self, fed: u64, keep: &Keep) -> Result<Copied, Error> {
        let fed = self.place_behind(fed)?;
        let from_offset = fed.offset.saturating_sub(keep.bytes);
        let from_revision = fed.position.revision.saturating_sub(keep.changes);
        let mut before: Vec<Place> = self.places().some.clone();
        before.retain(|place| {
            let is_near = place.offset >= from_offset && place.position.revision >= from_revision;
            is_near && place.offset < fed.offset
        });
        let start = self.first_since(&before, keep.since_ms)?;
        Ok(Copied {
            start: start.unwrap_or(fed),
            fed,
        })
    }

    /// The first of these places behind which everything was committed at or after a time.
    fn first_since(&self, places: &[Place], since_ms: u64) -> Result<Option<Place>, Error> {
        let (mut first, mut end) = (0, places.len());
        // Commit times never go back, so that this is a binary search.
        while first < end && since_ms > 0 {
            let middle = first.midpoint(end);
            let next = self.frames(places[middle], FRAME_CHUNK_BYTES).next()?;
            if next.is_some_and(|found| found.group.time_ms >= since_ms) {
                end = middle;
            } else {
                first = middle + 1;
            }
        }
        Ok(places.get(first).copied())
    }

    /// Calls `visit` with every durable frame that ends after the revision `after` and not after `until`, and with where in the
    /// journal it begins. Frames may be appended meanwhile. Both revisions must be places between two frames.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a frame is damaged or missing; any error that `visit` returns.
    pub(super) fn read(
        &self,
        after: u64,
        until: u64,
        visit: &mut dyn FnMut(&Group, u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if after < self.trailer.start.revision {
            return Err(self.missing(after + 1));
        }
        let mut frames = self.frames(self.place_before(after + 1), CHUNK_BYTES);
        while frames.place().position.revision < until {
            let Place { position, offset } = frames.place();
            let next = position.revision + 1;
            let found = frames.next()?.ok_or_else(|| self.missing(next))?;
            if found.group.first_revision > after {
                visit(&found.group, self.trailer.in_journal(offset))?;
            }
        }
        Ok(())
    }

    /// Copies the bytes between two places to `sink`.
    ///
    /// # Errors
    /// Errors of the disk; any error of `sink`.
    pub(super) fn copy(&self, from: Place, to: Place, sink: &mut dyn Sink) -> Result<(), Error> {
        let mut at = from.offset;
        while at < to.offset {
            let left = usize::try_from(to.offset - at).unwrap_or(usize::MAX);
            let mut chunk = vec![0; left.min(CHUNK_BYTES)];
            let read = self.stored.file.read_at(at, &mut chunk)?;
            if read == 0 {
                return Err(self.missing(to.position.revision));
            }
            chunk.truncate(read);
            sink.put(Bytes::from(chunk))?;
            at += read as u64;
        }
        Ok(())
    }

    /// Copies the bytes from a place in this log to `sink`, up to a place in the log that has replaced it by now.
    ///
    /// # Errors
    /// The same as for [`Log::copy`].
    pub(super) fn copy_through(
        self: &Arc<Self>,
        mut from: Place,
        (last, to): (&Arc<Log>, Place),
        sink: &mut dyn Sink,
    ) -> Result<(), Error> {
        let mut log = self;
        while let Some(next) = log.next.get().filter(|_| !Arc::ptr_eq(log, last)) {
            let end = log.end();
            log.copy(from, end, sink)?;
            from = next.place_behind(end.position.revision)?;
            log = next;
        }
        log.copy(from, to, sink)
    }

    /// The log that has replaced this one, if a place in the journal was written since then.
    pub(super) fn next_before(&self, at: u64) -> Option<Arc<Log>> {
        let next = self.next.get()?;
        let end = self.trailer.in_journal(self.end().offset);
        (at >= end).then(|| next.clone())
    }

    /// Whether anybody but the caller reads the file. Once another log has replaced this one, and nobody does, nobody will again.
    pub(super) fn is_read(self: &Arc<Self>) -> bool {
        let Stored { file, .. } = &*self.stored;
        Arc::strong_count(self) > 1
            || Arc::strong_count(&self.stored) > 1
            || Arc::strong_count(file) > 1
    }

    /// Notes that another log replaces this one.
    pub(super) fn is_replaced_by(&self, next: Arc<Log>) {
        let is_first = self.next.set(next).is_ok();
        assert!(is_first, "it was the one that is written to");
    }

    /// The log of a file to which the frames were copied, and which takes over the name of this log's file.
    pub(super) fn copied(&self, copied: &Copied, stored: &Stored, trailer: Trailer) -> Log {
        let start = trailer.start_place();
        let moved = |place: Place| copied.place_in_copy(place, &trailer);
        let old = self.places();
        let some = old.some.iter().copied();
        let some = some.filter(|place| place.offset > copied.start.offset);
        let places = Places {
            some: std::iter::once(start).chain(some.map(moved)).collect(),
            fed: moved(copied.fed),
            end: moved(old.end),
        };
        drop(old);
        Log {
            stored: Arc::new(stored.named(&self.stored.name)),
            trailer,
            places: Mutex::new(places),
            next: OnceLock::new(),
        }
    }

    fn frames(&self, place: Place, chunk_bytes: usize) -> Frames {
        Frames::new(self.stored.file.clone(), self.store(), place, chunk_bytes)
    }

    fn missing(&self, revision: u64) -> Error {
        let end = self.end().position.revision;
        Error::Corrupt {
            what: format!(
                "the journal does not hold revision {revision}, though it has reached revision {end}"
            ),
        }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the groups of a store one after the other, while others are appended and the file is written anew.
pub(super) struct Follower {
    /// The revision of the last change that was read.
    after: u64,
    /// Where it is, and in which log. It does not keep the log alive, because that would keep a file that was replaced.
    place: Option<(Weak<Log>, Place)>,
}

/// What a [`Follower`] finds next.
pub(super) enum Next {
    Group(Group),
    /// The next changes are no longer kept.
    Compacted {
        oldest: u64,
    },
}

impl Follower {
    pub(super) fn new(after: u64) -> Self {
        Follower { after, place: None }
    }

    /// The durable group with the next changes. It is the only one in memory.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is damaged or missing; errors of the disk.
    pub(super) fn next(&mut self, log: &Arc<Log>) -> Result<Next, Error> {
        let next = self.after + 1;
        if next < log.oldest() {
            return Ok(Next::Compacted {
                oldest: log.oldest(),
            });
        }
        let place = match self.place.take() {
            Some((known, place)) if known.ptr_eq(&Arc::downgrade(log)) => place,
            _ => log.place_before(next),
        };
        let mut frames = log.frames(place, FRAME_CHUNK_BYTES);
        loop {
            let found = frames.next()?.ok_or_else(|| log.missing(next))?;
            if found.group.last_revision() >= next {
                self.after = found.group.last_revision();
                self.place = Some((Arc::downgrade(log), frames.place()));
                return Ok(Next::Group(found.group));
            }
        }
    }
}
