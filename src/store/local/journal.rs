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
    disk::{Disk, DiskFile},
    frame::HEADER_BYTES as FRAME_HEADER_BYTES,
};
use crate::store::{
    Error,
    change::{Group, Position},
    reader::Reader,
    state_hash::StateHash,
};

const HEADER_BYTES: usize = 56;
const MAGIC: [u8; 8] = *b"IBXJRNL1";
const DIR: &str = "journal";
const SUFFIX: &str = ".journal";
/// What is written over a torn tail at once.
const TORN_STEP_BYTES: usize = 1 << 20;

/// The least that a segment is made for on a disk that has no room for more.
const SEGMENT_BYTES_MIN: u64 = 64 << 10;

/// The journal, open for appending.
pub(super) struct Journal {
    disk: Arc<dyn Disk>,
    store: Uuid,
    tail: Tail,
    end: Position,
    last_time_ms: u64,
    appended_bytes: u64,
    /// The last frame's bytes: room for the next.
    buffer: Vec<u8>,
    /// Room reserved for a segment. Appending within reserved room spares a sync the file's new length.
    segment_bytes: u64,
}

/// The last segment.
struct Tail {
    file: Box<dyn DiskFile>,
    /// Where the next frame goes.
    offset: u64,
    /// Where its reserved room ends.
    room_bytes: u64,
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
        let tail = create_segment(&*disk, store, base, segment_bytes, 0)?;
        Ok(Journal {
            disk,
            store,
            tail,
            end: base,
            last_time_ms: 0,
            appended_bytes: 0,
            buffer: Vec::new(),
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

    /// Checks the journal behind `base` as [`check`] does, cuts a torn tail, and opens it for appending. Needs no new room on
    /// the disk.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a frame that was once synced is damaged or missing; nothing is changed then.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        store: Uuid,
        base: Position,
        segment_bytes: u64,
        visit: &mut dyn FnMut(&Group, usize),
    ) -> Result<Journal, Error> {
        let Checked {
            end,
            last_time_ms,
            unused,
            tail,
        } = check(&*disk, store, base, visit)?;
        for path in unused {
            disk.remove(&path)?;
        }
        let tail = match tail {
            Some(tail) => {
                let file = disk.open(&tail.path)?;
                let tail = Tail::reopen(file, &tail)?;
                // The process may have ended before the last segment's name was durable.
                disk.sync_dir(Path::new(DIR))?;
                tail
            }
            None => create_segment(&*disk, store, base, segment_bytes, 0)?,
        };
        Ok(Journal {
            disk,
            store,
            tail,
            end,
            last_time_ms,
            appended_bytes: 0,
            buffer: Vec::new(),
            segment_bytes,
        })
    }

    /// The place behind the last frame.
    pub(super) fn end(&self) -> Position {
        self.end
    }

    /// The latest commit time when it was opened, milliseconds since the Unix epoch.
    pub(super) fn last_time_ms(&self) -> u64 {
        self.last_time_ms
    }

    /// Says that the last commit is at least as late as this.
    pub(super) fn advance_time_to(&mut self, time_ms: u64) {
        self.last_time_ms = self.last_time_ms.max(time_ms);
    }

    /// Says what the store really holds at the journal's end, where the journal itself says otherwise.
    pub(super) fn correct_state(&mut self, state: StateHash) {
        self.end.state = state;
    }

    /// Bytes of frames that were appended since it was opened.
    pub(super) fn appended_bytes(&self) -> u64 {
        self.appended_bytes
    }

    /// Appends a frame and makes it durable.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`] if the disk failed while the frame was on its way to it, [`Error::Stopped`] if it failed
    /// before: neither is to be tried again. After any other error nothing was written, and the same may be tried again.
    pub(super) fn append(&mut self, frame: &Group) -> Result<(), Error> {
        assert_eq!(
            frame.first_revision,
            self.end.revision + 1,
            "revisions have no gaps"
        );
        let chain = frame.encode_over(&mut self.buffer, self.store, self.end.chain);
        let len = self.buffer.len() as u64;
        if self.tail.offset + len > self.tail.room_bytes {
            if self.tail.offset > HEADER_BYTES as u64 {
                let (disk, store) = (&*self.disk, self.store);
                self.tail = create_segment(disk, store, self.end, self.segment_bytes, len)?;
            } else {
                self.tail.file.allocate(self.tail.offset + len)?;
                self.tail.room_bytes = self.tail.offset + len;
            }
        }
        // From here on the outcome is open until the sync has returned, a full disk included.
        let outcome = |error: Error| Error::OutcomeUnknown {
            reason: error.to_string(),
        };
        let Tail { file, offset, .. } = &mut self.tail;
        file.write_at(*offset, &self.buffer).map_err(outcome)?;
        file.sync().map_err(outcome)?;
        *offset += len;
        self.appended_bytes += len;
        self.end = Position {
            revision: frame.last_revision(),
            chain,
            state: frame.state(),
        };
        Ok(())
    }
}

impl Tail {
    /// Opens the last segment for appending.
    fn reopen(mut file: Box<dyn DiskFile>, checked: &CheckedTail) -> Result<Tail, Error> {
        let CheckedTail {
            bytes,
            offset,
            last_bytes,
            ..
        } = checked;
        // What is torn goes at once: were a shorter frame written over it, its rest would be found later. It is written over,
        // not cut off: a full disk may not give back the room that was cut.
        for at in (0..checked.torn_bytes()).step_by(TORN_STEP_BYTES) {
            let len = TORN_STEP_BYTES.min(checked.torn_bytes() - at);
            file.write_at((offset + at) as u64, &vec![0; len])?;
        }
        // A sync that failed may have left what was written last in memory only, where no later sync looks for it: it is
        // written once more.
        let last_at = offset - last_bytes;
        file.write_at(last_at as u64, &bytes[last_at..*offset])?;
        file.sync()?;
        Ok(Tail {
            file,
            offset: *offset as u64,
            room_bytes: bytes.len() as u64,
        })
    }
}

/// A journal that was found whole.
pub(super) struct Checked {
    /// The place behind its last frame.
    pub(super) end: Position,
    /// The latest commit time that was seen.
    last_time_ms: u64,
    /// Files that nothing was appended to.
    unused: Vec<PathBuf>,
    /// The last segment; `None` if it is still to be made.
    pub(super) tail: Option<CheckedTail>,
}

/// The last segment of a journal that was found whole.
pub(super) struct CheckedTail {
    pub(super) path: PathBuf,
    bytes: Vec<u8>,
    /// Where its last frame ends: behind that it holds nothing that counts.
    offset: usize,
    /// The size of its last frame, or of the header where there is none.
    last_bytes: usize,
}

impl CheckedTail {
    /// What a write that did not come to its end has left.
    pub(super) fn torn_bytes(&self) -> usize {
        let last = self.bytes[self.offset..]
            .iter()
            .rposition(|&byte| byte != 0);
        last.map_or(0, |last| last + 1)
    }
}

/// Checks the journal behind `base`, where the checkpoint ends, and shows `visit` every frame there with its size in bytes.
/// Changes nothing.
///
/// # Errors
/// [`Error::Corrupt`] if a frame that was once synced is damaged or missing.
pub(super) fn check(
    disk: &dyn Disk,
    store: Uuid,
    base: Position,
    visit: &mut dyn FnMut(&Group, usize),
) -> Result<Checked, Error> {
    let segments = segments(disk)?;
    let Some(mut next) = first_needed(disk, store, &segments, base.revision + 1)? else {
        // A segment that nothing was appended to is made again; the one before it may be gone, if a checkpoint covers it.
        if base.revision > 0 && segments.last() == Some(&(base.revision + 1)) {
            return Ok(Checked {
                end: base,
                last_time_ms: 0,
                unused: Vec::new(),
                tail: None,
            });
        }
        return Err(missing(&segments, base));
    };
    let mut position: Option<Position> = None;
    let mut last_time_ms = 0;
    let mut unused = Vec::new();
    let mut tail = None;
    while let Some(first) = segments.get(next) {
        next += 1;
        let Some(segment) = Segment::read(disk, segment_path(*first), store)? else {
            unused.push(segment_path(*first));
            continue;
        };
        let continues = |place: &Position| place.revision != base.revision || place.is_at(&base);
        let place = position.get_or_insert(segment.start);
        if !segment.start.is_at(place) {
            if segment.is_unused() {
                unused.push(segment.path);
                continue;
            }
            return Err(segment.gap(*place));
        }
        if !continues(place) {
            return Err(segment.of_another_history(base));
        }
        // The header is what was written last until a frame is.
        let mut last_bytes = HEADER_BYTES;
        let offset = segment.walk(place, &mut |frame, bytes, end| {
            if !continues(end) {
                return Err(segment.of_another_history(base));
            }
            last_time_ms = last_time_ms.max(frame.time_ms);
            if end.revision > base.revision {
                visit(frame, bytes);
            }
            last_bytes = bytes;
            Ok(())
        })?;
        if let Some((_, later)) = Group::find(&segment.bytes[offset..], store, place.revision + 1) {
            return Err(segment.damage(offset, *place, later));
        }
        tail = Some(CheckedTail {
            path: segment.path,
            bytes: segment.bytes,
            offset,
            last_bytes,
        });
    }
    let end = position.filter(|end| end.revision >= base.revision);
    let end = end.ok_or_else(|| missing(&segments, base))?;
    Ok(Checked {
        // The checkpoint was read back when it was made: of the two, its state is the one that was proved.
        end: if end.revision == base.revision {
            base
        } else {
            end
        },
        last_time_ms,
        unused,
        tail,
    })
}

/// Hands every whole frame behind revision `after` to `visit`, whatever is damaged around them, and says what is missing
/// between them.
///
/// # Errors
/// What the disk says; what `visit` refuses with.
pub(super) fn salvage(
    disk: &dyn Disk,
    store: Uuid,
    after: u64,
    visit: &mut dyn FnMut(&Group) -> Result<(), Error>,
) -> Result<Vec<String>, Error> {
    let mut missing = Vec::new();
    let mut last = after;
    for first in segments(disk)? {
        let bytes = disk.read(&segment_path(first))?.unwrap_or_default();
        let mut at = 0;
        while let Some((skipped, _)) = Group::find(&bytes[at..], store, last + 1) {
            at += skipped;
            let Some(found) = Group::decode(&bytes[at..], store) else {
                break;
            };
            if found.group.first_revision > last + 1 {
                missing.push(format!(
                    "revisions {} to {} are lost",
                    last + 1,
                    found.group.first_revision - 1
                ));
            }
            visit(&found.group)?;
            last = found.group.last_revision();
            at += found.len;
        }
    }
    Ok(missing)
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
    visit: &mut dyn FnMut(&Group, &Position) -> Result<(), Error>,
) -> Result<(), Error> {
    if after >= until {
        return Ok(());
    }
    let segments = segments(disk)?;
    let first = first_needed(disk, store, &segments, after + 1)?.ok_or_else(|| {
        missing(
            &segments,
            Position {
                revision: after,
                ..Position::default()
            },
        )
    })?;
    let mut position = None;
    for (n, first_revision) in segments
        .iter()
        .enumerate()
        .skip(first)
        .take_while(|(_, first)| **first <= until)
    {
        let Some(segment) = Segment::read(disk, segment_path(*first_revision), store)? else {
            continue;
        };
        let position = position.get_or_insert(segment.start);
        if !segment.start.is_at(position) {
            if segment.is_unused() {
                continue;
            }
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
            if let Some((_, later)) =
                Group::find(&segment.bytes[stop..], store, position.revision + 1)
            {
                return Err(segment.damage(stop, *position, later));
            }
        } else if position.revision < expected {
            return Err(segment.damage(stop, *position, expected + 1));
        }
    }
    match position {
        Some(end) if until == u64::MAX || end.revision >= until => Ok(()),
        _ => Err(missing(
            &segments,
            Position {
                revision: after,
                ..Position::default()
            },
        )),
    }
}

/// Reads the journal's groups one after the other, while others are being appended and old segments removed.
pub(super) struct Follower {
    store: Uuid,
    /// The revision of the last change that was read.
    after: u64,
    /// The segment that it is in, and the place of the next frame there.
    place: Option<(Box<dyn DiskFile>, u64)>,
}

/// What a [`Follower`] comes to next.
pub(super) enum Next {
    Group(Group),
    /// The segment that it was in is gone.
    Compacted {
        oldest: u64,
    },
}

impl Follower {
    pub(super) fn new(store: Uuid, after: u64) -> Self {
        Follower {
            store,
            after,
            place: None,
        }
    }

