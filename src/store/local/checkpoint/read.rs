//! Reading a checkpoint.

use std::{collections::HashMap, path::Path};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    CHUNK_BYTES, END_MAGIC, END_OF_RECORDS, FIELD_BYTES_MAX, HEADER_BYTES, MAGIC, Sink, Summary,
    TRAILER_BYTES, write::Writer,
};
use crate::store::{
    Error,
    batch::Entry,
    change::{Group, Position, Write},
    local::{
        disk::{Disk, DiskFile},
        frame::HEADER_BYTES as FRAME_HEADER_BYTES,
    },
    reader::Reader,
    state_hash::StateHash,
};

/// A checkpoint's file, open for reading.
pub(in crate::store::local) struct Checkpoint {
    file: Box<dyn DiskFile>,
    path: String,
    summary: Summary,
    whole: u32,
}

impl Checkpoint {
    /// Whether a file starts as a checkpoint does.
    ///
    /// # Errors
    /// What the disk says.
    pub(in crate::store::local) fn is_one(disk: &dyn Disk, path: &Path) -> Result<bool, Error> {
        let mut magic = [0; MAGIC.len()];
        disk.open_to_read(path)?.read_at(0, &mut magic)?;
        Ok(magic == MAGIC)
    }

    /// Opens a checkpoint, and checks its header and trailer.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is none, damaged, or not whole.
    pub(in crate::store::local) fn open(disk: &dyn Disk, path: &Path) -> Result<Checkpoint, Error> {
        let file = disk.open_to_read(path)?;
        let path = path.display().to_string();
        let bytes = file.size()?;
        let mut header = [0; HEADER_BYTES];
        file.read_at(0, &mut header)?;
        let (content, crc) = header.split_at(HEADER_BYTES - 4);
        let torn = || Error::Corrupt {
            what: format!("{path} is damaged, or was not written to its end"),
        };
        if !content.starts_with(&MAGIC) || crc != crc32c::crc32c(content).to_le_bytes() {
            return Err(torn());
        }
        let mut reader = Reader(&content[MAGIC.len()..]);
        let store =
            Uuid::from_slice(reader.take(16).expect("the header has it")).expect("16 bytes");
        let time_ms = reader.u64().expect("the header has it");
        let trailer_at = bytes.checked_sub(TRAILER_BYTES as u64).ok_or_else(torn)?;
        let mut trailer = [0; TRAILER_BYTES];
        file.read_at(trailer_at, &mut trailer)?;
        let (content, crc) = trailer.split_at(TRAILER_BYTES - 4);
        if !content.starts_with(&END_MAGIC) || crc != crc32c::crc32c(content).to_le_bytes() {
            return Err(torn());
        }
        let mut reader = Reader(&content[END_MAGIC.len()..]);
        let mut parse = || {
            let (frames_at, records) = (reader.u64()?, reader.u64()?);
            let end = Position {
                revision: reader.u64()?,
                chain: reader.u32()?,
                state: reader.state_hash()?,
            };
            Some((
                Summary {
                    store,
                    time_ms,
                    end,
                    records,
                    bytes,
                    frames_at,
                },
                reader.u32()?,
            ))
        };
        let (summary, whole) = parse().ok_or_else(torn)?;
        Ok(Checkpoint {
            file,
            path,
            summary,
            whole,
        })
    }

    /// What it says about itself.
    pub(in crate::store::local) fn summary(&self) -> Summary {
        self.summary
    }

    /// The latest time that it tells of: when it was begun, or its last commit after that. Milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming the place.
    pub(in crate::store::local) fn last_time_ms(&self) -> Result<u64, Error> {
        let mut last = self.summary.time_ms;
        self.frames(&mut |frame| {
            last = last.max(frame.time_ms);
            Ok(())
        })?;
        Ok(last)
    }

    /// Hands every record to `visit`, in order, and checks each.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming the place; what `visit` refuses with.
    pub(in crate::store::local) fn records(
        &self,
        visit: &mut dyn FnMut(Entry) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut input = Input::new(&*self.file, HEADER_BYTES as u64, self.summary.frames_at);
        let mut records = 0;
        let mut before: Option<Bytes> = None;
        loop {
            let at = input.offset;
            let damaged = |what: &str| Error::Corrupt {
                what: format!("{} {what} at byte {at}", self.path),
            };
            let torn = || damaged("is damaged");
            let key_len = input
                .take(4)?
                .and_then(|bytes| Reader(&bytes).u32())
                .ok_or_else(torn)?;
            if key_len == END_OF_RECORDS {
                break;
            }
            let rest = input.take(8)?.ok_or_else(torn)?;
            let mut rest = Reader(&rest);
            let (value_len, crc) = rest.u32().zip(rest.u32()).ok_or_else(torn)?;
            let (key_len, value_len) = (key_len as usize, value_len as usize);
            if key_len.max(value_len) > FIELD_BYTES_MAX {
                return Err(torn());
            }
            let record = input.take(8 + key_len + value_len)?.ok_or_else(torn)?;
            if crc32c::crc32c(&record) != crc {
                return Err(torn());
            }
            let revision = Reader(&record).u64().ok_or_else(torn)?;
            let (key, value) = (record.slice(8..8 + key_len), record.slice(8 + key_len..));
            if before.as_ref().is_some_and(|before| *before >= key) {
                return Err(damaged("is not in order"));
            }
            before = Some(key.clone());
            visit(Entry {
                key,
                value,
                revision,
            })?;
            records += 1;
        }
        if records == self.summary.records && input.offset == self.summary.frames_at {
            Ok(())
        } else {
            Err(Error::Corrupt {
                what: format!(
                    "{} has {records} records, not {}",
                    self.path, self.summary.records
                ),
            })
        }
    }

