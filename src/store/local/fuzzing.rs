//! The store's formats for the fuzzer.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    disk::{Disk, DiskFile},
    file::{self, Lookup, Stored},
    frame::HEADER_BYTES,
};
use crate::store::{
    Error,
    change::{Group, Stands},
    view::Waits,
};

/// Reads a frame. A whole frame must be written again exactly as it was read, and its values must stand where it says.
pub fn frame(bytes: &[u8]) {
    let store = Uuid::nil();
    let _ = Group::find(bytes, store, 1);
    let Some(found) = Group::decode(bytes, store) else {
        return;
    };
    let (again, _) = found.group.encode(store, found.before);
    assert_eq!(again[HEADER_BYTES..], bytes[HEADER_BYTES..found.len]);
    for write in found.group.placed(Some(0)) {
        if let (Some(value), Stands::Journal(at)) = (write.value, write.stands) {
            let at = usize::try_from(at).expect("it is in memory");
            assert_eq!(bytes[at..at + value.len()], **value);
        }
    }
}

/// Reads a file in every way in which files are read. Every record must be found by its key.
pub fn file(bytes: &[u8]) {
    let disk = ReadOnly(Bytes::copy_from_slice(bytes));
    let Ok(stored) = Stored::open(&disk, Path::new("file")) else {
        return;
    };
    let stored = Arc::new(stored);
    let _ = stored.verify();
    let _ = file::check(&stored, &mut |_| ());
    let _ = file::salvage(&stored, 0, None, &mut |_| Ok(()));
    let mut lookup = Lookup::new(stored.clone(), Waits::Yes);
    if stored.blocks().is_ok() {
        let found = stored.records(&mut |entry| {
            assert_eq!(lookup.value(&entry.key)?, Some(entry.value));
            Ok(())
        });
        found.expect("they were read before");
    }
}

/// One file in memory. It is only read.
#[derive(Clone)]
struct ReadOnly(Bytes);

fn refused<T>() -> Result<T, Error> {
    Err(Error::Closed)
}

impl Disk for ReadOnly {
    fn open(&self, _: &Path) -> Result<Box<dyn DiskFile>, Error> {
        refused()
    }

    fn claim(&self, _: &Path) -> Result<Option<Box<dyn DiskFile>>, Error> {
        refused()
    }

    fn open_to_read(&self, _: &Path) -> Result<Box<dyn DiskFile>, Error> {
        Ok(Box::new(self.clone()))
    }

    fn list(&self) -> Result<Vec<String>, Error> {
        refused()
    }

    fn rename(&self, _: &Path, _: &Path) -> Result<(), Error> {
        refused()
    }

    fn remove(&self, _: &Path) -> Result<(), Error> {
        refused()
    }

    fn sync_names(&self) -> Result<(), Error> {
        refused()
    }

    fn room_bytes(&self) -> Option<u64> {
        None
    }
}

impl DiskFile for ReadOnly {
    fn write_at(&mut self, _: u64, _: &[u8]) -> Result<(), Error> {
        refused()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.0.get(start..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn size(&self) -> Result<u64, Error> {
        Ok(self.0.len() as u64)
    }

    fn allocate(&mut self, _: u64) -> Result<(), Error> {
        refused()
    }

    fn sync(&mut self) -> Result<(), Error> {
        refused()
    }

    fn release(&mut self) {}
}
