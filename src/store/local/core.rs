//! What the threads of an open store share, and the view among it, which can be made anew while the store is open.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
        mpsc::SyncSender,
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    changes::Ring,
    checkpoint::{Sink, Source, Summary},
    checkpointer::{self, Work},
    recovery::{Home, Made},
    space::Space,
};
use crate::store::{
    Error, outside,
    view::{Sled, View},
};

/// How long to wait for room for a view before it is tried again to make one.
const ROOM_WAIT: Duration = Duration::from_secs(1);

/// How a store is. All of it is empty while it is well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Why writing has stopped, until a restart.
    pub stopped: Option<Error>,
    /// Why nothing new is taken, until there is room on the disk.
    pub full: Option<String>,
    /// Why the view is being made anew. Writes wait until it is.
    pub view: Option<String>,
}

impl Condition {
    /// Whether writes are taken.
    #[must_use]
    pub fn is_well(&self) -> bool {
        *self == Condition::default()
    }
}

/// An open store, as its threads and its readers share it.
pub(super) struct Core {
    pub(super) home: Home,
    pub(super) id: Uuid,
    pub(super) view: Arc<View>,
    /// The latest groups, for those who follow.
    pub(super) recent: Ring,
    pub(super) condition: watch::Sender<Condition>,
    pub(super) space: Space,
    pub(super) checkpointer: SyncSender<Work>,
    /// Held to read while the journal's old segments are needed, to write while they are removed.
    pub(super) segments: RwLock<()>,
}

impl Core {
    pub(super) fn is_closing(&self) -> bool {
        self.home.closing.load(Ordering::Relaxed)
    }

    /// Makes sled anew from the checkpoint and the journal, unless another thread has done so since `failing` was taken.
    /// Reads go on, if `failing` still answers them; writes wait. Returns when that is done, the store is to close, or the disk
    /// has failed.
    ///
    /// # Errors
    /// [`Error::Closed`]; what the disk says.
    pub(super) fn heal(&self, failing: Arc<Sled>, why: &Error) -> Result<(), Error> {
        let gate = self.view.gate.write();
        let _gate = gate.unwrap_or_else(PoisonError::into_inner);
        let is_another = |sled: Arc<Sled>| !Arc::ptr_eq(&sled, &failing);
        if self.view.sled().is_ok_and(is_another) {
            return Ok(());
        }
        // Its files keep their room on the disk for as long as anybody holds it.
        drop(failing);
        tracing::error!(%why, "the view fails: making it anew, writes wait");
        self.tell_of_view(Some(why.to_string()));
        let healed = self.make_view_anew();
        match &healed {
            Ok(()) => {
                tracing::info!("the view was made anew");
                self.tell_of_view(None);
            }
            Err(Error::Closed) => {}
            Err(error) => self.stop(error),
        }
        healed
    }

    fn make_view_anew(&self) -> Result<(), Error> {
        let mut told = false;
        loop {
            if self.is_closing() {
                return Err(Error::Closed);
            }
            let end = self.view.shown();
            let made = self.home.build(self.id, end).and_then(|built| {
                if let Made::Corrected(_) = built.made {
                    return Err(Error::Corrupt {
                        what: "the journal says another state than its changes come to: restart to have it corrected"
                            .into(),
                    });
                }
                self.view.replace(Some(built.sled));
                self.home.discard_views_but(Some(built.generation))
            });
            match made {
                Err(Error::Full { action }) => {
                    if !told {
                        tracing::error!(%action, "the disk has no room for a view: make room, and the store goes on by itself");
                    }
                    told = true;
                    self.space.release_reserve();
                    if self.view.sled().is_ok_and(|sled| sled.shown().is_err()) {
                        // It answers nobody any more: its room is worth more.
                        self.view.replace(None);
                        self.home.discard_views_but(None)?;
                    }
                    outside::sleep(ROOM_WAIT);
                }
                other => return other,
            }
        }
    }

    /// Stops writing, for good.
    pub(super) fn stop(&self, error: &Error) {
        stop(&self.condition, error);
    }

    fn tell_of_view(&self, why: Option<String>) {
        self.condition.send_modify(|condition| condition.view = why);
    }

    /// Writes a checkpoint of the store as it is now, or a little later.
    ///
    /// # Errors
    /// If the view or the journal cannot be read; what `sink` refuses with.
    pub(super) fn write(&self, sink: &mut dyn Sink) -> Result<Summary, Error> {
        let _segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        // Before sled is taken: one that takes its place meanwhile has more, never less.
        let fed = self.view.fed();
        let sled = self.view.sled()?;
        let source = Source {
            disk: &*self.home.disk,
            store: self.id,
            sled: &sled,
            fed,
            durable: &|| self.view.shown(),
            time_ms: outside::now_ms(),
        };
        let written = source.write(&mut Stoppable {
            sink,
            closing: &self.home.closing,
        });
        match written {
            // The view cannot be read; the sink's own refusals are of other kinds.
            Err(Error::Corrupt { .. }) => self.view.noticed(&sled, written),
            written => written,
        }
    }

    /// The newest checkpoint, if there is one.
    pub(super) fn newest_checkpoint(&self) -> Option<Summary> {
        let newest = checkpointer::newest(&*self.home.disk).ok().flatten();
        newest.map(|checkpoint| checkpoint.summary())
    }
}

/// Stops writing, for good.
pub(super) fn stop(condition: &watch::Sender<Condition>, error: &Error) {
    condition.send_if_modified(|condition| {
        let first = condition.stopped.is_none();
        if first {
            tracing::error!(%error, "writing has stopped: check the disk, then restart the server");
            condition.stopped = Some(error.clone());
        }
        first
    });
}

struct Stoppable<'a> {
    sink: &'a mut dyn Sink,
    closing: &'a AtomicBool,
}

impl Sink for Stoppable<'_> {
    fn put(&mut self, bytes: Bytes) -> Result<(), Error> {
        if self.closing.load(Ordering::Relaxed) {
            Err(Error::Closed)
        } else {
            self.sink.put(bytes)
        }
    }
}
