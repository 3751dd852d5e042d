//! Opening a store: making its parts, checking them against each other, and making the view anew if it cannot be trusted.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    disk::{Disk, DiskFile},
    file::{self, FileSink, Header, Stored, Writer},
    home::{self, Paths},
    journal::Journal,
    log::Log,
    space,
    values::Current,
    views::{self, Views},
};
use crate::store::{
    Error, OpenError,
    batch::Entry,
    change::{Change, Group, Position, Stands, Write},
    outside,
    state_hash::StateHash,
    tally::Tally,
    view::{Known, Sled},
};

/// How often a rebuild logs its progress, in records or revisions.
const PROGRESS: u64 = 100_000;
/// How many records are put into the view at a time while it is made.
const LOAD_BATCH: usize = 250;

/// Where the parts of a store are.
#[derive(Clone)]
pub(super) struct Home {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) paths: Paths,
    pub(super) views: Arc<Views>,
    /// How much room is reserved for the journal at a time.
    pub(super) journal_room_bytes: u64,
    /// Set when the store that is being opened or made is no longer needed.
    pub(super) closing: Arc<AtomicBool>,
}

/// The parts of a store, which agree with each other.
pub(super) struct Parts {
    pub(super) sled: Sled,
    pub(super) journal: Journal,
    pub(super) current: Arc<Current>,
    pub(super) tally: Tally,
    /// Whether the file must be written anew at once, because the journal's state hash is wrong.
    pub(super) rewrite_is_due: bool,
}

/// A view that was made from the file.
pub(super) struct Built {
    pub(super) sled: Sled,
    /// Its number among the views.
    pub(super) number: u64,
    pub(super) tally: Tally,
    pub(super) made: Made,
}

/// How a new view compares with the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// Its state is the one that the journal says.
    AsWritten,
    /// Its state is this one each time it is made: the journal's hash is wrong, not its changes.
    Corrected(StateHash),
}

/// Makes a new, empty store in a file to which nothing has been written. Returns its header.
///
/// # Errors
/// [`OpenError::Foreign`] if a restore into it was not finished; [`Error::Corrupt`] if its view exists, so that it was a store
/// before; errors of the disk.
pub(super) fn create(
    disk: &dyn Disk,
    paths: &Paths,
    view_dir: &Path,
) -> Result<(Box<dyn DiskFile>, Uuid), OpenError> {
    let restoring = paths.restoring.display().to_string();
    if disk.list()?.contains(&restoring) {
        return Err(OpenError::Foreign {
            reason: format!(
                "a restore into it was not finished: run `icebox restore` again, or remove {restoring}"
            ),
        });
    }
    if views::are_in(view_dir)? {
        return Err(Error::Corrupt {
            what: format!(
                "{} is missing or empty, though its view is there: restore a snapshot, or remove {} to begin anew",
                paths.full().display(),
                view_dir.display()
            ),
        }
        .into());
    }
    let header = Header {
        store: Uuid::new_v4(),
        time_ms: outside::now_ms(),
    };
    let mut sink = FileSink::begin(disk, &paths.new)?;
    let writer = Writer::begin(&mut sink, header)?;
    writer.end_of_records((Position::default(), 0), 0, (0, StateHash::default()))?;
    sink.file.sync()?;
    disk.rename(&paths.new, &paths.file)?;
    disk.sync_names()?;
    Ok((sink.file, header.store))
}

