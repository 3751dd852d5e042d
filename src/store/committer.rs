//! The committer: one thread through which every write goes, many to a sync.
//!
//! It takes what is queued, compares what each batch expects with the state and with those before it in the group, appends
//! the group to the journal, which syncs it, and passes it on to the applier (see `applier.rs`), which lets it
//! be read and answers. While the applier works, the next group is synced already; until the view has it, its
//! writes are in [`Overlay`], for the batches that follow. No code that a request steers runs here.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::SyncSender,
    },
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use super::{
    Batch, Error, Outcome,
    applier::{Answer, Group},
    batch::Entry,
    core::Core,
    frame::{Change, Frame, Position, Write, encoded_len},
    journal::Journal,
    state_hash::StateHash,
    tally::Tally,
    view::View,
};
use crate::clock;

/// Batches that share one sync: beyond a few hundred the sync's share of each is small.
const GROUP_BATCHES_MAX: usize = 256;
/// Bytes that share one sync. A group is the unit that a crash tears, and is held in memory.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// A batch on its way to the committer.
pub(super) struct Task {
    pub(super) batch: Batch,
    pub(super) answer: oneshot::Sender<Result<Outcome, Error>>,
    /// Its share of what may wait.
    pub(super) room: OwnedSemaphorePermit,
}

/// What the time of commits is: it never goes back, whatever the clock does.
#[derive(Debug)]
pub(super) struct CommitClock(AtomicU64);

impl CommitClock {
    /// One that is never before `last_ms`.
    pub(super) fn after(last_ms: u64) -> Self {
        CommitClock(AtomicU64::new(last_ms))
    }

    /// Says that a commit was made at that time.
    #[cfg(test)]
    pub(super) fn is_at_least(&self, time_ms: u64) {
        self.0.fetch_max(time_ms, Ordering::Relaxed);
    }

    /// Milliseconds since the Unix epoch.
    pub(super) fn now_ms(&self) -> u64 {
        let now = clock::now_ms();
        self.0.fetch_max(now, Ordering::Relaxed).max(now)
    }
}

/// A value with the revision of its write; `None` where the key was removed.
type Written = Option<(Bytes, u64)>;

/// What lies over the view that batches are compared with: what is on its way there.
#[derive(Default)]
pub(super) struct Overlay {
    /// Writes of groups that are durable and may not be in the view yet, with the revision of the latest of each key.
    in_flight: HashMap<Bytes, (Written, u64)>,
    /// The last revision and the keys of each of these groups.
    groups: VecDeque<(u64, Vec<Bytes>)>,
    /// Writes of the group in the making.
    group: HashMap<Bytes, Written>,
    /// What these change: each key with the size of its value before and after.
    changed: Vec<(Bytes, Option<usize>, Option<usize>)>,
}

impl Overlay {
    /// A key's value and its revision.
    fn get(&self, view: &View, key: &[u8]) -> Result<Written, Error> {
        if let Some(written) = self.group.get(key) {
            return Ok(written.clone());
        }
        if let Some((written, _)) = self.in_flight.get(key) {
            return Ok(written.clone());
        }
        let entry = view.get(key)?;
        Ok(entry.map(
            |Entry {
                 value, revision, ..
             }| (value, revision),
        ))
    }

