//! A disk in memory that can lose power at any operation, and then forgets what was not synced.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
};

use super::Dice;
use crate::store::{
    Error,
    local::disk::{Disk, DiskFile},
};

/// A disk writes this much at once or not at all.
const SECTOR_BYTES: usize = 512;

/// A change to a file since its last sync.
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

/// A change of names that is not durable yet.
#[derive(Clone)]
enum Naming {
    Create(PathBuf, FileId),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

type Names = BTreeMap<PathBuf, FileId>;

impl Naming {
    fn apply(&self, names: &mut Names) {
        match self {
            Naming::Create(path, node) => drop(names.insert(path.clone(), *node)),
            Naming::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
            Naming::Remove(path) => drop(names.remove(path)),
        }
    }
}

/// Which syncs a broken store leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeftOut {
    Nothing,
    /// The syncs of the file with this name.
    File(&'static str),
    /// The syncs of names.
    Names,
}

#[derive(Clone, Default)]
pub(super) struct Platter {
    files: Vec<FileState>,
    names: Names,
    synced_names: Names,
    unsynced_names: Vec<Naming>,
}

/// A disk in memory. It holds the store's file. The view is on a real disk, because sled is real.
pub(super) struct FakeDisk {
    pub(super) platter: Arc<Mutex<Platter>>,
    /// The number of operations until the power goes.
    pub(super) left: Arc<AtomicU64>,
    pub(super) off: Arc<AtomicBool>,
    /// The number of operations until one fails, once.
    pub(super) fault: Arc<Fault>,
    pub(super) left_out: LeftOut,
    pub(super) trace: Trace,
}

/// What was done, in order.
#[derive(Clone, Default)]
pub(super) struct Trace(pub(super) Arc<Mutex<Vec<String>>>);

impl Trace {
    pub(super) fn tell(&self, what: String) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.push(what);
    }
}

/// What fails while the power is on.
pub(super) struct Fault {
    /// The number of operations until it fails.
    pub(super) left: AtomicI64,
    pub(super) kind: FaultKind,
    pub(super) met: AtomicBool,
}

#[derive(Clone, Copy)]
pub(super) enum FaultKind {
    /// One operation fails.
    Once,
    /// The disk is full for this many operations; then somebody makes room.
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
    pub(super) fn lock(&self) -> MutexGuard<'_, Platter> {
        self.platter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation that changes something. The last one before the cut begins and does not return.
    fn spend(&self, what: &str, path: &Path, needs_room: bool) -> Result<(), Error> {
        self.trace.tell(format!("{what} {}", path.display()));
        spend(&self.left, &self.off)?;
        self.fault.meet(needs_room)
    }

    pub(super) fn has_failed(&self) -> bool {
        self.off.load(Ordering::SeqCst) || self.fault.met.load(Ordering::SeqCst)
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
        let id = if let Some(id) = platter.names.get(path) {
            *id
        } else {
            self.spend("create", path, true)?;
            let id = platter.files.len();
            platter.files.push(FileState::default());
            platter.name(Naming::Create(path.to_owned(), id));
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

    fn claim(&self, path: &Path) -> Result<Option<Box<dyn DiskFile>>, Error> {
        self.open(path).map(Some)
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

    fn list(&self) -> Result<Vec<String>, Error> {
        let platter = self.lock();
        let names = platter.names.keys();
        Ok(names.map(|name| name.display().to_string()).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        self.spend("rename", from, true)?;
        let naming = Naming::Rename(from.to_owned(), to.to_owned());
        self.lock().name(naming);
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), Error> {
        let mut platter = self.lock();
        if platter.names.contains_key(path) {
            self.spend("remove", path, false)?;
            platter.name(Naming::Remove(path.to_owned()));
        }
        Ok(())
    }

    fn sync_names(&self) -> Result<(), Error> {
        self.spend("sync names of", Path::new("."), true)?;
        if self.left_out == LeftOut::Names {
            return Ok(());
        }
        let Platter {
            synced_names,
            unsynced_names,
            ..
        } = &mut *self.lock();
        for naming in unsynced_names.drain(..) {
            naming.apply(synced_names);
        }
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
        // The operation that meets the cut has begun: a part of it may be found.
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

    /// Keeps the sectors of a write that reached the disk.
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
        let mut platter = self.lock();
        let left_out =
            matches!(self.left_out, LeftOut::File(name) if platter.is_named(self.id, name));
        let file = &mut platter.files[self.id];
        if failed.is_err() {
            // As in Linux: after a failed sync these count as written, and no later sync looks for them.
            file.unsynced.clear();
        } else if !left_out {
            for change in file.unsynced.drain(..) {
                change.apply(&mut file.synced);
            }
        }
        failed
    }

    fn release(&mut self) {}
}

impl Platter {
    fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        self.unsynced_names.push(naming);
    }

    fn is_named(&self, id: FileId, name: &str) -> bool {
        self.names.get(Path::new(name)) == Some(&id)
    }

    /// What is found when the power is back: everything that was synced, and some of the rest. Names are journaled, so that they
    /// survive in order up to some point.
    pub(super) fn after_cut(&self, dice: &mut Dice) -> Platter {
        let mut names = self.synced_names.clone();
        for naming in &self.unsynced_names {
            if dice.one_in(2) {
                break;
            }
            naming.apply(&mut names);
        }
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
