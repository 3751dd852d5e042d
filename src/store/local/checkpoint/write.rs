//! Writing a checkpoint.

use std::ops::Bound;

use uuid::Uuid;

use super::{CHUNK_BYTES, END_MAGIC, END_OF_RECORDS, MAGIC, RECORD_HEADER_BYTES, Sink, Summary};
use crate::store::{
    Error,
    batch::Entry,
    change::{Group, Position},
    local::{disk::Disk, journal},
    view::{Direction, Sled},
};

/// What a checkpoint is made of.
pub(in crate::store::local) struct Source<'a> {
    pub(in crate::store::local) disk: &'a dyn Disk,
    pub(in crate::store::local) store: Uuid,
    pub(in crate::store::local) sled: &'a Sled,
    /// What sled has for sure.
    pub(in crate::store::local) fed: Position,
    /// What the journal holds durably by now: asked when sled has been read.
    pub(in crate::store::local) durable: &'a dyn Fn() -> Position,
    pub(in crate::store::local) time_ms: u64,
}

impl Source<'_> {
    /// Writes a checkpoint.
    ///
    /// # Errors
    /// If the view or the journal cannot be read; what `sink` refuses with.
    pub(in crate::store::local) fn write(&self, sink: &mut dyn Sink) -> Result<Summary, Error> {
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
pub(super) struct Writer<'a> {
    out: Out<'a>,
    store: Uuid,
    time_ms: u64,
    records: u64,
    frames_at: u64,
    /// Where what was written is exact.
    place: Position,
}

impl<'a> Writer<'a> {
    pub(super) fn begin(sink: &'a mut dyn Sink, store: Uuid, time_ms: u64) -> Result<Self, Error> {
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

    pub(super) fn record(&mut self, entry: &Entry) -> Result<(), Error> {
        self.records += 1;
        self.out.put(&encode_record_header(entry))?;
        self.out.put(&entry.key)?;
        self.out.put(&entry.value)
    }

    /// Frames follow, from this place on.
    pub(super) fn end_of_records(&mut self, place: Position) -> Result<(), Error> {
        self.out.put(&END_OF_RECORDS.to_le_bytes())?;
        self.frames_at = self.out.bytes;
        self.place = place;
        Ok(())
    }

    pub(super) fn frame(&mut self, frame: &Group) -> Result<(), Error> {
        let (bytes, chain) = frame.encode(self.store, self.place.chain);
        self.place = Position {
            revision: frame.last_revision(),
            chain,
            state: frame.state(),
        };
        self.out.put(&bytes)
    }

    pub(super) fn finish(mut self) -> Result<Summary, Error> {
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