impl Home {
    /// Opens the store in its file, which this process has claimed.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with what is lost; [`Error::Closed`] if it is no longer needed; errors of the disk.
    pub(super) fn open(&self, file: Box<dyn DiskFile>) -> Result<Parts, Error> {
        let disk = &*self.disk;
        space::clear(disk, &self.paths)?;
        disk.remove(&self.paths.new)?;
        // An earlier process may have ended before the file's name was durable.
        disk.sync_names()?;
        let stored = self.stored(&self.paths.file)?;
        let oldest = self.views.numbers()?.first().copied();
        // Reading both takes most of a start. Each reads with two threads, but not all of the time.
        let read_view = || self.claimed_view(oldest).and_then(|view| self.summed(view));
        let (view, log) = outside::both(read_view, || Log::open(&stored));
        let (log, checked) = log?;
        let shown = view.as_ref().map_or(0, |view| view.shown);
        let end = checked.end.position;
        home::check_reached(stored.status.reached.max(shown), end.revision)?;
        let log = Arc::new(log);
        let current = Arc::new(Current::new(log.clone()));
        let room_bytes = self.journal_room_bytes;
        let mut journal = Journal::open(self.disk.clone(), file, log, &checked, room_bytes)?;
        journal.say(true)?;
        let followed = view.and_then(|view| {
            let proved = self.proved(view, &current, end)?;
            proved.map_err(distrust)
        });
        let mut rewrite_is_due = false;
        let (sled, tally, number) = match followed {
            Ok((view, tally)) => (view, tally, oldest),
            Err(Error::Closed) => return Err(Error::Closed),
            Err(reason) => {
                if oldest.is_some() {
                    tracing::warn!(%reason, "making the view anew");
                } else if end.revision > 0 {
                    tracing::info!("there is no view: making one");
                }
                let built = self.build_or_make_room(&current, end)?;
                if let Made::Corrected(state) = built.made {
                    journal.correct_state(state);
                    rewrite_is_due = true;
                }
                (built.sled, built.tally, Some(built.number))
            }
        };
        // Another view may have been half made when an earlier process ended.
        self.views.discard_all_but(number)?;
        Ok(Parts {
            sled,
            journal,
            current,
            tally,
            rewrite_is_due,
        })
    }

    /// A file of this store, opened for reading.
    ///
    /// # Errors
    /// [`Error::Corrupt`]; errors of the disk.
    pub(super) fn stored(&self, path: &Path) -> Result<Arc<Stored>, Error> {
        let stored = Stored::open(&*self.disk, path).map_err(|error| match error {
            OpenError::Store(error) => error,
            other => Error::Corrupt {
                what: other.to_string(),
            },
        });
        stored.map(Arc::new)
    }

    /// The view as it lies on the disk, with the revision and state that it claims to show.
    ///
    /// The error tells why the view must be made anew.
    fn claimed_view(&self, number: Option<u64>) -> Result<(Sled, u64, StateHash), Error> {
        let number = number.ok_or_else(|| distrust("it is missing"))?;
        let view = self.views.open(number)?;
        let (shown, claimed) = view.shown()?;
        Ok((view, shown, claimed))
    }

    /// Makes a view from the current file up to `end`, beside the existing one. [`Views::discard_all_but`] removes that one when it
    /// is no longer needed.
    ///
    /// # Errors
    /// [`Error::Full`] if there is no room for both; [`Error::Closed`]; [`Error::Corrupt`] if the file is damaged. In these cases
    /// nothing is left behind.
    pub(super) fn build(&self, current: &Arc<Current>, end: Position) -> Result<Built, Error> {
        let first = self.views.numbers()?.last().map_or(1, |last| last + 1);
        let built = self.build_compared(current, end, first);
        if built.is_err() {
            for number in [first, first + 1] {
                // The first error is the one to report. The next opening removes the rest, too.
                let _ = self.views.remove(number);
            }
        }
        built
    }

    fn build_compared(
        &self,
        current: &Arc<Current>,
        end: Position,
        number: u64,
    ) -> Result<Built, Error> {
        let (sled, state, tally) = self.build_once(current, end, number)?;
        if state == end.state {
            return Ok(Built {
                sled,
                number,
                tally,
                made: Made::AsWritten,
            });
        }
        // Each frame is whole. So either sled has lost something on the way, which would not happen twice, or the hashes in the
        // journal were made from a damaged view.
        let number = number + 1;
        let (sled, again, tally) = self.build_once(current, end, number)?;
        if again != state {
            return Err(distrust("what sled was given is not what it holds"));
        }
        tracing::error!(
            revision = end.revision,
            "the journal's changes are whole, but not the sums beside them: correcting these"
        );
        Ok(Built {
            sled,
            number,
            tally,
            made: Made::Corrected(state),
        })
    }

