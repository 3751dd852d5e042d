//! The journal's files: their names, their headers, and what of one can be read.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::Tail;
use crate::store::{
    Error,
    change::{Group, Position},
    local::{
        disk::{Disk, DiskFile},
        frame::HEADER_BYTES as FRAME_HEADER_BYTES,
    },
    reader::Reader,
};

pub(super) const HEADER_BYTES: usize = 56;
pub(super) const MAGIC: [u8; 8] = *b"IBXJRNL1";
pub(super) const DIR: &str = "journal";
pub(super) const SUFFIX: &str = ".journal";
/// The least that a segment is made for on a disk that has no room for more.
const SEGMENT_BYTES_MIN: u64 = 64 << 10;

/// The first revisions of the segments that are there, in order.
pub(super) fn segments(disk: &dyn Disk) -> Result<Vec<u64>, Error> {
    let foreign = |name: &str| Error::Corrupt {
        what: format!("{DIR}/{name} is no segment: move it away"),
    };
    let parsed = disk.list(Path::new(DIR))?.into_iter().map(|name| {
        let digits = name
            .strip_suffix(SUFFIX)
            .filter(|digits| digits.len() == 20);
        digits
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| foreign(&name))
    });
    parsed.collect()
}

/// Which segment to begin with for the changes from a revision on: the last that starts before it and that something was
/// appended to. A disk that was full may have left others behind, and what went on in the segment before them.
pub(super) fn first_needed(
    disk: &dyn Disk,
    store: Uuid,
    segments: &[u64],
    revision: u64,
) -> Result<Option<usize>, Error> {
    let candidates = segments.partition_point(|first| *first <= revision);
    let mut empty = None;
    for (n, first) in segments[..candidates].iter().enumerate().rev() {
        match Segment::read(disk, segment_path(*first), store)? {
            Some(segment) if !segment.is_unused() => return Ok(Some(n)),
            Some(_) => empty = Some(n),
            None => {}
        }
    }
    Ok(empty)
}

pub(super) fn missing(segments: &[u64], base: Position) -> Error {
    let what = match segments.first() {
        None => "the journal is missing, and with it every change".to_owned(),
        Some(first) => format!(
            "the journal starts at revision {first}, but the changes from revision {} on are needed: those between are lost",
            base.revision + 1
        ),
    };
    Error::Corrupt { what }
}

pub(super) fn header_is_damaged(path: &Path) -> Error {
    Error::Corrupt {
        what: format!(
            "the header of {} is damaged or of another store: its changes cannot be trusted",
            path.display()
        ),
    }
}

pub(super) fn segment_path(first_revision: u64) -> PathBuf {
    Path::new(DIR).join(format!("{first_revision:020}{SUFFIX}"))
}

/// Makes a segment with room for a frame of `frame_bytes` at least: as large as wished, or smaller on a disk that is nearly
/// full. One that could not be made leaves nothing behind.
pub(super) fn create_segment(
    disk: &dyn Disk,
    store: Uuid,
    start: Position,
    segment_bytes: u64,
    frame_bytes: u64,
) -> Result<Tail, Error> {
    let path = segment_path(start.revision + 1);
    let least_bytes = HEADER_BYTES as u64 + frame_bytes;
    // What is reserved for the journal is missing elsewhere: on a disk that is nearly full it takes only a part of the rest.
    let share = disk.room_bytes().map_or(segment_bytes, |room| room / 4);
    let mut room_bytes = segment_bytes
        .min(share.max(SEGMENT_BYTES_MIN))
        .max(least_bytes);
    let file = loop {
        match reserve(disk, &path, room_bytes) {
            Ok(file) => break Ok(file),
            Err(Error::Full { .. }) if room_bytes > least_bytes.max(SEGMENT_BYTES_MIN) => {
                room_bytes = (room_bytes / 4).max(least_bytes).max(SEGMENT_BYTES_MIN);
            }
            Err(error) => break Err(error),
        }
    };
    // The first error is the one to tell; should its file stay, opening sees that nothing was appended to it.
    let mut file = file.inspect_err(|_| drop(disk.remove(&path)))?;
    file.write_at(0, &encode_header(store, start))
        .and_then(|()| file.sync())
        .and_then(|()| disk.sync_dir(Path::new(DIR)))
        .map_err(|error| Error::Stopped {
            reason: error.to_string(),
        })?;
    Ok(Tail {
        file,
        offset: HEADER_BYTES as u64,
        room_bytes,
    })
}

