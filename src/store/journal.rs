//! The journal: every change since the checkpoint, and further back for as long as it is kept, in append-only
//! segment files.
//!
//! It is at once the write-ahead log, the log that watches resume from, and the audit log. A segment is
//! named after its first revision and starts with a header:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | magic `IBXJRNL1` |
//! | 16 | the store's id |
//! | 8 | revision of the first frame |
//! | 4 | chain: checksum of the last frame of the segment before |
//! | 16 | state hash after the last frame of the segment before |
//! | 4 | CRC-32C of this header |
//!
//! Frames (see `frame.rs`) follow without gaps, then zeros up to the reserved length. A frame is
//! appended only after the one before it was synced, so at most the last frame can be torn by a crash:
//! whatever is damaged before a valid frame is corruption, never a torn tail.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use uuid::Uuid;

use super::{
    Error,
    disk::{Disk, DiskFile},
    frame::{Frame, HEADER_BYTES as FRAME_HEADER_BYTES, Position, Reader},
};

const HEADER_BYTES: usize = 56;
const MAGIC: [u8; 8] = *b"IBXJRNL1";
const DIR: &str = "journal";
const SUFFIX: &str = ".journal";

/// The journal, open for appending.
pub(super) struct Journal {
    disk: Arc<dyn Disk>,
    store: Uuid,
    file: Box<dyn DiskFile>,
    /// Where the next frame goes in the last segment.
    offset: u64,
    end: Position,
    appended_bytes: u64,
    /// Room reserved for a segment. Appending within reserved room spares a sync the file's new length.
    segment_bytes: u64,
}

impl Journal {
    /// Starts the journal of a new store behind `base`, replacing what an interrupted start left.
    pub(super) fn create(
        disk: Arc<dyn Disk>,
        store: Uuid,
        base: Position,
        segment_bytes: u64,
    ) -> Result<Journal, Error> {
        disk.remove(Path::new(DIR))?;
        disk.create_dir(Path::new(DIR))?;
        disk.sync_dir(Path::new(""))?;
        let file = create_segment(&*disk, store, base, segment_bytes)?;
        Ok(Journal {
            disk,
            store,
            file,
            offset: HEADER_BYTES as u64,
            end: base,
            appended_bytes: 0,
            segment_bytes,
        })
    }

    /// Whether there is a journal that something was ever appended to.
    pub(super) fn holds_changes(disk: &dyn Disk) -> Result<bool, Error> {
        let names = disk.list(Path::new(DIR))?;
        let Some(first) = names.first() else {
            return Ok(false);
        };
        let bytes = disk.read(&Path::new(DIR).join(first))?.unwrap_or_default();
        Ok(names.len() > 1 || bytes.iter().skip(HEADER_BYTES).any(|&byte| byte != 0))
    }

