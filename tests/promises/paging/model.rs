//! Walks over pages, compared with a model, whatever is written between two pages.

use std::collections::{BTreeSet, HashMap, HashSet};

use icebox::proto::Job;
use proptest::prelude::*;

use super::{in_project, keys, list, turns};
use crate::harness::{PROJECT, Server, job, job_update};

/// A write between two pages. Numbers choose among the jobs that exist then.
#[derive(Clone, Debug)]
enum Op {
    Insert(String),
    Rename(prop::sample::Index, String),
    Delete(prop::sample::Index),
}

/// One page of a walk, and what is written after it.
#[derive(Clone, Debug)]
struct Step {
    limit: i32,
    by_marker: bool,
    writes: Vec<Op>,
}

/// Names of which some are equal, some are prefixes of others, and some are not ASCII.
fn name() -> impl Strategy<Value = String> {
    "[ab~é€]{1,3}"
}

fn op() -> impl Strategy<Value = Op> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        name().prop_map(Op::Insert),
        (index(), name()).prop_map(|(at, name)| Op::Rename(at, name)),
        index().prop_map(Op::Delete),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let limit = prop_oneof![3 => 1..=4, 2 => 5..=40, 1 => 41..=1000];
    (limit, any::<bool>(), proptest::collection::vec(op(), 0..5)).prop_map(
        |(limit, by_marker, writes)| Step {
            limit,
            by_marker,
            writes,
        },
    )
}

/// What the catalog should hold.
#[derive(Default)]
struct Model {
    sorted: BTreeSet<(String, String)>,
    names: HashMap<String, String>,
    /// Jobs that were renamed or deleted since the walk began.
    touched: HashSet<String>,
}

impl Model {
    fn put(&mut self, id: &str, name: &str) {
        self.remove(id);
        self.names.insert(id.to_owned(), name.to_owned());
        self.sorted.insert((name.to_owned(), id.to_owned()));
    }

    fn remove(&mut self, id: &str) {
        if let Some(name) = self.names.remove(id) {
            self.sorted.remove(&(name, id.to_owned()));
            self.touched.insert(id.to_owned());
        }
    }

    fn pick(&self, at: prop::sample::Index) -> Option<String> {
        let mut ids: Vec<_> = self.names.keys().cloned().collect();
        ids.sort();
        (!ids.is_empty()).then(|| ids[at.index(ids.len())].clone())
    }

    async fn write(&mut self, server: &Server, op: Op) {
        match op {
            Op::Insert(name) => {
                let id = server.create_job(job(&name)).await.unwrap().job_id;
                self.put(&id, &name);
            }
            Op::Rename(at, name) => {
                let Some(id) = self.pick(at) else { return };
                let renamed = Job {
                    description: name.clone(),
                    ..job_update(&id)
                };
                server.update_job(renamed, &["description"]).await.unwrap();
                self.put(&id, &name);
            }
            Op::Delete(at) => {
                let Some(id) = self.pick(at) else { return };
                server.delete_job(PROJECT, &id).await.unwrap();
                self.remove(&id);
            }
        }
    }
}

/// Walks the list, writes between the pages, and compares every page with the model.
async fn walk(names: Vec<String>, steps: Vec<Step>) {
    let server = Server::start().await;
    let mut model = Model::default();
    for name in names {
        model.write(&server, Op::Insert(name)).await;
    }
    let throughout = model.sorted.clone();
    model.touched.clear();
    let mut seen: Vec<(String, String)> = Vec::new();
    let mut page_token = String::new();
    let mut steps = steps.into_iter();
    for _ in turns() {
        let last_resort = Step {
            limit: 7,
            by_marker: false,
            writes: Vec::new(),
        };
        let Step {
            limit,
            by_marker,
            writes,
        } = steps.next().unwrap_or(last_resort);
        let mut request = in_project(limit);
        match seen.last() {
            // A marker is valid as long as its item exists; a token is valid forever.
            Some((_, id)) if by_marker && !model.touched.contains(id) => {
                request.marker = id.clone();
            }
            _ => request.page_token = page_token,
        }
        let page = list(&server, request).await.unwrap();
        let found = keys(&page);
        let after = seen.last().cloned();
        let expected: Vec<_> = model
            .sorted
            .iter()
            .filter(|key| after.as_ref().is_none_or(|after| *key > after))
            .take(usize::try_from(limit).unwrap())
            .cloned()
            .collect();
        assert_eq!(found, expected, "after {after:?}");
        seen.extend(found);
        page_token = page.next_page_token;
        let more = model
            .sorted
            .last()
            .is_some_and(|last| seen.last().is_none_or(|seen| last > seen));
        assert_eq!(
            page_token.is_empty(),
            !more,
            "only an empty token ends a walk"
        );
        if page_token.is_empty() {
            break;
        }
        for op in writes {
            model.write(&server, op).await;
        }
    }
    for key in throughout
        .iter()
        .filter(|(_, id)| !model.touched.contains(id))
    {
        assert_eq!(
            seen.iter().filter(|seen| *seen == key).count(),
            1,
            "{key:?} was there throughout"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_walk_sees_what_exists_throughout_exactly_once(
        names in proptest::collection::vec(name(), 0..60),
        steps in proptest::collection::vec(step(), 0..30),
    ) {
        tokio::runtime::Runtime::new().unwrap().block_on(walk(names, steps));
    }
}
