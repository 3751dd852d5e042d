//! Writing a file.

use std::path::Path;

use bytes::Bytes;

use super::{
    CHUNK_BYTES, Header, RECORD_HEADER_BYTES, RECORDS_AT, Sink, TRAILER_BYTES, Trailer,
    read::record_crc,
};
use crate::store::{
    Error,
    batch::Entry,
    change::Position,
    local::disk::{Disk, DiskFile},
    state_hash::StateHash,
};

/// The most bytes between two syncs: one sync of a gigabyte would delay the journal's.
const SYNC_BYTES: u64 = 16 << 20;

/// Writes a file part by part. What follows the trailer goes to the sink directly.
pub(in crate::store::local) struct Writer<'a> {
    sink: &'a mut dyn Sink,
    chunk: Vec<u8>,
    at: u64,
    records: u64,
    records_crc: u32,
}

impl<'a> Writer<'a> {
    /// Begins a file.
    ///
    /// # Errors
    /// Any error of `sink`.
    pub(in crate::store::local) fn begin(
        sink: &'a mut dyn Sink,
        header: Header,
    ) -> Result<Self, Error> {
        sink.put(header.encode().into())?;
        Ok(Writer {
            sink,
            chunk: Vec::new(),
            at: RECORDS_AT as u64,
            records: 0,
            records_crc: 0,
        })
    }

    /// Writes a record. Records must come in the order of their keys.
    ///
    /// # Errors
    /// Any error of the sink.
    pub(in crate::store::local) fn record(&mut self, entry: &Entry) -> Result<(), Error> {
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
        let start = self.chunk.len();
        self.chunk.extend_from_slice(&len(key));
        self.chunk.extend_from_slice(&len(value));
        self.chunk.extend_from_slice(&[0; 4]);
        self.chunk.extend_from_slice(&revision.to_le_bytes());
        self.chunk.extend_from_slice(key);
        self.chunk.extend_from_slice(value);
        let record = &mut self.chunk[start..];
        let crc = record_crc(record);
        record[8..12].copy_from_slice(&crc.to_le_bytes());
        self.at += (RECORD_HEADER_BYTES + key.len() + value.len()) as u64;
        self.records += 1;
        if self.chunk.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Ends the records. The frames that follow start at `start`, with `before_bytes` of journal before them. Those behind the
    /// revision `fed` belong on top of the records, and those up to the revision `exact` must be present.
    ///
    /// # Errors
    /// Any error of the sink.
    pub(in crate::store::local) fn end_of_records(
        mut self,
        (start, before_bytes): (Position, u64),
        fed: u64,
        exact: (u64, StateHash),
    ) -> Result<Trailer, Error> {
        self.flush()?;
        let trailer = Trailer {
            at: self.at,
            len: TRAILER_BYTES,
            records: self.records,
            start,
            before_bytes,
            fed,
            exact,
            records_crc: self.records_crc,
        };
        self.sink.put(trailer.encode().into())?;
        Ok(trailer)
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.records_crc = crc32c::crc32c_append(self.records_crc, &self.chunk);
        self.sink.put(std::mem::take(&mut self.chunk).into())
    }
}

/// A file that is being written, claimed by this process.
pub(in crate::store::local) struct FileSink {
    pub(in crate::store::local) file: Box<dyn DiskFile>,
    pub(in crate::store::local) written: u64,
    synced: u64,
}

impl FileSink {
    /// An empty file. It replaces what an earlier try may have left.
    ///
    /// # Errors
    /// Errors of the disk.
    pub(in crate::store::local) fn begin(disk: &dyn Disk, path: &Path) -> Result<FileSink, Error> {
        let claim = || {
            disk.claim(path)?.ok_or_else(|| Error::Io {
                action: format!("make {}", path.display()),
                reason: "another process is at it".into(),
            })
        };
        let file = claim()?;
        let file = if file.size()? == 0 {
            file
        } else {
            disk.remove(path)?;
            claim()?
        };
        Ok(FileSink {
            file,
            written: 0,
            synced: 0,
        })
    }
}

impl Sink for FileSink {
    fn put(&mut self, bytes: Bytes) -> Result<(), Error> {
        self.file.write_at(self.written, &bytes)?;
        self.written += bytes.len() as u64;
        if self.written - self.synced >= SYNC_BYTES {
            self.file.sync()?;
            self.synced = self.written;
        }
        Ok(())
    }
}
