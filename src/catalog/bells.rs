//! What wakes watches: one bell for each topic that is watched. It rings when a commit may concern that topic.
//!
//! One task reads the commits for all watches. A watch that waits for the jobs of one client sleeps while other clients' jobs
//! change, so that thousands of watches cost a commit nothing.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::{keys, plan::Note, touched::touched};
use crate::{
    proto::{Backup, Client, Job, fields::text_in},
    resource::Resource,
    store::{self, Group, Pulled},
};

/// How long to wait after the journal could not be read.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A topic that may be watched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Topic {
    /// The kind's tag.
    pub(super) tag: u8,
    /// One project's resources, or `None` for all.
    pub(super) project: Option<String>,
    /// One client's resources, or `None` for all.
    pub(super) client_id: Option<String>,
}

/// When a bell has rung.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rung {
    /// The last revision of the ring before the last.
    previous: u64,
    /// The first and the last revision of the last ring.
    first: u64,
    last: u64,
}

/// The bells of one store.
#[derive(Debug, Default)]
pub(super) struct Bells {
    all: Mutex<HashMap<Topic, watch::Sender<Rung>>>,
    /// Every bell that had to ring for commits up to this revision has rung.
    reached: AtomicU64,
    /// Whether the task that rings the bells is running.
    is_rung: AtomicBool,
    /// Whether the store has closed: no more commits will come.
    is_closed: AtomicBool,
}

/// One watch that listens to a bell.
#[derive(Debug)]
pub(super) struct Listening {
    bells: Arc<Bells>,
    topic: Topic,
    bell: Option<watch::Receiver<Rung>>,
    /// The bells may not have rung for commits up to this revision.
    from: u64,
}

/// What a watch does next after it has seen everything up to some revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Read on after this revision: nothing before it concerns the watch.
    Read(u64),
    /// Wait: nothing up to this revision concerns the watch.
    Wait(u64),
    /// End: nothing will happen any more.
    End,
}

impl Bells {
    /// Listens to a topic's bell from `head` on, which is the store's last revision.
    pub(super) fn listen(self: &Arc<Self>, topic: Topic, head: u64) -> Listening {
        let mut all = self.lock();
        if all.is_empty() {
            // Nobody listened before, so nobody has missed anything.
            self.reached.fetch_max(head, Ordering::AcqRel);
        }
        let bell = all.entry(topic.clone()).or_default().subscribe();
        Listening {
            bells: self.clone(),
            topic,
            bell: Some(bell),
            from: self.reached.load(Ordering::Acquire).max(head),
        }
    }

    /// Starts the task that rings the bells for `changes` after a revision, unless it runs already.
    pub(super) fn ring_for(self: &Arc<Self>, changes: impl FnOnce(u64) -> store::Changes) {
        let is_closed = self.is_closed.load(Ordering::Acquire);
        if is_closed || self.is_rung.swap(true, Ordering::AcqRel) {
            return;
        }
        let ringer = Ringer(Arc::downgrade(self));
        let reached = self.reached.load(Ordering::Acquire);
        tokio::spawn(ringer.ring(changes(reached)));
    }

    fn ring(&self, group: &Group) {
        let all = self.lock();
        let (first, last) = (group.first_revision, group.last_revision());
        let ring = |tag: u8, project: Option<&str>, client_id: Option<&str>| {
            let topic = Topic {
                tag,
                project: project.map(str::to_owned),
                client_id: client_id.map(str::to_owned),
            };
            if let Some(bell) = all.get(&topic) {
                bell.send_if_modified(|rung| {
                    let is_new = rung.last < last;
                    if is_new {
                        *rung = Rung {
                            previous: rung.last,
                            first,
                            last,
                        };
                    }
                    is_new
                });
            }
        };
        if !all.is_empty() {
            for change in &group.changes {
                let note = Note::of(&change.writes);
                for touched in touched(&change.writes, |_, _| true) {
                    let (tag, project) = (touched.tag, touched.project);
                    ring(tag, None, None);
                    ring(tag, Some(project), None);
                    let locator = keys::locator_of(tag, project, touched.id);
                    let now = touched.record.map(|(_, record)| client_in(tag, record));
                    let before = note.replaced(&locator).map(|record| client_in(tag, record));
                    for client_id in now.into_iter().chain(before).flatten() {
                        ring(tag, None, Some(client_id));
                        ring(tag, Some(project), Some(client_id));
                    }
                }
            }
        }
        self.reached.fetch_max(last, Ordering::AcqRel);
    }

