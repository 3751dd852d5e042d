//! The committer: the one thread that makes all writes, many with one sync.
//!
//! It takes batches from the queue. It compares what each batch expects with the view and with the batches before it in the group.
//! It appends the group to the journal, which syncs it. Then it lets the group be read, and answers. Another thread feeds sled
//! later. No code that a request steers runs here. Nothing is answered or can be read before it is durable, and everything that is
//! answered can be read.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::{core::Core, frame::encoded_len, journal::Journal, rewriter::Work};
use crate::store::{
    Batch, Error, Outcome,
    change::{Change, Group, Placed, Write},
    outside,
    state_hash::StateHash,
    tally::Tally,
    view::{Known, View},
};

/// The most batches that share one sync: beyond a few hundred, each one's share of the sync is small.
const GROUP_BATCHES_MAX: usize = 256;
/// The most bytes that share one sync. A crash tears at most one group, and a group is held in memory.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// How often the rewriter has to look whether the journal has outgrown the records: so often until that can be. Each look wakes a
/// thread, which costs a single writer more than its write.
const LOOKS: u64 = 512;

/// A batch on its way to the committer.
pub(super) struct Task {
    pub(super) batch: Batch,
    pub(super) answer: oneshot::Sender<Result<Outcome, Error>>,
    /// Its permit to wait in the queue.
    pub(super) room: OwnedSemaphorePermit,
}

/// The time of commits: it never goes back, whatever the system's clock does.
#[derive(Debug)]
pub(super) struct CommitClock(AtomicU64);

impl CommitClock {
    /// A clock that is never before `last_ms`.
    pub(super) fn after(last_ms: u64) -> Self {
        CommitClock(AtomicU64::new(last_ms))
    }

    /// Notes the time of a commit.
    #[cfg(test)]
    pub(super) fn is_at_least(&self, time_ms: u64) {
        self.0.fetch_max(time_ms, Ordering::Relaxed);
    }

    /// Milliseconds since the Unix epoch.
    pub(super) fn now_ms(&self) -> u64 {
        let now = outside::now_ms();
        self.0.fetch_max(now, Ordering::Relaxed).max(now)
    }
}

/// The writes of the group that is being made. Batches are compared with the view and with these on top.
#[derive(Default)]
pub(super) struct Pending {
    group: HashMap<Bytes, Option<Known>>,
    /// What they change, in order: each key with what was known of it before and after.
    changed: Vec<(Bytes, Option<Known>, Option<Known>)>,
}

impl Pending {
    fn get(&self, view: &View, key: &[u8]) -> Result<Option<Known>, Error> {
        match self.group.get(key) {
            Some(known) => Ok(*known),
            None => view.known(key),
        }
    }

    /// What the expected keys hold, or `None` if one of them is not as expected.
    fn expected(
        &self,
        view: &View,
        expect: &[(Bytes, Option<u64>)],
    ) -> Result<Option<Vec<Option<Known>>>, Error> {
        let mut all = Vec::with_capacity(expect.len());
        for (key, expected) in expect {
            let known = self.get(view, key)?;
            if known.map(|known| known.revision) != *expected {
                return Ok(None);
            }
            all.push(known);
        }
        Ok(Some(all))
    }

    /// Whether a batch expects something that the group under way has written, which is not durable yet.
    fn is_undurable(&self, expect: &[(Bytes, Option<u64>)]) -> bool {
        expect.iter().any(|(key, _)| self.group.contains_key(key))
    }

    /// Adds a batch's writes with their revision to the group. `known` is what its expected keys hold. Returns the store's totals
    /// after them.
    fn add(
        &mut self,
        view: &View,
        mut state: StateHash,
        batch: &Batch,
        known: &[Option<Known>],
        revision: u64,
    ) -> Result<StateHash, Error> {
        let Batch { expect, writes } = batch;
        // Read all old values first: if one cannot be read, no write is added.
        let old = |key: &Bytes| match expect.iter().position(|(expected, _)| expected == key) {
            Some(place) => Ok(known[place]),
            None => self.get(view, key),
        };
        let olds: Vec<Option<Known>> = writes
            .iter()
            .map(|write| old(&write.key))
            .collect::<Result<_, _>>()?;
        for (n, (Write { key, value }, old)) in writes.iter().zip(olds).enumerate() {
            let is_again = writes[..n].iter().any(|write| write.key == key);
            let old = if is_again { self.group[key] } else { old };
            let new = value.as_ref().map(|value| Known::of(key, value, revision));
            self.changed.push((key.clone(), old, new));
            let hash = |known: Option<Known>| known.map(|known| known.hash);
            state = state.changed(hash(old), hash(new));
            self.group.insert(key.clone(), new);
        }
        Ok(state)
    }

