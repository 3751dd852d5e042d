//! Power cuts, simulated: a disk in memory that forgets, at any operation, what was not synced.
//!
//! A seed decides everything: what is written, which of committer, feeder and checkpointer takes the next step, where the power
//! goes, what of the unsynced is there afterwards, which operation fails while it is on or how long the disk is full, and what
//! has become of the view. The same seed does the same to the disk. Each surviving state must open, hold every acknowledged write
//! and no half one, and come to its state hash. `ICEBOX_LONG=1` tries 50,000 seeds, `ICEBOX_SEED=n` one.

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64},
    },
    task::{Context, Poll, Waker},
};

use super::{disk::DiskFile, home::VIEW_DIR, *};
use crate::store::{
    Store,
    change::{Change, Write},
    state_hash::StateHash,
    view::Sled,
};

const SEEDS: u64 = 2_000;
const SEEDS_LONG: u64 = 50_000;
/// Seeds within which a sync that is left out must show.
const SEEDS_CONTROL: u64 = 200;
/// Seeds that are tried twice.
const SEEDS_REPLAYED: u64 = 100;
/// Cuts that a restored store is tried with.
const SEEDS_RESTORED: u64 = 20;
/// What a disk writes as a whole.
const SECTOR_BYTES: usize = 512;
/// Lives of one store: each ends with a cut, or with the process killed.
const LIVES: usize = 4;
const STEPS_MAX: u64 = 60;
/// A checkpoint is made of itself once the journal has grown by so much.
const CHECKPOINT_FLOOR_BYTES: u64 = 6 << 10;
/// More operations than a life has, so that some end by themselves.
const OPERATIONS_MAX: u64 = 120;

/// Random numbers that a seed repeats (splitmix64).
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What was done to a file since it was last synced.
#[derive(Clone)]
enum Unsynced {
    Write(u64, Vec<u8>),
    Size(u64),
}

#[derive(Clone, Default)]
struct FileState {
    now: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<Unsynced>,
}

type FileId = usize;

/// A change of names that no directory sync has made durable.
#[derive(Clone)]
enum Naming {
    Create(PathBuf, Option<FileId>),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

/// Names of files, and of directories as `None`.
type Names = BTreeMap<PathBuf, Option<FileId>>;

fn rename(names: &mut Names, from: &Path, to: &Path) {
    if let Some(node) = names.remove(from) {
        names.insert(to.to_owned(), node);
    }
}

impl Naming {
    fn apply(&self, names: &mut Names) {
        match self {
            Naming::Create(path, node) => drop(names.insert(path.clone(), *node)),
            Naming::Rename(from, to) => rename(names, from, to),
            Naming::Remove(path) => names.retain(|name, _| !name.starts_with(path)),
        }
    }

    /// The directory whose sync makes it durable.
    fn dir(&self) -> &Path {
        let (Naming::Create(path, _) | Naming::Rename(_, path) | Naming::Remove(path)) = self;
        path.parent().unwrap_or(Path::new(""))
    }
}

/// Syncs that a broken store leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LeftOut {
    Nothing,
    File(&'static str),
    Dir(&'static str),
}

#[derive(Clone, Default)]
struct Platter {
    files: Vec<FileState>,
    names: Names,
    synced_names: Names,
    unsynced_names: Vec<Naming>,
}

/// A disk in memory. The view's directories are real, since sled is: they lie under `root`.
struct FakeDisk {
    platter: Arc<Mutex<Platter>>,
    root: PathBuf,
    /// Operations until the power goes.
    left: Arc<AtomicU64>,
    off: Arc<AtomicBool>,
    /// Operations until one fails, once.
    fault: Arc<Fault>,
    left_out: LeftOut,
    trace: Trace,
}

/// What was done, in order.
#[derive(Clone, Default)]
struct Trace(Arc<Mutex<Vec<String>>>);

impl Trace {
    fn tell(&self, what: String) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.push(what);
    }
}

/// What fails while the power is on.
struct Fault {
    /// Operations until it does.
    left: AtomicI64,
    kind: FaultKind,
    met: AtomicBool,
}

#[derive(Clone, Copy)]
enum FaultKind {
    /// One operation fails.
    Once,
    /// The disk is full for so many operations; then somebody makes room.
    FullFor(i64),
}

impl Fault {
    fn meet(&self, needs_room: bool) -> Result<(), Error> {
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        let action = "use the disk".to_owned();
        let error = match self.kind {
            FaultKind::Once if left == 0 => Error::Io {
                action,
                reason: "it fails, once".into(),
            },
            FaultKind::FullFor(operations) if needs_room && left <= 0 && left > -operations => {
                Error::Full { action }
            }
            _ => return Ok(()),
        };
        self.met.store(true, Ordering::SeqCst);
        Err(error)
    }
}

fn power_is_off() -> Error {
    Error::Io {
        action: "reach the disk".into(),
        reason: "the power is off".into(),
    }
}

impl FakeDisk {
    fn lock(&self) -> MutexGuard<'_, Platter> {
        self.platter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation that changes something. The last one before the cut is begun and does not return.
    fn spend(&self, what: &str, path: &Path, needs_room: bool) -> Result<(), Error> {
        self.trace.tell(format!("{what} {}", path.display()));
        spend(&self.left, &self.off)?;
        self.fault.meet(needs_room)
    }

