//! A durable, ordered key-value store with revisions: the journal is the truth, sled its ordered view.
//!
//! The seam is small, so that another ordered store could stand behind it: [`Read::get`],
//! [`Read::scan`], [`Store::commit`] and [`Store::revision`]. `ARCHITECTURE.md` tells why sled alone
//! cannot keep an acknowledged write.

mod batch;
mod checkpoint;
mod checkpointer;
mod committer;
mod core;
mod disk;
mod error;
mod examine;
mod frame;
mod home;
mod journal;
mod recovery;
#[cfg(test)]
mod simulation;
mod snapshot;
mod space;
mod state_hash;
mod tally;
mod view;

use std::{
    fmt,
    ops::{Bound, ControlFlow},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
        mpsc as threads,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use uuid::Uuid;

pub use self::core::Condition;
pub use batch::{Batch, Entry, Found, Outcome};
pub use error::Error;
pub use examine::{Examined, Finding, examine};
pub use snapshot::{Snapshot, Until, restore, verify_snapshot};

use self::core::Core;
use checkpointer::{Checkpointer, Work};
use committer::{CommitClock, Committer, Pending, Task};
use disk::{Disk, RealDisk};
use home::Lock;
use recovery::{Home, Parts};
use space::Space;
use view::{End, Feeder, View};

use crate::clock;

/// Writes that may wait for the committer: a few groups' worth.
const QUEUE_BATCHES_MAX: usize = 1024;
/// What these may take of the memory: four groups' worth.
const QUEUE_BYTES_MAX: usize = 16 << 20;
/// What a key takes in the view's cache beside its bytes and its value's.
const KEY_OVERHEAD_BYTES: u64 = 64;
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
    /// Set to give up opening, which may take long: nothing is lost by that.
    pub cancelled: Arc<AtomicBool>,
}

impl Default for Options {
    /// 256 MiB of cache: most of a catalog of 100,000 backups. 64 MiB of journal: seconds to replay.
    fn default() -> Self {
        Options {
            cache_bytes: 256 << 20,
            checkpoint_floor_bytes: 64 << 20,
            journal_keep_bytes: 64 << 20,
            journal_segment_bytes: 16 << 20,
            cancelled: Arc::default(),
        }
    }
}

/// An open store. Closing it with [`Store::close`] spares the next open a look at the view; just dropping
/// it, or being killed, loses nothing that was acknowledged.
pub struct Store {
    core: Arc<Core>,
    clock: Arc<CommitClock>,
    queue: mpsc::Sender<Task>,
    /// The bytes that may still be queued.
    room: Arc<Semaphore>,
    threads: [JoinHandle<()>; 3],
    lock: Lock,
}

/// What holds keys in order: a store that is open, or one that is only looked at.
pub trait Read {
    /// What a key durably holds. May read from the disk: not for an async thread.
    ///
    /// # Errors
    /// If the view cannot be read, or the value is damaged.
    fn get(&self, key: &[u8]) -> Result<Option<Entry>, Error>;

    /// Hands what the keys within the bounds durably hold to `visit`, in order, until that breaks off, and says whether it did.
    /// Nothing is copied. May read from the disk at every step: not for an async thread, unless [`Store::is_in_memory`]. What is
    /// written meanwhile may or may not be seen, each key once.
    ///
    /// # Errors
    /// If the view cannot be read, or a value is damaged; what `visit` refuses with.
    fn scan<E: From<Error>>(
        &self,
        bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>),
        visit: impl FnMut(Found<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<ControlFlow<()>, E>;

    /// Hands all that the keys within the bounds hold to `visit`, as [`Read::scan`] does.
    ///
    /// # Errors
    /// As of [`Read::scan`].
    fn for_each<E: From<Error>>(
        &self,
        bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>),
        mut visit: impl FnMut(Found<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let scanned = self.scan(bounds, |found| visit(found).map(ControlFlow::Continue));
        scanned.map(drop)
    }
}

impl Read for Store {
    fn get(&self, key: &[u8]) -> Result<Option<Entry>, Error> {
        self.core.view.get(key)
    }