pub(super) fn reserve(
    disk: &dyn Disk,
    path: &Path,
    bytes: u64,
) -> Result<Box<dyn DiskFile>, Error> {
    // A full disk may have stopped an earlier attempt half-way.
    disk.remove(path)?;
    let mut file = disk.open(path)?;
    file.allocate(bytes)?;
    Ok(file)
}

pub(super) fn encode_header(store: Uuid, start: Position) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(store.as_bytes());
    header.extend_from_slice(&(start.revision + 1).to_le_bytes());
    header.extend_from_slice(&start.chain.to_le_bytes());
    header.extend_from_slice(&start.state.to_le_bytes());
    header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
    header
}

pub(super) fn decode_header(bytes: &[u8], store: Uuid) -> Option<Position> {
    let header = bytes.get(..HEADER_BYTES)?;
    let (content, crc) = header.split_at(HEADER_BYTES - 4);
    let mut reader = Reader(content);
    let ours = reader.take(8)? == MAGIC && reader.take(16)? == store.as_bytes();
    let revision = reader.u64()?.checked_sub(1)?;
    let start = Position {
        revision,
        chain: reader.u32()?,
        state: reader.state_hash()?,
    };
    (ours && crc == crc32c::crc32c(content).to_le_bytes()).then_some(start)
}

/// One segment file, in memory.
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
    pub(super) start: Position,
    pub(super) store: Uuid,
}

impl Segment {
    /// The segment in a file; `None` where nothing was ever appended to it, not even a header.
    pub(super) fn read(
        disk: &dyn Disk,
        path: PathBuf,
        store: Uuid,
    ) -> Result<Option<Segment>, Error> {
        let bytes = disk.read(&path)?.ok_or_else(|| Error::Corrupt {
            what: format!("{} has gone while it was needed", path.display()),
        })?;
        let start =
            decode_header(&bytes, store).filter(|start| segment_path(start.revision + 1) == path);
        match start {
            Some(start) => Ok(Some(Segment {
                path,
                bytes,
                start,
                store,
            })),
            None if Group::find(&bytes, store, 0).is_none() => Ok(None),
            None => Err(header_is_damaged(&path)),
        }
    }

    /// Whether nothing was appended behind its header.
    pub(super) fn is_unused(&self) -> bool {
        Group::find(&self.bytes[HEADER_BYTES..], self.store, 0).is_none()
    }

    /// Visits the frames that are whole and in sequence, each with its size in bytes and the place behind it, and says
    /// where they stop.
    pub(super) fn walk(
        &self,
        position: &mut Position,
        visit: &mut dyn FnMut(&Group, usize, &Position) -> Result<(), Error>,
    ) -> Result<usize, Error> {
        let mut at = HEADER_BYTES;
        while at + FRAME_HEADER_BYTES <= self.bytes.len() {
            let Some(found) = Group::decode(&self.bytes[at..], self.store) else {
                break;
            };
            if found.before != position.chain || found.group.first_revision != position.revision + 1
            {
                break;
            }
            *position = found.end();
            visit(&found.group, found.len, position)?;
            at += found.len;
        }
        Ok(at.min(self.bytes.len()))
    }

    pub(super) fn damage(&self, at: usize, position: Position, later: u64) -> Error {
        let first_lost = position.revision + 1;
        Error::Corrupt {
            what: format!(
                "{} is damaged at byte {at}: revisions {first_lost} to {} are lost, while those from {later} \
                 on are there",
                self.path.display(),
                later.max(first_lost + 1) - 1
            ),
        }
    }

    pub(super) fn gap(&self, position: Position) -> Error {
        Error::Corrupt {
            what: format!(
                "{} starts at revision {}, but the journal before it ends at revision {}: the changes \
                 between them are lost",
                self.path.display(),
                self.start.revision + 1,
                position.revision
            ),
        }
    }

    pub(super) fn of_another_history(&self, base: Position) -> Error {
        Error::Corrupt {
            what: format!(
                "{} does not continue the checkpoint, which ends at revision {}: one of them is of another time",
                self.path.display(),
                base.revision
            ),
        }
    }
}
