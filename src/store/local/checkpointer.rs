//! The checkpointer: one thread that makes a checkpoint whenever the journal has outgrown the last one, and then lets go of
//! what it covers. Commits go on meanwhile.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use bytes::Bytes;

use super::{
    checkpoint::{Checkpoint, Sink, Summary},
    core::Core,
    disk::{Disk, DiskFile},
    home, journal,
};
use crate::store::{Error, view::Sled};

/// How often it is looked for room on the disk while there is nothing else to do.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(2);
const DIR: &str = "checkpoint";
const SUFFIX: &str = ".checkpoint";
/// Where a checkpoint is until it is whole.
const TEMPORARY: &str = "checkpoint/new.tmp";
/// How much is written between two syncs: a single one of a gigabyte would hold up the journal's.
const SYNC_BYTES: u64 = 16 << 20;

/// What the checkpointer is asked to do.
pub(super) enum Work {
    /// See whether the journal has outgrown the last checkpoint: it has had so many bytes appended since it was opened.
    Look { appended_bytes: u64 },
    /// Make a checkpoint now, and say how it went.
    #[cfg(test)]
    Now(tokio::sync::oneshot::Sender<Result<(), Error>>),
    /// Make sled anew in the place of this one, which failed so.
    Heal(Arc<Sled>, Error),
    /// End.
    End,
}

/// The checkpointer's own state.
pub(super) struct Checkpointer {
    pub(super) core: Weak<Core>,
    pub(super) work: Receiver<Work>,
    /// No checkpoint is worth its while below this much journal.
    pub(super) floor_bytes: u64,
    /// How many of the journal's segments are kept that the checkpoint covers.
    pub(super) keep_segments: usize,
    /// The size of the last checkpoint.
    pub(super) last_bytes: u64,
    /// Bytes of the journal that it did not cover when the store was opened.
    pub(super) uncovered_bytes: u64,
    /// Bytes that were appended since, and that a later one covers.
    pub(super) covered_bytes: u64,
    /// Whether one must be made, however little there is in the journal.
    pub(super) is_due: bool,
}

impl Checkpointer {
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
            Work::Look { appended_bytes } => {
                let uncovered_bytes = self.uncovered_bytes + appended_bytes - self.covered_bytes;
                let worthwhile = uncovered_bytes > self.floor_bytes.max(self.last_bytes / 2);
                if worthwhile || self.is_due {
                    // Tried again when as much has come again, if it fails now.
                    self.covered_bytes = appended_bytes;
                    self.uncovered_bytes = 0;
                    self.is_due = false;
                    if let Err(error) = self.checkpoint(core)
                        && error != Error::Closed
                    {
                        tracing::warn!(%error, "no checkpoint could be made: the journal keeps growing");
                    }
                }
            }
            #[cfg(test)]
            Work::Now(answer) => {
                // Nobody listens when the caller has gone.
                let _ = answer.send(self.checkpoint(core));
            }
            // What fails on the way is in the store's condition.
            Work::Heal(sled, why) => drop(core.heal(sled, &why)),
            Work::End => {}
        }
    }

    fn checkpoint(&mut self, core: &Core) -> Result<(), Error> {
        // A disk that has failed is not to be trusted with the only copy.
        if let Some(stopped) = &core.condition.borrow().stopped {
            return Err(Error::Stopped {
                reason: stopped.reason(),
            });
        }
        let disk = &*core.home.disk;
        let temporary = Path::new(TEMPORARY);
        disk.create_dir(Path::new(DIR))?;
        disk.remove(temporary)?;
        let summary = write(core, temporary).inspect_err(|_| {
            // The first error is the one to tell; the next checkpoint removes it as well.
            let _ = disk.remove(temporary);
        })?;
        let path = path_at(summary.end.revision);
        disk.rename(temporary, &path)?;
        disk.sync_dir(Path::new(DIR))?;
        disk.sync_dir(Path::new(""))?;
        self.last_bytes = summary.bytes;
        tracing::info!(
            revision = summary.end.revision,
            bytes = summary.bytes,
            "made a checkpoint"
        );
        for (revision, older) in list(disk)? {
            if revision < summary.end.revision {
                disk.remove(&older)?;
            }
        }
        disk.sync_dir(Path::new(DIR))?;
        home::write_reached(disk, summary.end.revision)?;
        // A snapshot that is being made needs them: they go after the next checkpoint.
        if let Ok(_unneeded) = core.segments.try_write() {
            journal::remove_covered(disk, summary.end.revision, self.keep_segments)?;
        }
        Ok(())
    }
}

fn write(core: &Core, path: &Path) -> Result<Summary, Error> {
    let disk = &*core.home.disk;
    let mut sink = FileSink {
        file: disk.open(path)?,
        written: 0,
        synced: 0,
    };
    let sled = core.view.sled()?;
    let summary = core.write(&mut sink)?;
    sink.file.sync()?;
    // Before it takes the place of the last one it is read back: this also proves that the view holds what was written.
    let checked = Checkpoint::open(disk, path).and_then(|checkpoint| checkpoint.verify());
    if let Err(error @ Error::Corrupt { .. }) = &checked {
        core.heal(sled, error)?;
    }
    checked.map(|()| summary)
}

struct FileSink {
    file: Box<dyn DiskFile>,
    written: u64,
    synced: u64,
}

impl Sink for FileSink {
    fn put(&mut self, bytes: Bytes) -> Result<(), Error> {
        self.file.write_at(self.written, &bytes)?;
        self.written += bytes.len() as u64;
        if self.written - self.synced >= SYNC_BYTES {
            self.file.sync()?;
            self.synced = self.written;
        }
        Ok(())
    }
}

/// The newest checkpoint.
///
/// # Errors
/// If it cannot be opened: an older one would need a journal that is gone.
pub(super) fn newest(disk: &dyn Disk) -> Result<Option<Checkpoint>, Error> {
    list(disk)?
        .pop()
        .map(|(_, path)| Checkpoint::open(disk, &path))
        .transpose()
}

/// Where the checkpoint of a revision is.
pub(super) fn path_at(revision: u64) -> PathBuf {
    Path::new(DIR).join(format!("{revision:020}{SUFFIX}"))
}

/// The revisions of the checkpoints that are there, in order.
fn list(disk: &dyn Disk) -> Result<Vec<(u64, PathBuf)>, Error> {
    let names = disk.list(Path::new(DIR))?.into_iter();
    let revision = |name: &String| {
        name.strip_suffix(SUFFIX)
            .and_then(|digits| digits.parse().ok())
    };
    Ok(names
        .filter_map(|name| revision(&name).map(|revision| (revision, Path::new(DIR).join(&name))))
        .collect())
}
