//! The journal: every commit is appended here to the store's file.
//!
//! The journal is the write-ahead log, the log from which watches resume, and the audit log. A frame is appended only after the
//! frame before it was synced. So a crash can tear at most the last frame: damage before a valid frame is corruption, and never a
//! torn tail.

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

/// How far behind a frame zeros are written at a time. More takes longer when it is due, less is due more often.
const ZEROS_BYTES: u64 = 1 << 20;
/// The zeros of one write.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
/// The least room that is reserved at a time on a disk that is nearly full.
const ROOM_BYTES_MIN: u64 = 64 << 10;

/// The store's file, claimed by this process and open for appending.
pub(super) struct Journal {
    disk: Arc<dyn Disk>,
    file: Target,
    /// The file that will replace it. Until then everything is appended to both.
    successor: Option<Target>,
    /// How much room is reserved at a time.
    room_bytes: u64,
    last_time_ms: u64,
    /// The buffer of the last frame, which the next frame uses again.
    buffer: Vec<u8>,
}

/// A file to append to.
pub(super) struct Target {
    file: Box<dyn DiskFile>,
    log: Arc<Log>,
    /// Where the reserved room ends. Appending within it does not change the file's length, which makes a sync cheaper.
    room_end: u64,
    /// Up to where something was written into the room, if only zeros. For what was never written, file systems note at the sync
    /// that it is now: a group of 16 creates takes half as long again.
    written_end: u64,
}

impl Target {
    /// A file that ends where its log does, with room up to `room_end`.
    pub(super) fn new(file: Box<dyn DiskFile>, log: Arc<Log>, room_end: u64) -> Target {
        Target {
            written_end: log.end().offset,
            file,
            log,
            room_end,
        }
    }

    /// Whether anybody else reads the file.
    pub(super) fn is_read(&self) -> bool {
        self.log.is_read()
    }

    /// Reserves room up to an offset, and more, unless there is enough.
    ///
    /// # Errors
    /// [`Error::Full`], and errors of the disk.
    fn reserve(&mut self, disk: &dyn Disk, needed: u64, room_bytes: u64) -> Result<(), Error> {
        if needed > self.room_end {
            self.room_end = reserve(disk, &mut *self.file, needed, room_bytes)?;
        }
        Ok(())
    }

    /// Writes a frame into the room, durably.
    ///
    /// # Errors
    /// Errors of the disk.
    fn write(&mut self, frame: &[u8]) -> Result<(), Error> {
        let at = self.log.end().offset;
        let end = at + frame.len() as u64;
        if end > self.written_end {
            self.written_end = self.room_end.min(end + ZEROS_BYTES);
            write_zeros(&mut *self.file, end, self.written_end)?;
        }
        self.file.write_at(at, frame)?;
        self.file.sync()
    }
}