    /// Checks the journal behind `base`, where the checkpoint ends, shows `visit` every frame there with its size in
    /// bytes, cuts a torn tail, and
    /// opens it for appending.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a frame that was once synced is damaged or missing; nothing is changed then.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        store: Uuid,
        base: Position,
        segment_bytes: u64,
        visit: &mut dyn FnMut(&Frame, usize),
    ) -> Result<Journal, Error> {
        let mut segments = segments(&*disk)?;
        // A segment whose header never became durable holds nothing: it is made again when needed. The one before it may
        // be gone, if a checkpoint covers it.
        if let Some(&last) = segments.last()
            && (segments.len() > 1 || base.revision > 0 && last == base.revision + 1)
        {
            let bytes = disk.read(&segment_path(last))?.unwrap_or_default();
            if decode_header(&bytes, store).is_none() && find_frame(&bytes, store, 0).is_none() {
                disk.remove(&segment_path(last))?;
                disk.sync_dir(Path::new(DIR))?;
                segments.pop();
                if segments.is_empty() {
                    let file = create_segment(&*disk, store, base, segment_bytes)?;
                    let offset = HEADER_BYTES as u64;
                    return Ok(Journal {
                        disk,
                        store,
                        file,
                        offset,
                        end: base,
                        appended_bytes: 0,
                        segment_bytes,
                    });
                }
            }
        }
        let Some(first_needed) = segment_of(&segments, base.revision + 1) else {
            return Err(missing(&segments, base));
        };
        let needed = &segments[first_needed..];
        let mut position = None;
        let mut end_offset = 0;
        let mut tail = Vec::new();
        for (n, first) in needed.iter().enumerate() {
            let segment = Segment::read(&*disk, segment_path(*first), store)?;
            let position = position.get_or_insert(segment.start);
            if segment.start != *position {
                return Err(segment.gap(*position));
            }
            let continues = |place: &Position| place.revision != base.revision || *place == base;
            if !continues(position) {
                return Err(segment.of_another_history(base));
            }
            // The header is what was written last until a frame is.
            let mut last_bytes = HEADER_BYTES;
            let stop = segment.walk(position, &mut |frame, bytes, end| {
                if !continues(end) {
                    return Err(segment.of_another_history(base));
                }
                if end.revision > base.revision {
                    visit(frame, bytes);
                }
                last_bytes = bytes;
                Ok(())
            })?;
            if let Some(later) = find_frame(&segment.bytes[stop..], store, position.revision + 1) {
                return Err(segment.damage(stop, *position, later));
            }
            if n + 1 == needed.len() {
                end_offset = stop as u64;
                tail = segment.bytes[stop.saturating_sub(last_bytes)..stop].to_vec();
            }
        }
        let end = position.expect("at least one segment is needed");
        if end.revision < base.revision {
            return Err(missing(&segments, base));
        }
        let last = needed.last().expect("at least one segment is needed");
        let mut file = disk.open(&segment_path(*last))?;
        // What is torn goes at once: were a shorter frame written over it, its rest would be found later.
        file.truncate(end_offset)?;
        // A sync that failed may have left what was written last in memory only, where no later sync looks for it: it is
        // written once more.
        file.write_at(end_offset - tail.len() as u64, &tail)?;
        file.allocate(end_offset.max(segment_bytes))?;
        file.sync()?;
        // The process may have ended before the last segment's name was durable.
        disk.sync_dir(Path::new(DIR))?;
        Ok(Journal {
            disk,
            store,
            file,
            offset: end_offset,
            end,
            appended_bytes: 0,
            segment_bytes,
        })
    }

    /// The place behind the last frame.
    pub(super) fn end(&self) -> Position {
        self.end
    }

    /// Bytes of frames that were appended since it was opened.
    pub(super) fn appended_bytes(&self) -> u64 {
        self.appended_bytes
    }

    /// Appends a frame and makes it durable.
    ///
    /// # Errors
    /// [`Error::Full`] before anything was written; any other error leaves it open what the disk holds.
    pub(super) fn append(&mut self, frame: &Frame) -> Result<(), Error> {
        assert_eq!(
            frame.first_revision,
            self.end.revision + 1,
            "revisions have no gaps"
        );
        let (bytes, chain) = frame.encode(self.store, self.end.chain);
        let len = bytes.len() as u64;
        if self.offset + len > self.segment_bytes && self.offset > HEADER_BYTES as u64 {
            self.file = create_segment(&*self.disk, self.store, self.end, self.segment_bytes)?;
            self.offset = HEADER_BYTES as u64;
        }
        if self.offset + len > self.segment_bytes {
            self.file.allocate(self.offset + len)?;
        }
        // From here on the outcome is open until the sync has returned, a full disk included.
        let outcome = |error: Error| Error::OutcomeUnknown {
            reason: error.to_string(),
        };
        self.file.write_at(self.offset, &bytes).map_err(outcome)?;
        self.file.sync().map_err(outcome)?;
        self.offset += len;
        self.appended_bytes += len;
        self.end = Position {
            revision: frame.last_revision(),
            chain,
            state: frame.state(),
        };
        Ok(())
    }
}

