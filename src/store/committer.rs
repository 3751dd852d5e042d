//! The committer: one thread through which every write goes, many to a sync.
//!
//! It takes what is queued, runs each transaction against the state and those before it in the group, appends
//! the group to the journal, which syncs it, and passes it on to the applier (see `applier.rs`), which lets it
//! be read and answers. While the applier works, the next group is synced already; until the view has it, its
//! writes are in [`Overlay`], for the transactions that follow.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, mpsc::SyncSender},
};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::{
    Error,
    applier::{Answer, Group},
    frame::{Change, Frame, Position, Write, encoded_len},
    journal::Journal,
    state_hash::StateHash,
    transaction::Transaction,
    view::View,
};
use crate::clock;

/// Transactions that share one sync: beyond a few hundred the sync's share of each is small.
const GROUP_TRANSACTIONS_MAX: usize = 256;
/// Bytes that share one sync. A group is the unit that a crash tears, and is held in memory.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// Runs a transaction and returns how to answer its caller once the group's fate is known.
pub(super) type Task = Box<dyn FnOnce(&mut Transaction<'_>) -> Verdict + Send>;

/// Whether a transaction wants its writes kept, and how to tell its caller.
pub(super) struct Verdict {
    pub(super) keep: bool,
    pub(super) answer: Answer,
}

/// Keys with the values that the view does not have yet.
pub(super) type Writes = HashMap<Bytes, Option<Bytes>>;

/// What transactions read: the view, under what is on its way there.
pub(super) struct Overlay {
    view: Arc<View>,
    /// Writes of groups that are durable and may not be in the view yet, with the revision of the latest of each key.
    in_flight: HashMap<Bytes, (Option<Bytes>, u64)>,
    /// The last revision and the keys of each of these groups.
    groups: VecDeque<(u64, Vec<Bytes>)>,
    /// Writes of the group in the making.
    group: Writes,
}

impl Overlay {
    fn new(view: Arc<View>) -> Self {
        Overlay {
            view,
            in_flight: HashMap::new(),
            groups: VecDeque::new(),
            group: HashMap::new(),
        }
    }

    /// A key's value.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        if let Some(value) = self.group.get(key) {
            return Ok(value.clone());
        }
        match self.in_flight.get(key) {
            Some((value, _)) => Ok(value.clone()),
            None => self.view.get(key),
        }
    }

    /// What the store comes to after these writes.
    fn state_after(&self, mut state: StateHash, writes: &[Write]) -> Result<StateHash, Error> {
        for (n, Write { key, value }) in writes.iter().enumerate() {
            let earlier = writes[..n].iter().rev().find(|write| write.key == key);
            let old = earlier.map_or_else(|| self.get(key), |write| Ok(write.value.clone()))?;
            if let Some(old) = old {
                state = state.without(key, &old);
            }
            if let Some(value) = value {
                state = state.with(key, value);
            }
        }
        Ok(state)
    }

    fn add(&mut self, writes: &[Write]) {
        self.group.extend(
            writes
                .iter()
                .map(|write| (write.key.clone(), write.value.clone())),
        );
    }

    /// The group in the making is durable, up to this revision.
    fn is_durable(&mut self, revision: u64) {
        self.groups
            .push_back((revision, self.group.keys().cloned().collect()));
        self.in_flight.extend(
            self.group
                .drain()
                .map(|(key, value)| (key, (value, revision))),
        );
    }

    /// Forgets what the view has.
    fn is_applied(&mut self, revision: u64) {
        while self
            .groups
            .front()
            .is_some_and(|(last, _)| *last <= revision)
        {
            let Some((last, keys)) = self.groups.pop_front() else {
                return;
            };
            for key in keys {
                if self
                    .in_flight
                    .get(&key)
                    .is_some_and(|(_, latest)| *latest <= last)
                {
                    self.in_flight.remove(&key);
                }
            }
        }
    }
}

