//! Hands out committed changes in order. Readers ask for the next ones, and nothing is sent to them: a slow reader fills no queue.
//!
//! The latest groups are in memory ([`Ring`]). A reader that is further behind reads them from the journal, one frame at a time.
//! What the journal no longer has is compacted.

use std::{
    collections::VecDeque,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::{
    core::Core,
    log::{Follower, Next},
};
use crate::store::{
    Error,
    change::{Group, Position},
    outside,
};

/// The most bytes of groups in memory. They share their keys and values with the table of recent writes.
const RING_BYTES_MAX: usize = 4 << 20;

/// The most groups that are read from the journal and still in use: each may take some MiB.
const READ_AT_A_TIME: usize = 4;

/// The permits to read groups from the journal.
pub(super) fn journal_reads() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(READ_AT_A_TIME))
}

/// The latest groups.
#[derive(Debug, Default)]
pub(super) struct Ring(Mutex<Groups>);

#[derive(Debug, Default)]
struct Groups {
    /// The groups in order and without gaps, each with its size in memory.
    groups: VecDeque<(Arc<Group>, usize)>,
    bytes: usize,
}

impl Ring {
    /// Adds the next group.
    pub(super) fn push(&self, group: Arc<Group>, bytes: usize) {
        let mut ring = self.lock();
        ring.groups.push_back((group, bytes));
        ring.bytes += bytes;
        while ring.bytes > RING_BYTES_MAX {
            let Some((_, bytes)) = ring.groups.pop_front() else {
                return;
            };
            ring.bytes -= bytes;
        }
    }