/// Hands every durable frame that ends after revision `after` and not after `until` to `visit`, while others are being
/// appended. Both must be places between two frames; `u64::MAX` is the journal's end.
///
/// # Errors
/// [`Error::Corrupt`] if one of them is damaged or missing; what `visit` refuses with.
pub(super) fn read(
    disk: &dyn Disk,
    store: Uuid,
    after: u64,
    until: u64,
    visit: &mut dyn FnMut(&Frame, &Position) -> Result<(), Error>,
) -> Result<(), Error> {
    if after >= until {
        return Ok(());
    }
    let segments = segments(disk)?;
    let missing = |position| missing(&segments, position);
    let first = segment_of(&segments, after + 1);
    let first = first.ok_or_else(|| {
        missing(Position {
            revision: after,
            ..Position::default()
        })
    })?;
    let mut position = None;
    for (n, first_revision) in segments
        .iter()
        .enumerate()
        .skip(first)
        .take_while(|(_, first)| **first <= until)
    {
        let segment = Segment::read(disk, segment_path(*first_revision), store)?;
        let position = position.get_or_insert(segment.start);
        if segment.start != *position {
            return Err(segment.gap(*position));
        }
        let stop = segment.walk(position, &mut |frame, _, end| {
            if frame.last_revision() > after && frame.last_revision() <= until {
                visit(frame, end)
            } else {
                Ok(())
            }
        })?;
        let expected = segments
            .get(n + 1)
            .map_or(u64::MAX, |next| next - 1)
            .min(until);
        if expected == u64::MAX {
            if let Some(later) = find_frame(&segment.bytes[stop..], store, position.revision + 1) {
                return Err(segment.damage(stop, *position, later));
            }
        } else if position.revision < expected {
            return Err(segment.damage(stop, *position, expected + 1));
        }
    }
    Ok(())
}

/// Removes the segments of which every change is at or before `revision`, but for the last `keep` full ones.
///
/// # Errors
/// What the disk says.
pub(super) fn remove_covered(disk: &dyn Disk, revision: u64, keep: usize) -> Result<(), Error> {
    let segments = segments(disk)?;
    let mut removed = false;
    for pair in segments[..segments.len().saturating_sub(keep)].windows(2) {
        if pair[1] <= revision + 1 {
            disk.remove(&segment_path(pair[0]))?;
            removed = true;
        }
    }
    if removed {
        disk.sync_dir(Path::new(DIR))
    } else {
        Ok(())
    }
}

/// The first revisions of the segments that are there, in order.
fn segments(disk: &dyn Disk) -> Result<Vec<u64>, Error> {
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

/// Which segment a revision is in, or will be.
fn segment_of(segments: &[u64], revision: u64) -> Option<usize> {
    segments
        .partition_point(|first| *first <= revision)
        .checked_sub(1)
}

/// Where the journal starts that is there.
///
/// # Errors
/// [`Error::Corrupt`] if its first segment cannot be read.
pub(super) fn start(disk: &dyn Disk, store: Uuid) -> Result<Position, Error> {
    match segments(disk)?.first() {
        Some(first) => Ok(Segment::read(disk, segment_path(*first), store)?.start),
        None => Err(missing(&[], Position::default())),
    }
}

fn missing(segments: &[u64], base: Position) -> Error {
    let what = match segments.first() {
        None => "the journal is missing, and with it every change".to_owned(),
        Some(first) => format!(
            "the journal starts at revision {first}, but the changes from revision {} on are needed: those between are lost",
            base.revision + 1
        ),
    };
    Error::Corrupt { what }
}

fn segment_path(first_revision: u64) -> PathBuf {
    Path::new(DIR).join(format!("{first_revision:020}{SUFFIX}"))
}

fn create_segment(
    disk: &dyn Disk,
    store: Uuid,
    start: Position,
    segment_bytes: u64,
) -> Result<Box<dyn DiskFile>, Error> {
    let path = segment_path(start.revision + 1);
    // A full disk may have stopped an earlier attempt half-way.
    disk.remove(&path)?;
    let mut file = disk.open(&path)?;
    file.allocate(segment_bytes)?;
    file.write_at(0, &encode_header(store, start))?;
    file.sync()?;
    disk.sync_dir(Path::new(DIR))?;
    Ok(file)
}

fn encode_header(store: Uuid, start: Position) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(store.as_bytes());
    header.extend_from_slice(&(start.revision + 1).to_le_bytes());
    header.extend_from_slice(&start.chain.to_le_bytes());
    header.extend_from_slice(&start.state.to_le_bytes());
    header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
    header
}

