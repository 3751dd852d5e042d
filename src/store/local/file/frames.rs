//! Reads a file's frames: one after the other, all of them to check them, or those that are still whole.

use std::sync::Arc;

use uuid::Uuid;

use super::{CHUNK_BYTES, Stored, read::Input};
use crate::store::{
    Error,
    change::{Group, Position},
    local::{
        disk::DiskFile,
        frame::{Found, HEADER_BYTES as FRAME_HEADER_BYTES, PAYLOAD_BYTES_MAX},
    },
};

/// The largest frame.
const FRAME_BYTES_MAX: usize = FRAME_HEADER_BYTES + PAYLOAD_BYTES_MAX;
/// How many bytes are searched for a frame at a time.
const WINDOW_BYTES: usize = 2 * FRAME_BYTES_MAX;

/// A place between two frames of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store::local) struct Place {
    pub(in crate::store::local) position: Position,
    /// Its offset in the file.
    pub(in crate::store::local) offset: u64,
}

/// Reads frames one after the other.
pub(in crate::store::local) struct Frames {
    input: Input,
    store: Uuid,
    place: Place,
}

impl Frames {
    /// Reads the frames of the store with that id behind `place`. `chunk_bytes` tells how many bytes to read at a time.
    pub(in crate::store::local) fn new(
        file: Arc<dyn DiskFile>,
        store: Uuid,
        place: Place,
        chunk_bytes: usize,
    ) -> Self {
        Frames {
            input: Input::new(file, place.offset, u64::MAX, chunk_bytes),
            store,
            place,
        }
    }

    /// The place behind the last frame that was read.
    pub(in crate::store::local) fn place(&self) -> Place {
        self.place
    }

    /// The next frame, if it is whole and continues the last one.
    ///
    /// # Errors
    /// Errors of the disk.
    pub(in crate::store::local) fn next(&mut self) -> Result<Option<Found>, Error> {
        let found = decode_next(&mut self.input, self.store)?;
        let Position {
            revision, chain, ..
        } = self.place.position;
        let continues =
            |found: &Found| found.before == chain && found.group.first_revision == revision + 1;
        let Some(found) = found.filter(continues) else {
            return Ok(None);
        };
        self.input.take(found.len)?;
        self.place = Place {
            position: found.end(),
            offset: self.place.offset + found.len as u64,
        };
        Ok(Some(found))
    }
}

fn decode_next(input: &mut Input, store: Uuid) -> Result<Option<Found>, Error> {
    let Some(header) = input.peek(FRAME_HEADER_BYTES)? else {
        return Ok(None);
    };
    let Some(payload_len) = Group::payload_len_in(&header) else {
        return Ok(None);
    };
    let bytes = input.peek(FRAME_HEADER_BYTES + payload_len)?;
    Ok(bytes.and_then(|bytes| Group::decode(&bytes, store)))
}

/// The result of checking a file's frames.
pub(in crate::store::local) struct Checked {
    /// The place behind the last frame.
    pub(in crate::store::local) end: Place,
    /// The size of the last frame; 0 if there is none.
    pub(in crate::store::local) last_bytes: usize,
    /// The latest commit time in the frames, in milliseconds since the Unix epoch.
    pub(in crate::store::local) last_time_ms: u64,
    /// The bytes of an unfinished write behind the last frame.
    pub(in crate::store::local) torn_bytes: u64,
}