    /// The group's writes as the view takes them, if its frame begins at `frame_at`.
    fn placed<'a>(&self, group: &'a Group, frame_at: u64) -> Vec<Placed<'a>> {
        let mut placed = group.placed(Some(frame_at));
        for (write, (_, _, after)) in placed.iter_mut().zip(&self.changed) {
            write.share = after.map(|known| known.hash);
        }
        placed
    }

    /// The group has become durable.
    fn is_durable(&mut self, tally: &mut Tally) {
        let len = |known: Option<Known>| known.map(|known| known.len);
        for (key, before, after) in self.changed.drain(..) {
            tally.change(&key, len(before), len(after));
        }
        self.group.clear();
    }

    /// The group was not written.
    fn forget(&mut self) {
        self.group.clear();
        self.changed.clear();
    }
}

/// What to tell a caller once the outcome of its group is known.
struct Answer {
    caller: oneshot::Sender<Result<Outcome, Error>>,
    /// Whether it depends on what the group writes, and so shares its outcome.
    is_undurable: bool,
    result: Result<Outcome, Error>,
}

impl Answer {
    fn give(self, group: &Result<(), Error>) {
        let result = match (group, self.result) {
            (Err(Error::OutcomeUnknown { reason }), Ok(Outcome::Changed)) if self.is_undurable => {
                // The batch itself wrote nothing, so that its own outcome is certain.
                Err(Error::Stopped {
                    reason: reason.clone(),
                })
            }
            (Err(error), Ok(_)) if self.is_undurable => Err(error.clone()),
            (_, result) => result,
        };
        // Sending fails if the caller has gone.
        let _ = self.caller.send(result);
    }
}

/// The state of the committer.
pub(super) struct Committer {
    core: Arc<Core>,
    clock: Arc<CommitClock>,
    queue: mpsc::Receiver<Task>,
    pending: Pending,
    /// The bytes that were appended since the rewriter was last asked to look.
    unlooked_bytes: u64,
    /// With how many of them it is asked again.
    look_bytes: u64,
}

impl Committer {
    /// The committer of a store whose file is written anew for no less than `rewrite_floor_bytes` of journal.
    pub(super) fn new(
        core: Arc<Core>,
        clock: Arc<CommitClock>,
        queue: mpsc::Receiver<Task>,
        rewrite_floor_bytes: u64,
    ) -> Committer {
        Committer {
            core,
            clock,
            queue,
            pending: Pending::default(),
            unlooked_bytes: 0,
            look_bytes: rewrite_floor_bytes / LOOKS,
        }
    }

    /// Commits until every sender of the queue has gone.
    pub(super) fn run(mut self) {
        while let Some(first) = self.queue.blocking_recv() {
            // Whoever has a batch nearly ready can add it to the group. So groups are nearly twice as large on a busy machine, and there
            // are fewer syncs, which take time of the processor, too. On an idle machine this waits for nothing.
            outside::give_way();
            self.core.view.wait_for_room();
            self.commit_group(first);
        }
    }

    /// Commits one group from the queue. Returns whether there was anything.
    #[cfg(test)]
    pub(super) fn step(&mut self) -> bool {
        let first = self.queue.try_recv();
        first.map(|first| self.commit_group(first)).is_ok()
    }

