//! The one file of a store. A snapshot is such a file, too.
//!
//! A file is written from its beginning to its end, and after that it only grows. Its **records** are everything that the store
//! held at some time. They are read while writes go on, so that they may have or miss what was written meanwhile. The **frames**
//! behind them are the journal: every change since the reading began. Applied to the records they make them exact, and later
//! commits follow. When a file is written anew, its frames begin further back, with what followers and the audit may still ask for.
//! Each part says what it is and how long it is, and has its own checksum: a reader needs no other file.
//!
//! | part | bytes | what |
//! |---|---|---|
//! | header | 8 | magic `ICEBOXDB` |
//! | | 4 | version of the format |
//! | | 16 | the store's id |
//! | | 8 | when the records were begun, milliseconds since the Unix epoch |
//! | | 4 | CRC-32C of this header |
//! | status, at byte 512 | 4 | the process that has the store open; 0 once it was closed |
//! | | 8 | a revision that the store has reached for sure |
//! | | 8 | where the trailer is |
//! | | 4 | CRC-32C of the status |
//! | record, from byte 1024 on | 4, 4 | length of key and of value |
//! | | 4 | CRC-32C of the lengths, revision, key and value |
//! | | 8 | revision of the key's last write |
//! | | … | key, value; records are sorted by key |
//! | trailer | 8 | magic `FFFFFFFF` `IBXE` |
//! | | 8 | where it is |
//! | | 8 | number of records |
//! | | 8, 4, 16 | revision, chain and state hash where the frames start |
//! | | 8 | how much journal was before the frames, since the store was made |
//! | | 8 | revision from which on frames belong on top of the records |
//! | | 8, 16 | revision and state hash at which records and frames are exact first |
//! | | 4 | CRC-32C of all records |
//! | | 4 | CRC-32C of this trailer |
//! | frames | … | the journal: see `frame.rs` |
//! | room | … | zeros, reserved for what is appended next |
//!
//! All numbers are little-endian. Only the status is ever overwritten, and nothing depends on it: if it is missing, as in a
//! snapshot, or torn, the trailer is found behind the records.

mod blocks;
mod frames;
mod read;
#[cfg(test)]
mod tests;
mod write;

use bytes::Bytes;
use uuid::Uuid;

pub(super) use self::{
    blocks::Lookup,
    frames::{Checked, Frames, Place, check, salvage},
    read::Stored,
    write::{FileSink, Writer},
};
use super::{disk::DiskFile, frame::PAYLOAD_BYTES_MAX};
use crate::store::{
    Error, OpenError,
    change::{Position, REVISION_MAX},
    reader::Reader,
    state_hash::StateHash,
};

/// The format that this program writes, and the newest that it reads.
const FORMAT: u32 = 4;
/// The oldest format that it reads. Its trailer is shorter, because it does not say how much journal came before the frames.
const FORMAT_MIN: u32 = 3;
const TRAILER_BYTES_3: usize = 92;
const MAGIC: [u8; 8] = *b"ICEBOXDB";
const TRAILER_MAGIC: [u8; 8] = *b"\xff\xff\xff\xffIBXE";
/// Stands in place of a record's length: the first bytes of the trailer.
const END_OF_RECORDS: u32 = u32::MAX;
const HEADER_BYTES: usize = 40;
/// The status has a sector of its own, so that a torn write of it damages nothing else.
const STATUS_AT: usize = 512;
const STATUS_BYTES: usize = 24;
const RECORDS_AT: usize = 1024;
const RECORD_HEADER_BYTES: usize = 20;
const TRAILER_BYTES: usize = 100;
/// How many bytes are written or read at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// Nobody has ever appended this much: a larger number is damage, and adding to a smaller one cannot overflow.
const JOURNAL_BYTES_MAX: u64 = u64::MAX / 2;
/// A longer key or value is damage, and no reason to allocate memory: real ones are far shorter.
const FIELD_BYTES_MAX: usize = PAYLOAD_BYTES_MAX;

/// Takes the bytes of a file in order.
pub(super) trait Sink {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// Any error that should end the file.
    fn put(&mut self, bytes: Bytes) -> Result<(), Error>;
}

/// Which store a file belongs to, and when it was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The store's id.
    pub(super) store: Uuid,
    /// When the records were begun, milliseconds since the Unix epoch.
    pub(super) time_ms: u64,
}

impl Header {
    /// The header, padded up to the first record. The status is still empty.
    fn encode(&self) -> Vec<u8> {
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&FORMAT.to_le_bytes());
        header.extend_from_slice(self.store.as_bytes());
        header.extend_from_slice(&self.time_ms.to_le_bytes());
        header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
        header.resize(RECORDS_AT, 0);
        header
    }

    /// The header of a file; `None` if nothing has been written to it yet.
    ///
    /// # Errors
    /// [`OpenError::Foreign`], [`OpenError::NewerFormat`], [`Error::Corrupt`].
    pub(super) fn read(file: &dyn DiskFile, name: &str) -> Result<Option<Header>, OpenError> {
        let mut bytes = [0; HEADER_BYTES];
        let read = file.read_at(0, &mut bytes)?;
        if read == 0 {
            return Ok(None);
        }
        if !bytes.starts_with(&MAGIC) {
            return Err(OpenError::Foreign {
                reason: format!("{name} does not start as one"),
            });
        }
        let damaged = || Error::Corrupt {
            what: format!("the header of {name} is damaged: nothing in it can be trusted"),
        };
        let content = checked(&bytes[..read]).and_then(|content| content.strip_prefix(&MAGIC));
        let mut reader = Reader(content.ok_or_else(damaged)?);
        let mut parse = || {
            let format = reader.u32()?;
            let store = Uuid::from_slice(reader.take(16)?).ok()?;
            Some((format, store, reader.u64()?))
        };
        let (format, store, time_ms) = parse().ok_or_else(damaged)?;
        match format {
            FORMAT_MIN..=FORMAT => Ok(Some(Header { store, time_ms })),
            found if found > FORMAT => Err(OpenError::NewerFormat {
                found,
                supported: FORMAT,
            }),
            found => Err(OpenError::Foreign {
                reason: format!(
                    "it has format {found}, of an Icebox before the first release: export it with that one, and import \
                     the export"
                ),
            }),
        }
    }
}

