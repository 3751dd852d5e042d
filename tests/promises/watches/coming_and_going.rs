//! Watchers that come and go, compared with a model: each ends with what is stored.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use icebox::{
    Icebox,
    proto::{Job, JobFilter, JobSchedule, WatchEvent, WatchJobsRequest},
};
use tokio::time::timeout;

use super::{Server, of, of_client, small};
use crate::harness::{PROJECT, job_update};

/// The ids that a watch has reported.
type State = BTreeMap<String, Job>;

fn apply(state: &mut State, event: WatchEvent<Job>) {
    match event {
        WatchEvent::Put(job) => {
            state.insert(job.job_id.clone(), job);
        }
        WatchEvent::Removed(id) => {
            state.remove(&id);
        }
        WatchEvent::Synced => {}
    }
}

/// Random numbers that a seed determines.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Changes jobs of three clients at random.
async fn stir(icebox: &Icebox, seed: u64, changes: u64) {
    let mut numbers = Numbers(seed);
    let mut mine: Vec<Job> = Vec::new();
    let jobs = icebox.jobs();
    for n in 0..changes {
        let client = format!("node{}", numbers.below(3));
        let at = usize::try_from(numbers.below(mine.len().max(1) as u64)).expect("small");
        match numbers.below(8) {
            _ if mine.is_empty() => {
                let new = of_client(&format!("{seed} {n}"), &client);
                mine.push(jobs.create("", new).await.expect("it is done").resource);
            }
            0 | 1 => {
                let new = of_client(&format!("{seed} {n}"), &client);
                mine.push(jobs.create("", new).await.expect("it is done").resource);
            }
            2 => {
                let gone = mine.swap_remove(at);
                jobs.delete(PROJECT, &gone.job_id)
                    .await
                    .expect("it is done");
            }
            3 => {
                let mut update = job_update(&mine[at].job_id);
                update.description = format!("{seed} renamed {n}");
                jobs.update("", update).await.expect("it is done");
            }
            4 | 5 => {
                let mut update = job_update(&mine[at].job_id);
                update.client_id = client;
                jobs.update("", update).await.expect("it is done");
            }
            _ => {
                let mut update = job_update(&mine[at].job_id);
                update.job_schedule = Some(JobSchedule {
                    status: ["scheduled", "running"][usize::from(n % 2 == 0)].into(),
                    ..JobSchedule::default()
                });
                jobs.update("", update).await.expect("it is done");
            }
        }
    }
}

/// Watches until a revision, with disconnects at random. Returns what there is then.
async fn follow(
    server: &Server,
    filter: JobFilter,
    seed: u64,
    ended: &AtomicBool,
) -> (State, usize) {
    let mut numbers = Numbers(seed);
    let (mut state, mut after, mut resumed) = (State::new(), 0, 0);
    loop {
        if after == 0 {
            state.clear();
        }
        let mut watch = server
            .watch(WatchJobsRequest {
                after_revision: after,
                filter: Some(filter.clone()),
                ..of(PROJECT)
            })
            .await;
        let mut left = numbers.below(40);
        while left > 0 {
            let is_last = ended.load(Ordering::Acquire);
            let (revision, event) = watch.next().await;
            assert!(revision >= after || after == 0);
            after = revision;
            if is_last && event == WatchEvent::Synced && after == server.icebox.revision() {
                return (state, resumed);
            }
            apply(&mut state, event);
            left -= 1;
        }
        resumed += usize::from(after > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_that_come_and_go_end_with_what_is_stored() {
    let rounds = if std::env::var_os("ICEBOX_LONG").is_some() {
        50
    } else {
        2
    };
    for round in 0..rounds {
        let server = Arc::new(Server::start(small(), Duration::from_millis(5)).await);
        let ended = Arc::new(AtomicBool::new(false));
        let filters = [
            JobFilter::default(),
            JobFilter {
                client_id: "node1".into(),
                ..JobFilter::default()
            },
            JobFilter {
                status: "running".into(),
                ..JobFilter::default()
            },
            JobFilter {
                description_prefix: format!("{}", round * 10 + 11),
                client_id: "node2".into(),
                ..JobFilter::default()
            },
        ];
        let mut watchers = Vec::new();
        for (n, filter) in filters.iter().cloned().cycle().take(16).enumerate() {
            let (server, ended) = (server.clone(), ended.clone());
            watchers.push(tokio::spawn(async move {
                let seed = round * 100 + n as u64 + 1;
                let (state, resumed) = follow(&server, filter.clone(), seed, &ended).await;
                (filter, state, resumed)
            }));
        }
        let stirred = (1..=4).map(|n| {
            let server = server.clone();
            let seed = round * 10 + n * 11;
            tokio::spawn(async move { stir(&server.icebox, seed, 400).await })
        });
        for stirred in stirred.collect::<Vec<_>>() {
            stirred.await.unwrap();
        }
        ended.store(true, Ordering::Release);
        let mut resumed_all = 0;
        for watcher in watchers {
            let watched = timeout(Duration::from_secs(60), watcher).await;
            let (filter, state, resumed) = watched.expect("it comes to an end").unwrap();
            let jobs = server.icebox.jobs();
            let stored = jobs.list(PROJECT).limit(1000).filter(filter).await.unwrap();
            assert!(stored.next_page_token.is_empty() && !stored.items.is_empty());
            let expected: State = stored
                .items
                .into_iter()
                .map(|job| (job.job_id.clone(), job))
                .collect();
            assert_eq!(state, expected);
            resumed_all += resumed;
        }
        assert!(resumed_all > 16, "{resumed_all}");
    }
}
