//! The rewriter: one thread that writes the store's file anew whenever its journal has outgrown its records. Commits go on
//! meanwhile, but for the moment in which the new file takes the old one's place.

use std::{
    sync::{
        Arc, PoisonError, Weak,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use super::{
    core::{Core, Written},
    disk::DiskFile,
    file::{FileSink, Place, Stored},
    journal,
    log::Log,
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
    /// Bytes of journal that were there when it was last tried in vain.
    pub(super) failed_at_bytes: u64,
    /// Whether it must be done, however little there is in the journal.
    pub(super) is_due: bool,
}

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
        }
    }

    /// Does what it is asked to do, and says whether that was anything.
    #[cfg(test)]
    pub(super) fn step(&mut self) -> bool {
        let (Some(core), Ok(work)) = (self.core.upgrade(), self.work.try_recv()) else {
            return false;
        };
        self.do_work(&core, work);
        true
    }

    fn do_work(&mut self, core: &Core, work: Work) {
        match work {
            Work::Look => {
                let log = core.log();
                let records_bytes = log.trailer.frames_at();
                let limit = self.floor_bytes.max(records_bytes / 2);
                let uncovered_bytes = log.uncovered_bytes();
                if uncovered_bytes - self.failed_at_bytes.min(uncovered_bytes) > limit
                    || self.is_due
                {
                    // Tried again when as much has come again, if it fails now.
                    self.failed_at_bytes = uncovered_bytes;
                    self.is_due = false;
                    if let Err(error) = self.rewrite(core)
                        && error != Error::Closed
                    {
                        tracing::warn!(%error, "the file could not be written anew: its journal keeps growing");
                    }
                }
            }
            #[cfg(test)]
            Work::Now(answer) => {
                // Nobody listens when the caller has gone.
                let _ = answer.send(self.rewrite(core));
            }
            // What fails on the way is in the store's condition.
            Work::Heal(sled, why) => drop(core.heal(sled, &why)),
            Work::End => {}
        }
    }

    fn rewrite(&mut self, core: &Core) -> Result<(), Error> {
        // A disk that has failed is not to be trusted with the only copy.
        if let Some(stopped) = &core.condition.borrow().stopped {
            return Err(Error::Stopped {
                reason: stopped.reason(),
            });
        }
        let disk = &*core.home.disk;
        let new = &core.home.paths.new;
        let old = core.log();
        let sink = FileSink::begin(disk, new)?;
        let written = self.write(core, &old, sink);
        let replaced = written.and_then(|new| replace(core, &old, new));
        let log = replaced.inspect_err(|_| {
            // The first error is the one to tell; the next try and the next opening remove it as well.
            let _ = disk.remove(new);
        })?;
        self.failed_at_bytes = 0;
        tracing::info!(
            revision = log.trailer.exact.0,
            bytes = log.trailer.frames_at(),
            "wrote the file anew"
        );
        Ok(())
    }

    /// Writes a file up to what is committed by now, or nearly so.
    fn write(&self, core: &Core, old: &Arc<Log>, mut sink: FileSink) -> Result<New, Error> {
        let sled = core.view.sled()?;
        let written = core.write(old, self.keep_bytes, &mut sink)?;
        sink.file.sync()?;
        // Before it takes the place of the old one it is read back: this also proves that the view holds what was written.
        let stored = core.home.stored(&core.home.paths.new)?;
        let checked = stored.verify();
        if let Err(error @ Error::Corrupt { .. }) = &checked {
            core.heal(sled, error)?;
        }
        checked?;
        let mut new = New {
            sink,
            stored,
            end: written.end,
            written,
            room_end: 0,
        };
        for _ in 0..CATCH_UPS_MAX {
            let rest = old.end();
            new.catch_up(old, rest)?;
            if old.end().offset - rest.offset <= REST_BYTES_MAX {
                break;
            }
        }
        let room_bytes = core.home.journal_room_bytes;
        let New { sink, room_end, .. } = &mut new;
        let needed = sink.written + REST_BYTES_MAX;
        *room_end = journal::reserve(&*core.home.disk, &mut *sink.file, needed, room_bytes)?;
        sink.file.sync()?;
        Ok(new)
    }
}

/// A file that is to take the place of the store's.
struct New {
    sink: FileSink,
    stored: Stored,
    written: Written,
    /// Up to where it was copied, in the old file.
    end: Place,
    /// Where its reserved room ends.
    room_end: u64,
}

impl New {
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

/// Puts the new file in the place of the old one, while commits wait.
fn replace(core: &Core, old: &Arc<Log>, mut new: New) -> Result<Arc<Log>, Error> {
    let gate = core.view.gate.write();
    let _gate = gate.unwrap_or_else(PoisonError::into_inner);
    let mut journal = core.journal.lock().unwrap_or_else(PoisonError::into_inner);
    new.catch_up(old, old.end())?;
    let New {
        sink,
        stored,
        written,
        room_end,
        ..
    } = new;
    let log = old.copied(
        &written.copied,
        stored.file,
        written.header,
        written.trailer,
    );
    let log = Arc::new(log);
    let mut file: Box<dyn DiskFile> = sink.file;
    log.status(true).write(&mut *file)?;
    file.sync()?;
    let Home { disk, paths, .. } = &core.home;
    let renamed = disk.rename(&paths.new, &paths.file);
    if matches!(renamed, Err(Error::Full { .. })) {
        return renamed.map(|()| log);
    }
    renamed
        .and_then(|()| disk.sync_names())
        .inspect_err(|error| {
            // Nobody knows which of the two has the name now, or will have it after a power cut.
            core.stop(error);
        })?;
    old.is_replaced_by(log.clone());
    *core.log.lock().unwrap_or_else(PoisonError::into_inner) = log.clone();
    journal.go_on_in(file, log.clone(), room_end.max(sink.written));
    Ok(log)
}