    fn build_or_make_room(&self, current: &Arc<Current>, end: Position) -> Result<Built, Error> {
        match self.build(current, end) {
            Err(Error::Full { .. }) => {
                tracing::warn!(
                    "there is no room for two views: removing the one that failed first"
                );
                self.views.discard_all_but(None)?;
                self.build(current, end)
            }
            other => other,
        }
    }

    /// Makes a view from the file up to `end`. Returns its state, and what it holds. Changes nothing else.
    ///
    /// # Errors
    /// The same as for [`Home::build`].
    pub(super) fn build_once(
        &self,
        current: &Arc<Current>,
        end: Position,
        number: u64,
    ) -> Result<(Sled, StateHash, Tally), Error> {
        let view = self.views.open(number)?.reading(current.clone());
        let log = current.log();
        let mut load = Load::new(self, &view, Stands::Records);
        log.stored.records(&mut |entry| load.add(entry))?;
        load.end()?;
        self.follow(&view, &log, log.trailer.fed, end.revision)?;
        let (state, tally) = view.state(&self.closing)?;
        view.shows(end.revision, state)?;
        Ok((view, state, tally))
    }

    /// Makes a view from everything in the file that can still be read, however damaged it is. Returns the revision at which it
    /// ends, and what is missing.
    ///
    /// # Errors
    /// Errors of sled or the disk.
    pub(super) fn salvage(
        &self,
        stored: &Stored,
        number: u64,
    ) -> Result<(Sled, u64, Vec<String>), Error> {
        let view = self.views.open(number)?;
        // Values beside damage are not read from the file, so that they are put into the view.
        let mut load = Load::new(self, &view, Stands::Nowhere);
        let mut missing = Vec::new();
        let (mut last, mut behind) = (0, 0);
        let mut records = 0;
        let read = stored.for_each_record(u64::MAX, &mut |record| {
            last = last.max(record.entry.revision);
            records += 1;
            behind = record.end;
            load.add(record.entry)
        });
        load.end()?;
        let whole = match (read, &stored.trailer) {
            (Ok(()), Ok(trailer)) if trailer.records == records => Some(trailer.fed),
            (Ok(()), Err(_)) => None,
            (Ok(()) | Err(Error::Corrupt { .. }), _) => {
                missing.push(format!(
                    "what comes behind the first {records} records is lost"
                ));
                None
            }
            (Err(error), _) => return Err(error),
        };
        missing.extend(file::salvage(stored, behind, whole, &mut |frame| {
            last = frame.last_revision();
            self.apply(&view, frame, None)
        })?);
        Ok((view, last, missing))
    }

    /// Reads a view through. It is trusted only because of what this finds: sled opens damaged files without an error, and the
    /// machine may have lost any part of them. `shown` and `claimed` are the revision and the state that it claims to show.
    ///
    /// # Errors
    /// [`Error::Closed`]; [`Error::Corrupt`] if the view is damaged; errors of sled.
    pub(super) fn summed(
        &self,
        (sled, shown, claimed): (Sled, u64, StateHash),
    ) -> Result<Summed, Error> {
        let (state, tally) = sled.state(&self.closing)?;
        Ok(Summed {
            sled,
            shown,
            claimed,
            state,
            tally,
        })
    }

