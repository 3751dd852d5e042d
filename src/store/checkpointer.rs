//! The checkpointer: one thread that makes a checkpoint whenever the journal has outgrown the last one, and then lets go of
//! what it covers. Commits go on meanwhile.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
        mpsc::Receiver,
    },
};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use super::{
    Error,
    checkpoint::{Checkpoint, Sink, Source, Summary},
    committer::stop,
    disk::{Disk, DiskFile},
    frame::Position,
    home, journal,
    view::View,
};
use crate::clock;

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
    Now(oneshot::Sender<Result<(), Error>>),
}

/// What a checkpoint or snapshot is made from, while the store is open.
pub(super) struct Origin {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) store: Uuid,
    pub(super) view: Arc<View>,
    pub(super) applied: watch::Receiver<Position>,
    pub(super) durable: watch::Receiver<Position>,
    /// Held to read while the journal's old segments are needed, to write while they are removed.
    pub(super) segments: RwLock<()>,
    /// Set when the store is to close: what is being made is not needed any more.
    pub(super) closing: AtomicBool,
}

impl Origin {
    /// Writes a checkpoint of the store as it is now, or a little later.
    ///
    /// # Errors
    /// If the view or the journal cannot be read; what `sink` refuses with.
    pub(super) fn write(&self, sink: &mut dyn Sink) -> Result<Summary, Error> {
        let _segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let source = Source {
            disk: &*self.disk,
            store: self.store,
            view: &self.view,
            applied: *self.applied.borrow(),
            durable: &|| *self.durable.borrow(),
            time_ms: clock::now_ms(),
        };
        source.write(&mut Stoppable {
            sink,
            closing: &self.closing,
        })
    }
}

struct Stoppable<'a> {
    sink: &'a mut dyn Sink,
    closing: &'a AtomicBool,
}

impl Sink for Stoppable<'_> {
    fn put(&mut self, bytes: Bytes) -> Result<(), Error> {
        if self.closing.load(Ordering::Relaxed) {
            Err(Error::Closed)
        } else {
            self.sink.put(bytes)
        }
    }
}

/// The checkpointer's own state.
pub(super) struct Checkpointer {
    pub(super) origin: Arc<Origin>,
    pub(super) work: Receiver<Work>,
    pub(super) stopped: watch::Sender<Option<Error>>,
    /// No checkpoint is worth its while below this much journal.
    pub(super) floor_bytes: u64,
    /// How many of the journal's segments are kept that the checkpoint covers.
    pub(super) keep_segments: usize,
    /// The size of the last checkpoint.
    pub(super) last_bytes: u64,
    /// Bytes of the journal that it did not cover when the store was opened.
    pub(super) uncovered_bytes: u64,
}

impl Checkpointer {
    /// Works until nobody can ask any more.
    pub(super) fn run(mut self) {
        let mut covered_bytes = 0;
        while let Ok(work) = self.work.recv() {
            match work {
                Work::Look { appended_bytes } => {
                    let uncovered_bytes = self.uncovered_bytes + appended_bytes - covered_bytes;
                    if uncovered_bytes > self.floor_bytes.max(self.last_bytes / 2) {
                        // Tried again when as much has come again, if it fails now.
                        covered_bytes = appended_bytes;
                        self.uncovered_bytes = 0;
                        if let Err(error) = self.checkpoint()
                            && error != Error::Closed
                        {
                            tracing::warn!(%error, "no checkpoint could be made: the journal keeps growing");
                        }
                    }
                }
                Work::Now(answer) => {
                    // Nobody listens when the caller has gone.
                    let _ = answer.send(self.checkpoint());
                }
            }
        }
    }

    fn checkpoint(&mut self) -> Result<(), Error> {
        // A disk that has failed is not to be trusted with the only copy.
        if let Some(stopped) = &*self.stopped.borrow() {
            return Err(Error::Stopped {
                reason: stopped.reason(),
            });
        }
        let disk = &*self.origin.disk;
        let temporary = Path::new(TEMPORARY);
        disk.create_dir(Path::new(DIR))?;
        disk.remove(temporary)?;
        let summary = self.write(temporary).inspect_err(|_| {
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
        // A snapshot that is being made needs them: they go after the next checkpoint.
        if let Ok(_unneeded) = self.origin.segments.try_write() {
            journal::remove_covered(disk, summary.end.revision, self.keep_segments)?;
        }
        Ok(())
    }

    fn write(&self, path: &Path) -> Result<Summary, Error> {
        let disk = &*self.origin.disk;
        let mut sink = FileSink {
            file: disk.open(path)?,
            written: 0,
            synced: 0,
        };
        let summary = self.origin.write(&mut sink)?;
        sink.file.sync()?;
        // Before it takes the place of the last one it is read back: this also proves that the view holds what was written.
        let checked = Checkpoint::open(disk, path).and_then(|checkpoint| checkpoint.verify());
        if let Err(error @ Error::Corrupt { .. }) = &checked {
            home::write_view_distrusted(disk, self.origin.applied.borrow().revision)?;
            stop(&self.stopped, error);
        }
        checked.map(|()| summary)
    }
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