    /// The group that holds what comes next, which is durable: revision `shown` is. Holds that one in memory, and nothing else.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is damaged or missing; what the disk says.
    pub(super) fn next(&mut self, disk: &dyn Disk, shown: u64) -> Result<Next, Error> {
        // Once in the segment that it is in, and then from the one that should hold what comes next.
        for _ in 0..2 {
            let (file, offset) = match &mut self.place {
                Some(place) => place,
                None => match Self::segment_with(disk, self.store, self.after + 1)? {
                    Ok(file) => self.place.insert((file, HEADER_BYTES as u64)),
                    Err(oldest) => return Ok(Next::Compacted { oldest }),
                },
            };
            while let Some((first, last, len)) = frame_at(&**file, *offset)? {
                if last > self.after {
                    let mut bytes = vec![0; len];
                    file.read_at(*offset, &mut bytes)?;
                    let found = Group::decode(&bytes, self.store);
                    let Some(found) = found.filter(|_| first <= self.after + 1) else {
                        break;
                    };
                    *offset += len as u64;
                    self.after = last;
                    return Ok(Next::Group(found.group));
                }
                *offset += len as u64;
            }
            self.place = None;
        }
        Err(Error::Corrupt {
            what: format!(
                "the journal does not hold revision {}, though it has reached revision {shown}",
                self.after + 1
            ),
        })
    }