    fn scan<E: From<Error>>(
        &self,
        bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>),
        visit: impl FnMut(Found<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<ControlFlow<()>, E> {
        refusing(visit, |visit| self.core.view.scan(bounds, visit))
    }
}

/// Runs a scan that `visit` may break off by refusing.
fn refusing<E: From<Error>>(
    mut visit: impl FnMut(Found<'_>) -> Result<ControlFlow<()>, E>,
    scan: impl FnOnce(&mut dyn FnMut(Found<'_>) -> ControlFlow<()>) -> Result<ControlFlow<()>, Error>,
) -> Result<ControlFlow<()>, E> {
    let mut refused = None;
    let scanned = scan(&mut |found| {
        visit(found).unwrap_or_else(|error| {
            refused = Some(error);
            ControlFlow::Break(())
        })
    })?;
    refused.map_or(Ok(scanned), Err)
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("id", &self.id())
            .field("revision", &self.revision())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in the directory `root`, or makes one there.
    ///
    /// A view that is behind the journal is rolled forward; one that is missing, fails, panics, or does not hold what
    /// was written is made anew from checkpoint and journal. Blocks for as long as that takes.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Foreign`], [`Error::NewerFormat`], [`Error::Corrupt`] naming what is
    /// lost, or what the disk says.
    pub fn open(root: &Path, options: &Options) -> Result<Store, Error> {
        // sled panics then, which is no damage of the view.
        if clock::is_before_epoch() {
            return Err(Error::Io {
                action: "open the store".into(),
                reason: "the system's clock says a time before 1970: set it".into(),
            });
        }
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(root.to_path_buf()));
        // Before anything is written, the lock included: another format is not ours to touch.
        home::read_format(&*disk)?;
        let lock = home::claim(root)?;
        Store::open_on(disk, lock, root, options)
    }

    /// Opens the store on a disk that this process alone uses. The view's directories are in `root`.
    fn open_on(
        disk: Arc<dyn Disk>,
        lock: Lock,
        root: &Path,
        options: &Options,
    ) -> Result<Store, Error> {
        let home = Home {
            disk: disk.clone(),
            root: root.to_path_buf(),
            cache_bytes: options.cache_bytes,
            segment_bytes: options.journal_segment_bytes,
            closing: options.cancelled.clone(),
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
        let view = View::new(sled, journal.end(), move |sled, why| {
            // Another may be at it already: then there is nothing to ask for.
            let _ = alarm.try_send(Work::Heal(sled.clone(), why.clone()));
        });
        let core = Arc::new(Core {
            home,
            id,
            view: Arc::new(view),
            condition,
            space,
            tally: Mutex::new(tally),
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
        let threads = [
            spawn("committer", || committer.run())?,
            spawn("feeder", || feeder.run())?,
            spawn("checkpointer", || checkpointer.run())?,
        ];
        // There is room for it: nobody else has asked yet.
        let first = Work::Look { appended_bytes: 0 };
        let _ = core.checkpointer.try_send(first);
        Ok(Store {
            core,
            clock,
            queue,
            room: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)),
            threads,
            lock,
        })
    }

    /// What tells this store from every other: made with it, never changed.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.core.id
    }

    /// The revision that reads show at least.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.core.view.shown().revision
    }

    /// Follows how the store is.
    #[must_use]
    pub fn condition(&self) -> watch::Receiver<Condition> {
        self.core.condition.subscribe()
    }

    /// The time of a commit that is made now, milliseconds since the Unix epoch. It never goes back, whatever the clock does.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// How many keys start with these two bytes.
    #[must_use]
    pub fn count(&self, kind: [u8; 2]) -> u64 {
        let tally = self
            .core
            .tally
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        tally.count(kind)
    }

    /// Whether all of it fits in the view's cache, where reads find it without waiting for the disk: opening has read all of it,
    /// and what was written since came through the cache.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        let tally = self
            .core
            .tally
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let needed = tally.bytes() + tally.keys() * KEY_OVERHEAD_BYTES;
        needed < self.core.home.cache_bytes / 2
    }

    /// What it takes on the disk, and how far its last checkpoint is. Reads directories: not for an async thread.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let Home { disk, root, .. } = &self.core.home;
        let checkpoint = self.core.newest_checkpoint();
        Usage {
            journal_bytes: bytes_in(&root.join("journal")),
            checkpoint_bytes: checkpoint.map_or(0, |checkpoint| checkpoint.bytes),
            view_bytes: bytes_in(&root.join("view")),
            room_bytes: disk.room_bytes(),
            checkpoint: checkpoint.map(Snapshot::from),
        }
    }