    fn commit_group(&mut self, first: Task) {
        let core = self.core.clone();
        let view = &*core.view;
        // While sled is made anew, this waits: an answer of a failing sled must not reach the journal.
        let _gate = view.gate.read().unwrap_or_else(PoisonError::into_inner);
        let takes_new = core.space.look();
        // The clock may go back. Commit times do not, so that a time names one place in the journal.
        let time_ms = self.clock.now_ms();
        let mut journal = core.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let start = journal.end();
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
            let is_undurable = self.pending.is_undurable(&batch.expect);
            let result = self.decide(view, takes_new, state, &batch, revision);
            let result = result.map(|after| match after {
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
        let outcome = if changes.is_empty() {
            Ok(())
        } else {
            let group = Group {
                first_revision: start.revision + 1,
                time_ms,
                changes,
            };
            self.publish(&mut journal, group, bytes)
        };
        drop(journal);
        for answer in answers {
            answer.give(&outcome);
        }
        self.unlooked_bytes += bytes as u64;
        // If its queue is full it has work already, and is asked again.
        if self.unlooked_bytes >= self.look_bytes && core.rewriter.try_send(Work::Look).is_ok() {
            self.unlooked_bytes = 0;
        }
    }

    /// Makes a group durable, and lets it be read.
    fn publish(&mut self, journal: &mut Journal, group: Group, bytes: usize) -> Result<(), Error> {
        let group = Arc::new(group);
        let (durable, took) = outside::timed(|| self.make_durable(journal, &group));
        let frame_at = durable.inspect_err(|_| self.pending.forget())?;
        let Core {
            view,
            recent,
            meters,
            ..
        } = &*self.core;
        meters.appended(took, group.changes.len(), bytes);
        let placed = self.pending.placed(&group, frame_at);
        self.pending.is_durable(&mut view.tally());
        recent.push(group.clone(), bytes);
        view.show(&placed, journal.end());
        Ok(())
    }

    /// The store's totals after a batch, or `None` if a key is not as the batch expects.
    fn decide(
        &mut self,
        view: &View,
        takes_new: bool,
        state: StateHash,
        batch: &Batch,
        revision: u64,
    ) -> Result<Option<StateHash>, Error> {
        let Some(known) = self.pending.expected(view, &batch.expect)? else {
            return Ok(None);
        };
        if batch.creates() && !takes_new {
            return Err(Error::Full {
                action: "store anything new".into(),
            });
        }
        let after = self.pending.add(view, state, batch, &known, revision)?;
        Ok(Some(after))
    }

    /// Makes a group durable. Returns where in the journal it begins.
    fn make_durable(&self, journal: &mut Journal, group: &Group) -> Result<u64, Error> {
        self.core.check_going()?;
        let mut appended = journal.append(group);
        if let Err(Error::Full { action }) = &appended {
            self.core.space.met_the_end(action);
            if self.core.space.release_reserve() {
                appended = journal.append(group);
            }
        }
        // A failed sync may have dropped what it could not write, so that a second sync could lie. After any other error nothing
        // was written, and the next group may succeed.
        if let Err(error @ (Error::OutcomeUnknown { .. } | Error::Stopped { .. })) = &appended {
            self.core.stop(error);
        }
        appended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a caller is told when its group ends so.
    fn told(
        is_undurable: bool,
        result: Result<Outcome, Error>,
        group: &Result<(), Error>,
    ) -> Result<Outcome, Error> {
        let (caller, mut answer) = oneshot::channel();
        Answer {
            caller,
            is_undurable,
            result,
        }
        .give(group);
        answer.try_recv().expect("an answer")
    }

    #[test]
    fn who_rests_on_a_group_shares_its_fate_and_nobody_else() {
        let full = || Error::Full {
            action: "write".into(),
        };
        let unknown = || Error::OutcomeUnknown {
            reason: "a sync has failed".into(),
        };
        let stopped = Error::Stopped {
            reason: "a sync has failed".into(),
        };
        let damaged = || Error::Corrupt {
            what: "a key".into(),
        };
        let (committed, changed) = (Outcome::Committed(7), Outcome::Changed);
        for is_undurable in [true, false] {
            assert_eq!(told(is_undurable, Ok(changed), &Ok(())), Ok(changed));
            let own = told(is_undurable, Err(damaged()), &Err(full()));
            assert_eq!(own, Err(damaged()), "its own error says more");
        }
        assert_eq!(told(true, Ok(committed), &Ok(())), Ok(committed));
        assert_eq!(told(true, Ok(committed), &Err(full())), Err(full()));
        assert_eq!(told(true, Ok(changed), &Err(full())), Err(full()));
        assert_eq!(told(false, Ok(changed), &Err(full())), Ok(changed));
        assert_eq!(told(true, Ok(committed), &Err(unknown())), Err(unknown()));
        // It wrote nothing itself, so that nobody has to wait for a restart to know.
        assert_eq!(told(true, Ok(changed), &Err(unknown())), Err(stopped));
        assert_eq!(told(false, Ok(changed), &Err(unknown())), Ok(changed));
    }
}