    fn has_failed(&self) -> bool {
        self.off.load(Ordering::SeqCst) || self.fault.met.load(Ordering::SeqCst)
    }

    fn is_real(path: &Path) -> bool {
        path.starts_with(VIEW_DIR)
    }
}

fn spend(left: &AtomicU64, off: &AtomicBool) -> Result<(), Error> {
    let spent = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
        left.checked_sub(1)
    });
    if spent.is_ok() {
        return Ok(());
    }
    off.store(true, Ordering::SeqCst);
    Err(power_is_off())
}

impl Disk for FakeDisk {
    fn open(&self, path: &Path) -> Result<Box<dyn DiskFile>, Error> {
        let mut platter = self.lock();
        let id = if let Some(Some(id)) = platter.names.get(path) {
            *id
        } else {
            self.spend("create", path, true)?;
            let id = platter.files.len();
            platter.files.push(FileState::default());
            let create = Naming::Create(path.to_owned(), Some(id));
            create.apply(&mut platter.names);
            platter.unsynced_names.push(create);
            id
        };
        drop(platter);
        Ok(Box::new(FakeFile {
            platter: self.platter.clone(),
            id,
            path: path.to_owned(),
            left: self.left.clone(),
            off: self.off.clone(),
            fault: self.fault.clone(),
            left_out: self.left_out,
            trace: self.trace.clone(),
        }))
    }

