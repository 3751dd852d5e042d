//! Reading a file.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    path::Path,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    CHUNK_BYTES, END_OF_RECORDS, FIELD_BYTES_MAX, Frames, HEADER_BYTES, Header, Place,
    RECORD_HEADER_BYTES, RECORDS_AT, STATUS_AT, STATUS_BYTES, Status, TRAILER_BYTES, Trailer,
    blocks::Blocks, checked,
};
use crate::store::{
    Error, OpenError,
    batch::Entry,
    change::Write,
    local::disk::{Disk, DiskFile},
    reader::Reader,
    state_hash::StateHash,
};

/// A record, as it stands in a file.
pub(in crate::store::local) struct Record {
    pub(in crate::store::local) entry: Entry,
    bytes: Bytes,
    /// The place behind it.
    pub(in crate::store::local) end: u64,
}

/// A file that is only read.
pub(in crate::store::local) struct Stored {
    pub(in crate::store::local) file: Arc<dyn DiskFile>,
    /// Its name in messages.
    pub(in crate::store::local) name: String,
    pub(in crate::store::local) header: Header,
    pub(in crate::store::local) status: Status,
    /// The error tells what is damaged.
    pub(in crate::store::local) trailer: Result<Trailer, Error>,
    /// Where the records are. Known once all of them have been read.
    pub(super) blocks: OnceLock<Blocks>,
}

impl Stored {
    /// Opens a file, and finds its parts.
    ///
    /// # Errors
    /// [`OpenError::Foreign`], [`OpenError::NewerFormat`]; [`Error::Corrupt`] if its header is damaged; errors of the disk.
    pub(in crate::store::local) fn open(disk: &dyn Disk, path: &Path) -> Result<Stored, OpenError> {
        let file: Arc<dyn DiskFile> = disk.open_to_read(path)?.into();
        let name = path.display().to_string();
        let header = Header::read(&*file, &name)?.ok_or_else(|| OpenError::Foreign {
            reason: format!("{name} is empty"),
        })?;
        let mut stored = Stored {
            status: Status::read(&*file)?,
            trailer: Err(Error::Closed),
            file,
            name,
            header,
            blocks: OnceLock::new(),
        };
        stored.trailer = stored.find_trailer();
        Ok(stored)
    }

    pub(in crate::store::local) fn store(&self) -> Uuid {
        self.header.store
    }

    /// The same file under another name.
    pub(in crate::store::local) fn named(&self, name: &str) -> Stored {
        Stored {
            file: self.file.clone(),
            name: name.to_owned(),
            header: self.header,
            status: self.status,
            trailer: self.trailer.clone(),
            blocks: self.blocks.clone(),
        }
    }

    fn find_trailer(&self) -> Result<Trailer, Error> {
        if let Some(trailer) = self.trailer_at(self.status.trailer_at)? {
            return Ok(trailer);
        }
        let mut at = RECORDS_AT as u64;
        let found = self.for_each_record(u64::MAX, &mut |record| {
            at = record.end;
            Ok(())
        });
        match (found, self.trailer_at(at)?) {
            (Ok(()), Some(trailer)) => Ok(trailer),
            (Err(error), _) => Err(error),
            (Ok(()), None) => Err(self.damaged(at)),
        }
    }

    fn trailer_at(&self, at: u64) -> Result<Option<Trailer>, Error> {
        let mut bytes = [0; TRAILER_BYTES];
        if at >= self.file.size()? {
            return Ok(None);
        }
        let read = self.file.read_at(at, &mut bytes)?;
        let trailer = Trailer::decode(&bytes[..read]);
        Ok(trailer.filter(|trailer| trailer.at == at))
    }

    fn damaged(&self, at: u64) -> Error {
        Error::Corrupt {
            what: format!(
                "{} is damaged at byte {at}, or was not written to its end",
                self.name
            ),
        }
    }

