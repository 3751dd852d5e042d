//! Where the view reads values that it does not hold itself: in the journal, or among the records if they are older.
//!
//! sled knows where in the journal a value was written. When the file is written anew, the frames that its records cover go, except
//! for what followers may ask for. Then the place that sled knows for an older value no longer exists, and the key is looked up
//! among the records. So sled does not change when the file is written anew.

use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use super::{
    disk::{self, DiskFile},
    file::Lookup,
    frame::PAYLOAD_BYTES_MAX,
    log::Log,
};
use crate::store::{
    Error,
    change::Stands,
    view::{ValueReader, Values, Waits},
};

/// How much of the journal is read at a time while values follow each other.
const CHUNK_BYTES: usize = 64 << 10;
/// The greatest distance between two values that follow each other.
const GAP_BYTES_MAX: u64 = 1 << 10;

/// The log of the file that is written to now. It is replaced when the file is written anew.
pub(super) struct Current(RwLock<Arc<Log>>);

impl Current {
    pub(super) fn new(log: Arc<Log>) -> Self {
        Current(RwLock::new(log))
    }

    pub(super) fn log(&self) -> Arc<Log> {
        let log = self.0.read().unwrap_or_else(PoisonError::into_inner);
        log.clone()
    }

    /// Replaces the log. The old log must already know its successor.
    pub(super) fn replace(&self, log: Arc<Log>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = log;
    }
}

impl Values for Current {
    fn reader<'a>(&self, waits: Waits<'a>) -> Box<dyn ValueReader + 'a> {
        Box::new(LogReader::new(self.log(), waits))
    }
}

/// Reads values from a log, and from those that have replaced it since.
struct LogReader<'a> {
    log: Arc<Log>,
    /// Made when it is needed: many values stand in sled itself.
    journal: Option<Ahead<'a>>,
    records: Option<Lookup<'a>>,
    waits: Waits<'a>,
}

impl<'a> LogReader<'a> {
    fn new(log: Arc<Log>, waits: Waits<'a>) -> Self {
        LogReader {
            log,
            journal: None,
            records: None,
            waits,
        }
    }

    fn in_journal(&mut self, offset: u64, len: usize) -> Result<Option<Bytes>, Error> {
        let (file, waits) = (&self.log.stored.file, self.waits);
        let journal = self
            .journal
            .get_or_insert_with(|| Ahead::new(file.clone(), waits));
        journal.read(offset, len)
    }

    fn in_records(&mut self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let (stored, waits) = (&self.log.stored, self.waits);
        let records = self
            .records
            .get_or_insert_with(|| Lookup::new(stored.clone(), waits));
        records.value(key)
    }
}

impl ValueReader for LogReader<'_> {
    fn read(&mut self, key: &[u8], stands: Stands, len: usize) -> Result<Option<Bytes>, Error> {
        let Stands::Journal(at) = stands else {
            return self.in_records(key);
        };
        // What was written after this file was replaced is in the journal of its successor.
        while let Some(next) = self.log.next_before(at) {
            *self = LogReader::new(next, self.waits);
        }
        match self.log.trailer.in_file(at) {
            Some(offset) => self.in_journal(offset, len),
            None => self.in_records(key),
        }
    }
}

/// Reads parts of a file one after the other, and some ahead if they stand side by side.
struct Ahead<'a> {
    file: Arc<dyn DiskFile>,
    chunk: Bytes,
    /// Where the chunk begins.
    at: u64,
    waits: Waits<'a>,
}

impl<'a> Ahead<'a> {
    fn new(file: Arc<dyn DiskFile>, waits: Waits<'a>) -> Self {
        Ahead {
            file,
            chunk: Bytes::new(),
            at: 0,
            waits,
        }
    }

    /// The bytes at a place; `None` if there are fewer.
    fn read(&mut self, at: u64, len: usize) -> Result<Option<Bytes>, Error> {
        // A longer value is damage, and no reason to allocate memory.
        if len > PAYLOAD_BYTES_MAX {
            return Ok(None);
        }
        let end = self.at + self.chunk.len() as u64;
        let follows =
            !self.chunk.is_empty() && (self.at..end.saturating_add(GAP_BYTES_MAX)).contains(&at);
        let start = usize::try_from(at.saturating_sub(self.at)).unwrap_or(usize::MAX);
        if !follows || self.chunk.len() < start.saturating_add(len) {
            let mut chunk = vec![0; if follows { len.max(CHUNK_BYTES) } else { len }];
            let read = disk::read(&*self.file, at, &mut chunk, self.waits)?;
            chunk.truncate(read);
            (self.chunk, self.at) = (chunk.into(), at);
            return Ok((read >= len).then(|| self.chunk.slice(..len)));
        }
        Ok(Some(self.chunk.slice(start..start + len)))
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Mutex};

    use super::*;
    use crate::store::local::disk::{Disk, RealDisk};

    /// A file that tells what was read from it.
    struct Told {
        file: Box<dyn DiskFile>,
        reads: Mutex<Vec<(u64, usize)>>,
    }

    impl DiskFile for Told {
        fn write_at(&mut self, _: u64, _: &[u8]) -> Result<(), Error> {
            unreachable!("it is only read")
        }

        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
            self.reads.lock().unwrap().push((offset, buffer.len()));
            self.file.read_at(offset, buffer)
        }

        fn size(&self) -> Result<u64, Error> {
            self.file.size()
        }

        fn allocate(&mut self, _: u64) -> Result<(), Error> {
            unreachable!("it is only read")
        }

        fn sync(&mut self) -> Result<(), Error> {
            unreachable!("it is only read")
        }

        fn release(&mut self) {}
    }

    #[test]
    fn neighbours_are_read_at_once_and_others_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        std::fs::write(dir.path().join("file"), &bytes).unwrap();
        let disk = RealDisk::new(dir.path().to_owned());
        let told = Arc::new(Told {
            file: disk.open_to_read(Path::new("file")).unwrap(),
            reads: Mutex::default(),
        });
        let mut ahead = Ahead::new(told.clone(), Waits::Yes);
        let mut read = |at: usize, len: usize| {
            let found = ahead.read(at as u64, len).unwrap();
            assert_eq!(found.as_deref(), bytes.get(at..at + len), "{at}");
            std::mem::take(&mut *told.reads.lock().unwrap())
        };
        assert_eq!(read(100, 50), [(100, 50)]);
        assert_eq!(read(160, 50), [(160, CHUNK_BYTES)]);
        for n in 4..20 {
            assert_eq!(read(n * 60, 50), []);
        }
        assert_eq!(read(120_000, 50), [(120_000, 50)]);
        assert_eq!(read(120_000, 50), []);
        assert_eq!(read(90, 50), [(90, 50)]);
        assert_eq!(read(199_960, 50), [(199_960, 50)]);
        assert_eq!(read(300_000, 50), [(300_000, 50)]);
        assert_eq!(read(0, PAYLOAD_BYTES_MAX + 1), []);
    }
}
