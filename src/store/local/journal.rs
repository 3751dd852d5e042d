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
    file: Target,
    /// What is to take the file's place: until it has, everything goes to both.
    successor: Option<Target>,
    /// Room that is reserved at once.
    room_bytes: u64,
    last_time_ms: u64,
    /// The last frame's bytes: room for the next.
    buffer: Vec<u8>,
}

/// A file that is appended to.
pub(super) struct Target {
    pub(super) file: Box<dyn DiskFile>,
    pub(super) log: Arc<Log>,
    /// Where the reserved room ends. Appending within it spares a sync the file's new length.
    pub(super) room_end: u64,
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
            file: Target {
                file,
                log,
                room_end,
            },
            successor: None,
            room_bytes,
            last_time_ms: checked.last_time_ms,
            buffer: Vec::new(),
        })
    }

    /// The place behind the last frame.
    pub(super) fn end(&self) -> Position {
        self.file.log.end().position
    }

    /// The latest commit time when it was opened, milliseconds since the Unix epoch.
    pub(super) fn last_time_ms(&self) -> u64 {
        self.last_time_ms
    }

    /// Says what the store really holds at the journal's end, where the journal itself says otherwise.
    pub(super) fn correct_state(&self, state: StateHash) {
        self.file.log.correct_state(state);
    }

    /// Says in the file, durably, whether this process has it open, and that the store has reached its end.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn say(&mut self, is_open: bool) -> Result<(), Error> {
        let Target { file, log, .. } = &mut self.file;
        log.status(is_open).write(&mut **file)?;
        file.sync()
    }

    /// Lets other processes have the file.
    pub(super) fn release(&mut self) {
        self.file.file.release();
    }

    /// From now on everything goes to this file as well, which ends where the journal does.
    pub(super) fn begin_succession(&mut self, successor: Target) {
        self.successor = Some(successor);
    }

    /// Gives up the file that was to take the place of this one.
    pub(super) fn give_up_succession(&mut self) {
        self.successor = None;
    }

    /// Goes on in the file that has taken the place of this one, and in no other. Says which log that is.
    pub(super) fn end_succession(&mut self) -> Arc<Log> {
        self.file = self.successor.take().expect("it was begun");
        self.file.log.clone()
    }

    /// Appends a frame, makes it durable, and says where in the journal it begins.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`] if the disk failed while the frame was on its way to it: it is not to be tried again. After any
    /// other error nothing was written, and the same may be tried again.
    pub(super) fn append(&mut self, frame: &Group) -> Result<u64, Error> {
        let Place { position, offset } = self.file.log.end();
        assert_eq!(
            frame.first_revision,
            position.revision + 1,
            "revisions have no gaps"
        );
        let store = self.file.log.store();
        let chain = frame.encode_over(&mut self.buffer, store, position.chain);
        let end = Position {
            revision: frame.last_revision(),
            chain,
            state: frame.state(),
        };
        let len = self.buffer.len() as u64;
        let mut targets = [Some(&mut self.file), self.successor.as_mut()];
        for target in targets.iter_mut().flatten() {
            let needed = target.log.end().offset + len;
            if needed > target.room_end {
                target.room_end = reserve(&*self.disk, &mut *target.file, needed, self.room_bytes)?;
            }
        }
        // From here on the outcome is open until the last sync has returned, a full disk included.
        let outcome = |error: Error| Error::OutcomeUnknown {
            reason: error.to_string(),
        };
        for target in targets.iter_mut().flatten() {
            let at = target.log.end().offset;
            target.file.write_at(at, &self.buffer).map_err(outcome)?;
            target.file.sync().map_err(outcome)?;
        }
        for target in targets.iter().flatten() {
            target.log.add(Place {
                position: end,
                offset: target.log.end().offset + len,
            });
        }
        Ok(self.file.log.trailer.in_journal(offset))
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
