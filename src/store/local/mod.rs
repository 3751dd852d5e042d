//! The local truth: one file on this machine, and the threads that make the view from it.
//!
//! One thread commits (`committer.rs`), one writes the file anew when its journal has grown (`rewriter.rs`), and one feeds sled
//! (`../view/feeder.rs`). `ARCHITECTURE.md` explains why sled alone cannot keep an acknowledged write.

mod changes;
mod committer;
mod core;
mod disk;
mod examine;
mod file;
mod frame;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod home;
mod journal;
mod log;
mod recovery;
mod restore;
mod rewriter;
#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod simulation;
mod space;
#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests;
mod values;
mod views;

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc as threads,
    },
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use uuid::Uuid;

pub use self::core::Condition;
pub(crate) use changes::{Changes, Pulled};
pub(crate) use examine::{Examined, Finding, examine};
pub use restore::Snapshot;
pub(crate) use restore::{Until, has_view, restore, verify_file};

use self::core::Core;
use changes::Ring;
use committer::{CommitClock, Committer, Task};
use disk::{Disk, DiskFile, RealDisk};
use home::Paths;
use journal::Journal;
use log::Keep;
use recovery::{Home, Parts};
use rewriter::{Rewriter, Work};
use space::Space;
use views::Views;

use super::{
    Batch, Error, OpenError, Outcome,
    meters::Meters,
    outside::{self, Urgency},
    view::{End, Feeder, View},
};

/// The most batches that wait for the committer: a few groups.
const QUEUE_BATCHES_MAX: usize = 1024;
/// The most memory that these take: four groups.
const QUEUE_BYTES_MAX: usize = 16 << 20;
/// How long a caller waits for room in the queue.
const QUEUE_WAIT: Duration = Duration::from_secs(5);

/// The options for opening a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// Memory for the view's cache.
    pub cache_bytes: u64,
    /// The directory of the view, if it should not lie beside the file: on another disk, or in memory. If it is missing, the view
    /// is made again.
    pub view: Option<PathBuf>,
    /// The file is written anew only after its journal has grown by this much.
    pub rewrite_floor_bytes: u64,
    /// How much of the journal to keep that the file's records already cover, for those who follow changes and for the audit. The
    /// rest is removed when the file is written anew.
    pub journal_keep_bytes: u64,
    /// The most changes to keep of it.
    pub journal_keep_changes: u64,
    /// How far back from now to keep it.
    pub journal_keep_age: Duration,
    /// How much room in the file is reserved for the journal at a time.
    pub journal_room_bytes: u64,
}

impl Default for Options {
    /// A cache of 256 MiB holds most of a catalog of 100,000 backups. The file is written anew after 128 MiB of journal: these take
    /// a second or two to check, and it happens so rarely that it takes little from a server that is being filled.
    fn default() -> Self {
        Options {
            cache_bytes: 256 << 20,
            view: None,
            rewrite_floor_bytes: 128 << 20,
            journal_keep_bytes: 64 << 20,
            journal_keep_changes: u64::MAX,
            journal_keep_age: Duration::MAX,
            journal_room_bytes: 16 << 20,
        }
    }
}

/// A store whose truth is a file on this machine.
pub(crate) struct Local {
    core: Arc<Core>,
    clock: Arc<CommitClock>,
    /// `None` once the store ends.
    queue: Option<mpsc::Sender<Task>>,
    /// A permit for each byte that may still be queued.
    room: Arc<Semaphore>,
    /// The threads of committer, feeder and rewriter. `None` if a test steps these.
    threads: Option<[JoinHandle<()>; 3]>,
    /// Claims the view's directory for this process.
    _view_mark: Box<dyn DiskFile>,
}

/// What works on an open store: each on its own thread, or stepped by a simulation.
struct Workers {
    committer: Committer,
    feeder: Feeder,
    rewriter: Rewriter,
}

impl Local {
    /// The same as [`Store::open_unless`](super::Store::open_unless).
    ///
    /// # Errors
    /// The same as for that.
    pub(super) fn open_unless(
        cancelled: Arc<AtomicBool>,
        path: &Path,
        options: &Options,
    ) -> Result<Local, OpenError> {
        // sled panics before 1970. That would be mistaken for damage of the view.
        if outside::is_before_epoch() {
            return Err(Error::Io {
                action: "open the store".into(),
                reason: "the system's clock says a time before 1970: set it".into(),
            }
            .into());
        }
        let paths = Paths::of(path)?;
        paths.make_dir()?;
        let disk = Arc::new(RealDisk::new(paths.dir.clone()));
        Local::open_on(cancelled, disk, paths, options)
    }

    /// Opens the store on a disk.
    fn open_on(
        cancelled: Arc<AtomicBool>,
        disk: Arc<dyn Disk>,
        paths: Paths,
        options: &Options,
    ) -> Result<Local, OpenError> {
        let (mut local, workers) = Local::open_stepped(cancelled, disk, paths, options)?;
        let Workers {
            committer,
            feeder,
            rewriter,
        } = workers;
        local.threads = Some([
            outside::spawn("committer", Urgency::Awaited, || committer.run())?,
            outside::spawn("feeder", Urgency::Behind, || feeder.run())?,
            outside::spawn("rewriter", Urgency::Behind, || rewriter.run())?,
        ]);
        Ok(local)
    }

