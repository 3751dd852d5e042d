//! What happens when a store is opened: checkpoint and journal are the truth, and the view is brought to where they end, or made
//! anew from them.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use uuid::Uuid;

use super::{
    checkpoint::Checkpoint,
    checkpointer,
    disk::Disk,
    home::{self, VIEW_DIR},
    journal::{self, Journal},
    space,
};
use crate::store::{
    Error, OpenError,
    batch::Entry,
    change::{Group, Position},
    state_hash::StateHash,
    tally::Tally,
    view::Sled,
};

/// How often a rebuild tells how far it is, in records or revisions.
const PROGRESS: u64 = 100_000;
/// Records that go into the view at once while it is made.
const LOAD_BATCH: usize = 1000;

/// Where a store's parts are.
#[derive(Clone)]
pub(super) struct Home {
    pub(super) disk: Arc<dyn Disk>,
    /// The directory of the store.
    pub(super) root: PathBuf,
    pub(super) cache_bytes: u64,
    pub(super) segment_bytes: u64,
    /// Set when what is being opened or made is not needed any more.
    pub(super) closing: Arc<AtomicBool>,
}

/// A store's parts, agreeing with each other.
pub(super) struct Parts {
    pub(super) id: Uuid,
    pub(super) sled: Sled,
    pub(super) journal: Journal,
    /// The size of the last checkpoint, 0 without one.
    pub(super) checkpoint_bytes: u64,
    /// Bytes of the journal behind it.
    pub(super) uncovered_bytes: u64,
    pub(super) tally: Tally,
    /// Whether a checkpoint must be made at once, since the last one is damaged or the journal's state hash is wrong.
    pub(super) checkpoint_is_due: bool,
}

/// A view that was made anew.
pub(super) struct Built {
    pub(super) sled: Sled,
    /// Which of the views that are there it is.
    pub(super) generation: u64,
    pub(super) tally: Tally,
    pub(super) made: Made,
}

/// How a view that was made anew compares with the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// It comes to the state that the journal says.
    AsWritten,
    /// It comes to this state, each time: the journal's own sum is wrong, not its changes.
    Corrected(StateHash),
}

