//! A durable, ordered key-value store with revisions: the journal is the truth, sled its ordered view.
//!
//! The seam is small, so that another ordered store could stand behind it: [`Store::get`],
//! [`Store::range`], [`Store::commit`] and [`Store::revision`]. `ARCHITECTURE.md` tells why sled alone
//! cannot keep an acknowledged write.

mod applier;
mod batch;
mod checkpoint;
mod checkpointer;
mod committer;
mod disk;
mod error;
mod frame;
mod home;
mod journal;
mod recovery;
#[cfg(test)]
mod simulation;
mod snapshot;
mod state_hash;
mod view;

use std::{
    fmt,
    ops::Bound,
    path::{Path, PathBuf},
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, Ordering},
        mpsc as threads,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use uuid::Uuid;

pub use batch::{Batch, Entry, Outcome};
pub use error::Error;
pub use snapshot::{Snapshot, Until, restore, verify_snapshot};
pub use view::Direction;

use applier::Applier;
use checkpointer::{Checkpointer, Origin, Work};
use committer::{CommitClock, Committer, Task};
use disk::{Disk, RealDisk};
use home::{Lock, VIEW_DIR};
use recovery::{Home, Parts};

/// Writes that may wait for the committer: a few groups' worth.
const QUEUE_BATCHES_MAX: usize = 1024;
/// What these may take of the memory: four groups' worth.
const QUEUE_BYTES_MAX: usize = 16 << 20;
/// How long a caller waits for room in the queue.
const QUEUE_WAIT: Duration = Duration::from_secs(5);
/// Groups that are durable and wait for the applier: one being applied, and the next.
const GROUPS_IN_FLIGHT_MAX: usize = 1;

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
    /// 256 MiB of cache: most of a catalog of 100,000 backups. 64 MiB of journal: seconds to replay.
    fn default() -> Self {
        Options {
            cache_bytes: 256 << 20,
            checkpoint_floor_bytes: 64 << 20,
            journal_keep_bytes: 64 << 20,
            journal_segment_bytes: 16 << 20,
        }
    }
}

/// An open store. Closing it with [`Store::close`] spares the next open a look at the view; just dropping
/// it, or being killed, loses nothing that was acknowledged.
pub struct Store {
    origin: Arc<Origin>,
    clock: Arc<CommitClock>,
    queue: mpsc::Sender<Task>,
    /// The bytes that may still be queued.
    room: Arc<Semaphore>,
    stopped: watch::Receiver<Option<Error>>,
    checkpointer: threads::SyncSender<Work>,
    threads: [JoinHandle<()>; 3],
    lock: Lock,
    view_dir: PathBuf,
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
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(root.to_path_buf()));
        // Before anything is written, the lock included: another format is not ours to touch.
        home::read_format(&*disk)?;
        let lock = home::claim(root)?;
        Store::open_on(disk, lock, &root.join(VIEW_DIR), options)
    }

    /// Opens the store on a disk that this process alone uses.
    fn open_on(
        disk: Arc<dyn Disk>,
        lock: Lock,
        view_dir: &Path,
        options: &Options,
    ) -> Result<Store, Error> {
        let view_dir = view_dir.to_path_buf();
        let home = Home {
            disk,
            view_dir: view_dir.clone(),
            cache_bytes: options.cache_bytes,
            segment_bytes: options.journal_segment_bytes,
        };
        let parts = match home::read_format(&*home.disk)? {
            Some(id) => home.open(id)?,
            None => home.create()?,
        };
        let Parts {
            id,
            view,
            journal,
            checkpoint_bytes,
            uncovered_bytes,
            checkpoint_is_due,
        } = parts;
        let view = Arc::new(view);
        let (queue, tasks) = mpsc::channel(QUEUE_BATCHES_MAX);
        let (shown, shown_seen) = watch::channel(journal.end());
        let (durable, durable_seen) = watch::channel(journal.end());
        let (stopped, stopped_seen) = watch::channel(None);
        let (groups, group_queue) = threads::sync_channel(GROUPS_IN_FLIGHT_MAX);
        // Room for one: what is asked while it is busy is asked again by the next group.
        let (work, requests) = threads::sync_channel(1);
        let origin = Arc::new(Origin {
            disk: home.disk,
            store: id,
            view: view.clone(),
            applied: shown_seen.clone(),
            durable: durable_seen,
            segments: RwLock::new(()),
            closing: AtomicBool::new(false),
        });
        let checkpointer = Checkpointer {
            origin: origin.clone(),
            work: requests,
            stopped: stopped.clone(),
            floor_bytes: options.checkpoint_floor_bytes,
            keep_segments: usize::try_from(
                options
                    .journal_keep_bytes
                    .div_ceil(options.journal_segment_bytes),
            )
            .unwrap_or(usize::MAX),
            last_bytes: checkpoint_bytes,
            uncovered_bytes: if checkpoint_is_due {
                u64::MAX / 2
            } else {
                uncovered_bytes
            },
        };
        let applier = Applier {
            view: view.clone(),
            groups: group_queue,
            applied: shown,
            stopped: stopped.clone(),
            checkpointer: work.clone(),
        };
        let clock = Arc::new(CommitClock::after(journal.last_time_ms()));
        let committer = Committer::new(
            journal,
            clock.clone(),
            view,
            tasks,
            shown_seen,
            durable,
            stopped,
            groups,
        );
        let threads = [
            spawn("committer", || committer.run())?,
            spawn("applier", || applier.run())?,
            spawn("checkpointer", || checkpointer.run())?,
        ];
        // There is room for it: nobody else has asked yet.
        let _ = work.try_send(Work::Look { appended_bytes: 0 });
        Ok(Store {
            origin,
            clock,
            queue,
            room: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)),
            stopped: stopped_seen,
            checkpointer: work,
            threads,
            lock,
            view_dir,
        })
    }

    /// What tells this store from every other: made with it, never changed.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.origin.store
    }

    /// The revision that reads show at least.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.origin.applied.borrow().revision
    }

    /// Follows why writing has stopped: `None` as long as it goes on.
    #[must_use]
    pub fn stopped(&self) -> watch::Receiver<Option<Error>> {
        self.stopped.clone()
    }

    /// The time of a commit that is made now, milliseconds since the Unix epoch. It never goes back, whatever the clock does.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// What a key durably holds. May read from the disk: not for an async thread.
    ///
    /// # Errors
    /// If the view cannot be read, or the value is damaged.
    pub fn get(&self, key: &[u8]) -> Result<Option<Entry>, Error> {
        self.origin.view.get(key)
    }

    /// The keys within the bounds with what they durably hold, in order. May read from the disk at every
    /// step: not for an async thread. What is written meanwhile may or may not be seen, each key once.
    pub fn range(
        &self,
        bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>),
        direction: Direction,
    ) -> impl Iterator<Item = Result<Entry, Error>> + use<> {
        self.origin.view.range(bounds, direction)
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
        let work = self.checkpointer.clone();
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
        self.origin.write(&mut Put(put)).map(Snapshot::from)
    }

    /// Reads all of the store and compares it with what was written: every value's checksum, and the state hash. Blocks.
    ///
    /// Only for a store that is not being written to.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming what is damaged.
    pub fn verify(&self) -> Result<(), Error> {
        if self.origin.view.state()? != self.origin.applied.borrow().state {
            return Err(Error::Corrupt {
                what: "the view does not hold what was written".into(),
            });
        }
        if let Some(checkpoint) = checkpointer::newest(&*self.origin.disk)? {
            checkpoint.verify()?;
        }
        Ok(())
    }

    /// Commits what is queued and closes the store, with all of the view on disk.
    ///
    /// # Errors
    /// What sled or the disk says. Nothing that was acknowledged depends on it.
    pub fn close(self) -> Result<(), Error> {
        self.origin.closing.store(true, Ordering::Relaxed);
        drop(self.queue);
        drop(self.checkpointer);
        for thread in self.threads {
            thread.join().map_err(|_| Error::Closed)?;
        }
        let Origin {
            disk,
            view,
            durable,
            ..
        } = Arc::into_inner(self.origin).ok_or(Error::Closed)?;
        let view = Arc::into_inner(view).ok_or(Error::Closed)?;
        let (shown, _) = view.shown()?;
        if shown == durable.borrow().revision && self.stopped.borrow().is_none() {
            view.close(&self.view_dir)?;
            home::write_view_closed(&*disk, shown)?;
        }
        drop(self.lock);
        Ok(())
    }
}