    fn open_to_read(&self, path: &Path) -> Result<Box<dyn DiskFile>, Error> {
        if self.lock().names.contains_key(path) {
            self.open(path)
        } else {
            Err(Error::Io {
                action: format!("open {}", path.display()),
                reason: "no such file".into(),
            })
        }
    }

    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        let platter = self.lock();
        let id = platter.names.get(path).copied().flatten();
        Ok(id.map(|id| platter.files[id].now.clone()))
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, Error> {
        let platter = self.lock();
        let inside = platter
            .names
            .keys()
            .filter(|path| path.parent() == Some(dir));
        let mut names: Vec<_> = inside
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect();
        if Self::is_real(dir) {
            let real = fs::read_dir(self.root.join(dir))
                .into_iter()
                .flatten()
                .flatten();
            names.extend(real.map(|entry| entry.file_name().to_string_lossy().into_owned()));
        }
        names.sort();
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> Result<(), Error> {
        let mut platter = self.lock();
        if !platter.names.contains_key(dir) {
            self.spend("create directory", dir, true)?;
            let create = Naming::Create(dir.to_owned(), None);
            create.apply(&mut platter.names);
            platter.unsynced_names.push(create);
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        self.spend("rename", from, true)?;
        if Self::is_real(from) {
            return fs::rename(self.root.join(from), self.root.join(to))
                .map_err(|error| Error::io("rename", from, &error));
        }
        let mut platter = self.lock();
        let naming = Naming::Rename(from.to_owned(), to.to_owned());
        naming.apply(&mut platter.names);
        platter.unsynced_names.push(naming);
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), Error> {
        if Self::is_real(path) {
            self.spend("remove", path, false)?;
            // It may not be there.
            let _ = fs::remove_dir_all(self.root.join(path));
            return Ok(());
        }
        let mut platter = self.lock();
        if platter.names.contains_key(path) {
            self.spend("remove", path, false)?;
            let naming = Naming::Remove(path.to_owned());
            naming.apply(&mut platter.names);
            platter.unsynced_names.push(naming);
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), Error> {
        self.spend("sync directory", dir, true)?;
        if matches!(self.left_out, LeftOut::Dir(left_out) if dir == Path::new(left_out)) {
            return Ok(());
        }
        let Platter {
            synced_names,
            unsynced_names,
            ..
        } = &mut *self.lock();
        unsynced_names.retain(|naming| {
            let durable = naming.dir() == dir;
            if durable {
                naming.apply(synced_names);
            }
            !durable
        });
        Ok(())
    }

    fn room_bytes(&self) -> Option<u64> {
        None
    }
}

struct FakeFile {
    platter: Arc<Mutex<Platter>>,
    id: FileId,
    path: PathBuf,
    left: Arc<AtomicU64>,
    off: Arc<AtomicBool>,
    fault: Arc<Fault>,
    left_out: LeftOut,
    trace: Trace,
}

impl FakeFile {
    fn lock(&self) -> MutexGuard<'_, Platter> {
        self.platter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: Unsynced) -> Result<(), Error> {
        if self.off.load(Ordering::SeqCst) {
            return Err(power_is_off());
        }
        let what = match &change {
            Unsynced::Write(offset, bytes) => format!("write {} at {offset} to", bytes.len()),
            Unsynced::Size(size) => format!("size {size} of"),
        };
        self.trace.tell(format!("{what} {}", self.path.display()));
        // The operation that the cut meets has begun: part of it may be found.
        let spent = spend(&self.left, &self.off);
        let file = &mut self.lock().files[self.id];
        change.apply(&mut file.now);
        file.unsynced.push(change);
        spent.and_then(|()| self.fault.meet(true))
    }
}

impl Unsynced {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Unsynced::Size(size) => bytes.resize(usize::try_from(*size).expect("small"), 0),
            Unsynced::Write(offset, written) => {
                let offset = usize::try_from(*offset).expect("small");
                if bytes.len() < offset + written.len() {
                    bytes.resize(offset + written.len(), 0);
                }
                bytes[offset..offset + written.len()].copy_from_slice(written);
            }
        }
    }

    /// Leaves of a write the sectors that reached the disk.
    fn survive(&self, bytes: &mut Vec<u8>, dice: &mut Dice) {
        let Unsynced::Write(offset, written) = self else {
            if dice.one_in(2) {
                self.apply(bytes);
            }
            return;
        };
        let (all, none) = (dice.one_in(3), dice.one_in(3));
        let mut at = 0;
        while at < written.len() {
            let place = usize::try_from(*offset).expect("small") + at;
            let len = (SECTOR_BYTES - place % SECTOR_BYTES).min(written.len() - at);
            if all || (!none && dice.one_in(2)) {
                Unsynced::Write(place as u64, written[at..at + len].to_vec()).apply(bytes);
            }
            at += len;
        }
    }
}

impl DiskFile for FakeFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.change(Unsynced::Write(offset, bytes.to_vec()))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let platter = self.lock();
        let bytes = &platter.files[self.id].now;
        let rest = bytes
            .get(usize::try_from(offset).expect("small")..)
            .unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn size(&self) -> Result<u64, Error> {
        Ok(self.lock().files[self.id].now.len() as u64)
    }

    fn allocate(&mut self, len: u64) -> Result<(), Error> {
        let size = self.size()?;
        if len > size {
            self.change(Unsynced::Size(len))
        } else {
            Ok(())
        }
    }

    fn sync(&mut self) -> Result<(), Error> {
        if self.off.load(Ordering::SeqCst) {
            return Err(power_is_off());
        }
        self.trace.tell(format!("sync {}", self.path.display()));
        spend(&self.left, &self.off)?;
        let failed = self.fault.meet(true);
        let left_out = matches!(self.left_out, LeftOut::File(dir) if self.path.starts_with(dir));
        let file = &mut self.lock().files[self.id];
        if failed.is_err() {
            // As Linux has it: they count as written from then on, and no later sync looks for them.
            file.unsynced.clear();
        } else if !left_out {
            for change in file.unsynced.drain(..) {
                change.apply(&mut file.synced);
            }
        }
        failed
    }
}