    /// Makes what a batch writes durable as one, after all that was queued before it, if every key holds what it expects.
    ///
    /// If the future is dropped, a batch that is queued already commits as a whole or not at all.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Full`], [`Error::Stopped`] and [`Error::Closed`] when nothing was written;
    /// [`Error::OutcomeUnknown`] when only a restart can tell.
    pub async fn commit(&self, batch: Batch) -> Result<Outcome, Error> {
        assert!(!batch.writes.is_empty(), "a batch writes something");
        let bytes = u32::try_from(batch.bytes().min(QUEUE_BYTES_MAX))
            .expect("QUEUE_BYTES_MAX is below 4 GiB");
        let places = async {
            let room = self.room.clone().acquire_many_owned(bytes).await;
            let place = self.queue.reserve().await.map_err(|_| Error::Closed)?;
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

    /// Makes a checkpoint now, whatever the journal's size, and lets go of what it covers.
    ///
    /// # Errors
    /// What the disk says; [`Error::Corrupt`] if the view does not hold what was written.
    pub async fn checkpoint(&self) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        let work = self.core.checkpointer.clone();
        // The checkpointer may be busy with another one.
        let asked = tokio::task::spawn_blocking(move || work.send(Work::Now(answer))).await;
        asked
            .map_err(|_| Error::Closed)?
            .map_err(|_| Error::Closed)?;
        answered.await.unwrap_or(Err(Error::Closed))
    }

    /// Writes a snapshot: all that the store holds at one revision, while writes go on. Blocks.
    ///
    /// `put` takes its bytes in order, about a MiB at a time.
    ///
    /// # Errors
    /// If the store cannot be read; what `put` refuses with.
    pub fn snapshot(&self, put: impl FnMut(Bytes) -> Result<(), Error>) -> Result<Snapshot, Error> {
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
    pub fn close(self) -> Result<(), Error> {
        let (core, lock) = self.end(End::Fed)?;
        let end = core.view.shown();
        let is_well = core.condition.borrow().stopped.is_none();
        let disk = core.home.disk.clone();
        let view = Arc::into_inner(core).and_then(|core| Arc::into_inner(core.view));
        let sled = view.and_then(View::into_sled);
        if let Some(sled) = sled.and_then(Arc::into_inner) {
            sled.close()?;
        }
        if is_well {
            home::write_reached(&*disk, end.revision)?;
            lock.close_at(end.revision)?;
        }
        Ok(())
    }

    /// sled, once it has all that can be read.
    #[cfg(test)]
    fn fed_sled(&self) -> Arc<view::Sled> {
        while self.core.view.fed() != self.core.view.shown() {
            thread::sleep(Duration::from_millis(1));
        }
        self.core.view.sled().expect("there is one")
    }

    /// All that can be read.
    #[cfg(test)]
    fn content(&self) -> Result<Vec<Entry>, Error> {
        let all = (
            Bound::Excluded(view::Sled::LAST_OWN_KEY.to_vec()),
            Bound::Unbounded,
        );
        let mut content = Vec::new();
        self.for_each::<Error>(
            all,
            |Found {
                 key,
                 value,
                 revision,
             }| {
                content.push(Entry {
                    key: Bytes::copy_from_slice(key),
                    value: Bytes::copy_from_slice(value),
                    revision,
                });
                Ok(())
            },
        )?;
        Ok(content)
    }

    /// Reads all of the store and compares it with what was written: every value's checksum, and the state hash. Blocks.
    ///
    /// Only for a store that is not being written to.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming what is damaged.
    #[cfg(test)]
    pub(crate) fn verify(&self) -> Result<(), Error> {
        let (mut state, mut tally) = (state_hash::StateHash::default(), tally::Tally::default());
        for Entry {
            key,
            value,
            revision,
        } in self.content()?
        {
            state = state.with(&key, &value, revision);
            tally.change(&key, None, Some(value.len()));
        }
        assert_eq!(
            tally,
            *self.core.tally.lock().unwrap(),
            "the count is right"
        );
        if state != self.core.view.shown().state {
            return Err(Error::Corrupt {
                what: "the view does not hold what was written".into(),
            });
        }
        if let Some(checkpoint) = checkpointer::newest(&*self.core.home.disk)? {
            checkpoint.verify()?;
        }
        Ok(())
    }

    /// Ends as a process ends that is killed, but waits until its threads are gone: for tests and measurements.
    #[doc(hidden)]
    pub fn abandon(self) {
        drop(self.end(End::Now));
    }

    /// Ends the threads, the committer with all that is queued.
    fn end(self, feeder_end: End) -> Result<(Arc<Core>, Lock), Error> {
        let Store {
            core,
            queue,
            threads,
            lock,
            ..
        } = self;
        core.home.closing.store(true, Ordering::Relaxed);
        drop(queue);
        let [committer, feeder, checkpointer] = threads;
        committer.join().map_err(|_| Error::Closed)?;
        core.view.end(feeder_end);
        feeder.join().map_err(|_| Error::Closed)?;
        // It waits until the checkpointer has noticed that what it makes is not needed any more.
        core.checkpointer
            .send(Work::End)
            .map_err(|_| Error::Closed)?;
        checkpointer.join().map_err(|_| Error::Closed)?;
        Ok((core, lock))
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

/// Starts one of the store's threads. A store in which one has panicked would accept what nobody does.
fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    let run = || {
        let _guard = AbortOnPanic;
        run();
    };
    thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .map_err(|error| Error::Io {
            action: format!("start the {name}"),
            reason: error.to_string(),
        })
}

struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use home::VIEW_DIR;
    use std::path::PathBuf;
    use view::Sled;

    fn open(path: &Path) -> Result<Store, Error> {
        Store::open(path, &Options::default())
    }

    fn opened(path: &Path) -> Store {
        open(path).unwrap()
    }

    async fn put(store: &Store, key: &'static str, value: &'static str) -> u64 {
        match store.commit(Batch::new().put(key, value)).await {
            Ok(Outcome::Committed(revision)) => revision,
            other => panic!("{other:?}"),
        }
    }

    fn content(store: &Store) -> Vec<(String, String)> {
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let entries = store.content().unwrap().into_iter();
        entries
            .map(|entry| (text(entry.key), text(entry.value)))
            .collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected
            .iter()
            .map(|&(key, value)| (key.into(), value.into()))
            .collect()
    }

    #[tokio::test]
    async fn what_was_committed_is_there_after_a_reopen_however_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = opened(&path);
        assert_eq!(put(&store, "k2", "two").await, 1);
        assert_eq!(put(&store, "k1", "one").await, 2);
        store.close().unwrap();

        let store = opened(&path);
        assert_eq!(
            (store.revision(), content(&store)),
            (2, pairs(&[("k1", "one"), ("k2", "two")]))
        );
        assert_eq!(put(&store, "k1", "uno").await, 3);
        store.close().unwrap();

        std::fs::remove_dir_all(path.join(VIEW_DIR)).unwrap();
        let store = opened(&path);
        assert_eq!(
            (store.revision(), content(&store)),
            (3, pairs(&[("k1", "uno"), ("k2", "two")]))
        );
        store.close().unwrap();

        // Garbage in the view's place: sled refuses it, or panics.
        let views = std::fs::read_dir(path.join(VIEW_DIR)).unwrap();
        for entry in views.flat_map(|view| std::fs::read_dir(view.unwrap().path()).unwrap()) {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                std::fs::write(entry.path(), [0x5a; 4096]).unwrap();
            }
        }
        let store = opened(&path);
        assert_eq!(
            (store.revision(), content(&store)),
            (3, pairs(&[("k1", "uno"), ("k2", "two")]))
        );
    }