    /// Whether the keys hold what a batch expects.
    fn holds(&self, view: &View, expect: &[(Bytes, Option<u64>)]) -> Result<bool, Error> {
        for (key, expected) in expect {
            if self.get(view, key)?.map(|(_, revision)| revision) != *expected {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the answer to a batch rests on the group in the making, which is not durable yet.
    fn is_undurable(&self, expect: &[(Bytes, Option<u64>)]) -> bool {
        expect.iter().any(|(key, _)| self.group.contains_key(key))
    }

    /// Adds the writes of one revision to the group in the making, and says what the store comes to after them.
    fn add(
        &mut self,
        view: &View,
        mut state: StateHash,
        writes: &[Write],
        revision: u64,
    ) -> Result<StateHash, Error> {
        // Read first: if one cannot be, none of them is added.
        let olds: Vec<Written> = writes
            .iter()
            .map(|write| self.get(view, &write.key))
            .collect::<Result<_, _>>()?;
        for (n, (Write { key, value }, old)) in writes.iter().zip(olds).enumerate() {
            let earlier = writes[..n].iter().rev().find(|write| write.key == key);
            let old = earlier.map_or(old, |write| {
                write.value.clone().map(|value| (value, revision))
            });
            let (before, after) = (
                old.as_ref().map(|(old, _)| old.len()),
                value.as_ref().map(Bytes::len),
            );
            self.changed.push((key.clone(), before, after));
            if let Some((old, old_revision)) = old {
                state = state.without(key, &old, old_revision);
            }
            if let Some(value) = value {
                state = state.with(key, value, revision);
            }
        }
        for Write { key, value } in writes {
            let written = value.clone().map(|value| (value, revision));
            self.group.insert(key.clone(), written);
        }
        Ok(state)
    }

    /// The group in the making is durable, up to this revision.
    fn is_durable(&mut self, revision: u64, tally: &mut Tally) {
        for (key, before, after) in self.changed.drain(..) {
            tally.change(&key, before, after);
        }
        self.groups
            .push_back((revision, self.group.keys().cloned().collect()));
        self.in_flight.extend(
            self.group
                .drain()
                .map(|(key, value)| (key, (value, revision))),
        );
    }

    /// The group in the making was not written.
    fn forget_group(&mut self) {
        self.group.clear();
        self.changed.clear();
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
    pub(super) core: Arc<Core>,
    pub(super) journal: Journal,
    pub(super) clock: Arc<CommitClock>,
    pub(super) queue: mpsc::Receiver<Task>,
    pub(super) overlay: Overlay,
    pub(super) durable: watch::Sender<Position>,
    pub(super) groups: SyncSender<Group>,
}

impl Committer {
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
        // A view that is being made anew is waited for: what a failing one says must not reach the journal.
        let core = self.core.clone();
        let _gate = core.gate.read().unwrap_or_else(PoisonError::into_inner);
        // Kept no longer than this: a view that is replaced gives back its room when nobody holds it any more.
        let view = core.view();
        let takes_new = core.space.look();
        // Clocks go back; commit times do not, so that a time names one place in the journal.
        let time_ms = self.clock.now_ms();
        let applied = core.applied.borrow().revision;
        self.overlay.is_applied(applied);
        let start = self.journal.end();
        let mut state = start.state;
        let mut changes: Vec<Change> = Vec::new();
        let mut answers = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(task) = next {
            let Task {
                batch,
                answer,
                room,
            } = task;
            let revision = start.revision + 1 + changes.len() as u64;
            let is_undurable = self.overlay.is_undurable(&batch.expect);
            let decided = view.clone().and_then(|view| {
                if !self.overlay.holds(&view, &batch.expect)? {
                    return Ok(None);
                }
                if batch.creates() && !takes_new {
                    return Err(Error::Full {
                        action: "store anything new".into(),
                    });
                }
                let after = self.overlay.add(&view, state, &batch.writes, revision)?;
                Ok(Some(after))
            });
            let result = decided.map(|after| match after {
                Some(after) => {
                    state = after;
                    bytes += encoded_len(&batch.writes);
                    changes.push(Change {
                        revision,
                        writes: batch.writes,
                        state,
                    });
                    Outcome::Committed(revision)
                }
                None => Outcome::Changed,
            });
            answers.push(Answer {
                caller: answer,
                is_undurable: is_undurable || matches!(result, Ok(Outcome::Committed(_))),
                result,
            });
            drop(room);
            let full = answers.len() >= GROUP_BATCHES_MAX || bytes >= GROUP_BYTES_MAX;
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
            Ok(()) => {
                let mut tally = core.tally.lock().unwrap_or_else(PoisonError::into_inner);
                let end = self.journal.end().revision;
                self.overlay.is_durable(end, &mut tally);
            }
            Err(_) => self.overlay.forget_group(),
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
        if let Some(stopped) = &self.core.condition.borrow().stopped {
            return Err(Error::Stopped {
                reason: stopped.reason(),
            });
        }
        let mut appended = self.journal.append(frame);
        if let Err(Error::Full { action }) = &appended {
            self.core.space.met_the_end(action);
            if self.core.space.release_reserve() {
                appended = self.journal.append(frame);
            }
        }
        match &appended {
            Ok(()) => {
                self.durable.send_replace(self.journal.end());
            }
            // A sync that failed may have dropped what it could not write: trying again could lie.
            Err(error @ (Error::OutcomeUnknown { .. } | Error::Stopped { .. })) => {
                self.core.stop(error);
            }
            // Nothing was written: the next group may do better.
            Err(_) => {}
        }
        appended
    }
}