impl Home {
    /// Makes a new store.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn create(&self) -> Result<Parts, OpenError> {
        if home::restore_was_begun(&*self.disk)? {
            return Err(OpenError::Foreign {
                reason: "a restore into it was not finished: run `icebox restore` again".into(),
            });
        }
        if Journal::holds_changes(&*self.disk)? || checkpointer::newest(&*self.disk)?.is_some() {
            return Err(home::format_is_missing().into());
        }
        let id = Uuid::new_v4();
        let journal = Journal::create(
            self.disk.clone(),
            id,
            Position::default(),
            self.segment_bytes,
        )?;
        self.disk.remove(Path::new(VIEW_DIR))?;
        home::write_format(&*self.disk, id)?;
        let view = self.open_view(1)?;
        Ok(Parts {
            id,
            sled: view,
            journal,
            checkpoint_bytes: 0,
            uncovered_bytes: 0,
            tally: Tally::default(),
            checkpoint_is_due: false,
        })
    }

    /// Opens the store of that id, which has been at revision `reached` for sure.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming what is lost; [`Error::Closed`] if it is not needed any more; what the disk says.
    pub(super) fn open(&self, id: Uuid, reached: u64) -> Result<Parts, Error> {
        let disk = &*self.disk;
        space::clear(disk)?;
        let view = self.claimed_view();
        let checkpoint = checkpointer::newest(disk);
        let base = self.base(id, &checkpoint, view.is_ok())?;
        let shown = view.as_ref().map_or(0, |(_, shown, _)| *shown);
        let mut state_at_shown = (shown == base.revision).then_some(base.state);
        let mut uncovered_bytes = 0;
        let mut journal = Journal::open(
            self.disk.clone(),
            id,
            base,
            self.segment_bytes,
            &mut |frame, bytes| {
                uncovered_bytes += bytes as u64;
                if frame.last_revision() == shown {
                    state_at_shown = Some(frame.state());
                }
            },
        )?;
        if let Ok(Some(checkpoint)) = &checkpoint {
            journal.advance_time_to(checkpoint.last_time_ms()?);
        }
        let end = journal.end();
        home::check_reached(reached.max(shown), end.revision)?;
        let followed = view.and_then(|(view, shown, claimed)| {
            if state_at_shown != Some(claimed) {
                return Err(distrust("it is of another time than the journal"));
            }
            self.follow(&view, id, shown, end)?;
            // It is trusted only once it has proved itself: sled opens a damaged file without a word, and the machine may
            // have lost any part of it.
            let (state, tally) = view.state(&self.closing)?;
            if state != end.state {
                return Err(distrust("it has lost what was written"));
            }
            Ok((view, tally))
        });
        let mut checkpoint_is_due = checkpoint.is_err();
        let (view, tally, generation) = match (followed, checkpoint) {
            (Ok((view, tally)), _) => (view, tally, self.generations()?.first().copied()),
            (Err(Error::Closed), _) => return Err(Error::Closed),
            (Err(_), Err(damage)) => return Err(damage),
            (Err(reason), Ok(_)) => {
                tracing::warn!(%reason, "making the view anew");
                let built = self.build_or_make_room(id, end)?;
                if let Made::Corrected(state) = built.made {
                    journal.correct_state(state);
                    checkpoint_is_due = true;
                }
                (built.sled, built.tally, Some(built.generation))
            }
        };
        // Another may have been in the making when the process ended.
        self.discard_views_but(generation)?;
        home::write_reached(disk, end.revision)?;
        let newest = checkpointer::newest(disk).ok().flatten();
        Ok(Parts {
            id,
            sled: view,
            journal,
            checkpoint_bytes: newest.map_or(0, |checkpoint| checkpoint.summary().bytes),
            uncovered_bytes,
            tally,
            checkpoint_is_due,
        })
    }

    /// Where the journal goes on from: the checkpoint, or the store's beginning.
    fn base(
        &self,
        id: Uuid,
        checkpoint: &Result<Option<Checkpoint>, Error>,
        has_view: bool,
    ) -> Result<Position, Error> {
        match checkpoint {
            Ok(Some(checkpoint)) if checkpoint.summary().store == id => {
                Ok(checkpoint.summary().end)
            }
            Ok(Some(_)) => Err(Error::Corrupt {
                what: "the checkpoint is another store's".into(),
            }),
            Ok(None) => Ok(Position::default()),
            // The view is a copy as good as the checkpoint was, if it agrees with the journal.
            Err(damage) if has_view => {
                tracing::warn!(%damage, "making another checkpoint from the view");
                journal::start(&*self.disk, id)
            }
            Err(damage) => Err(damage.clone()),
        }
    }

    fn open_view(&self, generation: u64) -> Result<Sled, Error> {
        Sled::open(&self.root.join(view_path(generation)), self.cache_bytes)
    }

    /// The views that are there, oldest first. There are two only while another is made, or if the process ended meanwhile.
    fn generations(&self) -> Result<Vec<u64>, Error> {
        let names = self.disk.list(Path::new(VIEW_DIR))?.into_iter();
        let mut generations: Vec<u64> = names.filter_map(|name| name.parse().ok()).collect();
        generations.sort_unstable();
        Ok(generations)
    }

    /// The view as it lies there, with the revision and state that it claims.
    ///
    /// The error says why it must be made anew.
    fn claimed_view(&self) -> Result<(Sled, u64, StateHash), Error> {
        let Some(oldest) = self.generations()?.first().copied() else {
            return Err(distrust("it is missing"));
        };
        let view = self.open_view(oldest)?;
        let (shown, claimed) = view.shown()?;
        Ok((view, shown, claimed))
    }

    /// Brings a view that shows `shown` to the journal's end.
    pub(super) fn follow(
        &self,
        view: &Sled,
        id: Uuid,
        shown: u64,
        end: Position,
    ) -> Result<(), Error> {
        journal::read(&*self.disk, id, shown, end.revision, &mut |frame, _| {
            self.apply(view, frame)
        })
    }

    /// Makes a view from the checkpoint and the journal up to `end`, beside the one that is there. That one goes with
    /// [`Home::discard_views_but`] once it is not needed any more.
    ///
    /// # Errors
    /// [`Error::Full`] if there is no room for both; [`Error::Closed`]; [`Error::Corrupt`] if the checkpoint or the journal is
    /// damaged. Nothing is left behind then.
    pub(super) fn build(&self, id: Uuid, end: Position) -> Result<Built, Error> {
        let first = self.generations()?.last().map_or(1, |last| last + 1);
        let built = self.build_compared(id, end, first);
        if built.is_err() {
            for generation in [first, first + 1] {
                // The first error is the one to tell; the next open removes it as well.
                let _ = self.disk.remove(&view_path(generation));
            }
        }
        built
    }

    fn build_compared(&self, id: Uuid, end: Position, generation: u64) -> Result<Built, Error> {
        let (view, state, tally) = self.build_once(id, end, generation)?;
        if state == end.state {
            return Ok(Built {
                sled: view,
                generation,
                tally,
                made: Made::AsWritten,
            });
        }
        // Each frame has proved whole. Either sled has lost something on the way, which would not happen twice, or the
        // sums in the journal were made from a damaged view.
        let generation = generation + 1;
        let (view, again, tally) = self.build_once(id, end, generation)?;
        if again != state {
            return Err(distrust("what sled was given is not what it holds"));
        }
        tracing::error!(
            revision = end.revision,
            "the journal's changes are whole, but not the sums beside them: correcting these"
        );
        Ok(Built {
            sled: view,
            generation,
            tally,
            made: Made::Corrected(state),
        })
    }

    fn build_or_make_room(&self, id: Uuid, end: Position) -> Result<Built, Error> {
        match self.build(id, end) {
            Err(Error::Full { .. }) => {
                tracing::warn!(
                    "there is no room for two views: removing the one that failed first"
                );
                self.discard_views_but(None)?;
                self.build(id, end)
            }
            other => other,
        }
    }

    /// Makes a view from the checkpoint and the journal up to `end`, and says what it comes to and holds. Changes nothing but
    /// that view.
    ///
    /// # Errors
    /// As of [`Home::build`].
    pub(super) fn build_once(
        &self,
        id: Uuid,
        end: Position,
        generation: u64,
    ) -> Result<(Sled, StateHash, Tally), Error> {
        let checkpoint = checkpointer::newest(&*self.disk)?;
        let view = self.open_view(generation)?;
        let mut base = 0;
        if let Some(checkpoint) = &checkpoint {
            checkpoint.verify()?;
            self.load(&view, checkpoint)?;
            let Position {
                revision, state, ..
            } = checkpoint.summary().end;
            view.shows(revision, state)?;
            base = revision;
        }
        self.follow(&view, id, base, end)?;
        let (state, tally) = view.state(&self.closing)?;
        view.shows(end.revision, state)?;
        Ok((view, state, tally))
    }

    /// Makes a view of all that can still be read of the checkpoint and the journal, whatever is damaged around it. Says at
    /// which revision it ends, and what is missing.
    ///
    /// # Errors
    /// What sled or the disk says.
    pub(super) fn salvage(
        &self,
        id: Uuid,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<(Sled, u64, Vec<String>), Error> {
        let view = self.open_view(1)?;
        let mut last = 0;
        if let Some(checkpoint) = checkpoint {
            self.load(&view, checkpoint)?;
            last = checkpoint.summary().end.revision;
        }
        let missing = journal::salvage(&*self.disk, id, last, &mut |frame| {
            last = frame.last_revision();
            self.apply(&view, frame)
        })?;
        Ok((view, last, missing))
    }

    /// Removes every view but this one: another can be made from the checkpoint and the journal.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn discard_views_but(&self, kept: Option<u64>) -> Result<(), Error> {
        for generation in self.generations()? {
            if Some(generation) != kept {
                self.disk.remove(&view_path(generation))?;
            }
        }
        Ok(())
    }

    fn load(&self, view: &Sled, checkpoint: &Checkpoint) -> Result<(), Error> {
        let all = checkpoint.summary().records;
        let mut loaded = 0;
        let mut batch: Vec<Entry> = Vec::with_capacity(LOAD_BATCH);
        checkpoint.records(&mut |entry| {
            batch.push(entry);
            loaded += 1;
            if batch.len() == LOAD_BATCH {
                self.go_on()?;
                view.load(&batch)?;
                batch.clear();
            }
            if loaded % PROGRESS == 0 {
                tracing::info!(
                    records = loaded,
                    of = all,
                    "loading the checkpoint into the view"
                );
            }
            Ok(())
        })?;
        view.load(&batch)?;
        checkpoint.frames(&mut |frame| self.apply(view, frame))
    }

    fn apply(&self, view: &Sled, frame: &Group) -> Result<(), Error> {
        self.go_on()?;
        view.apply(&frame.changes)?;
        if frame.last_revision() / PROGRESS > (frame.first_revision - 1) / PROGRESS {
            tracing::info!(
                revision = frame.last_revision(),
                "bringing the view up to the journal"
            );
        }
        Ok(())
    }

    /// # Errors
    /// [`Error::Closed`] if what is being made is not needed any more.
    fn go_on(&self) -> Result<(), Error> {
        if self.closing.load(Ordering::Relaxed) {
            Err(Error::Closed)
        } else {
            Ok(())
        }
    }
}

fn view_path(generation: u64) -> PathBuf {
    Path::new(VIEW_DIR).join(generation.to_string())
}

fn distrust(reason: &str) -> Error {
    Error::Corrupt {
        what: format!("the view cannot be trusted: {reason}"),
    }
}