fn decode_header(bytes: &[u8], store: Uuid) -> Option<Position> {
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

/// The first revision of the first whole frame in `bytes` that is not before `revision`.
///
/// Damage may be of any length, so a frame is looked for at every byte.
fn find_frame(bytes: &[u8], store: Uuid, revision: u64) -> Option<u64> {
    let last_start = bytes.iter().rposition(|&byte| byte != 0)?;
    (0..=last_start)
        .filter(|&at| bytes[at] == b'I')
        .filter_map(|at| Frame::decode(&bytes[at..], store))
        .map(|found| found.frame.first_revision)
        .find(|&first| first >= revision)
}

/// One segment file, in memory.
struct Segment {
    path: PathBuf,
    bytes: Vec<u8>,
    start: Position,
    store: Uuid,
}

impl Segment {
    fn read(disk: &dyn Disk, path: PathBuf, store: Uuid) -> Result<Segment, Error> {
        let bytes = disk.read(&path)?.unwrap_or_default();
        let start =
            decode_header(&bytes, store).filter(|start| segment_path(start.revision + 1) == path);
        let start = start.ok_or_else(|| Error::Corrupt {
            what: format!(
                "the header of {} is damaged or of another store: its changes cannot be trusted",
                path.display()
            ),
        })?;
        Ok(Segment {
            path,
            bytes,
            start,
            store,
        })
    }

    /// Visits the frames that are whole and in sequence, each with its size in bytes and the place behind it, and says
    /// where they stop.
    fn walk(
        &self,
        position: &mut Position,
        visit: &mut dyn FnMut(&Frame, usize, &Position) -> Result<(), Error>,
    ) -> Result<usize, Error> {
        let mut at = HEADER_BYTES;
        while at + FRAME_HEADER_BYTES <= self.bytes.len() {
            let Some(found) = Frame::decode(&self.bytes[at..], self.store) else {
                break;
            };
            if found.before != position.chain || found.frame.first_revision != position.revision + 1
            {
                break;
            }
            *position = found.end();
            visit(&found.frame, found.len, position)?;
            at += found.len;
        }
        Ok(at.min(self.bytes.len()))
    }

    fn damage(&self, at: usize, position: Position, later: u64) -> Error {
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

    fn gap(&self, position: Position) -> Error {
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

    fn of_another_history(&self, base: Position) -> Error {
        Error::Corrupt {
            what: format!(
                "{} does not continue the checkpoint, which ends at revision {}: one of them is of another time",
                self.path.display(),
                base.revision
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        disk::RealDisk,
        frame::{Change, Write},
        state_hash::StateHash,
    };

    const SEGMENT_BYTES: u64 = 16 << 20;

    fn disk() -> (tempfile::TempDir, Arc<dyn Disk>) {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk::new(dir.path().to_path_buf()));
        (dir, disk)
    }

    fn frame(revision: u64, value_bytes: usize) -> Frame {
        let write = Write {
            key: b"key".as_slice().into(),
            value: Some(vec![7; value_bytes].into()),
        };
        Frame {
            first_revision: revision,
            time_ms: 0,
            changes: vec![Change {
                revision,
                writes: vec![write],
                state: StateHash::default(),
            }],
        }
    }

    fn written(disk: &Arc<dyn Disk>, frames: u64, value_bytes: usize) {
        let mut journal = Journal::create(
            disk.clone(),
            Uuid::nil(),
            Position::default(),
            SEGMENT_BYTES,
        )
        .unwrap();
        for revision in 1..=frames {
            journal.append(&frame(revision, value_bytes)).unwrap();
        }
    }

    /// The revisions found at open.
    fn reopened(disk: &Arc<dyn Disk>) -> Result<Vec<u64>, Error> {
        let mut revisions = Vec::new();
        let mut visit = |frame: &Frame, _: usize| revisions.push(frame.first_revision);
        let journal = Journal::open(
            disk.clone(),
            Uuid::nil(),
            Position::default(),
            SEGMENT_BYTES,
            &mut visit,
        )?;
        assert_eq!(
            journal.end().revision,
            revisions.last().copied().unwrap_or(0)
        );
        Ok(revisions)
    }

    /// The only segment up to the end of its last frame: its reserved zeros would only take time.
    fn content(path: &Path) -> Vec<u8> {
        let mut bytes = std::fs::read(path).unwrap();
        bytes.truncate(bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1);
        bytes
    }

    #[test]
    fn what_was_appended_is_read_back_over_several_segments() {
        let (_dir, disk) = disk();
        written(&disk, 10, 4 << 20);
        assert!(disk.list(Path::new(DIR)).unwrap().len() > 2);
        assert_eq!(reopened(&disk).unwrap(), (1..=10).collect::<Vec<_>>());
    }

    #[test]
    fn a_missing_segment_is_told() {
        let (_dir, disk) = disk();
        written(&disk, 12, 4 << 20);
        let names = disk.list(Path::new(DIR)).unwrap();
        disk.remove(&Path::new(DIR).join(&names[1])).unwrap();
        assert!(matches!(reopened(&disk), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn a_tail_torn_at_any_byte_is_cut_and_written_over() {
        let (dir, disk) = disk();
        written(&disk, 3, 50);
        let path = dir.path().join(segment_path(1));
        let whole = content(&path);
        let end = whole.len();
        let len_of_last = frame(3, 50).encode(Uuid::nil(), 0).0.len();
        for cut in 0..len_of_last {
            let mut torn = whole.clone();
            torn[end - len_of_last + cut..].fill(0);
            std::fs::write(&path, torn).unwrap();
            assert_eq!(reopened(&disk).unwrap(), [1, 2], "cut {cut}");
        }
        let mut journal = Journal::open(
            disk.clone(),
            Uuid::nil(),
            Position::default(),
            SEGMENT_BYTES,
            &mut |_, _| (),
        )
        .unwrap();
        journal.append(&frame(3, 10)).unwrap();
        assert_eq!(reopened(&disk).unwrap(), [1, 2, 3]);
    }

    #[test]
    fn a_bit_flipped_before_the_last_frame_is_told() {
        let (dir, disk) = disk();
        written(&disk, 3, 50);
        let path = dir.path().join(segment_path(1));
        let whole = content(&path);
        let last_frame = whole.len() - frame(3, 50).encode(Uuid::nil(), 0).0.len();
        for at in 0..last_frame {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            std::fs::write(&path, damaged).unwrap();
            assert!(
                matches!(reopened(&disk), Err(Error::Corrupt { .. })),
                "byte {at}"
            );
        }
    }

    #[test]
    fn a_segment_without_a_header_is_made_again() {
        let (dir, disk) = disk();
        written(&disk, 2, 50);
        std::fs::write(dir.path().join(segment_path(3)), vec![0; 100]).unwrap();
        assert_eq!(reopened(&disk).unwrap(), [1, 2]);
    }
}
