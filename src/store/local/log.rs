//! The frames of the file that is written to, as they are read meanwhile.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use bytes::Bytes;
use uuid::Uuid;

use super::file::{Checked, Frames, Place, Sink, Status, Stored, Trailer, check};
use crate::store::{
    Error,
    change::{Group, Position},
    outside,
    state_hash::StateHash,
};

/// How far apart the places are at least that are kept in memory: what is read to find a revision.
const PLACES_BYTES: u64 = 256 << 10;
/// What is read or copied at once.
const CHUNK_BYTES: usize = 1 << 20;
/// What is read at once where one frame is wanted.
const FRAME_CHUNK_BYTES: usize = 4 << 10;

/// The frames of a file. Another file, and with it another log, takes its place when it is written anew.
pub(super) struct Log {
    pub(super) stored: Arc<Stored>,
    pub(super) trailer: Trailer,
    places: Mutex<Places>,
    /// The one that has taken its place.
    next: OnceLock<Arc<Log>>,
}

/// How much of what the records cover is kept for those who follow changes, and for the audit: all of these count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    /// At the most so many bytes.
    pub(super) bytes: u64,
    /// At the most so many changes.
    pub(super) changes: u64,
    /// Nothing that was committed before, milliseconds since the Unix epoch.
    pub(super) since_ms: u64,
}

impl Keep {
    pub(super) const NOTHING: Keep = Keep {
        bytes: 0,
        changes: 0,
        since_ms: 0,
    };
}

/// What is copied to another file.
#[derive(Clone, Copy)]
pub(super) struct Copied {
    pub(super) start: Place,
    /// Where what belongs on top of the records starts.
    fed: Place,
}

impl Copied {
    /// Where a place of the old file is in one that was copied to.
    pub(super) fn place_in_copy(&self, place: Place, trailer: &Trailer) -> Place {
        Place {
            position: place.position,
            offset: place.offset - self.start.offset + trailer.frames_at(),
        }
    }
}

/// Some places between two frames, so that none is far from one that is known.
#[derive(Clone)]
struct Places {
    /// In order; the first is where the frames start.
    some: Vec<Place>,
    /// Where what is on top of the records starts.
    fed: Place,
    /// Behind the last durable frame.
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
    /// Checks the frames of a file, and shows `visit` each place behind one; checks its records as well.
    ///
    /// # Errors
    /// As of [`check`] and of [`Stored::blocks`].
    pub(super) fn open(
        stored: &Arc<Stored>,
        visit: &mut dyn FnMut(&Position),
    ) -> Result<(Log, Checked), Error> {
        let trailer = stored.trailer.clone()?;
        let mut places: Option<Places> = None;
        let check_frames = || {
            check(stored, &mut |place| {
                visit(&place.position);
                match &mut places {
                    Some(places) => places.add(*place, trailer.fed),
                    None => places = Some(Places::starting_at(*place)),
                }
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

    /// Behind the last durable frame.
    pub(super) fn end(&self) -> Place {
        self.places().end
    }

    /// Says that there is another durable frame, which ends there.
    pub(super) fn add(&self, end: Place) {
        self.places().add(end, self.trailer.fed);
    }

    /// Says what the store really holds at the end, where the frames themselves say otherwise.
    pub(super) fn correct_state(&self, state: StateHash) {
        self.places().end.position.state = state;
    }

    /// What its file says of the store.
    pub(super) fn status(&self, is_open: bool) -> Status {
        Status {
            owner: if is_open { std::process::id() } else { 0 },
            reached: self.end().position.revision,
            trailer_at: self.trailer.at,
        }
    }

    /// What of the frames no records cover.
    pub(super) fn uncovered_bytes(&self) -> u64 {
        let places = self.places();
        places.end.offset - places.fed.offset
    }

    /// What the frames take.
    pub(super) fn bytes(&self) -> u64 {
        self.end().offset - self.trailer.frames_at()
    }

    /// The oldest revision of which there is a frame, or will be.
    pub(super) fn oldest(&self) -> u64 {
        self.trailer.start.revision + 1
    }

    /// A known place before the frame with a revision, and not far from it.
    fn place_before(&self, revision: u64) -> Place {
        let places = self.places();
        let behind = places
            .some
            .partition_point(|place| place.position.revision < revision);
        places.some[behind.saturating_sub(1)]
    }

    /// The place behind a revision, which must be the last of its frame.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is not there.
    fn place_behind(&self, revision: u64) -> Result<Place, Error> {
        let mut frames = self.frames(self.place_before(revision + 1), FRAME_CHUNK_BYTES);
        while frames.place().position.revision < revision && frames.next()?.is_some() {}
        if frames.place().position.revision == revision {
            Ok(frames.place())
        } else {
            Err(self.missing(revision + 1))
        }
    }

    /// What to copy to another file whose records are of revision `fed`: all behind that, and about as much before it as is to be
    /// kept.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if `fed` is not there; what the disk says.
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

    /// The first of these places behind which nothing was committed before a time.
    fn first_since(&self, places: &[Place], since_ms: u64) -> Result<Option<Place>, Error> {
        let (mut first, mut end) = (0, places.len());
        // Commit times never go back.
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

    /// Hands every durable frame that ends after revision `after` and not after `until` to `visit`, with where in the journal it
    /// begins, while others are being appended. Both must be places between two frames.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if one of them is damaged or missing; what `visit` refuses with.
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

    /// Hands the bytes between two places to `sink`.
    ///
    /// # Errors
    /// What the disk says; what `sink` refuses with.
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

    /// Hands the bytes from a place in this log on to `sink`, up to a place in the one that has taken its place by now.
    ///
    /// # Errors
    /// As of [`Log::copy`].
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

    /// The one that has taken the place of this one, if what stands at a place of the journal was written since.
    pub(super) fn next_before(&self, at: u64) -> Option<Arc<Log>> {
        let next = self.next.get()?;
        let end = self.trailer.in_journal(self.end().offset);
        (at >= end).then(|| next.clone())
    }

    /// Says that another log takes the place of this one.
    pub(super) fn is_replaced_by(&self, next: Arc<Log>) {
        let is_first = self.next.set(next).is_ok();
        assert!(is_first, "it was the one that is written to");
    }

    /// The log of a file to which all was copied that belongs there, and which gets the name of this one's.
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

/// Reads the groups of a store one after the other, while others are being appended and the file is written anew.
pub(super) struct Follower {
    /// The revision of the last change that was read.
    after: u64,
    /// Where it is, and in which log: it keeps none, since that would keep a file that was replaced.
    place: Option<(Weak<Log>, Place)>,
}

/// What a [`Follower`] comes to next.
pub(super) enum Next {
    Group(Group),
    /// What comes next is gone.
    Compacted {
        oldest: u64,
    },
}

impl Follower {
    pub(super) fn new(after: u64) -> Self {
        Follower { after, place: None }
    }

    /// The group that holds what comes next, which is durable. Holds that one in memory, and nothing else.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is damaged or missing; what the disk says.
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
