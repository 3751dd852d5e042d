//! What happens when a store is opened: checkpoint and journal are the truth, and the view is brought to where they end, or made
//! anew from them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use uuid::Uuid;

use super::{
    Error,
    batch::Entry,
    checkpoint::Checkpoint,
    checkpointer,
    disk::Disk,
    frame::{Frame, Position},
    home::{self, VIEW_DIR, ViewState},
    journal::{self, Journal},
    state_hash::StateHash,
    view::View,
};

/// How often a rebuild tells how far it is, in records or revisions.
const PROGRESS: u64 = 100_000;
/// Records that go into the view at once while it is made.
const LOAD_BATCH: usize = 1000;

/// Where a store's parts are, while they are put together.
pub(super) struct Home {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) view_dir: PathBuf,
    pub(super) cache_bytes: u64,
    pub(super) segment_bytes: u64,
}

/// A store's parts, agreeing with each other.
pub(super) struct Parts {
    pub(super) id: Uuid,
    pub(super) view: View,
    pub(super) journal: Journal,
    /// The size of the last checkpoint, 0 without one.
    pub(super) checkpoint_bytes: u64,
    /// Bytes of the journal behind it.
    pub(super) uncovered_bytes: u64,
    /// Whether a checkpoint must be made at once, since the last one is damaged.
    pub(super) checkpoint_is_due: bool,
}

impl Home {
    /// Makes a new store.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn create(&self) -> Result<Parts, Error> {
        if home::restore_was_begun(&*self.disk)? {
            return Err(Error::Foreign {
                reason: "a restore into it was not finished: run `icebox restore` again".into(),
            });
        }
        if Journal::holds_changes(&*self.disk)? || checkpointer::newest(&*self.disk)?.is_some() {
            return Err(Error::Corrupt {
                what: "FORMAT is missing, so the journal beside it cannot be checked: restore that file"
                    .into(),
            });
        }
        let id = Uuid::new_v4();
        let journal = Journal::create(
            self.disk.clone(),
            id,
            Position::default(),
            self.segment_bytes,
        )?;
        self.disk.remove(Path::new(VIEW_DIR))?;
        home::write_view_open(&*self.disk, 0)?;
        home::write_format(&*self.disk, id)?;
        let view = View::open(&self.view_dir, self.cache_bytes)?;
        Ok(Parts {
            id,
            view,
            journal,
            checkpoint_bytes: 0,
            uncovered_bytes: 0,
            checkpoint_is_due: false,
        })
    }

    /// Opens the store of that id.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming what is lost; what the disk says.
    pub(super) fn open(&self, id: Uuid) -> Result<Parts, Error> {
        let disk = &*self.disk;
        let (state, reached) = home::read_view_state(disk)?;
        // What was closed is so no longer once sled opens it. What is in doubt stays in doubt until it has proved itself.
        if state == ViewState::Closed {
            home::write_view_open(disk, reached)?;
        }
        let view = self.usable_view(state, reached);
        let checkpoint = checkpointer::newest(disk);
        let base = match (&checkpoint, &view) {
            (Ok(Some(checkpoint)), _) if checkpoint.summary().store == id => {
                checkpoint.summary().end
            }
            (Ok(Some(_)), _) => {
                return Err(Error::Corrupt {
                    what: "the checkpoint is another store's".into(),
                });
            }
            (Ok(None), _) => Position::default(),
            // The view is a copy as good as the checkpoint was, if it agrees with the journal.
            (Err(damage), Ok(_)) => {
                tracing::warn!(%damage, "making another checkpoint from the view");
                journal::start(disk, id)?
            }
            (Err(damage), Err(_)) => return Err(damage.clone()),
        };
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
        let end = journal.end();
        if let Ok(Some(checkpoint)) = &checkpoint {
            journal.advance_time_to(checkpoint.last_time_ms()?);
        }
        // A store says how far it has come when it is closed or opened, even where the view is gone.
        let reached = reached.max(shown);
        if reached > end.revision {
            return Err(Error::Corrupt {
                what: format!(
                    "the journal ends at revision {}, but the store has been at revision {reached}: the \
                     changes between them are lost from the journal",
                    end.revision
                ),
            });
        }
        let followed = view.and_then(|(view, _, claimed)| {
            check_view(&view, state, claimed, state_at_shown)?;
            self.follow(&view, id, shown, end)?;
            Ok(view)
        });
        let (view, checkpoint_is_due) = match (followed, checkpoint) {
            (Ok(view), checkpoint) => (view, checkpoint.is_err()),
            (Err(_), Err(damage)) => return Err(damage),
            (Err(reason), Ok(checkpoint)) => {
                tracing::warn!(%reason, "making the view anew");
                (self.rebuild(id, checkpoint.as_ref(), base, end)?, false)
            }
        };
        home::remove_view_set_aside(disk)?;
        home::write_view_open(disk, end.revision)?;
        let checkpoint_bytes = checkpointer::newest(disk)
            .ok()
            .flatten()
            .map_or(0, |c| c.summary().bytes);
        Ok(Parts {
            id,
            view,
            journal,
            checkpoint_bytes,
            uncovered_bytes,
            checkpoint_is_due,
        })
    }

    /// The view as it lies there with the revision and state that it claims, if it can only be whole or behind.
    ///
    /// The error says why it must be made anew.
    fn usable_view(&self, state: ViewState, reached: u64) -> Result<(View, u64, StateHash), Error> {
        let names = self.disk.list(Path::new(""))?;
        if !names.iter().any(|name| name == VIEW_DIR) {
            return Err(distrust("the view is missing"));
        }
        if state == ViewState::Distrusted {
            return Err(distrust("the view was seen not to hold what was written"));
        }
        let view = View::open(&self.view_dir, self.cache_bytes)?;
        let (shown, claimed) = view.shown()?;
        if state == ViewState::Closed && shown != reached {
            return Err(distrust("the view is not as it was closed"));
        }
        Ok((view, shown, claimed))
    }

    /// Brings a view that shows `shown` to the journal's end.
    fn follow(&self, view: &View, id: Uuid, shown: u64, end: Position) -> Result<(), Error> {
        journal::read(&*self.disk, id, shown, end.revision, &mut |frame, _| {
            apply(view, frame)
        })
    }

    /// Makes the view anew from the checkpoint, which ends at `base`, and the journal.
    fn rebuild(
        &self,
        id: Uuid,
        checkpoint: Option<&Checkpoint>,
        base: Position,
        end: Position,
    ) -> Result<View, Error> {
        if let Some(checkpoint) = checkpoint {
            checkpoint.verify()?;
        }
        home::set_view_aside(&*self.disk)?;
        let view = View::open(&self.view_dir, self.cache_bytes)?;
        if let Some(checkpoint) = checkpoint {
            load(&view, checkpoint)?;
            view.made(base.revision, base.state)?;
        }
        self.follow(&view, id, base.revision, end)?;
        Ok(view)
    }
}

