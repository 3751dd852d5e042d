//! The local truth: a journal on this machine, and what makes the view from it.
//!
//! One thread commits (`committer.rs`), one makes checkpoints (`checkpointer.rs`), one feeds sled (`../view/feeder.rs`).
//! `ARCHITECTURE.md` tells why sled alone cannot keep an acknowledged write.

mod changes;
mod checkpoint;
mod checkpointer;
mod committer;
mod core;
mod disk;
mod examine;
mod frame;
mod home;
mod journal;
mod recovery;
#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod simulation;
mod snapshot;
mod space;
#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests;

use std::{
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{
        Arc, RwLock,
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
pub use snapshot::Snapshot;
pub(crate) use snapshot::{Until, restore, verify_snapshot};

use self::core::Core;
use changes::Ring;
use checkpointer::{Checkpointer, Work};
use committer::{CommitClock, Committer, Pending, Task};
use disk::{Disk, RealDisk};
use home::Lock;
use recovery::{Home, Parts};
use space::Space;

use super::{
    Batch, Error, OpenError, Outcome,
    outside::{self, Urgency},
    view::{End, Feeder, View},
};

/// Writes that may wait for the committer: a few groups' worth.
const QUEUE_BATCHES_MAX: usize = 1024;
/// What these may take of the memory: four groups' worth.
const QUEUE_BYTES_MAX: usize = 16 << 20;
/// How long a caller waits for room in the queue.
const QUEUE_WAIT: Duration = Duration::from_secs(5);

/// What may be chosen about a store that is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Memory for the view's pages.
    pub cache_bytes: u64,
    /// No checkpoint is made before the journal has grown by so much.
    pub checkpoint_floor_bytes: u64,
    /// How much of the journal is kept that a checkpoint covers already.
    pub journal_keep_bytes: u64,
    /// The size of the journal's files, which are allocated as a whole.
    pub journal_segment_bytes: u64,
}

impl Default for Options {
    /// 256 MiB of cache: most of a catalog of 100,000 backups. 128 MiB of journal before a checkpoint: a second or two to check, and
    /// seldom enough that checkpoints take little from a server that is being filled.
    fn default() -> Self {
        Options {
            cache_bytes: 256 << 20,
            checkpoint_floor_bytes: 128 << 20,
            journal_keep_bytes: 64 << 20,
            journal_segment_bytes: 16 << 20,
        }
    }
}

/// A store whose truth is a journal on this machine.
pub(crate) struct Local {
    core: Arc<Core>,
    clock: Arc<CommitClock>,
    /// `None` once it ends.
    queue: Option<mpsc::Sender<Task>>,
    /// The bytes that may still be queued.
    room: Arc<Semaphore>,
    /// Of the committer, the feeder and the checkpointer; `None` where these are stepped.
    threads: Option<[JoinHandle<()>; 3]>,
    lock: Lock,
}

/// What works on an open store, each on a thread of its own, or stepped by a simulation.
struct Workers {
    committer: Committer,
    feeder: Feeder,
    checkpointer: Checkpointer,
}

impl Local {
    /// As [`Store::open_unless`](super::Store::open_unless).
    ///
    /// # Errors
    /// As of that.
    pub(super) fn open_unless(
        cancelled: Arc<AtomicBool>,
        root: &Path,
        options: &Options,
    ) -> Result<Local, OpenError> {
        // sled panics then, which is no damage of the view.
        if outside::is_before_epoch() {
            return Err(Error::Io {
                action: "open the store".into(),
                reason: "the system's clock says a time before 1970: set it".into(),
            }
            .into());
        }
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(root.to_path_buf()));
        // Before anything is written, the lock included: another format is not ours to touch.
        home::read_format(&*disk)?;
        let lock = home::claim(root)?;
        Local::open_on(cancelled, disk, lock, root, options)
    }

    /// Opens the store on a disk that this process alone uses. The view's directories are in `root`.
    fn open_on(
        cancelled: Arc<AtomicBool>,
        disk: Arc<dyn Disk>,
        lock: Lock,
        root: &Path,
        options: &Options,
    ) -> Result<Local, OpenError> {
        let (mut local, workers) = Local::open_stepped(cancelled, disk, lock, root, options)?;
        let Workers {
            committer,
            feeder,
            checkpointer,
        } = workers;
        local.threads = Some([
            outside::spawn("committer", Urgency::Awaited, || committer.run())?,
            outside::spawn("feeder", Urgency::Behind, || feeder.run())?,
            outside::spawn("checkpointer", Urgency::Behind, || checkpointer.run())?,
        ]);
        Ok(local)
    }

    /// Opens the store and leaves its workers to whoever steps them.
    fn open_stepped(
        closing: Arc<AtomicBool>,
        disk: Arc<dyn Disk>,
        lock: Lock,
        root: &Path,
        options: &Options,
    ) -> Result<(Local, Workers), OpenError> {
        let home = Home {
            disk: disk.clone(),
            root: root.to_path_buf(),
            cache_bytes: options.cache_bytes,
            segment_bytes: options.journal_segment_bytes,
            closing,
        };
        let parts = match home::read_format(&*disk)? {
            Some(id) => home.open(id, home::read_reached(&*disk, lock.reached)?)?,
            None => home.create()?,
        };
        let Parts {
            id,
            sled,
            journal,
            checkpoint_bytes,
            uncovered_bytes,
            tally,
            checkpoint_is_due,
        } = parts;
        let (queue, tasks) = mpsc::channel(QUEUE_BATCHES_MAX);
        let (condition, _) = watch::channel(Condition::default());
        // Room for one: what is asked while it is busy is asked again by the next group.
        let (work, requests) = threads::sync_channel(1);
        let space = Space::new(disk, condition.clone());
        let alarm = work.clone();
        let view = View::new(sled, journal.end(), tally, move |sled, why| {
            // Another may be at it already: then there is nothing to ask for.
            let _ = alarm.try_send(Work::Heal(sled.clone(), why.clone()));
        });
        let core = Arc::new(Core {
            home,
            id,
            view: Arc::new(view),
            recent: Ring::default(),
            condition,
            space,
            checkpointer: work,
            segments: RwLock::default(),
        });
        let checkpointer = Checkpointer {
            core: Arc::downgrade(&core),
            work: requests,
            floor_bytes: options.checkpoint_floor_bytes,
            keep_segments: usize::try_from(
                options
                    .journal_keep_bytes
                    .div_ceil(options.journal_segment_bytes),
            )
            .unwrap_or(usize::MAX),
            last_bytes: checkpoint_bytes,
            uncovered_bytes,
            covered_bytes: 0,
            is_due: checkpoint_is_due,
        };
        let healer = core.clone();
        let feeder = Feeder::new(core.view.clone(), move |sled, why| healer.heal(sled, why));
        let clock = Arc::new(CommitClock::after(journal.last_time_ms()));
        let committer = Committer {
            pending: Pending::default(),
            core: core.clone(),
            journal,
            clock: clock.clone(),
            queue: tasks,
        };
        // There is room for it: nobody else has asked yet.
        let first = Work::Look { appended_bytes: 0 };
        let _ = core.checkpointer.try_send(first);
        let local = Local {
            core,
            clock,
            queue: Some(queue),
            room: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)),
            threads: None,
            lock,
        };
        let workers = Workers {
            committer,
            feeder,
            checkpointer,
        };
        Ok((local, workers))
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

    /// What it takes on the disk, and how far its last checkpoint is.
    ///
    /// # Errors
    /// [`Error::Closed`] if the process is ending.
    pub(crate) async fn usage(&self) -> Result<Usage, Error> {
        let core = self.core.clone();
        outside::blocking(move || Usage::of(&core)).await
    }

    /// Makes a checkpoint now, whatever the journal's size, and lets go of what it covers.
    ///
    /// # Errors
    /// What the disk says; [`Error::Corrupt`] if the view does not hold what was written.
    #[cfg(test)]
    pub(super) async fn checkpoint(&self) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        let work = self.core.checkpointer.clone();
        // The checkpointer may be busy with another one.
        let asked = outside::blocking(move || work.send(Work::Now(answer))).await?;
        asked.map_err(|_| Error::Closed)?;
        answered.await.unwrap_or(Err(Error::Closed))
    }

    /// Writes a snapshot: all that the store holds at one revision, while writes go on. Blocks.
    ///
    /// `put` takes its bytes in order, about a MiB at a time.
    ///
    /// # Errors
    /// If the store cannot be read; what `put` refuses with.
    pub(crate) fn snapshot(
        &self,
        put: impl FnMut(Bytes) -> Result<(), Error>,
    ) -> Result<Snapshot, Error> {
        struct Put<F>(F);
        impl<F: FnMut(Bytes) -> Result<(), Error>> checkpoint::Sink for Put<F> {
            fn put(&mut self, bytes: Bytes) -> Result<(), Error> {
                (self.0)(bytes)
            }
        }
        self.core.write(&mut Put(put)).map(Snapshot::from)
    }

    /// Commits what is queued and closes the store.
    ///
    /// # Errors
    /// What sled or the disk says. Nothing that was acknowledged depends on it.
    pub(super) fn close(mut self) -> Result<(), Error> {
        self.end(End::Fed)?;
        let core = self.core.clone();
        let end = core.view.shown();
        // Who says that it was closed at a revision says that the view shows that.
        let is_well = core.condition.borrow().stopped.is_none() && core.view.fed() == end;
        if let Ok(sled) = core.view.sled() {
            sled.flush()?;
        }
        if is_well {
            home::write_reached(&*core.home.disk, end.revision)?;
            self.lock.close_at(end.revision)?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn verify_checkpoint(&self) -> Result<(), Error> {
        let newest = checkpointer::newest(&*self.core.home.disk)?;
        newest.map_or(Ok(()), |checkpoint| checkpoint.verify())
    }

    /// Ends the threads, the committer with all that is queued. Done once.
    fn end(&mut self, feeder_end: End) -> Result<(), Error> {
        let core = &self.core;
        core.home.closing.store(true, Ordering::Relaxed);
        drop(self.queue.take());
        if let Some([committer, feeder, checkpointer]) = self.threads.take() {
            committer.join().map_err(|_| Error::Closed)?;
            core.view.end(feeder_end);
            feeder.join().map_err(|_| Error::Closed)?;
            // It waits until the checkpointer has noticed that what it makes is not needed any more.
            core.checkpointer
                .send(Work::End)
                .map_err(|_| Error::Closed)?;
            checkpointer.join().map_err(|_| Error::Closed)?;
        }
        Ok(())
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // No thread of it may be at work when the next one opens the store. What was acknowledged is durable.
        let _ = self.end(End::Now);
    }
}

/// What a store takes on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Of the journal.
    pub journal_bytes: u64,
    /// Of the newest checkpoint.
    pub checkpoint_bytes: u64,
    /// Of the view.
    pub view_bytes: u64,
    /// What is left on the disk, where the system says.
    pub room_bytes: Option<u64>,
    /// The newest checkpoint.
    pub checkpoint: Option<Snapshot>,
}

impl Usage {
    fn of(core: &Core) -> Usage {
        let Home { disk, root, .. } = &core.home;
        let checkpoint = core.newest_checkpoint();
        Usage {
            journal_bytes: bytes_in(&root.join("journal")),
            checkpoint_bytes: checkpoint.map_or(0, |checkpoint| checkpoint.bytes),
            view_bytes: bytes_in(&root.join("view")),
            room_bytes: disk.room_bytes(),
            checkpoint: checkpoint.map(Snapshot::from),
        }
    }
}

/// What the files below a directory take on the disk. What cannot be looked at counts nothing.
fn bytes_in(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    bytes.sum()
}
