//! Reading on where writing goes on.

use uuid::Uuid;

use super::segment::{HEADER_BYTES, decode_header, segment_path, segments};
use crate::store::{
    Error,
    change::Group,
    local::{
        disk::{Disk, DiskFile},
        frame::HEADER_BYTES as FRAME_HEADER_BYTES,
    },
};

/// Reads the journal's groups one after the other, while others are being appended and old segments removed.
pub(in crate::store::local) struct Follower {
    store: Uuid,
    /// The revision of the last change that was read.
    after: u64,
    /// The segment that it is in, and the place of the next frame there.
    place: Option<(Box<dyn DiskFile>, u64)>,
}

/// What a [`Follower`] comes to next.
pub(in crate::store::local) enum Next {
    Group(Group),
    /// The segment that it was in is gone.
    Compacted {
        oldest: u64,
    },
}

impl Follower {
    pub(in crate::store::local) fn new(store: Uuid, after: u64) -> Self {
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
    pub(in crate::store::local) fn next(
        &mut self,
        disk: &dyn Disk,
        shown: u64,
    ) -> Result<Next, Error> {
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
