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

mod follow;
mod segment;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use uuid::Uuid;

pub(super) use self::follow::{Follower, Next};
use self::segment::{
    DIR, HEADER_BYTES, Segment, create_segment, first_needed, header_is_damaged, missing,
    segment_path, segments,
};
use super::disk::{Disk, DiskFile};
use crate::store::{
    Error,
    change::{Group, Position},
    state_hash::StateHash,
};

/// What is written over a torn tail at once.
const TORN_STEP_BYTES: usize = 1 << 20;

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