    #[tokio::test]
    async fn a_batch_whose_expectations_do_not_hold_leaves_nothing_and_takes_no_revision() {
        let dir = tempfile::tempdir().unwrap();
        let store = opened(&dir.path().join("store"));
        let commit = async |batch| store.commit(batch).await.unwrap();
        let create = || Batch::new().expect("k", None).put("k", "v");
        assert_eq!(commit(create()).await, Outcome::Committed(1));
        assert_eq!(commit(create()).await, Outcome::Changed);
        let at = |revision| {
            Batch::new()
                .expect("k", Some(revision))
                .put("k", "w")
                .put("l", "w")
        };
        assert_eq!(commit(at(2)).await, Outcome::Changed);
        assert_eq!(
            (store.revision(), content(&store)),
            (1, pairs(&[("k", "v")]))
        );
        assert_eq!(commit(at(1)).await, Outcome::Committed(2));
        assert_eq!(store.get(b"k").unwrap().unwrap().revision, 2);
        let delete = Batch::new().expect("k", Some(2)).delete("k");
        assert_eq!(commit(delete).await, Outcome::Committed(3));
        assert_eq!(commit(create()).await, Outcome::Committed(4));
    }

    #[tokio::test]
    async fn of_many_that_expect_the_same_one_is_committed() {
        let dir = tempfile::tempdir().unwrap();
        let store = opened(&dir.path().join("store"));
        let creates =
            (0..100).map(|n| store.commit(Batch::new().expect("k", None).put("k", format!("{n}"))));
        let outcomes = futures_util::future::join_all(creates).await;
        let committed = outcomes
            .iter()
            .filter(|outcome| **outcome == Ok(Outcome::Committed(1)));
        assert_eq!((committed.count(), store.revision()), (1, 1));
    }