    /// Hands every frame to `visit`, in order, and checks each.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming the place; what `visit` refuses with.
    pub(in crate::store::local) fn frames(
        &self,
        visit: &mut dyn FnMut(&Group) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let end = self.summary.end;
        let trailer_at = self.summary.bytes - TRAILER_BYTES as u64;
        let mut input = Input::new(&*self.file, self.summary.frames_at, trailer_at);
        let mut place: Option<Position> = None;
        while input.offset < trailer_at {
            let at = input.offset;
            let damaged = || Error::Corrupt {
                what: format!("{} is damaged at byte {at}", self.path),
            };
            let header = input.take(FRAME_HEADER_BYTES)?.ok_or_else(damaged)?;
            let payload_len = Group::payload_len_in(&header).ok_or_else(damaged)?;
            let payload = input.take(payload_len)?.ok_or_else(damaged)?;
            let bytes = [header, payload].concat();
            let found = Group::decode(&bytes, self.summary.store).ok_or_else(damaged)?;
            if place.is_some_and(|p| {
                p.chain != found.before || p.revision + 1 != found.group.first_revision
            }) {
                return Err(damaged());
            }
            visit(&found.group)?;
            place = Some(found.end());
        }
        if place.is_some_and(|place| place != end) {
            return Err(Error::Corrupt {
                what: format!("{} ends at another revision than it says", self.path),
            });
        }
        Ok(())
    }

    /// Writes the same as the checkpoint of another store, and says where that ends.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming the place; what `sink` refuses with.
    pub(in crate::store::local) fn copy_as(
        &self,
        store: Uuid,
        sink: &mut dyn Sink,
    ) -> Result<Position, Error> {
        let Summary { time_ms, end, .. } = self.summary;
        let mut writer = Writer::begin(sink, store, time_ms)?;
        self.records(&mut |entry| writer.record(&entry))?;
        // A new journal follows, whose chain begins here.
        writer.end_of_records(Position { chain: 0, ..end })?;
        self.frames(&mut |frame| writer.frame(frame))?;
        writer.finish().map(|summary| summary.end)
    }

    /// Checks everything: every byte, the order, and that it comes to the state that it says.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming the place.
    pub(in crate::store::local) fn verify(&self) -> Result<(), Error> {
        let wrong = |what: &str| {
            Err(Error::Corrupt {
                what: format!("{} {what}", self.path),
            })
        };
        let mut input = Input::new(&*self.file, 0, self.summary.bytes - TRAILER_BYTES as u64);
        let mut crc = 0;
        while let Some(chunk) = input.next_chunk()? {
            crc = crc32c::crc32c_append(crc, &chunk);
        }
        // What every frame leaves its keys at; the records' values of those are outdated.
        let mut written: HashMap<Bytes, StateHash> = HashMap::new();
        self.frames(&mut |frame| {
            for change in &frame.changes {
                for Write { key, value } in &change.writes {
                    let alone = StateHash::default();
                    let alone = value
                        .as_ref()
                        .map_or(alone, |value| alone.with(key, value, change.revision));
                    written.insert(Bytes::copy_from_slice(key), alone);
                }
            }
            Ok(())
        })?;
        let mut state = StateHash::default();
        self.records(&mut |entry| {
            if !written.contains_key(&entry.key) {
                state = state.with(&entry.key, &entry.value, entry.revision);
            }
            Ok(())
        })?;
        let state = written.values().fold(state, |sum, alone| sum.plus(*alone));
        if crc != self.whole {
            return wrong("is damaged: its checksum is another");
        }
        if state != self.summary.end.state {
            return wrong("does not hold what was written: its state hash is another");
        }
        Ok(())
    }
}

/// Reads a stretch of a file in chunks.
struct Input<'a> {
    file: &'a dyn DiskFile,
    chunk: Bytes,
    /// The place of what is taken next.
    offset: u64,
    end: u64,
}

impl<'a> Input<'a> {
    fn new(file: &'a dyn DiskFile, offset: u64, end: u64) -> Self {
        Input {
            file,
            chunk: Bytes::new(),
            offset,
            end,
        }
    }

    /// The next `len` bytes, or `None` if the stretch has fewer.
    fn take(&mut self, len: usize) -> Result<Option<Bytes>, Error> {
        if self.chunk.len() < len {
            let left = self.end.saturating_sub(self.offset);
            if left < len as u64 {
                return Ok(None);
            }
            let size = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(len.max(CHUNK_BYTES));
            let mut chunk = vec![0; size];
            let read = self.file.read_at(self.offset, &mut chunk)?;
            chunk.truncate(read);
            self.chunk = chunk.into();
            if read < len {
                return Ok(None);
            }
        }
        self.offset += len as u64;
        Ok(Some(self.chunk.split_to(len)))
    }

    fn next_chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
        if left == 0 {
            Ok(None)
        } else {
            self.take(left.min(CHUNK_BYTES))
        }
    }
}
