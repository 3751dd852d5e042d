//! The rewriter: one thread that writes the store's file anew whenever its journal has outgrown its records. Commits go on
//! meanwhile.

use std::{
    sync::{
        Arc, PoisonError, Weak,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use super::{
    committer::CommitClock,
    core::{Core, Written},
    file::{FileSink, Place, Stored},
    journal::{self, Target},
    log::{Keep, Log},
    recovery::Home,
};
use crate::store::{Error, view::Sled};

/// How often it is looked for room on the disk while there is nothing else to do.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(2);
/// How much may be left to copy when commits are held up for it.
const REST_BYTES_MAX: u64 = 128 << 10;
/// How often what was committed meanwhile is copied before commits are held up, however much is left.
const CATCH_UPS_MAX: usize = 8;

/// What the rewriter is asked to do.
pub(super) enum Work {
    /// See whether the journal has outgrown the records.
    Look,
    /// Write the file anew now, and say how it went.
    #[cfg(test)]
    Now(tokio::sync::oneshot::Sender<Result<(), Error>>),
    /// Make sled anew in the place of this one, which failed so.
    Heal(Arc<Sled>, Error),
    /// End.
    End,
}

/// The rewriter's own state.
pub(super) struct Rewriter {
    pub(super) core: Weak<Core>,
    pub(super) work: Receiver<Work>,
    /// No file is worth being written anew below this much journal.
    pub(super) floor_bytes: u64,
    /// How much of the journal is kept that the records cover.
    pub(super) keep_bytes: u64,
    pub(super) keep_changes: u64,
    pub(super) keep_age: Duration,
    pub(super) clock: Arc<CommitClock>,
    /// Bytes of journal that were there when it was last tried in vain.
    pub(super) failed_at_bytes: u64,
    /// Whether it must be done, however little there is in the journal.
    pub(super) is_due: bool,
    /// A file that is on its way to the old one's place, and who asked for it.
    pub(super) under_way: Option<(Stage, Asked)>,
}

/// Who hears how it went.
pub(super) type Asked = Option<tokio::sync::oneshot::Sender<Result<(), Error>>>;

impl Rewriter {
    /// Works until it is told to end, or nobody can ask any more.
    pub(super) fn run(mut self) {
        loop {
            let work = self.work.recv_timeout(LOOK_FOR_ROOM);
            let Some(core) = self.core.upgrade() else {
                return;
            };
            match work {
                // Health must show room that somebody made while nobody writes.
                Err(RecvTimeoutError::Timeout) => drop(core.space.look()),
                Ok(Work::End) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(work) => self.do_work(&core, work),
            }
            while self.go_on(&core) {}
        }
    }

    /// Does the next thing that there is to do, and says whether that was anything.
    #[cfg(test)]
    pub(super) fn step(&mut self) -> bool {
        let Some(core) = self.core.upgrade() else {
            return false;
        };
        if self.go_on(&core) {
            return true;
        }
        let work = self.work.try_recv();
        work.map(|work| self.do_work(&core, work)).is_ok()
    }

    fn do_work(&mut self, core: &Core, work: Work) {
        match work {
            Work::Look => {
                let log = core.log();
                let records_bytes = log.trailer.frames_at();
                let limit = self.floor_bytes.max(records_bytes / 2);
                let uncovered_bytes = log.uncovered_bytes();
                if uncovered_bytes.saturating_sub(self.failed_at_bytes) > limit || self.is_due {
                    // Tried again when as much has come again, if it fails now.
                    self.failed_at_bytes = uncovered_bytes;
                    self.is_due = false;
                    self.rewrite(core, None);
                }
            }
            #[cfg(test)]
            Work::Now(answer) => self.rewrite(core, Some(answer)),
            // What fails on the way is in the store's condition.
            Work::Heal(sled, why) => drop(core.heal(sled, &why)),
            Work::End => {}
        }
    }

    /// Writes a file that is to take the old one's place.
    fn rewrite(&mut self, core: &Core, asked: Asked) {
        match self.write(core) {
            Ok(new) => self.under_way = Some((Stage::Written(Box::new(new)), asked)),
            Err(error) => {
                give_up(core);
                tell(asked, Err(error));
            }
        }
    }

    /// Takes the next step in which a new file takes the place of the old one, if there is one, and says whether there was.
    fn go_on(&mut self, core: &Core) -> bool {
        let Some((stage, asked)) = self.under_way.take() else {
            return false;
        };
        match stage.go_on(core) {
            Ok(Some(next)) => self.under_way = Some((next, asked)),
            Ok(None) => {
                self.failed_at_bytes = 0;
                tell(asked, Ok(()));
            }
            Err(error) => tell(asked, Err(error)),
        }
        true
    }

    fn keep(&self) -> Keep {
        let age_ms = u64::try_from(self.keep_age.as_millis()).unwrap_or(u64::MAX);
        Keep {
            bytes: self.keep_bytes,
            changes: self.keep_changes,
            since_ms: self.clock.now_ms().saturating_sub(age_ms),
        }
    }

    /// Writes a file up to what is committed by now, or nearly so.
    fn write(&self, core: &Core) -> Result<New, Error> {
        // A disk that has failed is not to be trusted with the only copy.
        core.check_going()?;
        let old = core.log();
        let mut sink = FileSink::begin(&*core.home.disk, &core.home.paths.new)?;
        let sled = core.view.sled()?;
        let written = core.write(&self.keep(), &mut sink)?;
        sink.file.sync()?;
        // Before it takes the place of the old one it is read back: this also proves that the view holds what was written.
        let stored = core.home.stored(&core.home.paths.new)?;
        let checked = stored.verify();
        if let Err(error @ Error::Corrupt { .. }) = &checked {
            core.heal(sled, error)?;
        }
        checked?;
        let room_bytes = core.home.journal_room_bytes;
        let needed = sink.written + old.end().offset - written.end.offset;
        let room_end = journal::reserve(&*core.home.disk, &mut *sink.file, needed, room_bytes)?;
        let mut new = New {
            sink,
            stored,
            end: written.end,
            written,
            room_end,
        };
        new.catch_up_nearly(&old)?;
        new.sink.file.sync()?;
        Ok(new)
    }
}

/// A file that is to take the place of the store's.
pub(super) struct New {
    sink: FileSink,
    stored: Arc<Stored>,
    written: Written,
    /// Up to where it was copied, in the old file.
    end: Place,
    /// Where its reserved room ends.
    room_end: u64,
}

impl New {
    /// Lets commits go to it as well, once it has what the old one has.
    fn follow(mut self, core: &Core) -> Result<Arc<Log>, Error> {
        self.catch_up_nearly(&core.log())?;
        let gate = core.view.gate.write();
        let _gate = gate.unwrap_or_else(PoisonError::into_inner);
        let mut journal = core.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let old = core.log();
        self.catch_up(&old, old.end())?;
        let New {
            sink,
            stored,
            written,
            room_end,
            ..
        } = self;
        let log = old.copied(&written.copied, &stored, written.trailer);
        let log = Arc::new(log);
        journal.begin_succession(Target {
            file: sink.file,
            log: log.clone(),
            room_end: room_end.max(sink.written),
        });
        Ok(log)
    }

    /// Copies what the old file has, until little is left.
    fn catch_up_nearly(&mut self, old: &Log) -> Result<(), Error> {
        for _ in 0..CATCH_UPS_MAX {
            let end = old.end();
            self.catch_up(old, end)?;
            if old.end().offset - end.offset <= REST_BYTES_MAX {
                break;
            }
        }
        Ok(())
    }

    /// Copies what the old file has up to a place, and reads it back.
    fn catch_up(&mut self, old: &Log, to: Place) -> Result<(), Error> {
        let from = self
            .written
            .copied
            .place_in_copy(self.end, &self.written.trailer);
        old.copy(self.end, to, &mut self.sink)?;
        let mut frames = self.stored.frames_from(from);
        while frames.next()?.is_some() {}
        let is_whole = frames.place().position.is_at(&to.position);
        self.end = to;
        if is_whole {
            Ok(())
        } else {
            Err(Error::Corrupt {
                what: format!("{} does not hold what was copied to it", self.stored.name),
            })
        }
    }
}

/// How far a new file is on its way to the old one's place.
pub(super) enum Stage {
    /// It has what was committed before it was written, or nearly so.
    Written(Box<New>),
    /// It has all that is committed, and commits go to both. So it does not matter which of the two has the name after a power
    /// cut, and nothing has to wait until that is settled.
    Following(Arc<Log>),
    /// It has the name.
    Renamed,
}

impl Stage {
    /// Takes the next step. `None` when there is none left.
    ///
    /// # Errors
    /// What the disk says. The old file is the one in use then, or writing has stopped.
    fn go_on(self, core: &Core) -> Result<Option<Stage>, Error> {
        let Home { disk, paths, .. } = &core.home;
        match self {
            Stage::Written(new) => {
                let following = new.follow(core).inspect_err(|_| give_up(core))?;
                Ok(Some(Stage::Following(following)))
            }
            Stage::Following(log) => {
                let durable = make_durable(core, &log);
                let renamed = durable.and_then(|()| {
                    let renamed = disk.rename(&paths.new, &paths.file);
                    if let Err(error) = &renamed
                        && !matches!(error, Error::Full { .. })
                    {
                        // Nobody knows which of the two has the name now.
                        core.stop(error);
                    }
                    renamed
                });
                renamed.inspect_err(|_| give_up(core))?;
                Ok(Some(Stage::Renamed))
            }
            Stage::Renamed => {
                // Nor which will have it after a power cut.
                disk.sync_names().inspect_err(|error| core.stop(error))?;
                end_succession(core);
                Ok(None)
            }
        }
    }
}

/// Makes all that a new file has durable, and says in it whose it is.
fn make_durable(core: &Core, log: &Log) -> Result<(), Error> {
    let mut file = core.home.disk.open(&core.home.paths.new)?;
    file.sync()?;
    log.status(true).write(&mut *file)?;
    file.sync()?;
    // A commit whose sync failed before these may have dropped what was copied, so that they said nothing of it. Whoever has the
    // journal knows.
    let _journal = core.journal.lock().unwrap_or_else(PoisonError::into_inner);
    core.check_going()
}

/// Goes on in the new file alone.
fn end_succession(core: &Core) {
    let gate = core.view.gate.write();
    let _gate = gate.unwrap_or_else(PoisonError::into_inner);
    let mut journal = core.journal.lock().unwrap_or_else(PoisonError::into_inner);
    let log = journal.end_succession();
    // Who reads in the old one goes on to the new one, and never finds neither.
    core.log().is_replaced_by(log.clone());
    core.current.replace(log.clone());
    core.meters.rewrites.inc();
    tracing::info!(
        revision = log.trailer.exact.0,
        bytes = log.trailer.frames_at(),
        "wrote the file anew"
    );
}

/// Goes on in the old file alone.
fn give_up(core: &Core) {
    let mut journal = core.journal.lock().unwrap_or_else(PoisonError::into_inner);
    journal.give_up_succession();
    // The first error is the one to tell; the next try and the next opening remove it as well.
    let _ = core.home.disk.remove(&core.home.paths.new);
}

/// Says how it went.
fn tell(asked: Asked, went: Result<(), Error>) {
    if let Err(error) = &went
        && *error != Error::Closed
    {
        tracing::warn!(%error, "the file could not be written anew: its journal keeps growing");
    }
    if let Some(asked) = asked {
        // Nobody listens when the caller has gone.
        let _ = asked.send(went);
    }
}