/// The committer's own state.
pub(super) struct Committer {
    journal: Journal,
    queue: mpsc::Receiver<Task>,
    overlay: Overlay,
    applied: watch::Receiver<Position>,
    durable: watch::Sender<Position>,
    /// Why writing has stopped, once it has.
    stopped: watch::Sender<Option<Error>>,
    groups: SyncSender<Group>,
}

impl Committer {
    pub(super) fn new(
        journal: Journal,
        view: Arc<View>,
        queue: mpsc::Receiver<Task>,
        applied: watch::Receiver<Position>,
        durable: watch::Sender<Position>,
        stopped: watch::Sender<Option<Error>>,
        groups: SyncSender<Group>,
    ) -> Self {
        Committer {
            journal,
            queue,
            overlay: Overlay::new(view),
            applied,
            durable,
            stopped,
            groups,
        }
    }

    /// Commits until every sender of the queue is gone.
    pub(super) fn run(mut self) {
        while let Some(first) = self.queue.blocking_recv() {
            let group = self.commit_group(first);
            self.groups
                .send(group)
                .expect("the applier ends after the committer");
        }
    }

    fn commit_group(&mut self, first: Task) -> Group {
        // Clocks go back; commit times do not, so that a time names one place in the journal.
        let time_ms = clock::now_ms().max(self.journal.last_time_ms());
        let applied = self.applied.borrow().revision;
        self.overlay.is_applied(applied);
        let start = self.journal.end();
        let mut state = start.state;
        let mut changes: Vec<Change> = Vec::new();
        let mut answers = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(task) = next {
            let revision = start.revision + 1 + changes.len() as u64;
            let mut transaction = Transaction::new(&self.overlay, revision, time_ms);
            let Verdict { keep, answer } = task(&mut transaction);
            let writes = transaction.into_writes();
            if keep && !writes.is_empty() {
                match self.overlay.state_after(state, &writes) {
                    Ok(after) => {
                        state = after;
                        bytes += encoded_len(&writes);
                        self.overlay.add(&writes);
                        changes.push(Change {
                            revision,
                            writes,
                            state,
                        });
                        answers.push((answer, Ok(revision)));
                    }
                    Err(error) => answers.push((answer, Err(error))),
                }
            } else {
                answers.push((answer, Ok(revision - 1)));
            }
            let full = answers.len() >= GROUP_TRANSACTIONS_MAX || bytes >= GROUP_BYTES_MAX;
            next = if full {
                None
            } else {
                self.queue.try_recv().ok()
            };
        }
        let frame = (!changes.is_empty()).then(|| Frame {
            first_revision: start.revision + 1,
            time_ms,
            changes,
        });
        let outcome = frame
            .as_ref()
            .map_or(Ok(()), |frame| self.make_durable(frame));
        match &outcome {
            Ok(()) => self.overlay.is_durable(self.journal.end().revision),
            Err(_) => self.overlay.group.clear(),
        }
        Group {
            frame,
            start,
            end: self.journal.end(),
            appended_bytes: self.journal.appended_bytes(),
            outcome,
            answers,
        }
    }

    fn make_durable(&mut self, frame: &Frame) -> Result<(), Error> {
        if let Some(stopped) = &*self.stopped.borrow() {
            return Err(Error::Stopped {
                reason: stopped.reason(),
            });
        }
        let appended = self.journal.append(frame);
        match &appended {
            Ok(()) => {
                self.durable.send_replace(self.journal.end());
            }
            // A sync that failed may have dropped what it could not write: trying again could lie.
            Err(error @ (Error::OutcomeUnknown { .. } | Error::Stopped { .. })) => {
                stop(&self.stopped, error);
            }
            // Nothing was written: the next group may do better.
            Err(_) => {}
        }
        appended
    }
}

/// Stops writing, for good.
pub(super) fn stop(stopped: &watch::Sender<Option<Error>>, error: &Error) {
    tracing::error!(%error, "writing has stopped: check the disk, then restart the server");
    stopped.send_if_modified(|stopped| {
        let first = stopped.is_none();
        if first {
            *stopped = Some(error.clone());
        }
        first
    });
}
