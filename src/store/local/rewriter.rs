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

/// How often to check the room on the disk while there is nothing else to do.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(2);
/// The most bytes that may be left to copy when commits have to wait for it.
const REST_BYTES_MAX: u64 = 128 << 10;
/// How often new commits are copied before commits have to wait, however much is left.
const CATCH_UPS_MAX: usize = 8;

/// A request to the rewriter.
pub(super) enum Work {
    /// Check whether the journal has outgrown the records.
    Look,
    /// Write the file anew now, and report the result.
    #[cfg(test)]
    Now(tokio::sync::oneshot::Sender<Result<(), Error>>),
    /// Make sled anew, because this one has failed with this error.
    Heal(Arc<Sled>, Error),
    /// End.
    End,
}

/// The state of the rewriter.
pub(super) struct Rewriter {
    pub(super) core: Weak<Core>,
    pub(super) work: Receiver<Work>,
    /// With less journal than this, no file is written anew.
    pub(super) floor_bytes: u64,
    /// How much journal to keep that the records cover.
    pub(super) keep_bytes: u64,
    pub(super) keep_changes: u64,
    pub(super) keep_age: Duration,
    pub(super) clock: Arc<CommitClock>,
    /// The bytes of journal at the last try that failed.
    pub(super) failed_at_bytes: u64,
    /// Whether the file must be written anew, however small the journal is.
    pub(super) is_due: bool,
    /// A file that is about to replace the old one, and who asked for it.
    pub(super) under_way: Option<(Stage, Asked)>,
    /// The files that were replaced, until nobody reads them any more. Whoever closes such a file last frees its room, which takes
    /// seconds for some GB on some disks. This thread has the time.
    pub(super) replaced: Vec<Target>,
}

/// Who is told the result.
pub(super) type Asked = Option<tokio::sync::oneshot::Sender<Result<(), Error>>>;

impl Rewriter {
    /// Works until it is told to end, or nobody can send requests any more.
    pub(super) fn run(mut self) {
        loop {
            let work = self.work.recv_timeout(LOOK_FOR_ROOM);
            let Some(core) = self.core.upgrade() else {
                return;
            };
            match work {
                // If somebody frees room while nobody writes, health must show it.
                Err(RecvTimeoutError::Timeout) => drop(core.space.look()),
                Ok(Work::End) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(work) => self.do_work(&core, work),
            }
            while self.go_on(&core) {}
        }
    }

