//! What the threads of an open store share, and the view among it, which can be made anew while the store is open.

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
        mpsc::SyncSender,
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    Error,
    checkpoint::{Sink, Source, Summary},
    checkpointer::{self, Work},
    frame::Position,
    recovery::{Home, Made},
    space::Space,
    tally::Tally,
    view::View,
};
use crate::clock;

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
    /// `None` only while the disk has no room for a view that fails and for one in its place.
    pub(super) view: RwLock<Option<Arc<View>>>,
    /// Held to read while a group is decided or applied, to write while the view is made anew.
    pub(super) gate: RwLock<()>,
    /// What can be read.
    pub(super) applied: watch::Receiver<Position>,
    /// What a power cut cannot take any more.
    pub(super) durable: watch::Receiver<Position>,
    pub(super) condition: watch::Sender<Condition>,
    pub(super) space: Space,
    /// The keys that there are, those included that are on their way to be shown.
    pub(super) tally: Mutex<Tally>,
    pub(super) checkpointer: SyncSender<Work>,
    /// Held to read while the journal's old segments are needed, to write while they are removed.
    pub(super) segments: RwLock<()>,
}

impl Core {
    /// The view as it is now.
    ///
    /// # Errors
    /// [`Error::Busy`] while there is none.
    pub(super) fn view(&self) -> Result<Arc<View>, Error> {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        view.clone().ok_or(Error::Busy)
    }

    /// Takes the view out, for the end.
    pub(super) fn into_view(self) -> Option<Arc<View>> {
        self.view
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_closing(&self) -> bool {
        self.home.closing.load(Ordering::Relaxed)
    }

    /// Passes on what came of reading `view`, and has a view that fails made anew.
    pub(super) fn noticed<T>(
        &self,
        view: &Arc<View>,
        result: Result<T, Error>,
    ) -> Result<T, Error> {
        if let Err(error @ (Error::Corrupt { .. } | Error::Io { .. } | Error::Full { .. })) =
            &result
        {
            // Another may be at it already: then there is nothing to ask for.
            let work = Work::Heal(view.clone(), error.clone());
            let _ = self.checkpointer.try_send(work);
        }
        result
    }

    /// Makes the view anew from the checkpoint and the journal, unless another thread has done so since `failing` was taken.
    /// Reads go on, if `failing` still answers them; writes wait. Returns when that is done, the store is to close, or the disk
    /// has failed.
    ///
    /// # Errors
    /// [`Error::Closed`]; what the disk says.
    pub(super) fn heal(&self, failing: Arc<View>, why: &Error) -> Result<(), Error> {
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let is_another = |view: Arc<View>| !Arc::ptr_eq(&view, &failing);
        if self.view().is_ok_and(is_another) {
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
            let end = *self.durable.borrow();
            let made = self.home.build(self.id, end).and_then(|built| {
                if let Made::Corrected(_) = built.made {
                    return Err(Error::Corrupt {
                        what: "the journal says another state than its changes come to: restart to have it corrected"
                            .into(),
                    });
                }
                let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
                // Readers that are under way keep the old one until they are done.
                *view = Some(Arc::new(built.view));
                drop(view);
                self.home.discard_views_but(Some(built.generation))
            });
            match made {
                Err(Error::Full { action }) => {
                    if !told {
                        tracing::error!(%action, "the disk has no room for a view: make room, and the store goes on by itself");
                    }
                    told = true;
                    self.space.release_reserve();
                    let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
                    if view.as_ref().is_some_and(|view| view.shown().is_err()) {
                        // It answers nobody any more: its room is worth more.
                        *view = None;
                        self.home.discard_views_but(None)?;
                    }
                    drop(view);
                    thread::sleep(ROOM_WAIT);
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
        let view = self.view()?;
        let source = Source {
            disk: &*self.home.disk,
            store: self.id,
            view: &view,
            applied: *self.applied.borrow(),
            durable: &|| *self.durable.borrow(),
            time_ms: clock::now_ms(),
        };
        let written = source.write(&mut Stoppable {
            sink,
            closing: &self.home.closing,
        });
        match written {
            // The view cannot be read; the sink's own refusals are of other kinds.
            Err(Error::Corrupt { .. }) => self.noticed(&view, written),
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