impl Platter {
    /// What is found when the power is back: all that was synced, and some of what was not. Names are journaled, so those of
    /// one directory survive in order up to some point.
    fn after_cut(&self, dice: &mut Dice) -> Platter {
        let mut names = self.synced_names.clone();
        let mut ended: Vec<&Path> = Vec::new();
        for naming in &self.unsynced_names {
            if ended.contains(&naming.dir()) || dice.one_in(2) {
                ended.push(naming.dir());
            } else {
                naming.apply(&mut names);
            }
        }
        // A name outlives no directory that it is in.
        let there = names.clone();
        names.retain(|path, _| match path.parent() {
            Some(dir) if dir != Path::new("") => there.contains_key(dir),
            _ => true,
        });
        let files = self.files.iter().map(|file| {
            let mut bytes = file.synced.clone();
            for change in &file.unsynced {
                change.survive(&mut bytes, dice);
            }
            FileState {
                now: bytes.clone(),
                synced: bytes,
                ..FileState::default()
            }
        });
        Platter {
            files: files.collect(),
            synced_names: names.clone(),
            names,
            unsynced_names: Vec::new(),
        }
    }
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;
/// The writes of one batch.
type Writes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

fn batch(dice: &mut Dice) -> Writes {
    let write = |dice: &mut Dice| {
        let key = format!("k{:02}", dice.below(40)).into_bytes();
        let size = if dice.one_in(8) {
            dice.below(20_000)
        } else {
            dice.below(600)
        };
        let size = usize::try_from(size).expect("small");
        let byte = dice.next().to_le_bytes()[0];
        (key, (!dice.one_in(4)).then(|| vec![byte; size]))
    };
    (0..=dice.below(4)).map(|_| write(dice)).collect()
}

fn put(model: &mut Model, batch: &Writes) {
    for (key, value) in batch {
        match value {
            Some(value) => drop(model.insert(key.clone(), value.clone())),
            None => drop(model.remove(key)),
        }
    }
}

/// One store over several lives.
struct Simulation {
    dice: Dice,
    root: tempfile::TempDir,
    /// Where copies of the view are kept.
    copies: tempfile::TempDir,
    platter: Platter,
    /// What was acknowledged.
    model: Model,
    /// What was being written when the power went, in the order in which it was queued.
    in_doubt: Vec<Writes>,
    left_out: LeftOut,
    trace: Trace,
}

/// An open store with its workers, which are stepped.
struct Stepped {
    store: Store,
    workers: Workers,
}

/// A commit that was asked for, and what it writes.
type Asked<'a> = (
    Writes,
    Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>,
);

impl Simulation {
    fn new(seed: u64, left_out: LeftOut) -> Self {
        Simulation {
            dice: Dice(seed),
            root: tempfile::tempdir().expect("a directory"),
            copies: tempfile::tempdir().expect("a directory"),
            platter: Platter::default(),
            model: Model::new(),
            in_doubt: Vec::new(),
            left_out,
            trace: Trace::default(),
        }
    }

    fn run(&mut self) -> Result<(), String> {
        for _ in 0..LIVES {
            self.live()?;
        }
        // The last life is not cut: what it finds is what is left.
        let disk = Arc::new(self.disk(u64::MAX, None));
        let Stepped { store, workers } = self
            .open(&disk)
            .map_err(|error| format!("it does not open: {error}"))?;
        self.check(&store)?;
        drop(workers);
        store
            .close()
            .map_err(|error| format!("it does not close: {error}"))
    }