/// The status, which an open store and a closing one write into their file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    /// The process that has the store open; 0 once it was closed.
    pub(super) owner: u32,
    /// A revision that the store has reached for certain.
    pub(super) reached: u64,
    /// Where the trailer is.
    pub(super) trailer_at: u64,
}

impl Status {
    /// The status of a file. If it is torn, or was never written, it is empty.
    ///
    /// # Errors
    /// Errors of the disk.
    pub(super) fn read(file: &dyn DiskFile) -> Result<Status, Error> {
        let mut bytes = [0; STATUS_BYTES];
        let read = file.read_at(STATUS_AT as u64, &mut bytes)?;
        let parse = || {
            let mut reader = Reader(checked(&bytes[..read])?);
            Some(Status {
                owner: reader.u32()?,
                reached: reader.u64()?,
                trailer_at: reader.u64()?,
            })
        };
        Ok(parse().unwrap_or_default())
    }

    /// Writes the status into a file. It is durable once that is synced.
    ///
    /// # Errors
    /// Errors of the disk.
    pub(super) fn write(&self, file: &mut dyn DiskFile) -> Result<(), Error> {
        let mut bytes = self.owner.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.reached.to_le_bytes());
        bytes.extend_from_slice(&self.trailer_at.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        file.write_at(STATUS_AT as u64, &bytes)
    }
}

/// The trailer, which stands between records and frames and says how they belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trailer {
    /// Its offset.
    pub(super) at: u64,
    len: usize,
    /// The number of records.
    pub(super) records: u64,
    /// The position where the frames start.
    pub(super) start: Position,
    /// How many bytes of journal came before the frames. Places in the journal count from the first frame that the store ever had,
    /// so that they stay the same in every file.
    pub(super) before_bytes: u64,
    /// Frames behind this revision belong on top of the records.
    pub(super) fed: u64,
    /// The revision and state at which records and frames are exact for the first time: frames up to there must be present. The
    /// frames have the chain.
    pub(super) exact: (u64, StateHash),
    records_crc: u32,
}

impl Trailer {
    /// The offset where the frames start.
    pub(super) fn frames_at(&self) -> u64 {
        self.at + self.len as u64
    }

    /// The place where the frames start.
    pub(super) fn start_place(&self) -> Place {
        Place {
            position: self.start,
            offset: self.frames_at(),
        }
    }

    /// The place in the journal of an offset behind the trailer.
    pub(super) fn in_journal(&self, offset: u64) -> u64 {
        self.before_bytes + (offset - self.frames_at())
    }

    /// The offset in the file of a place in the journal; `None` if it is before the frames.
    pub(super) fn in_file(&self, at: u64) -> Option<u64> {
        Some(at.checked_sub(self.before_bytes)? + self.frames_at())
    }

    fn encode(&self) -> Vec<u8> {
        let Trailer {
            at,
            len: _,
            records,
            start,
            before_bytes,
            fed,
            exact: (revision, state),
            records_crc,
        } = self;
        let mut bytes = TRAILER_MAGIC.to_vec();
        bytes.extend_from_slice(&at.to_le_bytes());
        bytes.extend_from_slice(&records.to_le_bytes());
        bytes.extend_from_slice(&start.revision.to_le_bytes());
        bytes.extend_from_slice(&start.chain.to_le_bytes());
        bytes.extend_from_slice(&start.state.to_le_bytes());
        bytes.extend_from_slice(&before_bytes.to_le_bytes());
        bytes.extend_from_slice(&fed.to_le_bytes());
        bytes.extend_from_slice(&revision.to_le_bytes());
        bytes.extend_from_slice(&state.to_le_bytes());
        bytes.extend_from_slice(&records_crc.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    /// The trailer at the start of these bytes.
    fn decode(bytes: &[u8]) -> Option<Trailer> {
        let decode = |len| Trailer::decode_of(bytes.get(..len)?);
        decode(TRAILER_BYTES).or_else(|| decode(TRAILER_BYTES_3))
    }

    fn decode_of(bytes: &[u8]) -> Option<Trailer> {
        let mut reader = Reader(checked(bytes)?.strip_prefix(&TRAILER_MAGIC)?);
        let trailer = Trailer {
            at: reader.u64()?,
            len: bytes.len(),
            records: reader.u64()?,
            start: Position {
                revision: reader.u64()?,
                chain: reader.u32()?,
                state: reader.state_hash()?,
            },
            before_bytes: if bytes.len() == TRAILER_BYTES_3 {
                0
            } else {
                reader.u64()?
            },
            fed: reader.u64()?,
            exact: (reader.u64()?, reader.state_hash()?),
            records_crc: reader.u32()?,
        };
        let revisions = [trailer.start.revision, trailer.fed, trailer.exact.0];
        let is_sane = revisions.into_iter().max()? <= REVISION_MAX
            && trailer.before_bytes <= JOURNAL_BYTES_MAX;
        is_sane.then_some(trailer)
    }
}

/// The bytes before a checksum, if the checksum is right.
fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (content, crc) = bytes.split_last_chunk::<4>()?;
    let is_right = crc32c::crc32c(content).to_le_bytes() == *crc || cfg!(fuzzing);
    is_right.then_some(content)
}
