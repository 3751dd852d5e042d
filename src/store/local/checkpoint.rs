//! Checkpoints: all that a store held at one revision, in one file that needs no engine to read.
//!
//! A checkpoint is made while writes go on, so that the scan of the view which it starts with is fuzzy: of what is
//! written meanwhile it may have seen some and missed some. The journal's frames since the scan began follow,
//! and putting them on top makes it exact at the revision of the last. With the journal behind that revision it
//! rebuilds everything; by itself it is a snapshot, for people to keep elsewhere.
//!
//! | part | bytes | what |
//! |---|---|---|
//! | header | 8 | magic `IBXCKPT2` |
//! | | 16 | the store's id |
//! | | 8 | when it was begun, milliseconds since the Unix epoch |
//! | | 4 | CRC-32C of this header |
//! | record | 4, 4 | length of key and of value |
//! | | 4 | CRC-32C of revision, key and value |
//! | | 8 | revision of the key's last write |
//! | | … | key, value; records are sorted by key |
//! | end of records | 4 | `FFFFFFFF` |
//! | frames | … | as in the journal: see `frame.rs` |
//! | trailer | 8 | magic `IBXCEND1` |
//! | | 8 | where the frames start |
//! | | 8 | number of records |
//! | | 8, 4, 16 | revision, chain and state hash that it is exact at |
//! | | 4 | CRC-32C of everything before the trailer |
//! | | 4 | CRC-32C of this trailer |
//!
//! All numbers are little-endian.

use std::{collections::HashMap, ops::Bound, path::Path};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    disk::{Disk, DiskFile},
    frame::{HEADER_BYTES as FRAME_HEADER_BYTES, PAYLOAD_BYTES_MAX},
    journal,
};
use crate::store::{
    Error,
    batch::Entry,
    change::{Group, Position, Write},
    reader::Reader,
    state_hash::StateHash,
    view::{Direction, Sled},
};

const MAGIC: [u8; 8] = *b"IBXCKPT2";
const END_MAGIC: [u8; 8] = *b"IBXCEND1";
const HEADER_BYTES: usize = 36;
const TRAILER_BYTES: usize = 60;
const RECORD_HEADER_BYTES: usize = 20;
const END_OF_RECORDS: u32 = u32::MAX;
/// What is written or read at once.
const CHUNK_BYTES: usize = 1 << 20;
/// A key or value that claims more is damage, not a reason to allocate: the largest are far smaller.
const FIELD_BYTES_MAX: usize = PAYLOAD_BYTES_MAX;

/// Takes a checkpoint's bytes, in order.
pub(super) trait Sink {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// Whatever ends the checkpoint.
    fn put(&mut self, bytes: Bytes) -> Result<(), Error>;
}

/// What a checkpoint says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    /// The store that it is of.
    pub(super) store: Uuid,
    /// When it was begun, milliseconds since the Unix epoch.
    pub(super) time_ms: u64,
    /// Where it is exact.
    pub(super) end: Position,
    /// Records, before the frames are put on top.
    pub(super) records: u64,
    /// The file's size.
    pub(super) bytes: u64,
    frames_at: u64,
}

/// What a checkpoint is made of.
pub(super) struct Source<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) store: Uuid,
    pub(super) sled: &'a Sled,
    /// What sled has for sure.
    pub(super) fed: Position,
    /// What the journal holds durably by now: asked when sled has been read.
    pub(super) durable: &'a dyn Fn() -> Position,
    pub(super) time_ms: u64,
}

impl Source<'_> {
    /// Writes a checkpoint.
    ///
    /// # Errors
    /// If the view or the journal cannot be read; what `sink` refuses with.
    pub(super) fn write(&self, sink: &mut dyn Sink) -> Result<Summary, Error> {
        let mut writer = Writer::begin(sink, self.store, self.time_ms)?;
        let all = (
            Bound::Excluded(Sled::LAST_OWN_KEY.to_vec()),
            Bound::Unbounded,
        );
        for entry in self.sled.range(all, Direction::Forward) {
            writer.record(&entry?)?;
        }
        // Whatever the scan has seen was durable before sled had it.
        let end = (self.durable)();
        writer.end_of_records(self.fed)?;
        journal::read(
            self.disk,
            self.store,
            self.fed.revision,
            end.revision,
            &mut |frame, _| writer.frame(frame),
        )?;
        assert_eq!(writer.place, end, "the frames are those of the journal");
        writer.finish()
    }
}

/// Writes a checkpoint, part by part.
struct Writer<'a> {
    out: Out<'a>,
    store: Uuid,
    time_ms: u64,
    records: u64,
    frames_at: u64,
    /// Where what was written is exact.
    place: Position,
}

impl<'a> Writer<'a> {
    fn begin(sink: &'a mut dyn Sink, store: Uuid, time_ms: u64) -> Result<Self, Error> {
        let mut out = Out::new(sink);
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(store.as_bytes());
        header.extend_from_slice(&time_ms.to_le_bytes());
        header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
        out.put(&header)?;
        Ok(Writer {
            out,
            store,
            time_ms,
            records: 0,
            frames_at: 0,
            place: Position::default(),
        })
    }

    fn record(&mut self, entry: &Entry) -> Result<(), Error> {
        self.records += 1;
        self.out.put(&encode_record_header(entry))?;
        self.out.put(&entry.key)?;
        self.out.put(&entry.value)
    }

    /// Frames follow, from this place on.
    fn end_of_records(&mut self, place: Position) -> Result<(), Error> {
        self.out.put(&END_OF_RECORDS.to_le_bytes())?;
        self.frames_at = self.out.bytes;
        self.place = place;
        Ok(())
    }