    #[tokio::test]
    async fn a_second_open_is_told_who_holds_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let _store = opened(&path);
        let Err(Error::Locked { owner }) = open(&path) else {
            panic!("opened twice")
        };
        assert_eq!(owner, format!("process {}", std::process::id()));
    }

    #[tokio::test]
    async fn a_newer_or_foreign_directory_is_refused_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        opened(&path).close().unwrap();
        std::fs::write(path.join("FORMAT"), "icebox store, format 3\nid ?\n").unwrap();
        assert_eq!(
            open(&path).unwrap_err(),
            Error::NewerFormat {
                found: 3,
                supported: 2
            }
        );

        let foreign = dir.path().join("foreign");
        std::fs::create_dir(&foreign).unwrap();
        std::fs::write(foreign.join("thesis.tex"), "").unwrap();
        assert!(matches!(open(&foreign), Err(Error::Foreign { .. })));
        assert_eq!(std::fs::read_dir(&foreign).unwrap().count(), 1);
        assert!(matches!(
            open(&foreign.join("thesis.tex")),
            Err(Error::Foreign { .. })
        ));
    }

    #[tokio::test]
    async fn a_bit_flipped_anywhere_in_the_journal_of_a_closed_store_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = opened(&path);
        for value in ["one", "two", "three"] {
            put(&store, "k", value).await;
        }
        store.close().unwrap();
        let journal = path.join("journal/00000000000000000001.journal");
        let whole = std::fs::read(&journal).unwrap();
        let end = whole.iter().rposition(|&byte| byte != 0).unwrap() + 1;
        // Without the view, which would tell by itself how far the store had come.
        std::fs::remove_dir_all(path.join(VIEW_DIR)).unwrap();
        for at in 0..end {
            let mut damaged = whole[..end].to_vec();
            damaged[at] ^= 0x20;
            std::fs::write(&journal, damaged).unwrap();
            assert!(
                matches!(open(&path), Err(Error::Corrupt { .. })),
                "byte {at}"
            );
        }
        std::fs::write(&journal, whole).unwrap();
        assert_eq!(content(&opened(&path)), pairs(&[("k", "three")]));
    }

    #[tokio::test]
    async fn a_journal_that_lost_what_the_view_has_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = opened(&path);
        put(&store, "k", "v").await;
        let journal = path.join("journal/00000000000000000001.journal");
        let before = std::fs::read(&journal).unwrap();
        put(&store, "k", "w").await;
        store.close().unwrap();
        std::fs::write(&journal, before).unwrap();
        assert!(matches!(open(&path), Err(Error::Corrupt { .. })));
    }

    /// Puts `n` keys of 64 KiB, which fills several segments.
    async fn fill(store: &Store, n: u32) {
        for key in 0..n {
            let key = format!("k{key:04}");
            let value = vec![7; 64 << 10];
            store.commit(Batch::new().put(key, value)).await.unwrap();
        }
    }

    fn names(dir: PathBuf) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_checkpoint_and_the_journal_behind_it_make_the_view_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let options = Options {
            journal_keep_bytes: 0,
            ..Options::default()
        };
        let store = Store::open(&path, &options).unwrap();
        fill(&store, 600).await;
        assert!(names(path.join("journal")).len() > 2);
        store.checkpoint().await.unwrap();
        assert_eq!(
            names(path.join("checkpoint")),
            ["00000000000000000600.checkpoint"]
        );
        assert_eq!(
            names(path.join("journal")).len(),
            1,
            "what the checkpoint covers goes"
        );
        put(&store, "k0000", "changed").await;
        put(&store, "new", "one").await;
        let before = content(&store);
        store.close().unwrap();
        std::fs::remove_dir_all(path.join(VIEW_DIR)).unwrap();
        let store = opened(&path);
        assert_eq!((store.revision(), content(&store) == before), (602, true));
        store.checkpoint().await.unwrap();
        assert_eq!(
            names(path.join("checkpoint")),
            ["00000000000000000602.checkpoint"]
        );
        store.close().unwrap();
        let store = opened(&path);
        assert_eq!((store.revision(), content(&store) == before), (602, true));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_checkpoint_is_exact_though_writes_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = Arc::new(opened(&path));
        fill(&store, 300).await;
        let writing = tokio::spawn({
            let store = store.clone();
            async move {
                for _ in 0..20 {
                    fill(&store, 50).await;
                    put(&store, "k0200", "changed").await;
                }
            }
        });
        // Each is read back and compared with the state hash before it counts.
        for _ in 0..5 {
            store.checkpoint().await.unwrap();
        }
        writing.await.unwrap();
        let before = content(&store);
        Arc::into_inner(store).unwrap().close().unwrap();
        std::fs::remove_dir_all(path.join(VIEW_DIR)).unwrap();
        assert!(content(&opened(&path)) == before);
    }

    #[tokio::test]
    async fn a_journal_that_outgrows_the_checkpoint_gets_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let options = Options {
            checkpoint_floor_bytes: 1 << 20,
            ..Options::default()
        };
        let store = Store::open(&path, &options).unwrap();
        fill(&store, 64).await;
        for _ in 0..100 {
            if path.join("checkpoint").is_dir() && !names(path.join("checkpoint")).is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no checkpoint was made");
    }

    #[tokio::test]
    async fn a_damaged_checkpoint_is_made_again_from_the_view_and_told_without_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let options = Options {
            journal_keep_bytes: 0,
            ..Options::default()
        };
        let store = Store::open(&path, &options).unwrap();
        fill(&store, 300).await;
        store.checkpoint().await.unwrap();
        put(&store, "new", "one").await;
        store.close().unwrap();
        let file = path.join("checkpoint/00000000000000000300.checkpoint");
        let whole = std::fs::read(&file).unwrap();

        // In its middle, which only a rebuild looks at.
        let mut damaged = whole.clone();
        damaged[100_000] ^= 1;
        std::fs::write(&file, damaged).unwrap();
        std::fs::rename(path.join(VIEW_DIR), dir.path().join("aside")).unwrap();
        let Err(Error::Corrupt { what }) = open(&path) else {
            panic!("it was opened")
        };
        assert!(what.contains("00000000000000000300.checkpoint"), "{what}");
        std::fs::rename(dir.path().join("aside"), path.join(VIEW_DIR)).unwrap();

        // At its end, which every open looks at.
        std::fs::write(&file, &whole[..whole.len() - 1]).unwrap();
        let store = opened(&path);
        store.checkpoint().await.unwrap();
        assert_eq!(
            names(path.join("checkpoint")),
            ["00000000000000000301.checkpoint"]
        );
        store.close().unwrap();
        opened(&path).close().unwrap();
    }

    /// What a view says that has lost a key without knowing.
    fn lose(view: &Sled, key: &'static str) {
        let (revision, state) = view.shown().unwrap();
        let delete = frame::Write {
            key: key.into(),
            value: None,
        };
        view.apply(&[frame::Change {
            revision,
            writes: vec![delete],
            state,
        }])
        .unwrap();
    }

    #[tokio::test]
    async fn a_view_that_lost_something_with_the_machine_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = opened(&path);
        put(&store, "k1", "one").await;
        put(&store, "k2", "two").await;
        store.close().unwrap();
        let view = Sled::open(&path.join(VIEW_DIR).join("1"), 8 << 20).unwrap();
        lose(&view, "k1");
        view.close().unwrap();
        assert_eq!(
            content(&opened(&path)),
            pairs(&[("k1", "one"), ("k2", "two")])
        );
    }

    #[tokio::test]
    async fn a_view_that_turns_out_wrong_is_made_anew_while_the_store_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = opened(&path);
        put(&store, "k1", "one").await;
        put(&store, "k2", "two").await;
        lose(&store.fed_sled(), "k1");
        assert!(matches!(
            store.checkpoint().await,
            Err(Error::Corrupt { .. })
        ));
        assert_eq!(content(&store), pairs(&[("k1", "one"), ("k2", "two")]));
        assert!(store.condition().borrow().is_well());
        store.checkpoint().await.unwrap();
        put(&store, "k3", "three").await;
        store.close().unwrap();
        assert_eq!(
            content(&opened(&path)),
            pairs(&[("k1", "one"), ("k2", "two"), ("k3", "three")])
        );
    }

    #[tokio::test]
    async fn a_value_that_fails_its_checksum_heals_while_others_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = opened(&dir.path().join("store"));
        put(&store, "k1", "one").await;
        put(&store, "k2", "two").await;
        store.fed_sled().damage(b"k1");
        assert!(matches!(store.get(b"k1"), Err(Error::Corrupt { .. })));
        assert_eq!(store.get(b"k2").unwrap().unwrap().value, "two");
        for _ in 0..200 {
            if let Ok(Some(entry)) = store.get(b"k1") {
                assert_eq!(entry.value, "one");
                store.checkpoint().await.unwrap();
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("it did not heal");
    }

    #[tokio::test]
    async fn a_view_that_was_replaced_is_let_go_and_with_it_its_room() {
        let dir = tempfile::tempdir().unwrap();
        let store = opened(&dir.path().join("store"));
        put(&store, "k1", "one").await;
        put(&store, "k2", "two").await;
        let replaced = Arc::downgrade(&store.fed_sled());
        lose(&store.fed_sled(), "k1");
        store.checkpoint().await.unwrap_err();
        assert_eq!(content(&store), pairs(&[("k1", "one"), ("k2", "two")]));
        // Nobody writes: the committer must not be what keeps it.
        for _ in 0..200 {
            if replaced.upgrade().is_none() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("somebody still holds it");
    }

    #[tokio::test]
    async fn a_view_that_was_being_made_when_the_process_ended_does_not_keep_its_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = opened(&path);
        put(&store, "k", "v").await;
        store.abandon();
        Sled::open(&path.join(VIEW_DIR).join("2"), 8 << 20)
            .unwrap()
            .close()
            .unwrap();
        let store = opened(&path);
        assert_eq!(names(path.join(VIEW_DIR)), ["1"]);
        assert_eq!(content(&store), pairs(&[("k", "v")]));
    }

    #[tokio::test]
    async fn a_journal_whose_sums_were_made_from_a_wrong_view_is_healed_from_its_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = opened(&path);
        put(&store, "k1", "one").await;
        put(&store, "k2", "two").await;
        // Each open makes it wrong again, until a checkpoint has been made of what it really holds.
        lose(&store.fed_sled(), "k1");
        put(&store, "k1", "uno").await;
        store.abandon();
        let store = opened(&path);
        assert_eq!(content(&store), pairs(&[("k1", "uno"), ("k2", "two")]));
        put(&store, "k3", "three").await;
        store.checkpoint().await.unwrap();
        store.verify().unwrap();
        store.close().unwrap();
        let store = opened(&path);
        store.verify().unwrap();
        assert_eq!(
            content(&store),
            pairs(&[("k1", "uno"), ("k2", "two"), ("k3", "three")])
        );
    }

    #[tokio::test]
    async fn a_bit_flipped_anywhere_in_the_view_heals_or_is_harmless() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = opened(&path);
        fill(&store, 20).await;
        put(&store, "k0003", "changed").await;
        let before = content(&store);
        store.abandon();
        let mut seed = 7_u64;
        for _ in 0..40 {
            let view = std::fs::read_dir(path.join(VIEW_DIR))
                .unwrap()
                .next()
                .unwrap();
            let file = view.unwrap().path().join("db");
            let whole = std::fs::read(&file).unwrap();
            let end = whole.iter().rposition(|&byte| byte != 0).unwrap();
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = usize::try_from(seed >> 33).unwrap() % end;
            let mut flipped = whole;
            flipped[at] ^= 1 << (seed % 8);
            std::fs::write(&file, flipped).unwrap();
            let store = opened(&path);
            assert!(content(&store) == before, "byte {at}");
            store.abandon();
        }
    }

    #[tokio::test]
    async fn commit_times_never_go_back_though_the_clock_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = opened(&path);
        let future = clock::now_ms() + 1_000_000_000;
        store.clock.is_at_least(future);
        put(&store, "k", "v").await;
        store.close().unwrap();
        // Another process, whose clock is right.
        let store = opened(&path);
        assert!(store.now_ms() >= future);
        store.checkpoint().await.unwrap();
        store.close().unwrap();
        assert!(opened(&path).now_ms() >= future);
    }

    #[tokio::test]
    async fn opening_can_be_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = opened(&path);
        fill(&store, 10).await;
        store.close().unwrap();
        std::fs::remove_dir_all(path.join(VIEW_DIR)).unwrap();
        let options = Options {
            cancelled: Arc::new(AtomicBool::new(true)),
            ..Options::default()
        };
        assert!(matches!(Store::open(&path, &options), Err(Error::Closed)));
        assert_eq!(content(&opened(&path)).len(), 10);
    }

    #[tokio::test]
    async fn what_the_store_had_reached_is_told_without_the_view() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = opened(&path);
        let journal = path.join("journal/00000000000000000001.journal");
        put(&store, "k", "v").await;
        let before = std::fs::read(&journal).unwrap();
        put(&store, "k", "w").await;
        store.close().unwrap();
        std::fs::remove_dir_all(path.join(VIEW_DIR)).unwrap();
        std::fs::write(&journal, before).unwrap();
        let lost = |file: &str| {
            let kept = std::fs::read(path.join(file)).unwrap();
            std::fs::remove_file(path.join(file)).unwrap();
            assert!(
                matches!(open(&path), Err(Error::Corrupt { .. })),
                "without {file}"
            );
            std::fs::write(path.join(file), kept).unwrap();
        };
        lost("LOCK");
        std::fs::write(path.join("LOCK"), "closed at revision 2\n").unwrap();
        lost("REACHED");
    }

    /// The store on a disk that can be full.
    fn open_on(disk: &Arc<disk::full::FullDisk>, path: &Path, options: &Options) -> Store {
        let lock = home::claim(path).unwrap();
        Store::open_on(disk.clone(), lock, path, options).unwrap()
    }

    #[tokio::test]
    async fn what_rests_on_a_write_that_the_full_disk_refused_shares_its_fate() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let disk = Arc::new(disk::full::FullDisk::new(&path));
        let options = Options {
            journal_segment_bytes: 64 << 10,
            ..Options::default()
        };
        let store = open_on(&disk, &path, &options);
        put(&store, "k", "v").await;
        disk.set_full(true);
        // Too large for what is left of the segment, small enough that others join the group.
        let deletes = (0..200).map(|_| {
            let value = vec![7; 70 << 10];
            store.commit(
                Batch::new()
                    .expect("k", Some(1))
                    .delete("k")
                    .put("big", value),
            )
        });
        for outcome in futures_util::future::join_all(deletes).await {
            assert!(matches!(outcome, Err(Error::Full { .. })), "{outcome:?}");
        }
        assert!(store.condition().borrow().full.is_some());
        assert_eq!(content(&store), pairs(&[("k", "v")]));
        disk.set_full(false);
        assert_eq!(put(&store, "k", "w").await, 2);
    }

    #[tokio::test]
    async fn a_full_disk_refuses_what_is_new_and_takes_deletes_until_there_is_room_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let disk = Arc::new(disk::full::FullDisk::new(&path));
        let store = open_on(&disk, &path, &Options::default());
        let create = |key: &'static str| store.commit(Batch::new().expect(key, None).put(key, "v"));
        assert_eq!(create("k").await, Ok(Outcome::Committed(1)));
        disk.set_room(16 << 20);
        assert_eq!(create("l").await, Ok(Outcome::Committed(2)));
        disk.set_room(1 << 20);
        let refused = create("m").await;
        assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
        assert!(store.condition().borrow().full.is_some());
        assert!(!path.join("RESERVE").exists(), "the reserve is given up");
        let delete = Batch::new().expect("k", Some(1)).delete("k");
        assert_eq!(store.commit(delete).await, Ok(Outcome::Committed(3)));
        let update = Batch::new().expect("l", Some(2)).put("l", "w");
        assert_eq!(store.commit(update).await, Ok(Outcome::Committed(4)));
        store.close().unwrap();

        let store = open_on(&disk, &path, &Options::default());
        assert_eq!(content(&store), pairs(&[("l", "w")]));
        disk.set_room(1 << 30);
        // Nobody writes, and health shows it all the same.
        let mut condition = store.condition();
        let well = condition.wait_for(Condition::is_well);
        tokio::time::timeout(Duration::from_secs(20), well)
            .await
            .unwrap()
            .unwrap();
        let create = Batch::new().expect("m", None).put("m", "v");
        assert_eq!(store.commit(create).await, Ok(Outcome::Committed(5)));
        assert!(path.join("RESERVE").exists());
    }
}