    /// Brings a view to the end of the journal. Returns what it holds, or why it cannot be trusted.
    ///
    /// # Errors
    /// [`Error::Closed`]; [`Error::Corrupt`] if the view is damaged; errors of sled or the disk.
    pub(super) fn proved(
        &self,
        mut view: Summed,
        current: &Arc<Current>,
        end: Position,
    ) -> Result<Result<(Sled, Tally), &'static str>, Error> {
        let log = current.log();
        if log.state_at(view.shown)? != Some(view.claimed) {
            return Ok(Err("it is of another time than the journal"));
        }
        log.read(view.shown, end.revision, &mut |frame, at| {
            view.count(frame)?;
            self.apply(&view.sled, frame, Some(at))
        })?;
        Ok(if view.state == end.state {
            Ok((view.sled.reading(current.clone()), view.tally))
        } else {
            Err("it has lost what was written")
        })
    }

    /// Brings a view from the revision `shown` to a later one.
    fn follow(&self, view: &Sled, log: &Log, shown: u64, until: u64) -> Result<(), Error> {
        log.read(shown, until, &mut |frame, at| {
            self.apply(view, frame, Some(at))
        })
    }

    fn apply(&self, view: &Sled, frame: &Group, at: Option<u64>) -> Result<(), Error> {
        self.go_on()?;
        view.apply(&frame.placed(at), frame.last_revision(), frame.state())?;
        if frame.last_revision() / PROGRESS > (frame.first_revision - 1) / PROGRESS {
            tracing::info!(
                revision = frame.last_revision(),
                "bringing the view up to the journal"
            );
        }
        Ok(())
    }

    /// # Errors
    /// [`Error::Closed`] if what is being made is no longer needed.
    fn go_on(&self) -> Result<(), Error> {
        if self.closing.load(Ordering::Relaxed) {
            Err(Error::Closed)
        } else {
            Ok(())
        }
    }
}

/// A view that was read through, and what it holds.
pub(super) struct Summed {
    sled: Sled,
    /// The revision that it claims to show. A crash may have left later writes in it.
    pub(super) shown: u64,
    /// The state that it claims to have at that revision.
    claimed: StateHash,
    /// The state that it has.
    state: StateHash,
    tally: Tally,
}

impl Summed {
    /// Counts what a frame will change, before it is applied.
    fn count(&mut self, frame: &Group) -> Result<(), Error> {
        let mut written: BTreeMap<&Bytes, Option<Known>> = BTreeMap::new();
        for Change {
            revision, writes, ..
        } in &frame.changes
        {
            for Write { key, value } in writes {
                let new = value.as_ref().map(|value| Known::of(key, value, *revision));
                let old = match written.insert(key, new) {
                    Some(old) => old,
                    None => self.sled.known(key)?,
                };
                let hash = |known: Option<Known>| known.map(|known| known.hash);
                let len = |known: Option<Known>| known.map(|known| known.len);
                self.state = self.state.changed(hash(old), hash(new));
                self.tally.change(key, len(old), len(new));
            }
        }
        Ok(())
    }
}

/// Puts records into a view.
struct Load<'a> {
    home: &'a Home,
    view: &'a Sled,
    /// Where the records' values can be read later.
    stands: Stands,
    batch: Vec<Entry>,
    loaded: u64,
}

impl<'a> Load<'a> {
    fn new(home: &'a Home, view: &'a Sled, stands: Stands) -> Self {
        Load {
            home,
            view,
            stands,
            batch: Vec::with_capacity(LOAD_BATCH),
            loaded: 0,
        }
    }

    fn add(&mut self, entry: Entry) -> Result<(), Error> {
        self.batch.push(entry);
        self.loaded += 1;
        if self.loaded.is_multiple_of(PROGRESS) {
            tracing::info!(records = self.loaded, "loading the records into the view");
        }
        if self.batch.len() == LOAD_BATCH {
            self.home.go_on()?;
            self.end()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Error> {
        self.view.load(&self.batch, self.stands)?;
        self.batch.clear();
        Ok(())
    }
}

fn distrust(reason: &str) -> Error {
    Error::Corrupt {
        what: format!("the view cannot be trusted: {reason}"),
    }
}
