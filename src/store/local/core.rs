//! What the threads of an open store share, with the view, which can be made anew while the store is open.

use std::{
    ops::Bound,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::SyncSender,
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

use super::{
    changes::Ring,
    file::{Header, Place, Sink, Trailer, Writer},
    journal::Journal,
    log::{Copied, Keep, Log},
    recovery::{Home, Made},
    rewriter::Work,
    space::Space,
    values::Current,
};
use crate::store::{
    Error,
    meters::Meters,
    outside,
    view::{Direction, Sled, View},
};

/// How long to wait, when there is no room for a view, before trying to make one again.
const ROOM_WAIT: Duration = Duration::from_secs(1);

/// The condition of a store. All fields are empty while it is well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Why writing has stopped until a restart.
    pub stopped: Option<Error>,
    /// Why nothing new is accepted until there is room on the disk.
    pub full: Option<String>,
    /// Why the view is being made anew. Writes wait until that is done.
    pub view: Option<String>,
}

impl Condition {
    /// Whether writes are accepted.
    #[must_use]
    pub fn is_well(&self) -> bool {
        *self == Condition::default()
    }
}

/// An open store, shared by its threads and its readers.
pub(super) struct Core {
    pub(super) home: Home,
    pub(super) id: Uuid,
    pub(super) view: Arc<View>,
    /// The latest groups, for those who follow changes.
    pub(super) recent: Ring,
    /// A permit for each group that was read from the journal and is still in use.
    pub(super) journal_reads: Arc<Semaphore>,
    pub(super) condition: watch::Sender<Condition>,
    pub(super) space: Space,
    pub(super) rewriter: SyncSender<Work>,
    /// Held while a group is committed. A switch to another file holds it together with the view's gate.
    pub(super) journal: Mutex<Journal>,
    pub(super) meters: Meters,
    /// The committed frames, in the file that is written to now.
    pub(super) current: Arc<Current>,
}

/// What was written of a store.
#[derive(Clone, Copy)]
pub(super) struct Written {
    pub(super) header: Header,
    pub(super) trailer: Trailer,
    /// The frames that were copied behind the records.
    pub(super) copied: Copied,
    /// The place up to which they were copied, in the file that they were copied from.
    pub(super) end: Place,
    /// The bytes in all.
    pub(super) bytes: u64,
}

impl Core {
    pub(super) fn is_closing(&self) -> bool {
        self.home.closing.load(Ordering::Relaxed)
    }

    /// Makes sled anew from the file, unless another thread has done so since the caller took `failing`. Meanwhile writes wait, and
    /// reads go on if `failing` still answers them. Returns when it is done, the store is to close, or the disk has failed.
    ///
    /// # Errors
    /// [`Error::Closed`]; errors of the disk.
    pub(super) fn heal(&self, failing: Arc<Sled>, why: &Error) -> Result<(), Error> {
        let gate = self.view.gate.write();
        let _gate = gate.unwrap_or_else(PoisonError::into_inner);
        let is_another = |sled: Arc<Sled>| !Arc::ptr_eq(&sled, &failing);
        if self.view.sled().is_ok_and(is_another) {
            return Ok(());
        }
        // Its files take room on the disk as long as anybody holds it.
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
            let made = self.home.build(&self.current, end).and_then(|built| {
                if let Made::Corrected(_) = built.made {
                    return Err(Error::Corrupt {
                        what: "the journal says another state than its changes come to: restart to have it corrected"
                            .into(),
                    });
                }
                self.view.replace(Some(built.sled));
                self.home.views.discard_all_but(Some(built.number))
            });
            match made {
                Err(Error::Full { action }) => {
                    if !told {
                        tracing::error!(%action, "the disk has no room for a view: make room, and the store goes on by itself");
                    }
                    told = true;
                    self.space.release_reserve();
                    if self.view.sled().is_ok_and(|sled| sled.shown().is_err()) {
                        // It no longer answers anybody, and its room is needed.
                        self.view.replace(None);
                        self.home.views.discard_all_but(None)?;
                    }
                    outside::sleep(ROOM_WAIT);
                }
                other => return other,
            }
        }
    }

    /// # Errors
    /// [`Error::Stopped`] if writing has stopped.
    pub(super) fn check_going(&self) -> Result<(), Error> {
        match &self.condition.borrow().stopped {
            Some(stopped) => Err(Error::Stopped {
                reason: stopped.reason(),
            }),
            None => Ok(()),
        }
    }

    /// Stops writing until a restart.
    pub(super) fn stop(&self, error: &Error) {
        stop(&self.condition, error);
    }

    fn tell_of_view(&self, why: Option<String>) {
        self.condition.send_modify(|condition| condition.view = why);
    }

    /// The frames of the file that is written to now.
    pub(super) fn log(&self) -> Arc<Log> {
        self.current.log()
    }

    /// The frames of the file that is written to now, and the revision up to which sled has them.
    fn log_and_fed(&self) -> (Arc<Log>, u64) {
        loop {
            let log = self.log();
            let fed = self.view.fed().revision;
            if Arc::ptr_eq(&log, &self.log()) {
                return (log, fed);
            }
        }
    }

    /// Writes what the store holds now or a little later as a file: its records, and the frames that belong on top of them. The
    /// frames begin as far back as `keep` asks for.
    ///
    /// # Errors
    /// If the view or the journal cannot be read; any error of `sink`.
    pub(super) fn write(&self, keep: &Keep, sink: &mut dyn Sink) -> Result<Written, Error> {
        let mut sink = Counted {
            sink,
            closing: &self.home.closing,
            bytes: 0,
        };
        // Read this before taking sled: another sled that replaces it meanwhile has more, never less.
        let (log, fed) = self.log_and_fed();
        let sled = self.view.sled()?;
        let header = Header {
            store: self.id,
            time_ms: outside::now_ms(),
        };
        let mut writer = Writer::begin(&mut sink, header)?;
        let all = (
            Bound::Excluded(Sled::LAST_OWN_KEY.to_vec()),
            Bound::Unbounded,
        );
        let entries = sled.range(all, Direction::Forward);
        for entry in self.view.noticed(&sled, entries)? {
            writer.record(&self.view.noticed(&sled, entry)?)?;
        }
        // Everything that the scan has seen was durable before sled had it.
        let latest = self.log();
        let end = latest.end();
        let copied = log.to_copy(fed, keep)?;
        let exact = (end.position.revision, end.position.state);
        let before_bytes = log.trailer.in_journal(copied.start.offset);
        let start = (copied.start.position, before_bytes);
        let trailer = writer.end_of_records(start, fed, exact)?;
        log.copy_through(copied.start, (&latest, end), &mut sink)?;
        Ok(Written {
            header,
            trailer,
            copied,
            end,
            bytes: sink.bytes,
        })
    }
}

/// Stops writing until a restart.
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

/// Counts the bytes that go to a sink, until the file is no longer needed.
struct Counted<'a> {
    sink: &'a mut dyn Sink,
    closing: &'a AtomicBool,
    bytes: u64,
}

impl Sink for Counted<'_> {
    fn put(&mut self, bytes: Bytes) -> Result<(), Error> {
        if self.closing.load(Ordering::Relaxed) {
            return Err(Error::Closed);
        }
        self.bytes += bytes.len() as u64;
        self.sink.put(bytes)
    }
}