    /// The group with the change right after a revision, if it is in memory.
    fn after(&self, revision: u64) -> Option<Arc<Group>> {
        let ring = self.lock();
        let place = ring
            .groups
            .partition_point(|(group, _)| group.last_revision() <= revision);
        let (group, _) = ring.groups.get(place)?;
        (group.first_revision <= revision + 1).then(|| group.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Groups> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows commits after a revision. It delays neither writes nor the removal of the journal's files.
pub(crate) struct Changes {
    core: Weak<Core>,
    shown: watch::Receiver<Position>,
    after: u64,
    /// Its place in the journal, if it reads there.
    follower: Option<Follower>,
}

/// The next changes.
#[derive(Debug)]
pub(crate) enum Pulled {
    /// Changes that were committed together. They continue those that were pulled before.
    Group(PulledGroup),
    /// The next changes are no longer kept. To go on, read the state first, and follow from this revision.
    Compacted {
        /// The oldest revision that is still kept.
        oldest: u64,
    },
}

/// A group that was pulled. Others may wait until it is dropped. So do not pull more, or wait for anybody, while you hold it.
#[derive(Debug)]
pub(crate) struct PulledGroup {
    group: Arc<Group>,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Deref for PulledGroup {
    type Target = Group;

    fn deref(&self) -> &Group {
        &self.group
    }
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes")
            .field("after", &self.after)
            .finish_non_exhaustive()
    }
}

impl Changes {
    pub(super) fn new(core: &Arc<Core>, after: u64) -> Self {
        Changes {
            core: Arc::downgrade(core),
            shown: core.view.follow(),
            after,
            follower: None,
        }
    }

    /// The revision of the last change that was pulled.
    #[must_use]
    pub(crate) fn after(&self) -> u64 {
        self.after
    }

    /// Whether the group that was pulled last is shared in memory, so that keeping a part of it costs nothing.
    #[must_use]
    pub(crate) fn is_shared(&self) -> bool {
        self.follower.is_none()
    }

    /// Goes to a revision, forward or back. The next pull returns what comes after it.
    pub(crate) fn go_to(&mut self, after: u64) {
        self.after = after;
        self.follower = None;
    }

    /// Waits for the next changes and pulls them. By then the view shows them, too.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Error::Closed`] when the store is closing; errors of the disk while the journal is read.
    pub(crate) async fn next(&mut self) -> Result<Pulled, Error> {
        let after = self.after;
        let more = self.shown.wait_for(|shown| shown.revision > after).await;
        more.map_err(|_| Error::Closed)?;
        let core = self.core.upgrade().ok_or(Error::Closed)?;
        let (group, turn) = if let Some(group) = core.recent.after(after) {
            self.follower = None;
            (group, None)
        } else {
            let turn = core.journal_reads.clone().acquire_owned().await;
            let turn = turn.expect("the semaphore is never closed");
            let follower = self.follower.take();
            let read = move || {
                let mut follower = follower.unwrap_or_else(|| Follower::new(after));
                let next = follower.next(&core.log());
                // The permit lasts until the group is dropped, even if nobody waits for it any more.
                (follower, next, turn)
            };
            let (follower, next, turn) = outside::blocking(read).await?;
            match next? {
                Next::Group(group) => {
                    self.follower = Some(follower);
                    (Arc::new(group), Some(turn))
                }
                Next::Compacted { oldest } => return Ok(Pulled::Compacted { oldest }),
            }
        };
        self.after = group.last_revision();
        Ok(Pulled::Group(PulledGroup {
            group: behind(group, after),
            _turn: turn,
        }))
    }
}

/// The part of a group that comes after a revision within it.
fn behind(group: Arc<Group>, after: u64) -> Arc<Group> {
    if group.first_revision > after {
        return group;
    }
    let changes = group.changes.iter();
    let changes = changes.filter(|change| change.revision > after).cloned();
    Arc::new(Group {
        first_revision: after + 1,
        time_ms: group.time_ms,
        changes: changes.collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::{Batch, Options, Outcome, Store};

    fn little_kept() -> Options {
        Options {
            journal_room_bytes: 64 << 10,
            journal_keep_bytes: 600 << 10,
            rewrite_floor_bytes: u64::MAX / 2,
            ..Options::default()
        }
    }

    #[test]
    fn groups_stay_in_memory_up_to_a_size() {
        let group = |revision| {
            Arc::new(Group {
                first_revision: revision,
                time_ms: 0,
                changes: Vec::new(),
            })
        };
        let ring = Ring::default();
        let holds = || {
            let ring = ring.lock();
            (ring.groups.len(), ring.bytes)
        };
        ring.push(group(1), RING_BYTES_MAX - 10);
        ring.push(group(2), 10);
        assert_eq!(holds(), (2, RING_BYTES_MAX));
        ring.push(group(3), 1);
        assert_eq!(holds(), (2, 11));
        ring.push(group(4), RING_BYTES_MAX + 1);
        assert_eq!(holds(), (0, 0));
    }

    async fn put(store: &Store, n: u64, bytes: usize) {
        let batch = Batch::default().put(format!("k{n}"), vec![b'v'; bytes]);
        let committed = store.commit(batch).await;
        assert!(
            matches!(committed, Ok(Outcome::Committed(_))),
            "{committed:?}"
        );
    }

    async fn pulled(changes: &mut Changes) -> PulledGroup {
        let next = tokio::time::timeout(Duration::from_secs(20), changes.next());
        match next.await.expect("there is more").unwrap() {
            Pulled::Group(group) => group,
            compacted @ Pulled::Compacted { .. } => panic!("{compacted:?}"),
        }
    }

    /// Pulls everything up to a revision, and checks that nothing is missing and nothing comes twice.
    async fn follow(mut changes: Changes, until: u64) {
        let mut next = changes.after() + 1;
        while next <= until {
            let group = pulled(&mut changes).await;
            assert_eq!(group.first_revision, next);
            for change in &group.changes {
                assert_eq!(change.revision, next);
                assert_eq!(change.writes.len(), 1);
                next += 1;
            }
        }
    }

    #[tokio::test]
    async fn a_follower_pulls_every_change_once_from_memory_and_from_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = Arc::new(Store::open(&path, &little_kept()).unwrap());
        // A reader that keeps up, one that begins in the middle, and writes that are queued together.
        let quick = tokio::spawn(follow(store.changes(0), 3000));
        let middle = tokio::spawn(follow(store.changes(1777), 3000));
        for first in (1..=3000).step_by(50) {
            let writes = (first..first + 50).map(|n| put(&store, n, 4000));
            futures_util::future::join_all(writes).await;
        }
        quick.await.unwrap();
        middle.await.unwrap();
        // 12 MB were written and 4 are in memory: these readers begin in the journal.
        assert!(store.local().core.recent.after(0).is_none());
        for after in [0, 1, 49, 50, 77, 1234, 2999] {
            follow(store.changes(after), 3000).await;
        }
        // A reader waits for what does not exist yet.
        let mut waiting = store.changes(3000);
        let nothing = tokio::time::timeout(Duration::from_millis(30), waiting.next());
        assert!(nothing.await.is_err());
        put(&store, 3001, 10).await;
        assert_eq!(pulled(&mut waiting).await.first_revision, 3001);
        Arc::into_inner(store).unwrap().close().unwrap();
        assert!(matches!(waiting.next().await, Err(Error::Closed)));

        let store = Store::open(&path, &little_kept()).unwrap();
        follow(store.changes(2000), 3001).await;
    }

    #[tokio::test]
    async fn a_few_groups_are_read_from_the_journal_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), &little_kept()).unwrap();
        for n in 1..=2 {
            put(&store, n, 3 << 20).await;
        }
        assert!(store.local().core.recent.after(0).is_none());
        let mut held = Vec::new();
        for _ in 0..READ_AT_A_TIME {
            held.push(pulled(&mut store.changes(0)).await);
        }
        let mut next = store.changes(0);
        let waits = tokio::time::timeout(Duration::from_millis(30), next.next()).await;
        assert!(waits.is_err());
        // What is in memory is the same for everybody.
        let mut shared = store.changes(1);
        assert_eq!(pulled(&mut shared).await.first_revision, 2);
        assert!(shared.is_shared());
        held.pop();
        assert_eq!(pulled(&mut next).await.first_revision, 1);
        assert!(!next.is_shared());
        next.go_to(1);
        assert!(next.is_shared());
        assert_eq!(pulled(&mut next).await.first_revision, 2);
        next.go_to(1);
        assert_eq!(pulled(&mut next).await.first_revision, 2);
    }

    #[tokio::test]
    async fn the_journal_is_kept_by_bytes_by_count_and_by_age() {
        // 300 changes of 4,000 bytes each are written. After the file was written anew, this many of them are still there. What
        // sled does not have yet is always kept.
        let keeps = async |options: Options, expected: std::ops::RangeInclusive<u64>| {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(&dir.path().join("store"), &options).unwrap();
            for n in 1..=300 {
                put(&store, n, 4000).await;
            }
            for _ in 0..200 {
                store.local().rewrite().await.unwrap();
                let kept = 301 - store.local().oldest_revision();
                if expected.contains(&kept) {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            false
        };
        let all = Options {
            journal_keep_bytes: 64 << 20,
            ..little_kept()
        };
        let count = Options {
            journal_keep_changes: 100,
            ..all.clone()
        };
        let age = |journal_keep_age| Options {
            journal_keep_age,
            ..all.clone()
        };
        assert!(keeps(little_kept(), 80..=150).await);
        assert!(keeps(count, 1..=100).await);
        assert!(keeps(age(Duration::ZERO), 0..=50).await);
        assert!(keeps(age(Duration::from_secs(3600)), 300..=300).await);
        assert!(keeps(all, 300..=300).await);
    }

    #[tokio::test]
    async fn what_the_journal_has_let_go_of_is_compacted_and_says_where_to_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), &little_kept()).unwrap();
        let mut slow = store.changes(0);
        for n in 1..=2000 {
            put(&store, n, 4000).await;
        }
        assert_eq!(pulled(&mut slow).await.first_revision, 1);
        store.local().rewrite().await.unwrap();
        let oldest = match slow.next().await.unwrap() {
            Pulled::Compacted { oldest } => oldest,
            group @ Pulled::Group(_) => panic!("{group:?}"),
        };
        assert!(
            slow.after() == 1 && (1000..1950).contains(&oldest),
            "{slow:?} {oldest}"
        );
        let new = store.changes(0).next().await.unwrap();
        assert!(
            matches!(new, Pulled::Compacted { oldest: again } if again == oldest),
            "{new:?}"
        );
        follow(store.changes(oldest - 1), 2000).await;
    }
}