    fn disk(&self, operations: u64, fault: Option<(FaultKind, i64)>) -> FakeDisk {
        let (kind, until_fault) = fault.unwrap_or((FaultKind::Once, i64::MAX));
        FakeDisk {
            platter: Arc::new(Mutex::new(self.platter.clone())),
            root: self.root.path().to_owned(),
            left: Arc::new(AtomicU64::new(operations)),
            off: Arc::new(AtomicBool::new(false)),
            fault: Arc::new(Fault {
                left: AtomicI64::new(until_fault),
                kind,
                met: AtomicBool::new(false),
            }),
            left_out: self.left_out,
            trace: self.trace.clone(),
        }
    }

    fn open(&self, disk: &Arc<FakeDisk>) -> Result<Stepped, OpenError> {
        let options = Options {
            cache_bytes: 1 << 20,
            checkpoint_floor_bytes: CHECKPOINT_FLOOR_BYTES,
            journal_keep_bytes: 0,
            journal_segment_bytes: 32 << 10,
        };
        let lock = home::claim(self.root.path())?;
        let (local, workers) = Local::open_stepped(
            Arc::default(),
            disk.clone(),
            lock,
            self.root.path(),
            &options,
        )?;
        Ok(Stepped {
            store: Store::of(local),
            workers,
        })
    }

    /// Opens the store, checks it, works with it, and cuts the power somewhere on the way.
    fn live(&mut self) -> Result<(), String> {
        let operations = self.dice.below(OPERATIONS_MAX);
        let kind = match self.dice.below(6) {
            0 | 1 => Some(FaultKind::Once),
            2 => Some(FaultKind::FullFor(self.dice.below(20).cast_signed())),
            _ => None,
        };
        let until_fault = self.dice.below(OPERATIONS_MAX / 2).cast_signed();
        let disk = Arc::new(self.disk(operations, kind.map(|kind| (kind, until_fault))));
        let mut older_view = None;
        match self.open(&disk) {
            Ok(stepped) => {
                self.check(&stepped.store)?;
                older_view = self.work(stepped, &disk)?;
            }
            Err(_) if disk.has_failed() => {}
            Err(error) => return Err(format!("it does not open: {error}")),
        }
        disk.off.store(true, Ordering::SeqCst);
        let before = disk.lock().clone();
        if self.dice.one_in(3) {
            // Only the process ended: the machine still has all that it wrote.
            self.platter = before;
            return Ok(());
        }
        self.platter = before.after_cut(&mut self.dice);
        self.damage_view(older_view)
    }

    /// That the store holds what was acknowledged, and of the rest all or nothing of each batch.
    fn check(&mut self, store: &Store) -> Result<(), String> {
        let entries = store
            .content()
            .map_err(|error| format!("it cannot be read: {error}"))?;
        let state = entries.iter().fold(StateHash::default(), |state, entry| {
            state.with(&entry.key, &entry.value, entry.revision)
        });
        let content: Model = entries
            .into_iter()
            .map(|entry| (entry.key.to_vec(), entry.value.to_vec()))
            .collect();
        // They were queued in order, so that some first ones of them may be there.
        let mut allowed = self.model.clone();
        let mut matches = content == allowed;
        for batch in std::mem::take(&mut self.in_doubt) {
            put(&mut allowed, &batch);
            matches |= content == allowed;
        }
        if !matches {
            return Err(format!(
                "it holds {} keys, and not what was acknowledged",
                content.len()
            ));
        }
        self.model = content;
        if state == store.view.shown().state {
            Ok(())
        } else {
            Err("it does not come to its state hash".into())
        }
    }