    fn frame(&mut self, frame: &Group) -> Result<(), Error> {
        let (bytes, chain) = frame.encode(self.store, self.place.chain);
        self.place = Position {
            revision: frame.last_revision(),
            chain,
            state: frame.state(),
        };
        self.out.put(&bytes)
    }

    fn finish(mut self) -> Result<Summary, Error> {
        let Writer {
            store,
            time_ms,
            records,
            frames_at,
            place: end,
            ..
        } = self;
        let whole = self.out.crc;
        let mut trailer = END_MAGIC.to_vec();
        trailer.extend_from_slice(&frames_at.to_le_bytes());
        trailer.extend_from_slice(&records.to_le_bytes());
        trailer.extend_from_slice(&end.revision.to_le_bytes());
        trailer.extend_from_slice(&end.chain.to_le_bytes());
        trailer.extend_from_slice(&end.state.to_le_bytes());
        trailer.extend_from_slice(&whole.to_le_bytes());
        trailer.extend_from_slice(&crc32c::crc32c(&trailer).to_le_bytes());
        self.out.put(&trailer)?;
        let bytes = self.out.bytes;
        self.out.flush()?;
        Ok(Summary {
            store,
            time_ms,
            end,
            records,
            bytes,
            frames_at,
        })
    }
}

fn encode_record_header(entry: &Entry) -> [u8; RECORD_HEADER_BYTES] {
    let Entry {
        key,
        value,
        revision,
    } = entry;
    let len = |field: &[u8]| {
        u32::try_from(field.len())
            .expect("keys and values came through a frame")
            .to_le_bytes()
    };
    let revision = revision.to_le_bytes();
    let crc = [key, value]
        .iter()
        .fold(crc32c::crc32c(&revision), |crc, field| {
            crc32c::crc32c_append(crc, field)
        });
    let mut header = [0; RECORD_HEADER_BYTES];
    let (numbers, revision_at) = header.split_at_mut(12);
    for (field, bytes) in numbers
        .chunks_exact_mut(4)
        .zip([len(key), len(value), crc.to_le_bytes()])
    {
        field.copy_from_slice(&bytes);
    }
    revision_at.copy_from_slice(&revision);
    header
}

/// Collects small writes into chunks, and the checksum of all of them.
struct Out<'a> {
    sink: &'a mut dyn Sink,
    chunk: Vec<u8>,
    bytes: u64,
    crc: u32,
}

impl<'a> Out<'a> {
    fn new(sink: &'a mut dyn Sink) -> Self {
        Out {
            sink,
            chunk: Vec::with_capacity(CHUNK_BYTES),
            bytes: 0,
            crc: 0,
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.bytes += bytes.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK_BYTES {
            let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES));
            self.sink.put(chunk.into())?;
        }
        Ok(())
    }

    fn flush(self) -> Result<(), Error> {
        self.sink.put(self.chunk.into())
    }
}

/// A checkpoint's file, open for reading.
pub(super) struct Checkpoint {
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
    pub(super) fn is_one(disk: &dyn Disk, path: &Path) -> Result<bool, Error> {
        let mut magic = [0; MAGIC.len()];
        disk.open_to_read(path)?.read_at(0, &mut magic)?;
        Ok(magic == MAGIC)
    }

    /// Opens a checkpoint, and checks its header and trailer.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is none, damaged, or not whole.
    pub(super) fn open(disk: &dyn Disk, path: &Path) -> Result<Checkpoint, Error> {
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
    pub(super) fn summary(&self) -> Summary {
        self.summary
    }

    /// The latest time that it tells of: when it was begun, or its last commit after that. Milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming the place.
    pub(super) fn last_time_ms(&self) -> Result<u64, Error> {
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
    pub(super) fn records(
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
    pub(super) fn frames(
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
    pub(super) fn copy_as(&self, store: Uuid, sink: &mut dyn Sink) -> Result<Position, Error> {
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
    pub(super) fn verify(&self) -> Result<(), Error> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Batch, Options, Store, local::disk::RealDisk};

    struct Collect(Vec<u8>);

    impl Sink for Collect {
        fn put(&mut self, bytes: Bytes) -> Result<(), Error> {
            self.0.extend_from_slice(&bytes);
            Ok(())
        }
    }

    /// A checkpoint of ten keys of which every write is among the frames as well, as if it had begun before them.
    async fn checkpoint() -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), &Options::default()).unwrap();
        for n in 0..10 {
            let batch = Batch::new()
                .put(format!("k{n}"), "value")
                .delete(format!("k{}", n - 1));
            store.commit(batch).await.unwrap();
        }
        let source = Source {
            disk: &*store.local().core.home.disk,
            store: store.id(),
            sled: &store.fed_sled(),
            fed: Position::default(),
            durable: &|| store.local().core.view.shown(),
            time_ms: 0,
        };
        let mut bytes = Collect(Vec::new());
        let summary = source.write(&mut bytes).unwrap();
        assert_eq!((summary.records, summary.end.revision), (1, 10));
        bytes.0
    }

    #[tokio::test]
    async fn a_bit_flipped_anywhere_is_found_and_so_is_a_missing_end() {
        let whole = checkpoint().await;
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(dir.path().to_owned());
        let verify = |bytes: &[u8]| {
            std::fs::write(dir.path().join("file"), bytes).unwrap();
            Checkpoint::open(&disk, Path::new("file"))?.verify()
        };
        verify(&whole).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(&flipped).is_err(), "bit {bit}");
        }
        for len in 0..whole.len() {
            assert!(verify(&whole[..len]).is_err(), "length {len}");
        }
    }
}
