//! Simulated power cuts, on a disk in memory that forgets what was not synced.
//!
//! A seed decides everything: what is written, whether committer, feeder or rewriter takes the next step, where the power goes, how
//! much of what was not synced is left, which operation fails or how long the disk is full, and what becomes of the view. The same
//! seed always does the same to the disk. Each surviving state must open, hold every acknowledged write and no half of one, and
//! have its state hash. `ICEBOX_LONG=1` tries 50,000 seeds, and `ICEBOX_SEED=n` one.

mod disk;

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64},
    },
    task::{Context, Poll, Waker},
};

use self::disk::{FakeDisk, Fault, FaultKind, LeftOut, Platter, Trace};
use super::*;
use crate::store::{Store, state_hash::StateHash, view::Sled};

const SEEDS: u64 = 2_000;
const SEEDS_LONG: u64 = 50_000;
/// A left-out sync must break a promise within this many seeds.
const SEEDS_CONTROL: u64 = 200;
/// The number of seeds that are run twice.
const SEEDS_REPLAYED: u64 = 100;
/// The number of cuts for a restored store.
const SEEDS_RESTORED: u64 = 20;
/// The number of lives of one store. Each ends with a cut, or with the process killed.
const LIVES: usize = 4;
const STEPS_MAX: u64 = 60;
/// How much journal is kept that the records already cover.
const JOURNAL_KEEP_BYTES: u64 = 2 << 10;
/// The file is written anew after its journal has grown by this much.
const REWRITE_FLOOR_BYTES: u64 = 6 << 10;
/// The store's file.
const FILE: &str = "icebox.db";
/// The file that will replace it.
const NEW_FILE: &str = "icebox.db.new";
/// More operations than a life has, so that some lives end by themselves.
const OPERATIONS_MAX: u64 = 120;

/// What keys begin with: see [`batch`].
const KINDS: &[[u8; 2]] = &[*b"k0", *b"k1", *b"k2", *b"k3"];

/// Random numbers that a seed determines (splitmix64).
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
    /// What was being written when the power went, in the order of the queue.
    in_doubt: Vec<Writes>,
    left_out: LeftOut,
    trace: Trace,
}

/// An open store with its workers, which the simulation steps.
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
        // The last life is not cut. It checks what is left.
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
            view: None,
            rewrite_floor_bytes: REWRITE_FLOOR_BYTES,
            journal_keep_bytes: JOURNAL_KEEP_BYTES,
            journal_room_bytes: 32 << 10,
            ..Options::default()
        };
        let (local, workers) =
            Local::open_stepped(Arc::default(), disk.clone(), self.paths(), &options)?;
        Ok(Stepped {
            store: Store::of(local),
            workers,
        })
    }

    fn paths(&self) -> Paths {
        Paths::of(&self.root.path().join(FILE)).expect("a directory")
    }

    /// Opens the store, checks it, works with it, and cuts the power at some point.
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
            // Only the process has ended: the machine still has everything that it wrote.
            self.platter = before;
            return Ok(());
        }
        self.platter = before.after_cut(&mut self.dice);
        self.damage_view(older_view)
    }

    /// Checks that the store holds what was acknowledged. Of the rest it may hold whole batches only.
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
        // They were queued in order. So the store may hold the first ones of them.
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
        if state != store.view.shown().state {
            return Err("it does not come to its state hash".into());
        }
        for kind in KINDS {
            let keys = self.model.keys().filter(|key| key.starts_with(kind));
            if store.count(*kind) != keys.count() as u64 {
                return Err("it has counted its keys wrong".into());
            }
        }
        Ok(())
    }

    /// Works until the power goes, or the life ends. Returns a copy of the view from an earlier moment.
    fn work(&mut self, stepped: Stepped, disk: &FakeDisk) -> Result<Option<PathBuf>, String> {
        let Stepped { store, mut workers } = stepped;
        // Commits set timers, which never run out here.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        let _entered = runtime.enter();
        let mut asked: Vec<Asked<'_>> = Vec::new();
        let mut older_view = None;
        for step in 0..self.dice.below(STEPS_MAX) {
            match self.dice.below(12) {
                // If its queue is full it has work already.
                0 => drop(
                    store
                        .local()
                        .core
                        .rewriter
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
                _ => drop(workers.rewriter.step()),
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

    /// Takes the answers that have come, in the order in which the commits were asked for.
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
        self.paths().view
    }

    /// Damages the view as a crash of the machine may damage what sled never synced.
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
                // The bytes do not depend on the files: when sled makes those is not determined by the seed.
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

    /// Removes a part of the view's content, but leaves the revision that it claims.
    fn apply_half(&mut self, path: &Path) {
        let half = || {
            let view = Sled::open(path, 1 << 20)?;
            let mut lost = self.model.keys().filter(|_| self.dice.one_in(3));
            lost.try_for_each(|key| view.lose(key))
        };
        // A view that was never finished cannot be damaged.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(half));
    }
}

async fn commit(store: &Store, writes: Writes) -> Result<(), Error> {
    let batch = writes
        .into_iter()
        .fold(Batch::default(), |batch, (key, value)| match value {
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

/// The first of these seeds that finds a broken promise, and what it found.
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
    for left_out in [LeftOut::File(FILE), LeftOut::File(NEW_FILE), LeftOut::Names] {
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
        restore::make_on(&*disk, &simulation.paths(), &file).unwrap();
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