    /// Works until the power goes, or somebody ends it. Gives a copy of the view from some time before.
    fn work(&mut self, stepped: Stepped, disk: &FakeDisk) -> Result<Option<PathBuf>, String> {
        let Stepped { store, mut workers } = stepped;
        // Commits set timers, which never run out.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        let _entered = runtime.enter();
        let mut asked: Vec<Asked<'_>> = Vec::new();
        let mut older_view = None;
        for step in 0..self.dice.below(STEPS_MAX) {
            match self.dice.below(12) {
                // It has something to do already if it takes no more.
                0 => drop(
                    store
                        .local()
                        .core
                        .checkpointer
                        .try_send(Work::Now(oneshot::channel().0)),
                ),
                1 => {
                    let copy = self.copies.path().join(format!("{step}"));
                    if store.view.sled().is_ok_and(|sled| sled.flush().is_ok()) {
                        copy_dir(&self.views(), &copy);
                        older_view = Some(copy);
                    }
                }
                2..=4 => {
                    for _ in 0..=self.dice.below(3) {
                        let writes = batch(&mut self.dice);
                        asked.push((writes.clone(), Box::pin(commit(&store, writes))));
                    }
                }
                5..=8 => drop(workers.committer.step()),
                9 | 10 => drop(workers.feeder.step()),
                _ => drop(workers.checkpointer.step()),
            }
            self.hear(&mut asked, disk)?;
        }
        let is_closed = self.dice.one_in(3);
        if is_closed {
            while workers.committer.step() {}
            while workers.feeder.step() == Ok(true) {}
            self.hear(&mut asked, disk)?;
        }
        // What nobody took from the queue was never begun.
        drop(asked);
        drop(workers);
        if is_closed {
            drop(store.close());
        } else {
            store.abandon();
        }
        Ok(older_view)
    }

    /// Hears the answers that are there, in the order in which the commits were asked for.
    fn hear(&mut self, asked: &mut Vec<Asked<'_>>, disk: &FakeDisk) -> Result<(), String> {
        let mut waiting = Vec::new();
        for (writes, mut commit) in asked.drain(..) {
            let Poll::Ready(outcome) = commit
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
            else {
                waiting.push((writes, commit));
                continue;
            };
            self.trace.tell(format!("answer {outcome:?}"));
            match outcome {
                Ok(()) if self.in_doubt.is_empty() => put(&mut self.model, &writes),
                Ok(()) => return Err("a write is acknowledged after one that failed".into()),
                Err(Error::OutcomeUnknown { .. }) => self.in_doubt.push(writes),
                Err(_) if disk.has_failed() => {}
                Err(error) => return Err(format!("a write fails: {error}")),
            }
        }
        *asked = waiting;
        Ok(())
    }

    fn views(&self) -> PathBuf {
        self.root.path().join(VIEW_DIR)
    }

    /// Does to the view what a crash of the machine may do to what sled never synced.
    fn damage_view(&mut self, older: Option<PathBuf>) -> Result<(), String> {
        let view = self.views();
        let fate = if view.is_dir() { self.dice.below(5) } else { 0 };
        match (fate, older) {
            (1, _) => drop(fs::remove_dir_all(&view)),
            (2, Some(older)) => {
                let _ = fs::remove_dir_all(&view);
                fs::rename(older, &view).map_err(|error| error.to_string())?;
            }
            (3, _) => {
                // The same whatever files there are: when sled makes them is its own affair.
                let garbage: Vec<u8> = (0..512)
                    .flat_map(|_| self.dice.next().to_le_bytes())
                    .collect();
                let views = fs::read_dir(&view).map_err(|error| error.to_string())?;
                let entries = views.flatten().flat_map(|view| fs::read_dir(view.path()));
                for entry in entries.flatten().flatten() {
                    if entry.path().is_file() {
                        fs::write(entry.path(), &garbage).map_err(|error| error.to_string())?;
                    }
                }
            }
            (4, _) => {
                let views = fs::read_dir(&view).map_err(|error| error.to_string())?;
                for view in views.flatten() {
                    self.apply_half(&view.path());
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Leaves the view at its revision, without some of what it held there.
    fn apply_half(&mut self, path: &Path) {
        let half = || {
            let view = Sled::open(path, 1 << 20)?;
            let (revision, state) = view.shown()?;
            let lost = self.model.keys().filter(|_| self.dice.one_in(3));
            let writes = lost
                .map(|key| Write {
                    key: key.clone().into(),
                    value: None,
                })
                .collect();
            view.apply(&[Change {
                revision,
                writes,
                state,
            }])
        };
        // A view that never came to be cannot be damaged.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(half));
    }
}

async fn commit(store: &Store, writes: Writes) -> Result<(), Error> {
    let batch = writes
        .into_iter()
        .fold(Batch::new(), |batch, (key, value)| match value {
            Some(value) => batch.put(key, value),
            None => batch.delete(key),
        });
    store.commit(batch).await.map(drop)
}

fn copy_dir(from: &Path, to: &Path) {
    let _ = fs::create_dir_all(to);
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            let _ = fs::copy(entry.path(), target);
        }
    }
}

/// The first seed of these that finds a broken promise, with what it found.
fn first_failure(seeds: std::ops::Range<u64>, left_out: LeftOut) -> Option<(u64, String)> {
    let next = AtomicU64::new(seeds.start);
    let failed = Mutex::new(None);
    let worker = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || failed.lock().expect("no worker panics").is_some() {
                return;
            }
            if let Err(what) = Simulation::new(seed, left_out).run() {
                *failed.lock().expect("no worker panics") = Some((seed, what));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(worker);
        }
    });
    failed.into_inner().expect("no worker panics")
}