    /// Wakes all watches, so that each reads for itself.
    fn ring_all(&self, revision: u64) {
        for bell in self.lock().values() {
            bell.send_modify(|rung| {
                *rung = Rung {
                    previous: revision.max(rung.last),
                    first: revision.max(rung.last),
                    last: revision.max(rung.last),
                };
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Topic, watch::Sender<Rung>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The client that a record of this kind names, if it names one.
fn client_in(tag: u8, record: &[u8]) -> Option<&str> {
    let kinds = [
        (Backup::KIND.tag, Backup::CLIENT_TAG),
        (Job::KIND.tag, Job::CLIENT_TAG),
        (Client::KIND.tag, Client::CLIENT_TAG),
    ];
    let (_, field) = kinds.into_iter().find(|(kind, _)| *kind == tag)?;
    // A record that cannot be read is reported by the watch that reads it.
    text_in(record, field?).ok().flatten()
}

/// The task that rings the bells. When it ends, for whatever reason, another one may start.
struct Ringer(Weak<Bells>);

impl Ringer {
    async fn ring(self, mut changes: store::Changes) {
        loop {
            let pulled = changes.next().await;
            let Some(bells) = self.0.upgrade() else {
                return;
            };
            match pulled {
                Ok(Pulled::Group(group)) => bells.ring(&group),
                Err(store::Error::Closed) => {
                    bells.is_closed.store(true, Ordering::Release);
                    return;
                }
                // The journal cannot be read. The watches will find that out when they read it.
                Err(_) => {
                    bells.ring_all(bells.reached.load(Ordering::Acquire) + 1);
                    drop(bells);
                    tokio::time::sleep(RETRY_AFTER).await;
                }
                // The task has fallen too far behind, which should never happen. Every watch has to look for itself.
                Ok(Pulled::Compacted { oldest }) => {
                    bells.ring_all(oldest);
                    bells.reached.fetch_max(oldest - 1, Ordering::AcqRel);
                    changes.go_to(oldest - 1);
                }
            }
        }
    }
}

impl Drop for Ringer {
    fn drop(&mut self) {
        if let Some(bells) = self.0.upgrade() {
            bells.is_rung.store(false, Ordering::Release);
            bells.ring_all(bells.reached.load(Ordering::Acquire));
        }
    }
}

impl Listening {
    /// What a watch does next after it has seen everything up to a revision. A ring after this call ends [`Listening::rung`].
    pub(super) fn next(&mut self, seen: u64) -> Next {
        // Read first: for commits up to this revision the bell has already rung if it had to.
        let reached = self.bells.reached.load(Ordering::Acquire);
        let bell = self.bell.as_mut().expect("it listens until it is dropped");
        let rung = *bell.borrow_and_update();
        if self.bells.is_closed.load(Ordering::Acquire) {
            return Next::End;
        }
        if seen < self.from {
            return Next::Read(seen);
        }
        if rung.last <= seen {
            return Next::Wait(reached.max(seen));
        }
        // The bell has rung only once since: the commits in between concern others.
        if rung.previous <= seen {
            return Next::Read(seen.max(rung.first - 1));
        }
        Next::Read(seen)
    }

    /// Waits until the bell is rung.
    pub(super) async fn rung(&mut self) {
        let bell = self.bell.as_mut().expect("it listens until it is dropped");
        // The bell exists as long as somebody listens to it, so that this wait cannot fail.
        let _ = bell.changed().await;
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut all = self.bells.lock();
        self.bell = None;
        if all
            .get(&self.topic)
            .is_some_and(|bell| bell.receiver_count() == 0)
        {
            all.remove(&self.topic);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        catalog::{
            Catalog,
            tests::{job, project_id, resource_id},
        },
        resource::Valid,
        store::{Batch, Options, Outcome, Store},
    };

    const LONG: Duration = Duration::from_secs(20);

    fn catalog(dir: &tempfile::TempDir) -> Catalog {
        let options = Options {
            journal_keep_bytes: 0,
            rewrite_floor_bytes: u64::MAX / 2,
            ..Options::default()
        };
        let store = Store::open_unless(Arc::default(), &dir.path().join("store"), &options);
        Catalog::new(store.unwrap())
    }

    fn jobs(project: Option<&str>, client_id: Option<&str>) -> Topic {
        Topic {
            tag: Job::KIND.tag,
            project: project.map(str::to_owned),
            client_id: client_id.map(str::to_owned),
        }
    }

    async fn create(catalog: &Catalog, project: &str, id: u8, client_id: &str) {
        let job = job(project, id, "name", client_id);
        let new = Valid::new(project, Some(job)).unwrap();
        assert!(catalog.create(None, new).await.unwrap().is_new);
    }

    async fn assign(catalog: &Catalog, project: &str, id: u8, client_id: &'static str) {
        let id = resource_id(&job(project, id, "", "").job_id);
        let assign = move |job: &Job| {
            Ok(Job {
                client_id: client_id.into(),
                ..job.clone()
            })
        };
        let assigned = catalog.update(None, project_id(project), id, None, assign);
        let (_, is_changed) = assigned.await.unwrap();
        assert!(is_changed);
    }

    /// Everything that was committed, as one group.
    pub(in crate::catalog) async fn committed(catalog: &Catalog, after: u64) -> Group {
        let mut changes = catalog.store.changes(after);
        let mut all = Vec::new();
        while changes.after() < catalog.revision() {
            match changes.next().await.unwrap() {
                Pulled::Group(group) => all.extend(group.changes.iter().cloned()),
                compacted @ Pulled::Compacted { .. } => panic!("{compacted:?}"),
            }
        }
        Group {
            first_revision: after + 1,
            time_ms: 0,
            changes: all,
        }
    }

    #[tokio::test]
    async fn a_bell_rings_for_its_topic_alone_and_says_where_to_read_on() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = catalog(&dir);
        let bells = Arc::new(Bells::default());
        let topics = [
            (jobs(None, None), vec![1, 2, 3, 4]),
            (jobs(Some("a"), None), vec![1, 3, 4]),
            (jobs(None, Some("web")), vec![1, 2, 3]),
            (jobs(Some("a"), Some("web")), vec![1, 3]),
            (jobs(Some("ab"), Some("web")), vec![2]),
            // A job that goes to another client concerns both.
            (jobs(None, Some("db")), vec![3, 4]),
            (jobs(Some("ab"), Some("db")), vec![]),
        ];
        let mut listening: Vec<_> = topics
            .into_iter()
            .map(|(topic, concern)| (bells.listen(topic.clone(), 0), topic, concern))
            .collect();
        for revision in 1..=4 {
            match revision {
                1 => create(&catalog, "a", 1, "web").await,
                2 => create(&catalog, "ab", 2, "web").await,
                3 => assign(&catalog, "a", 1, "db").await,
                _ => create(&catalog, "a", 3, "db").await,
            }
            bells.ring(&committed(&catalog, revision - 1).await);
            for (bell, topic, concern) in &mut listening {
                let rings = bell.bell.as_ref().unwrap().has_changed().unwrap();
                assert_eq!(rings, concern.contains(&revision), "{topic:?}");
                let next = if rings {
                    Next::Read(revision - 1)
                } else {
                    Next::Wait(revision)
                };
                assert_eq!(bell.next(revision - 1), next, "{topic:?}");
                assert_eq!(bell.next(revision), Next::Wait(revision));
                // Who has fallen behind skips what comes before the last ring, if the one before it was seen.
                let rung: Vec<_> = concern.iter().filter(|&&ring| ring <= revision).collect();
                for seen in 0..revision {
                    let next = match rung[..] {
                        [.., last] if seen >= *last => Next::Wait(revision),
                        [.., previous, last] if seen >= *previous => Next::Read(seen.max(last - 1)),
                        [last] => Next::Read(seen.max(last - 1)),
                        [] => Next::Wait(revision),
                        _ => Next::Read(seen),
                    };
                    assert_eq!(bell.next(seen), next, "{topic:?} {seen}");
                }
            }
        }
        // All of this committed together is one ring.
        let together = Arc::new(Bells::default());
        let mut bell = together.listen(jobs(None, None), 0);
        together.ring(&committed(&catalog, 1).await);
        assert_eq!(bell.next(0), Next::Read(1));
    }

    #[tokio::test]
    async fn who_listens_later_reads_what_was_committed_meanwhile() {
        let bells = Arc::new(Bells::default());
        let _other = bells.listen(jobs(None, None), 3);
        let mut bell = bells.listen(jobs(Some("a"), None), 5);
        assert_eq!(bell.next(4), Next::Read(4));
        assert_eq!(bell.next(5), Next::Wait(5));
        bells.ring_all(7);
        assert_eq!(bell.next(5), Next::Read(5));
        assert_eq!(bell.next(6), Next::Read(6));
        assert_eq!(bell.next(7), Next::Wait(7));
    }

    #[tokio::test]
    async fn a_bell_goes_with_the_last_that_listens_to_it() {
        let bells = Arc::new(Bells::default());
        let first = bells.listen(jobs(None, None), 0);
        let second = bells.listen(jobs(None, None), 0);
        drop(first);
        assert_eq!(bells.lock().len(), 1);
        drop(second);
        assert_eq!(bells.lock().len(), 0);
    }

    #[tokio::test]
    async fn one_task_rings_until_the_store_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = catalog(&dir);
        let bells = Arc::new(Bells::default());
        let mut bell = bells.listen(jobs(Some("a"), None), 0);
        let mut started = 0;
        for _ in 0..2 {
            bells.ring_for(|after| {
                started += 1;
                catalog.store.changes(after)
            });
        }
        assert_eq!(started, 1);
        create(&catalog, "ab", 1, "").await;
        create(&catalog, "a", 2, "").await;
        tokio::time::timeout(LONG, bell.rung()).await.unwrap();
        assert_eq!(bell.next(0), Next::Read(1));
        Arc::into_inner(catalog.into_store())
            .unwrap()
            .close()
            .unwrap();
        tokio::time::timeout(LONG, bell.rung()).await.unwrap();
        assert_eq!(bell.next(2), Next::End);
        assert!(!bells.is_rung.load(Ordering::Acquire));
        bells.ring_for(|_| unreachable!("nothing will happen any more"));
    }

    #[tokio::test]
    async fn what_is_no_longer_kept_wakes_everybody() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = catalog(&dir);
        for _ in 0..2 {
            let batch = Batch::default().put("k", vec![7; 3 << 20]);
            let outcome = catalog.store.commit(batch).await.unwrap();
            assert!(matches!(outcome, Outcome::Committed(_)));
        }
        // What sled does not have yet is kept.
        let rewritten = async {
            let local = catalog.store.local();
            while local.oldest_revision() < 3 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                local.rewrite().await.unwrap();
            }
        };
        tokio::time::timeout(LONG, rewritten).await.unwrap();
        let bells = Arc::new(Bells::default());
        let mut bell = bells.listen(jobs(Some("a"), None), 0);
        bells.ring_for(|after| catalog.store.changes(after));
        tokio::time::timeout(LONG, bell.rung()).await.unwrap();
        assert_eq!(bell.next(0), Next::Read(0));
        assert_eq!(bells.reached.load(Ordering::Acquire), 2);
        create(&catalog, "a", 1, "").await;
        assert_eq!(bell.next(3), Next::Wait(3));
        create(&catalog, "a", 2, "").await;
        tokio::time::timeout(LONG, bell.rung()).await.unwrap();
        assert_eq!(bell.next(3), Next::Read(3));
    }
}