    /// Calls `visit` with every record in order. Checks each one, and that none is missing.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with the place; any error that `visit` returns.
    pub(in crate::store::local) fn records(
        &self,
        visit: &mut dyn FnMut(Entry) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let trailer = self.trailer.clone()?;
        let (mut records, mut crc) = (0, 0);
        let mut blocks = Blocks::default();
        self.for_each_record(trailer.at, &mut |record| {
            records += 1;
            crc = crc32c::crc32c_append(crc, &record.bytes);
            blocks.add(&record.entry.key, record.end - record.bytes.len() as u64);
            visit(record.entry)
        })?;
        let name = &self.name;
        let what = if records != trailer.records {
            format!("{name} has {records} records, not {}", trailer.records)
        } else if crc != trailer.records_crc && !cfg!(fuzzing) {
            format!("{name} is damaged: its checksum is another")
        } else {
            // A second reading finds the same blocks.
            let _ = self.blocks.set(blocks.ending_at(trailer.at));
            return Ok(());
        };
        Err(Error::Corrupt { what })
    }

    /// Where the records are. The first call reads and checks all of them.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with what is damaged.
    pub(in crate::store::local) fn blocks(&self) -> Result<&Blocks, Error> {
        if self.blocks.get().is_none() {
            self.records(&mut |_| Ok(()))?;
        }
        Ok(self.blocks.get().expect("it was just found"))
    }

    /// Calls `visit` with every record before `end`, until the trailer or damage.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with the place; any error that `visit` returns.
    pub(in crate::store::local) fn for_each_record(
        &self,
        end: u64,
        visit: &mut dyn FnMut(Record) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut input = Input::new(self.file.clone(), RECORDS_AT as u64, end, CHUNK_BYTES);
        // Copied, so that nothing keeps the memory that the next part is read into.
        let mut before: Option<Vec<u8>> = None;
        while input.offset < end {
            let at = input.offset;
            let torn = || self.damaged(at);
            let header = input.peek(RECORD_HEADER_BYTES)?.ok_or_else(torn)?;
            let mut reader = Reader(&header);
            let key_len = reader.u32().ok_or_else(torn)?;
            if key_len == END_OF_RECORDS {
                break;
            }
            let (value_len, crc) = reader.u32().zip(reader.u32()).ok_or_else(torn)?;
            let revision = reader.u64().ok_or_else(torn)?;
            let (key_len, value_len) = (key_len as usize, value_len as usize);
            if key_len.max(value_len) > FIELD_BYTES_MAX {
                return Err(torn());
            }
            let len = RECORD_HEADER_BYTES + key_len + value_len;
            let record = input.take(len)?.ok_or_else(torn)?;
            if record_crc(&record) != crc && !cfg!(fuzzing) {
                return Err(torn());
            }
            let fields = record.slice(RECORD_HEADER_BYTES..);
            let (key, value) = (fields.slice(..key_len), fields.slice(key_len..));
            if before.as_ref().is_some_and(|before| **before >= *key) {
                return Err(torn());
            }
            let before = before.get_or_insert_default();
            before.clear();
            before.extend_from_slice(&key);
            visit(Record {
                entry: Entry {
                    key,
                    value,
                    revision,
                },
                bytes: record,
                end: input.offset,
            })?;
        }
        Ok(())
    }

    /// The frames from their start on.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if their start is not known.
    pub(in crate::store::local) fn frames(&self) -> Result<Frames, Error> {
        Ok(self.frames_from(self.trailer.clone()?.start_place()))
    }

    /// The frames behind a place.
    pub(in crate::store::local) fn frames_from(&self, place: Place) -> Frames {
        Frames::new(self.file.clone(), self.store(), place, CHUNK_BYTES)
    }