fn distrust(reason: &str) -> Error {
    Error::Corrupt {
        what: reason.into(),
    }
}

/// Whether a view holds what it claims, and the journal says so too.
fn check_view(
    view: &View,
    state: ViewState,
    claimed: StateHash,
    in_journal: Option<StateHash>,
) -> Result<(), Error> {
    if in_journal != Some(claimed) {
        return Err(distrust("the view is of another time than the journal"));
    }
    // A crash of the machine may have left any part of it out.
    if state == ViewState::Unknown && view.state()? != claimed {
        return Err(distrust(
            "the machine went down, and the view has lost what was written",
        ));
    }
    Ok(())
}

fn load(view: &View, checkpoint: &Checkpoint) -> Result<(), Error> {
    let all = checkpoint.summary().records;
    let mut loaded = 0;
    let mut batch: Vec<Entry> = Vec::with_capacity(LOAD_BATCH);
    checkpoint.records(&mut |entry| {
        batch.push(entry);
        loaded += 1;
        if batch.len() == LOAD_BATCH {
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
    checkpoint.frames(&mut |frame| apply(view, frame))
}

fn apply(view: &View, frame: &Frame) -> Result<(), Error> {
    view.apply(&frame.changes)?;
    if frame.last_revision() / PROGRESS > (frame.first_revision - 1) / PROGRESS {
        tracing::info!(
            revision = frame.last_revision(),
            "bringing the view up to the journal"
        );
    }
    Ok(())
}
