//! What a page costs: at the start and at the end of lists of 1,000 to 100,000 jobs, and a walk through all of them with a filter
//! that lets one in 1,000 through.
//!
//! `cargo bench --bench pages`. A page by marker is a range scan: its cost must not depend on how many items
//! stand before it. The machine's noise is in every figure, so the ratios are what to look at.

mod shared;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use icebox::{
    catalog::{After, Catalog, Query, Scope},
    proto::{FreezerAction, Job, JobAction, JobFilter},
    resource::{ProjectId, ResourceId, Valid},
    store::{Options, Store},
};
use serde_json::json;

const PAGE_ITEMS: usize = 100;
const PAGES: usize = 500;
/// One job of so many is what a filter looks for.
const RARE: usize = 1000;
const WALKS: usize = 5;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        println!(
            "{:>9}  {:>14}  {:>14}  {:>14}",
            "jobs", "first page µs", "last page µs", "1 in 1,000 ms"
        );
        let mut rows = Vec::new();
        for jobs in [1_000, 10_000, 100_000] {
            let dir = tempfile::tempdir().expect("a directory");
            let store =
                Store::open(&dir.path().join("store"), &Options::default()).expect("a store");
            let catalog = Catalog::new(Arc::new(store));
            let ids = fill(&catalog, jobs).await;
            // What was written last is read from memory until sled has it.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let first = median_us(&catalog, &After::Nothing).await;
            let last = median_us(&catalog, &After::Marker(ids[ids.len() - PAGE_ITEMS - 1])).await;
            let filtered = filtered_ms(&catalog, jobs / RARE).await;
            println!("{jobs:>9}  {first:>14.1}  {last:>14.1}  {filtered:>14.1}");
            rows.push(
                json!({"jobs": jobs, "first_us": first, "last_us": last, "filtered_ms": filtered}),
            );
        }
        shared::write_figures("pages", &json!({ "rows": rows }));
    });
}

/// Creates jobs whose names are in the order of their ids, 256 at a time.
async fn fill(catalog: &Catalog, jobs: usize) -> Vec<ResourceId> {
    let ids: Vec<_> = (0..jobs).map(|_| ResourceId::new()).collect();
    for (chunk, some) in ids.chunks(256).enumerate() {
        let creates = some
            .iter()
            .enumerate()
            .map(|(n, id)| catalog.create(job(chunk * 256 + n, *id)));
        for created in futures_util::future::join_all(creates).await {
            created.expect("created");
        }
    }
    ids
}

fn job(n: usize, id: ResourceId) -> Valid<Job> {
    let action = FreezerAction {
        action: "backup".into(),
        path_to_backup: "/var/lib/data/".repeat(60),
        ..FreezerAction::default()
    };
    let client = if n.is_multiple_of(RARE) {
        "rare"
    } else {
        "usual"
    };
    let job = Job {
        job_id: id.to_string(),
        client_id: client.into(),
        description: format!("job {n:09}"),
        job_actions: vec![JobAction {
            freezer_action: Some(action),
            ..JobAction::default()
        }],
        ..Job::default()
    };
    Valid::new("bench", Some(job)).expect("a valid job")
}

/// What a walk takes through the whole list, of which a filter lets few through.
async fn filtered_ms(catalog: &Catalog, expected: usize) -> f64 {
    let project = ProjectId::parse("project_id", "bench").expect("a project");
    let mut times = Vec::with_capacity(WALKS);
    for _ in 0..WALKS {
        let start = Instant::now();
        let (mut found, mut after) = (0, After::Nothing);
        loop {
            let query = Query::<Job> {
                scope: Scope::Project(project.clone()),
                limit: PAGE_ITEMS,
                after,
                filter: JobFilter {
                    client_id: "rare".into(),
                    ..JobFilter::default()
                },
            };
            let page = catalog.list(query).await.expect("a page");
            found += page.count();
            if page.next_page_token.is_empty() {
                break;
            }
            after = After::Token(page.next_page_token);
        }
        assert_eq!(found, expected);
        times.push(start.elapsed());
    }
    times.sort_unstable();
    times[WALKS / 2].as_secs_f64() * 1e3
}

async fn median_us(catalog: &Catalog, after: &After) -> f64 {
    let project = ProjectId::parse("project_id", "bench").expect("a project");
    let mut times = Vec::with_capacity(PAGES);
    for _ in 0..PAGES {
        let query = Query::<Job> {
            scope: Scope::Project(project.clone()),
            limit: PAGE_ITEMS,
            after: after.clone(),
            filter: JobFilter::default(),
        };
        let start = Instant::now();
        let page = catalog.list(query).await.expect("a page");
        times.push(start.elapsed());
        assert_eq!(page.count(), PAGE_ITEMS);
    }
    times.sort_unstable();
    times[PAGES / 2].as_secs_f64() * 1e6
}