    /// Does the next thing that there is to do. Returns whether there was any.
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
                    // If this fails, it is tried again after the journal has grown by as much.
                    self.failed_at_bytes = uncovered_bytes;
                    self.is_due = false;
                    self.rewrite(core, None);
                }
            }
            #[cfg(test)]
            Work::Now(answer) => self.rewrite(core, Some(answer)),
            // If this fails, the store's condition tells.
            Work::Heal(sled, why) => drop(core.heal(sled, &why)),
            Work::End => {}
        }
    }

    /// Writes a file that will replace the old one.
    fn rewrite(&mut self, core: &Core, asked: Asked) {
        match self.write(core) {
            Ok(new) => self.under_way = Some((Stage::Written(Box::new(new)), asked)),
            Err(error) => {
                give_up(core);
                tell(asked, Err(error));
            }
        }
    }

    /// Takes the next step in replacing the old file, if there is one. Returns whether there was.
    fn go_on(&mut self, core: &Core) -> bool {
        self.replaced.retain(Target::is_read);
        let Some((stage, asked)) = self.under_way.take() else {
            return false;
        };
        match stage.go_on(core) {
            Ok(Next::Stage(next)) => self.under_way = Some((next, asked)),
            Ok(Next::Replaced(old)) => {
                self.failed_at_bytes = 0;
                self.replaced.push(old);
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

    /// Writes a file with everything that is committed by now, except for the last part.
    fn write(&self, core: &Core) -> Result<New, Error> {
        // The only copy must not be trusted to a disk that has failed.
        core.check_going()?;
        let old = core.log();
        let mut sink = FileSink::begin(&*core.home.disk, &core.home.paths.new)?;
        let sled = core.view.sled()?;
        let written = core.write(&self.keep(), &mut sink)?;
        sink.file.sync()?;
        // The file is read back before it replaces the old one. This also proves that the view holds what was written.
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

/// A file that will replace the store's file.
pub(super) struct New {
    sink: FileSink,
    stored: Arc<Stored>,
    written: Written,
    /// The place in the old file up to which it was copied.
    end: Place,
    /// Where its reserved room ends.
    room_end: u64,
}

impl New {
    /// Copies the rest of the old file, and from then on lets commits go to both.
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
        let room_end = room_end.max(sink.written);
        journal.begin_succession(Target::new(sink.file, log.clone(), room_end));
        Ok(log)
    }

    /// Copies from the old file until little is left.
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

    /// Copies from the old file up to a place, and reads the copy back.
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

/// How far the replacement has come.
pub(super) enum Stage {
    /// The new file has what was committed before it was written, except for the last part.
    Written(Box<New>),
    /// The new file has everything that is committed, and commits go to both files. So it does not matter which of them has the
    /// name after a power cut, and nobody has to wait until that is certain.
    Following(Arc<Log>),
    /// The new file has the name.
    Renamed,
}

/// What follows a stage.
enum Next {
    Stage(Stage),
    /// This file was replaced.
    Replaced(Target),
}

impl Stage {
    /// Takes the next step.
    ///
    /// # Errors
    /// Errors of the disk. Then the old file stays in use, or writing has stopped.
    fn go_on(self, core: &Core) -> Result<Next, Error> {
        let Home { disk, paths, .. } = &core.home;
        match self {
            Stage::Written(new) => {
                let following = new.follow(core).inspect_err(|_| give_up(core))?;
                Ok(Next::Stage(Stage::Following(following)))
            }
            Stage::Following(log) => {
                let durable = make_durable(core, &log);
                let renamed = durable.and_then(|()| {
                    let renamed = disk.rename(&paths.new, &paths.file);
                    if let Err(error) = &renamed
                        && !matches!(error, Error::Full { .. })
                    {
                        // It is not known which of the two has the name now.
                        core.stop(error);
                    }
                    renamed
                });
                renamed.inspect_err(|_| give_up(core))?;
                Ok(Next::Stage(Stage::Renamed))
            }
            Stage::Renamed => {
                // It is not known which of the two will have the name after a power cut.
                disk.sync_names().inspect_err(|error| core.stop(error))?;
                Ok(Next::Replaced(end_succession(core)))
            }
        }
    }
}

/// Makes everything in a new file durable, and writes into it which process has it.
fn make_durable(core: &Core, log: &Log) -> Result<(), Error> {
    let mut file = core.home.disk.open(&core.home.paths.new)?;
    file.sync()?;
    log.status(true).write(&mut *file)?;
    file.sync()?;
    // If the sync of an earlier commit failed, it may have dropped what was copied, so that these syncs did not report it. The
    // journal's lock shows whether that has happened.
    let _journal = core.journal.lock().unwrap_or_else(PoisonError::into_inner);
    core.check_going()
}

/// Continues in the new file alone. Returns the old one.
fn end_succession(core: &Core) -> Target {
    let gate = core.view.gate.write();
    let _gate = gate.unwrap_or_else(PoisonError::into_inner);
    let mut journal = core.journal.lock().unwrap_or_else(PoisonError::into_inner);
    let (log, old) = journal.end_succession();
    // Readers in the old file continue in the new one. They always find one of them.
    core.log().is_replaced_by(log.clone());
    core.current.replace(log.clone());
    core.meters.rewrites.inc();
    tracing::info!(
        revision = log.trailer.exact.0,
        bytes = log.trailer.frames_at(),
        "wrote the file anew"
    );
    old
}

/// Continues in the old file alone.
fn give_up(core: &Core) {
    // Commits must not wait until the file's room is free.
    let successor = {
        let mut journal = core.journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.give_up_succession()
    };
    drop(successor);
    // The first error is the one to report. The next try, or the next opening, removes the file, too.
    let _ = core.home.disk.remove(&core.home.paths.new);
}

/// Reports the result.
fn tell(asked: Asked, went: Result<(), Error>) {
    if let Err(error) = &went
        && *error != Error::Closed
    {
        tracing::warn!(%error, "the file could not be written anew: its journal keeps growing");
    }
    if let Some(asked) = asked {
        // Sending fails if the caller has gone.
        let _ = asked.send(went);
    }
}