#[cfg(test)]
impl Store {
    /// Ends as a process ends that is killed, but waits until its threads are gone.
    fn abandon(self) {
        self.origin.closing.store(true, Ordering::Relaxed);
        drop(self.queue);
        drop(self.checkpointer);
        for thread in self.threads {
            thread.join().expect("a panic would have aborted");
        }
    }
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
    use view::View;

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
        store
            .range(
                (Bound::Included(b"a".to_vec()), Bound::Unbounded),
                Direction::Forward,
            )
            .map(|entry| {
                entry
                    .map(|entry| (text(entry.key), text(entry.value)))
                    .unwrap()
            })
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
        for entry in std::fs::read_dir(path.join(VIEW_DIR)).unwrap() {
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

    #[tokio::test]
    async fn a_view_that_lost_something_with_the_machine_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = opened(&path);
        put(&store, "k1", "one").await;
        put(&store, "k2", "two").await;
        store.close().unwrap();
        // The view as sled may leave it behind: at the last revision, without a write before it.
        let view = View::open(&path.join(VIEW_DIR), 8 << 20).unwrap();
        let (revision, state) = view.shown().unwrap();
        let delete = frame::Write {
            key: "k1".into(),
            value: None,
        };
        view.apply(&[frame::Change {
            revision,
            writes: vec![delete],
            state,
        }])
        .unwrap();
        view.close(&path.join(VIEW_DIR)).unwrap();
        std::fs::write(path.join("VIEW"), "open 2 another-boot\n").unwrap();
        assert_eq!(
            content(&opened(&path)),
            pairs(&[("k1", "one"), ("k2", "two")])
        );
    }

    #[tokio::test]
    async fn a_checkpoint_of_a_view_that_lost_something_is_refused_and_the_view_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = opened(&path);
        put(&store, "k1", "one").await;
        put(&store, "k2", "two").await;
        let (revision, state) = store.origin.view.shown().unwrap();
        let delete = frame::Write {
            key: "k1".into(),
            value: None,
        };
        store
            .origin
            .view
            .apply(&[frame::Change {
                revision,
                writes: vec![delete],
                state,
            }])
            .unwrap();
        assert!(matches!(
            store.checkpoint().await,
            Err(Error::Corrupt { .. })
        ));
        assert!(store.stopped().borrow().is_some());
        store.close().unwrap();
        assert_eq!(
            content(&opened(&path)),
            pairs(&[("k1", "one"), ("k2", "two")])
        );
    }
}