/// Checks all frames of a file, and calls `visit` with the place behind each. Changes nothing.
///
/// # Errors
/// [`Error::Corrupt`] if a frame that was once synced is damaged or missing.
pub(in crate::store::local) fn check(
    stored: &Stored,
    visit: &mut dyn FnMut(&Place),
) -> Result<Checked, Error> {
    let trailer = stored.trailer.clone()?;
    let (exact_at, state) = trailer.exact;
    let mut frames = stored.frames()?;
    let mut last_bytes = 0;
    let mut last_time_ms = stored.header.time_ms;
    // The records were read back when they were written. So their state was proved, whatever a frame says.
    let proved = |mut place: Place| {
        if place.position.revision == exact_at {
            place.position.state = state;
        }
        place
    };
    visit(&proved(frames.place()));
    while let Some(found) = frames.next()? {
        last_bytes = found.len;
        last_time_ms = last_time_ms.max(found.group.time_ms);
        visit(&proved(frames.place()));
    }
    let end = proved(frames.place());
    let Position { revision, .. } = end.position;
    let torn_bytes = torn_bytes(stored, end.offset)?;
    let behind = (end.offset, end.offset + torn_bytes);
    if let Some((_, later)) = find(stored, behind, revision + 1)? {
        return Err(Error::Corrupt {
            what: format!(
                "{} is damaged at byte {}: revisions {} to {} are lost, while those from {later} on are there",
                stored.name,
                end.offset,
                revision + 1,
                later.max(revision + 2) - 1
            ),
        });
    }
    if revision < exact_at {
        return Err(Error::Corrupt {
            what: format!(
                "{} ends at revision {revision}, but its records are of revision {exact_at}: the changes between \
                 them are lost",
                stored.name
            ),
        });
    }
    Ok(Checked {
        end,
        last_bytes,
        last_time_ms,
        torn_bytes,
    })
}

/// Calls `visit` with every whole frame behind the byte `from`, even if bytes around it are damaged. Returns what is missing
/// between them, and behind the revision `after`, if the revision that they continue is known.
///
/// # Errors
/// Errors of the disk; any error that `visit` returns.
pub(in crate::store::local) fn salvage(
    stored: &Stored,
    from: u64,
    after: Option<u64>,
    visit: &mut dyn FnMut(&Group) -> Result<(), Error>,
) -> Result<Vec<String>, Error> {
    let mut missing = Vec::new();
    let mut last = after;
    let mut at = from;
    let end = stored.file.size()?;
    while let Some((found_at, _)) = find(stored, (at, end), last.map_or(0, |last| last + 1))? {
        let file = stored.file.clone();
        let mut input = Input::new(file, found_at, u64::MAX, CHUNK_BYTES);
        while let Some(found) = decode_next(&mut input, stored.store())? {
            let first = found.group.first_revision;
            if let Some(last) = last.filter(|last| first > last + 1) {
                missing.push(format!("revisions {} to {} are lost", last + 1, first - 1));
            }
            if last.is_none_or(|last| first > last) {
                visit(&found.group)?;
                last = Some(found.group.last_revision());
            }
            input.take(found.len)?;
        }
        // A frame whose checksum is right but which does not decode has another format.
        at = input.offset.max(found_at + 1);
    }
    Ok(missing)
}

/// The place and the first revision of the first whole frame between two bytes whose revision is at least `revision`.
fn find(
    stored: &Stored,
    (mut at, end): (u64, u64),
    revision: u64,
) -> Result<Option<(u64, u64)>, Error> {
    while at < end {
        let size = usize::try_from(end - at).unwrap_or(usize::MAX);
        let mut window = vec![0; size.min(WINDOW_BYTES)];
        stored.file.read_at(at, &mut window)?;
        if let Some((place, first)) = Group::find(&window, stored.store(), revision) {
            return Ok(Some((at + place as u64, first)));
        }
        if size <= WINDOW_BYTES {
            break;
        }
        // A frame that begins in the window's first half lies in the window as a whole.
        at += (WINDOW_BYTES - FRAME_BYTES_MAX) as u64;
    }
    Ok(None)
}

/// How many bytes there are behind a place, up to the last one that is not zero.
fn torn_bytes(stored: &Stored, from: u64) -> Result<u64, Error> {
    let (mut at, mut torn) = (from, 0);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = stored.file.read_at(at, &mut chunk)?;
        if let Some(last) = chunk[..read].iter().rposition(|&byte| byte != 0) {
            torn = at - from + last as u64 + 1;
        }
        if read < CHUNK_BYTES {
            return Ok(torn);
        }
        at += read as u64;
    }
}