    /// Opens the store, and leaves its workers to the caller, who steps them.
    fn open_stepped(
        closing: Arc<AtomicBool>,
        disk: Arc<dyn Disk>,
        paths: Paths,
        options: &Options,
    ) -> Result<(Local, Workers), OpenError> {
        let view_dir = options.view.as_deref().unwrap_or(&paths.view);
        let (claimed, header) = paths.claim(&*disk)?;
        let view_mark = views::claim(view_dir)?;
        let (file, id) = match header {
            Some(header) => (claimed, header.store),
            None => recovery::create(&*disk, &paths, view_dir)?,
        };
        let home = Home {
            disk,
            views: Arc::new(Views::new(view_dir, id, options.cache_bytes)),
            paths,
            journal_room_bytes: options.journal_room_bytes,
            closing,
        };
        let parts = home.open(file)?;
        Ok(Local::of_parts(home, id, parts, view_mark, options))
    }

    fn of_parts(
        home: Home,
        id: Uuid,
        parts: Parts,
        view_mark: Box<dyn DiskFile>,
        options: &Options,
    ) -> (Local, Workers) {
        let Parts {
            sled,
            journal,
            current,
            tally,
            rewrite_is_due,
        } = parts;
        let (queue, tasks) = mpsc::channel(QUEUE_BATCHES_MAX);
        let (condition, _) = watch::channel(Condition::default());
        // One request fits: what is asked while it waits is asked again by the next group.
        let (work, requests) = threads::sync_channel(1);
        let space = Space::new(&home, condition.clone());
        let alarm = work.clone();
        let view = View::new(sled, journal.end(), tally, move |sled, why| {
            // If the queue is full, somebody is already making sled anew.
            let _ = alarm.try_send(Work::Heal(sled.clone(), why.clone()));
        });
        let clock = Arc::new(CommitClock::after(journal.last_time_ms()));
        let core = Arc::new(Core {
            home,
            id,
            view: Arc::new(view),
            recent: Ring::default(),
            journal_reads: changes::journal_reads(),
            condition,
            space,
            rewriter: work,
            journal: Mutex::new(journal),
            meters: Meters::new(),
            current,
        });
        let floor_bytes = options.rewrite_floor_bytes;
        let rewriter = Rewriter {
            core: Arc::downgrade(&core),
            work: requests,
            floor_bytes,
            keep_bytes: options.journal_keep_bytes,
            keep_changes: options.journal_keep_changes,
            keep_age: options.journal_keep_age,
            clock: clock.clone(),
            failed_at_bytes: 0,
            is_due: rewrite_is_due,
            under_way: None,
            replaced: Vec::new(),
        };
        let healer = core.clone();
        let feeder = Feeder::new(core.view.clone(), move |sled, why| healer.heal(sled, why));
        let committer = Committer::new(core.clone(), clock.clone(), tasks, floor_bytes);
        // The queue has room: nobody has asked yet.
        let _ = core.rewriter.try_send(Work::Look);
        let local = Local {
            core,
            clock,
            queue: Some(queue),
            room: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)),
            threads: None,
            _view_mark: view_mark,
        };
        let workers = Workers {
            committer,
            feeder,
            rewriter,
        };
        (local, workers)
    }

    pub(super) fn view(&self) -> Arc<View> {
        self.core.view.clone()
    }

    pub(super) fn id(&self) -> Uuid {
        self.core.id
    }

    pub(super) fn condition(&self) -> watch::Receiver<Condition> {
        self.core.condition.subscribe()
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    pub(super) fn changes(&self, after: u64) -> Changes {
        Changes::new(&self.core, after)
    }

    pub(super) async fn commit(&self, batch: Batch) -> Result<Outcome, Error> {
        assert!(!batch.writes.is_empty(), "a batch writes something");
        let bytes = u32::try_from(batch.bytes().min(QUEUE_BYTES_MAX))
            .expect("QUEUE_BYTES_MAX is below 4 GiB");
        let places = async {
            let room = self.room.clone().acquire_many_owned(bytes).await;
            let queue = self.queue.as_ref().ok_or(Error::Closed)?;
            let place = queue.reserve().await.map_err(|_| Error::Closed)?;
            Ok((room.expect("the semaphore is never closed"), place))
        };
        let (room, place) = tokio::time::timeout(QUEUE_WAIT, places)
            .await
            .unwrap_or(Err(Error::Busy))?;
        let (answer, answered) = oneshot::channel();
        place.send(Task {
            batch,
            answer,
            room,
        });
        answered.await.unwrap_or(Err(Error::Closed))
    }

    /// What it measures about itself.
    pub(crate) fn meters(&self) -> &Meters {
        &self.core.meters
    }

    /// The oldest revision whose change can still be read.
    pub(crate) fn oldest_revision(&self) -> u64 {
        self.core.log().oldest()
    }

    /// The number of batches that wait for the committer.
    pub(crate) fn queued(&self) -> usize {
        let queue = self.queue.as_ref();
        queue.map_or(0, |queue| queue.max_capacity() - queue.capacity())
    }

    /// The room that it takes on the disk, and the revision of its records.
    ///
    /// # Errors
    /// [`Error::Closed`] if the process is ending.
    pub(crate) async fn usage(&self) -> Result<Usage, Error> {
        let core = self.core.clone();
        outside::blocking(move || Usage::of(&core)).await
    }

    /// Writes the file anew now, however small the journal is.
    ///
    /// # Errors
    /// Errors of the disk; [`Error::Corrupt`] if the view does not hold what was written.
    #[cfg(test)]
    pub(crate) async fn rewrite(&self) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        let work = self.core.rewriter.clone();
        // Sending waits while the rewriter is busy.
        let asked = outside::blocking(move || work.send(Work::Now(answer))).await?;
        asked.map_err(|_| Error::Closed)?;
        answered.await.unwrap_or(Err(Error::Closed))
    }

    /// Writes a snapshot: everything that the store holds at one revision, while writes go on. Blocks.
    ///
    /// `put` takes its bytes in order, about a MiB at a time.
    ///
    /// # Errors
    /// If the store cannot be read; any error that `put` returns.
    pub(crate) fn snapshot(
        &self,
        put: impl FnMut(Bytes) -> Result<(), Error>,
    ) -> Result<Snapshot, Error> {
        struct Put<F>(F);
        impl<F: FnMut(Bytes) -> Result<(), Error>> file::Sink for Put<F> {
            fn put(&mut self, bytes: Bytes) -> Result<(), Error> {
                (self.0)(bytes)
            }
        }
        let written = self.core.write(&Keep::NOTHING, &mut Put(put))?;
        Ok(Snapshot {
            store: written.header.store,
            revision: written.end.position.revision,
            time_ms: written.header.time_ms,
            bytes: written.bytes,
        })
    }

    /// Commits what is queued and closes the store.
    ///
    /// # Errors
    /// Errors of sled or the disk. Nothing that was acknowledged depends on it.
    pub(super) fn close(mut self) -> Result<(), Error> {
        self.end(End::Fed)?;
        let core = self.core.clone();
        let end = core.view.shown();
        // The status "closed at a revision" promises that the view shows that revision.
        let is_well = core.condition.borrow().stopped.is_none() && core.view.fed() == end;
        if let Ok(sled) = core.view.sled() {
            sled.flush()?;
        }
        if is_well {
            self.journal().say(false)?;
        }
        Ok(())
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        let journal = self.core.journal.lock();
        journal.unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn verify_file(&self) -> Result<(), Error> {
        let home = &self.core.home;
        home.stored(&home.paths.file)?.verify()
    }

    /// Ends the threads. The committer first commits everything that is queued. A second call does nothing.
    fn end(&mut self, feeder_end: End) -> Result<(), Error> {
        let core = &self.core;
        core.home.closing.store(true, Ordering::Relaxed);
        drop(self.queue.take());
        if let Some([committer, feeder, rewriter]) = self.threads.take() {
            committer.join().map_err(|_| Error::Closed)?;
            core.view.end(feeder_end);
            feeder.join().map_err(|_| Error::Closed)?;
            // This waits until the rewriter has noticed that its file is not needed any more.
            core.rewriter.send(Work::End).map_err(|_| Error::Closed)?;
            rewriter.join().map_err(|_| Error::Closed)?;
        }
        Ok(())
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // No thread of it may be running when somebody opens the store again. What was acknowledged is durable.
        let _ = self.end(End::Now);
        // Whoever still holds a part of the store does not keep the file claimed.
        self.journal().release();
    }
}

/// The room that a store takes on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The journal in the file: what was committed after the records were written, and a part of what came before.
    pub journal_bytes: u64,
    /// The records in the file.
    pub records_bytes: u64,
    /// The view.
    pub view_bytes: u64,
    /// What is left on the disk, if the system tells.
    pub room_bytes: Option<u64>,
    /// The revision of the records, and when they were written, in milliseconds since the Unix epoch.
    pub records: Option<(u64, u64)>,
}

impl Usage {
    fn of(core: &Core) -> Usage {
        let log = core.log();
        let (revision, _) = log.trailer.exact;
        Usage {
            journal_bytes: log.bytes(),
            records_bytes: log.trailer.frames_at(),
            view_bytes: bytes_in(core.home.views.dir()),
            room_bytes: core.space.room_bytes(),
            records: (revision > 0).then_some((revision, log.stored.header.time_ms)),
        }
    }
}

/// The room that the files below a directory take. Files that cannot be looked at are not counted.
fn bytes_in(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    bytes.sum()
}