    /// Checks everything up to where records and frames are exact: every byte, the order, and that the result is the state that was
    /// written. [`check`](super::check) covers what follows.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with the place.
    pub(in crate::store::local) fn verify(&self) -> Result<(), Error> {
        let wrong = |what: String| Error::Corrupt {
            what: format!("{} {what}", self.name),
        };
        let trailer = self.trailer.clone()?;
        let (exact_at, state) = trailer.exact;
        let mut head = [0; RECORDS_AT];
        self.file.read_at(0, &mut head)?;
        let (before, status) = head[HEADER_BYTES..].split_at(STATUS_AT - HEADER_BYTES);
        let (status, behind) = status.split_at(STATUS_BYTES);
        let is_empty = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
        if !is_empty(before) || !is_empty(behind) || !is_empty(status) && checked(status).is_none()
        {
            return Err(wrong("is damaged behind its header".into()));
        }
        // The revision at which the frames leave each key; older values among the records do not count. There may be very many
        // keys, so that only a hash of each is kept. Its seed is random, so that nobody can choose keys that collide.
        let hasher = RandomState::new();
        let mut written: HashMap<u64, [u8; StateHash::BYTES]> = HashMap::new();
        let mut frames = self.frames()?;
        while frames.place().position.revision < exact_at {
            let Some(found) = frames.next()? else {
                let end = frames.place().position.revision;
                return Err(wrong(format!(
                    "is damaged: it ends at revision {end}, and is of revision {exact_at}"
                )));
            };
            if found.group.last_revision() <= trailer.fed {
                continue;
            }
            for change in &found.group.changes {
                for Write { key, value } in &change.writes {
                    let share = value.as_ref().map_or(StateHash::default(), |value| {
                        StateHash::of(key, value, change.revision)
                    });
                    written.insert(hasher.hash_one(key), share.to_le_bytes());
                }
            }
        }
        let mut sum = StateHash::default();
        self.records(&mut |entry| {
            if !written.contains_key(&hasher.hash_one(&entry.key)) {
                sum = sum.with(&entry.key, &entry.value, entry.revision);
            }
            Ok(())
        })?;
        let shares = written.into_values().map(StateHash::from_le_bytes);
        let sum = shares.fold(sum, StateHash::plus);
        if sum == state {
            Ok(())
        } else {
            Err(wrong(
                "does not hold what was written: its state hash is another".into(),
            ))
        }
    }
}

/// The checksum of a record, without the checksum's own bytes.
pub(super) fn record_crc(record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&record[..8]), &record[12..])
}

/// Reads a part of a file, some of it ahead.
pub(super) struct Input {
    file: Arc<dyn DiskFile>,
    ahead: Bytes,
    /// The offset of what is taken next.
    pub(super) offset: u64,
    end: u64,
    chunk_bytes: usize,
}

impl Input {
    pub(super) fn new(file: Arc<dyn DiskFile>, offset: u64, end: u64, chunk_bytes: usize) -> Self {
        Input {
            file,
            ahead: Bytes::new(),
            offset,
            end,
            chunk_bytes,
        }
    }

    /// Takes the next `len` bytes, or `None` if fewer are left.
    pub(super) fn take(&mut self, len: usize) -> Result<Option<Bytes>, Error> {
        let taken = self.peek(len)?;
        if taken.is_some() {
            self.ahead = self.ahead.split_off(len);
            self.offset += len as u64;
        }
        Ok(taken)
    }

    /// Looks at the next `len` bytes, or `None` if fewer are left.
    pub(super) fn peek(&mut self, len: usize) -> Result<Option<Bytes>, Error> {
        if self.ahead.len() < len {
            let end = self.end.min(self.file.size()?);
            let left = end.saturating_sub(self.offset);
            let size = usize::try_from(left).unwrap_or(usize::MAX);
            if size < len {
                return Ok(None);
            }
            // The memory of the last part, if nobody keeps a slice of it: new memory would cost as much as the reading.
            let last = std::mem::take(&mut self.ahead);
            let mut chunk = last.try_into_mut().unwrap_or_default();
            chunk.clear();
            chunk.resize(size.min(len.max(self.chunk_bytes)), 0);
            let read = self.file.read_at(self.offset, &mut chunk)?;
            chunk.truncate(read);
            self.ahead = chunk.freeze();
            if read < len {
                return Ok(None);
            }
        }
        Ok(Some(self.ahead.slice(..len)))
    }
}
