//! Room on the disk: when to refuse new things, and the reserve on which deletes and updates then live.
//!
//! Even writes that free room need some in sled and the file system, and a store that has used up the disk is harder to bring back
//! than one that stopped before. So creates are refused while little room is left. If even deletes find no room, a file that holds
//! a reserve is removed.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::{core::Condition, disk::Disk, home::Paths, recovery::Home, views::Views};
use crate::store::Error;

/// With less room than this, nothing new is accepted: sled still has to write what is acknowledged, which is a few buffers of 2
/// MiB.
const ROOM_BYTES_MIN: u64 = 8 << 20;
/// How much more room there must be before new things are accepted again.
const ROOM_BYTES_MARGIN: u64 = 2 << 20;
/// The size of the reserve, which is given up when even deletes find no room.
const RESERVE_BYTES: u64 = 8 << 20;
/// With less room than this, the reserve is given up.
const RESERVE_IS_NEEDED_BYTES: u64 = 4 << 20;

/// Watches the room on the disks of a store's file and its view.
pub(super) struct Space {
    disk: Arc<dyn Disk>,
    paths: Paths,
    views: Arc<Views>,
    condition: watch::Sender<Condition>,
    /// Whether the reserve exists.
    reserve: Mutex<bool>,
}

impl Space {
    /// The room for a store. A reserve is made if there is room for it.
    pub(super) fn new(home: &Home, condition: watch::Sender<Condition>) -> Self {
        let Home {
            disk, paths, views, ..
        } = home.clone();
        let space = Space {
            disk,
            paths,
            views,
            condition,
            reserve: Mutex::new(false),
        };
        space.look();
        space
    }

    /// Looks how much room there is. Returns whether new things are accepted.
    pub(super) fn look(&self) -> bool {
        let Some(room) = self.room_bytes() else {
            return true;
        };
        let is_full = self.is_full();
        let least = ROOM_BYTES_MIN + if is_full { ROOM_BYTES_MARGIN } else { 0 };
        let mut reserve = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        let to_spare = room >= least + if *reserve { 0 } else { RESERVE_BYTES };
        if to_spare && !*reserve {
            *reserve = self.make_reserve().is_ok();
        }
        drop(reserve);
        let enough = room >= least;
        if enough {
            self.has_room();
        } else {
            self.met_the_end(&format!("{} KiB are left", room >> 10));
            if room < RESERVE_IS_NEEDED_BYTES {
                self.release_reserve();
            }
        }
        enough
    }

    /// The room that is left, on the disk that has less.
    pub(super) fn room_bytes(&self) -> Option<u64> {
        let file = self.disk.room_bytes()?;
        let view = self.views.room_bytes();
        Some(view.map_or(file, |view| view.min(file)))
    }

    /// Whether new things are refused.
    pub(super) fn is_full(&self) -> bool {
        self.condition.borrow().full.is_some()
    }

    /// Notes that the disk has refused room.
    pub(super) fn met_the_end(&self, why: &str) {
        self.condition.send_if_modified(|condition| {
            let first = condition.full.is_none();
            if first {
                tracing::warn!(why, "the disk is full: nothing new is taken until there is room; delete something or enlarge it");
                condition.full = Some(why.to_owned());
            }
            first
        });
    }

    fn has_room(&self) {
        self.condition.send_if_modified(|condition| {
            let was_full = condition.full.take().is_some();
            if was_full {
                tracing::info!("there is room on the disk again");
            }
            was_full
        });
    }

    /// Gives up the reserve. Returns whether there was one.
    pub(super) fn release_reserve(&self) -> bool {
        let mut reserve = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        if !*reserve {
            return false;
        }
        *reserve = false;
        tracing::warn!("giving up the reserve on the disk");
        self.disk.remove(&self.paths.reserve).is_ok()
    }

    fn make_reserve(&self) -> Result<(), Error> {
        let path = &self.paths.reserve;
        let mut file = self.disk.open(path)?;
        let reserved = file.allocate(RESERVE_BYTES);
        if reserved.is_err() {
            // A reserve of less than its size is of no use.
            let _ = self.disk.remove(path);
        }
        reserved
    }
}

/// Removes the reserve of a store that is being opened, so that it finds room.
///
/// # Errors
/// Errors of the disk.
pub(super) fn clear(disk: &dyn Disk, paths: &Paths) -> Result<(), Error> {
    disk.remove(&paths.reserve)
}