    /// The segment that a revision is in, or the oldest revision that there is.
    fn segment_with(
        disk: &dyn Disk,
        store: Uuid,
        revision: u64,
    ) -> Result<Result<Box<dyn DiskFile>, u64>, Error> {
        let listed = segments(disk)?;
        let candidates = &listed[..listed.partition_point(|first| *first <= revision)];
        for first in candidates.iter().rev() {
            let file = match disk.open_to_read(&segment_path(*first)) {
                Ok(file) => file,
                // Removed since the directory was read, and all that came before it.
                Err(_) if !segments(disk)?.contains(first) => break,
                Err(error) => return Err(error),
            };
            let mut header = [0; HEADER_BYTES];
            file.read_at(0, &mut header)?;
            // A disk that was full may have left segments that nothing was appended to.
            if decode_header(&header, store).is_some()
                && frame_at(&*file, HEADER_BYTES as u64)?.is_some()
            {
                return Ok(Ok(file));
            }
        }
        let oldest = segments(disk)?.first().copied();
        Ok(Err(oldest.unwrap_or(revision + 1)))
    }
}

/// What the frame at a place says of itself: its first and last revision, and its size.
fn frame_at(file: &dyn DiskFile, offset: u64) -> Result<Option<(u64, u64, usize)>, Error> {
    let mut header = [0; FRAME_HEADER_BYTES];
    if file.read_at(offset, &mut header)? < header.len() {
        return Ok(None);
    }
    Ok(Group::said_in(&header))
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

/// Which segment to begin with for the changes from a revision on: the last that starts before it and that something was
/// appended to. A disk that was full may have left others behind, and what went on in the segment before them.
fn first_needed(
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

/// Where the journal starts that is there.
///
/// # Errors
/// [`Error::Corrupt`] if its first segment cannot be read.
pub(super) fn start(disk: &dyn Disk, store: Uuid) -> Result<Position, Error> {
    match segments(disk)?.first() {
        Some(first) => match Segment::read(disk, segment_path(*first), store)? {
            Some(segment) => Ok(segment.start),
            None => Err(header_is_damaged(&segment_path(*first))),
        },
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

fn header_is_damaged(path: &Path) -> Error {
    Error::Corrupt {
        what: format!(
            "the header of {} is damaged or of another store: its changes cannot be trusted",
            path.display()
        ),
    }
}

fn segment_path(first_revision: u64) -> PathBuf {
    Path::new(DIR).join(format!("{first_revision:020}{SUFFIX}"))
}

/// Makes a segment with room for a frame of `frame_bytes` at least: as large as wished, or smaller on a disk that is nearly
/// full. One that could not be made leaves nothing behind.
fn create_segment(
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

fn reserve(disk: &dyn Disk, path: &Path, bytes: u64) -> Result<Box<dyn DiskFile>, Error> {
    // A full disk may have stopped an earlier attempt half-way.
    disk.remove(path)?;
    let mut file = disk.open(path)?;
    file.allocate(bytes)?;
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

/// One segment file, in memory.
struct Segment {
    path: PathBuf,
    bytes: Vec<u8>,
    start: Position,
    store: Uuid,
}

impl Segment {
    /// The segment in a file; `None` where nothing was ever appended to it, not even a header.
    fn read(disk: &dyn Disk, path: PathBuf, store: Uuid) -> Result<Option<Segment>, Error> {
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
    fn is_unused(&self) -> bool {
        Group::find(&self.bytes[HEADER_BYTES..], self.store, 0).is_none()
    }

    /// Visits the frames that are whole and in sequence, each with its size in bytes and the place behind it, and says
    /// where they stop.
    fn walk(
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
        change::{Change, Write},
        local::disk::{self, RealDisk},
    };

    const SEGMENT_BYTES: u64 = 16 << 20;

    fn disk() -> (tempfile::TempDir, Arc<dyn Disk>) {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk::new(dir.path().to_path_buf()));
        (dir, disk)
    }

    fn frame(revision: u64, value_bytes: usize) -> Group {
        let write = Write {
            key: b"key".as_slice().into(),
            value: Some(vec![7; value_bytes].into()),
        };
        Group {
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
        let mut visit = |frame: &Group, _: usize| revisions.push(frame.first_revision);
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
    fn a_journal_that_does_not_continue_the_checkpoint_is_told() {
        let at = |revision, chain| Position {
            revision,
            chain,
            state: StateHash::default(),
        };
        let (_dir, disk) = disk();
        let mut journal =
            Journal::create(disk.clone(), Uuid::nil(), at(5, 1), SEGMENT_BYTES).unwrap();
        journal.append(&frame(6, 10)).unwrap();
        let end = journal.end();
        let checked =
            |base| check(&*disk, Uuid::nil(), base, &mut |_, _| ()).map(|found| found.end);
        // At the beginning of a segment, and behind one of its frames.
        assert_eq!(checked(at(5, 1)), Ok(end));
        assert_eq!(checked(end), Ok(end));
        for other in [at(5, 2), at(6, end.chain ^ 1)] {
            assert!(
                matches!(checked(other), Err(Error::Corrupt { .. })),
                "{other:?}"
            );
        }
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
            let left = content(&path).len();
            assert!(left <= end - len_of_last, "cut {cut}: it is still there");
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
    fn a_segment_that_a_full_disk_left_behind_is_passed_over() {
        let (dir, disk) = disk();
        written(&disk, 10, 4 << 20);
        let start = |revision| Position {
            revision,
            ..Position::default()
        };
        // The disk was full, and small frames went on in the segment before.
        let left = [
            (2, Vec::new()),
            (3, vec![0; 100]),
            (5, encode_header(Uuid::nil(), start(4))),
        ];
        for (revision, bytes) in &left {
            std::fs::write(dir.path().join(segment_path(*revision)), bytes).unwrap();
        }
        for after in 0..10 {
            let mut revisions = Vec::new();
            read(&*disk, Uuid::nil(), after, u64::MAX, &mut |frame, _| {
                revisions.push(frame.first_revision);
                Ok(())
            })
            .unwrap();
            assert_eq!(revisions, (after + 1..=10).collect::<Vec<_>>());
        }
        assert_eq!(reopened(&disk).unwrap(), (1..=10).collect::<Vec<_>>());
        for (revision, _) in &left {
            assert!(!dir.path().join(segment_path(*revision)).exists());
        }
    }

    #[test]
    fn a_full_disk_opens_and_goes_on_in_the_room_that_is_reserved() {
        let (dir, disk) = disk();
        written(&disk, 3, 50);
        let full = disk::full::FullDisk::new(dir.path());
        full.set_full(true);
        let full: Arc<dyn Disk> = Arc::new(full);
        assert_eq!(reopened(&full).unwrap(), [1, 2, 3]);
        let mut journal = Journal::open(
            full.clone(),
            Uuid::nil(),
            Position::default(),
            SEGMENT_BYTES,
            &mut |_, _| (),
        )
        .unwrap();
        journal.append(&frame(4, 50)).unwrap();
        let refused = journal.append(&frame(5, 16 << 20));
        assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
        journal.append(&frame(5, 50)).unwrap();
        assert_eq!(full.list(Path::new(DIR)).unwrap().len(), 1);
        assert_eq!(reopened(&full).unwrap(), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_segment_without_a_header_is_made_again() {
        let (dir, disk) = disk();
        written(&disk, 2, 50);
        std::fs::write(dir.path().join(segment_path(3)), vec![0; 100]).unwrap();
        assert_eq!(reopened(&disk).unwrap(), [1, 2]);
    }
}
