//! The journal: where every commit is appended to the store's file.
//!
//! It is at once the write-ahead log, the log that watches resume from, and the audit log. A frame is appended only after the
//! one before it was synced, so at most the last frame can be torn by a crash: whatever is damaged before a valid frame is
//! corruption, never a torn tail.

use std::sync::Arc;

use super::{
    disk::{Disk, DiskFile},
    file::{Checked, Place},
    log::Log,
};
use crate::store::{
    Error,
    change::{Group, Position},
    state_hash::StateHash,
};

/// What is written over a torn tail at once.
const TORN_STEP_BYTES: u64 = 1 << 20;
/// The least room that is reserved at once, on a disk that is nearly full.
const ROOM_BYTES_MIN: u64 = 64 << 10;

/// The store's file, open for appending, for this process alone.
pub(super) struct Journal {
    disk: Arc<dyn Disk>,
    file: Box<dyn DiskFile>,
    log: Arc<Log>,
    /// Where the reserved room ends. Appending within it spares a sync the file's new length.
    room_end: u64,
    /// Room that is reserved at once.
    room_bytes: u64,
    last_time_ms: u64,
    /// The last frame's bytes: room for the next.
    buffer: Vec<u8>,
}

impl Journal {
    /// Goes on where a file that was found whole ends, after cutting a torn tail. Needs no new room on the disk.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        mut file: Box<dyn DiskFile>,
        log: Arc<Log>,
        checked: &Checked,
        room_bytes: u64,
    ) -> Result<Journal, Error> {
        let offset = checked.end.offset;
        // What is torn goes at once: were a shorter frame written over it, its rest would be found later. It is written over,
        // not cut off: a full disk may not give back the room that was cut.
        let mut at = 0;
        while at < checked.torn_bytes {
            let len = TORN_STEP_BYTES.min(checked.torn_bytes - at);
            file.write_at(offset + at, &vec![0; usize::try_from(len).expect("small")])?;
            at += len;
        }
        // A sync that failed may have left what was written last in memory only, where no later sync looks for it: it is
        // written once more.
        let mut last = vec![0; checked.last_bytes];
        let last_at = offset - checked.last_bytes as u64;
        file.read_at(last_at, &mut last)?;
        file.write_at(last_at, &last)?;
        file.sync()?;
        // A copy may have holes where room was reserved.
        let size = file.size()?;
        let room_end = match file.allocate(size) {
            Ok(()) => size,
            Err(Error::Full { .. }) => offset,
            Err(error) => return Err(error),
        };
        Ok(Journal {
            disk,
            file,
            log,
            room_end,
            room_bytes,
            last_time_ms: checked.last_time_ms,
            buffer: Vec::new(),
        })
    }

    /// Goes on in a file that has taken this one's place, with room up to `room_end`.
    pub(super) fn go_on_in(&mut self, file: Box<dyn DiskFile>, log: Arc<Log>, room_end: u64) {
        self.file = file;
        self.log = log;
        self.room_end = room_end;
    }

    /// The place behind the last frame.
    pub(super) fn end(&self) -> Position {
        self.log.end().position
    }

    /// The latest commit time when it was opened, milliseconds since the Unix epoch.
    pub(super) fn last_time_ms(&self) -> u64 {
        self.last_time_ms
    }

    /// Says what the store really holds at the journal's end, where the journal itself says otherwise.
    pub(super) fn correct_state(&self, state: StateHash) {
        self.log.correct_state(state);
    }

    /// Says in the file, durably, whether this process has it open, and that the store has reached its end.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn say(&mut self, is_open: bool) -> Result<(), Error> {
        self.log.status(is_open).write(&mut *self.file)?;
        self.file.sync()
    }

    /// Lets other processes have the file.
    pub(super) fn release(&mut self) {
        self.file.release();
    }

    /// Appends a frame and makes it durable.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`] if the disk failed while the frame was on its way to it: it is not to be tried again. After any
    /// other error nothing was written, and the same may be tried again.
    pub(super) fn append(&mut self, frame: &Group) -> Result<(), Error> {
        let Place { position, offset } = self.log.end();
        assert_eq!(
            frame.first_revision,
            position.revision + 1,
            "revisions have no gaps"
        );
        let chain = frame.encode_over(&mut self.buffer, self.log.store(), position.chain);
        let end = offset + self.buffer.len() as u64;
        if end > self.room_end {
            self.room_end = reserve(&*self.disk, &mut *self.file, end, self.room_bytes)?;
        }
        // From here on the outcome is open until the sync has returned, a full disk included.
        let outcome = |error: Error| Error::OutcomeUnknown {
            reason: error.to_string(),
        };
        self.file.write_at(offset, &self.buffer).map_err(outcome)?;
        self.file.sync().map_err(outcome)?;
        self.log.add(Place {
            position: Position {
                revision: frame.last_revision(),
                chain,
                state: frame.state(),
            },
            offset: end,
        });
        Ok(())
    }
}

/// Reserves room behind `needed`: as much as wished, or less on a disk that is nearly full. Says where it ends.
///
/// # Errors
/// [`Error::Full`] if there is not even room up to `needed`.
pub(super) fn reserve(
    disk: &dyn Disk,
    file: &mut dyn DiskFile,
    needed: u64,
    room_bytes: u64,
) -> Result<u64, Error> {
    // What is reserved for the journal is missing elsewhere: on a disk that is nearly full it takes only a part of the rest.
    let share = disk.room_bytes().map_or(room_bytes, |room| room / 4);
    let mut room = room_bytes.min(share.max(ROOM_BYTES_MIN));
    loop {
        match file.allocate(needed + room) {
            Ok(()) => return Ok(needed + room),
            Err(Error::Full { .. }) if room > 0 => {
                room = if room > ROOM_BYTES_MIN { room / 4 } else { 0 };
            }
            Err(error) => return Err(error),
        }
    }
}