#[test]
fn an_acknowledged_write_survives_a_power_cut_anywhere() {
    let one = std::env::var("ICEBOX_SEED")
        .ok()
        .and_then(|seed| seed.parse::<u64>().ok());
    let long = std::env::var_os("ICEBOX_LONG").is_some();
    let seeds = one.map_or(0..if long { SEEDS_LONG } else { SEEDS }, |seed| {
        seed..seed + 1
    });
    if let Some((seed, what)) = first_failure(seeds, LeftOut::Nothing) {
        panic!("ICEBOX_SEED={seed}: {what}");
    }
}

#[test]
fn a_sync_that_is_left_out_is_found() {
    for left_out in [
        LeftOut::File("journal"),
        LeftOut::File("checkpoint"),
        LeftOut::File("FORMAT.tmp"),
        LeftOut::Dir("journal"),
        LeftOut::Dir("checkpoint"),
    ] {
        let found = first_failure(0..SEEDS_CONTROL, left_out);
        assert!(found.is_some(), "{left_out:?} was not found");
    }
}

#[test]
fn the_same_seed_does_the_same() {
    let traced = |seed| {
        let mut simulation = Simulation::new(seed, LeftOut::Nothing);
        simulation
            .run()
            .map(|()| simulation.trace.0.lock().unwrap().clone())
    };
    for seed in 0..SEEDS_REPLAYED {
        let (first, again) = (traced(seed).unwrap(), traced(seed).unwrap());
        let differs = first
            .iter()
            .zip(&again)
            .position(|(first, again)| first != again);
        assert!(
            differs.is_none() && first.len() == again.len(),
            "seed {seed}: {differs:?} of {} and {}: {:?}, then {:?}",
            first.len(),
            again.len(),
            differs.map(|at| &first[at]),
            differs.map(|at| &again[at]),
        );
    }
}

#[test]
fn a_restored_store_survives_a_power_cut() {
    let dir = tempfile::tempdir().unwrap();
    let original = Store::open(&dir.path().join("original"), &Options::default()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for n in 0..50 {
        let writes = vec![(format!("k{n}").into_bytes(), Some(vec![b'v'; 900]))];
        runtime.block_on(commit(&original, writes)).unwrap();
    }
    let file = dir.path().join("snapshot");
    let mut bytes = Vec::new();
    let taken = original.local().snapshot(|chunk| {
        bytes.extend_from_slice(&chunk);
        Ok(())
    });
    taken.unwrap();
    fs::write(&file, bytes).unwrap();
    for seed in 0..SEEDS_RESTORED {
        let mut simulation = Simulation::new(seed, LeftOut::Nothing);
        let disk: Arc<FakeDisk> = Arc::new(simulation.disk(u64::MAX, None));
        let shared: Arc<dyn Disk> = disk.clone();
        snapshot::make(&snapshot::open(&file).unwrap(), &shared, None).unwrap();
        simulation.platter = disk.lock().after_cut(&mut simulation.dice);
        let disk = Arc::new(simulation.disk(u64::MAX, None));
        let Stepped { store, workers } = simulation.open(&disk).unwrap();
        assert!(
            store.content().unwrap() == original.content().unwrap(),
            "seed {seed}"
        );
        drop(workers);
        store.abandon();
    }
}