impl Journal {
    /// Continues at the end of a file that was found whole, after removing a torn tail. Needs no new room on the disk.
    ///
    /// # Errors
    /// Errors of the disk.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        mut file: Box<dyn DiskFile>,
        log: Arc<Log>,
        checked: &Checked,
        room_bytes: u64,
    ) -> Result<Journal, Error> {
        let offset = checked.end.offset;
        // A torn tail is removed at once: if a shorter frame were written over it, its rest would be found later. It is overwritten
        // and not cut off, because a full disk may not give back the room that was cut off.
        write_zeros(&mut *file, offset, offset + checked.torn_bytes)?;
        // After a failed sync, the last write may exist only in memory, where no later sync looks for it. So the last frame is
        // written once more.
        let mut last = vec![0; checked.last_bytes];
        let last_at = offset - checked.last_bytes as u64;
        file.read_at(last_at, &mut last)?;
        file.write_at(last_at, &last)?;
        file.sync()?;
        // A copy of the file may have holes instead of reserved room.
        let size = file.size()?;
        let room_end = match file.allocate(size) {
            Ok(()) => size,
            Err(Error::Full { .. }) => offset,
            Err(error) => return Err(error),
        };
        Ok(Journal {
            disk,
            file: Target::new(file, log, room_end),
            successor: None,
            room_bytes,
            last_time_ms: checked.last_time_ms,
            buffer: Vec::new(),
        })
    }

    /// The position behind the last frame.
    pub(super) fn end(&self) -> Position {
        self.file.log.end().position
    }

    /// The latest commit time when the file was opened, in milliseconds since the Unix epoch.
    pub(super) fn last_time_ms(&self) -> u64 {
        self.last_time_ms
    }

    /// Corrects the state hash at the journal's end, if the journal's own is wrong.
    pub(super) fn correct_state(&self, state: StateHash) {
        self.file.log.correct_state(state);
    }

    /// Writes into the file, durably, whether this process has it open, and that the store has reached the journal's end.
    ///
    /// # Errors
    /// Errors of the disk.
    pub(super) fn say(&mut self, is_open: bool) -> Result<(), Error> {
        let Target { file, log, .. } = &mut self.file;
        log.status(is_open).write(&mut **file)?;
        file.sync()
    }

    /// Lets other processes claim the file.
    pub(super) fn release(&mut self) {
        self.file.file.release();
    }

    /// From now on everything is appended to this file, too. It must end where the journal does.
    pub(super) fn begin_succession(&mut self, successor: Target) {
        self.successor = Some(successor);
    }

    /// Gives up the file that was to replace this one, if there is one, and returns it.
    pub(super) fn give_up_succession(&mut self) -> Option<Target> {
        self.successor.take()
    }

    /// Continues only in the file that has replaced this one. Returns its log, and the old file.
    pub(super) fn end_succession(&mut self) -> (Arc<Log>, Target) {
        let successor = self.successor.take().expect("it was begun");
        let old = std::mem::replace(&mut self.file, successor);
        (self.file.log.clone(), old)
    }

    /// Appends a frame and makes it durable. Returns where in the journal it begins.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`] if the disk failed while the frame was being written. Then it must not be tried again. After any
    /// other error nothing was written, and the frame may be tried again.
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
            target.reserve(&*self.disk, needed, self.room_bytes)?;
        }
        // From here on the outcome is open until the last sync has returned, even if the disk is only full.
        let outcome = |error: Error| Error::OutcomeUnknown {
            reason: error.to_string(),
        };
        for target in targets.iter_mut().flatten() {
            target.write(&self.buffer).map_err(outcome)?;
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

/// Overwrites a part of a file with zeros.
///
/// # Errors
/// Errors of the disk.
fn write_zeros(file: &mut dyn DiskFile, mut from: u64, end: u64) -> Result<(), Error> {
    while from < end {
        let len = (end - from).min(ZEROS.len() as u64);
        file.write_at(from, &ZEROS[..usize::try_from(len).expect("small")])?;
        from += len;
    }
    Ok(())
}

/// Reserves room behind `needed`: as much as is wanted, or less on a disk that is nearly full. Returns where it ends.
///
/// # Errors
/// [`Error::Full`] if there is no room even up to `needed`.
pub(super) fn reserve(
    disk: &dyn Disk,
    file: &mut dyn DiskFile,
    needed: u64,
    room_bytes: u64,
) -> Result<u64, Error> {
    // Room that is reserved for the journal is missing elsewhere. On a disk that is nearly full, only a part of what is left is
    // taken.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::local::disk::RealDisk;

    /// A file that may only grow so far.
    struct Narrow(u64);

    impl DiskFile for Narrow {
        fn write_at(&mut self, _: u64, _: &[u8]) -> Result<(), Error> {
            unreachable!("nothing is written")
        }

        fn read_at(&self, _: u64, _: &mut [u8]) -> Result<usize, Error> {
            unreachable!("nothing is read")
        }

        fn size(&self) -> Result<u64, Error> {
            unreachable!("nobody asks")
        }

        fn allocate(&mut self, bytes: u64) -> Result<(), Error> {
            if bytes <= self.0 {
                return Ok(());
            }
            Err(Error::Full {
                action: "grow".into(),
            })
        }

        fn sync(&mut self) -> Result<(), Error> {
            unreachable!("nothing is synced")
        }

        fn release(&mut self) {}
    }

    #[test]
    fn less_room_is_reserved_where_there_is_less() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(dir.path().to_owned());
        let reserved = |bytes_max| reserve(&disk, &mut Narrow(bytes_max), 500_000, 16 << 20);
        assert_eq!(reserved(1 << 30), Ok(500_000 + (16 << 20)));
        assert_eq!(reserved(1 << 20), Ok(500_000 + (256 << 10)));
        assert_eq!(reserved(500_000), Ok(500_000));
        assert!(matches!(reserved(499_999), Err(Error::Full { .. })));
    }
}
