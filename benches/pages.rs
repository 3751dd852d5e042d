//! What a page costs: at the start and at the end of lists of 1,000 to 100,000 jobs. Also a walk through all of them with a filter
//! that lets one in 1,000 through, by client and by label.
//!
//! `cargo bench --bench pages`. A page by marker is a range scan: its cost must not depend on how many items stand before it. The
//! machine's noise is in every figure, so that only the ratios count.

mod shared;

use std::time::{Duration, Instant};

use icebox::{
    Icebox, Options,
    proto::{FreezerAction, Job, JobAction, JobFilter},
};
use serde_json::json;

const PROJECT: &str = "bench";
const PAGE_ITEMS: usize = 100;
const PAGES: usize = 500;
/// The filter lets one job in this many through.
const RARE: usize = 1000;
const WALKS: usize = 5;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        println!(
            "{:>9}  {:>14}  {:>14}  {:>14}  {:>14}",
            "jobs", "first page µs", "last page µs", "1 in 1,000 ms", "by a label ms"
        );
        let mut rows = Vec::new();
        for jobs in [1_000, 10_000, 100_000] {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("store");
            let icebox = Icebox::open(path, Options::default()).await;
            let icebox = icebox.expect("a store");
            fill(&icebox, jobs).await;
            // Recent writes are read from memory until sled has them.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let first = median_us(&icebox, "").await;
            let last = median_us(&icebox, &id(jobs - PAGE_ITEMS - 1)).await;
            let by_client = JobFilter {
                client_id: "rare".into(),
                ..JobFilter::default()
            };
            let by_label = JobFilter {
                label_selector: "tier in (gold, silver)".into(),
                ..JobFilter::default()
            };
            let filtered = filtered_ms(&icebox, by_client, jobs / RARE).await;
            let labelled = filtered_ms(&icebox, by_label, jobs / RARE).await;
            println!("{jobs:>9}  {first:>14.1}  {last:>14.1}  {filtered:>14.1}  {labelled:>14.1}");
            rows.push(
                json!({"jobs": jobs, "first_us": first, "last_us": last, "filtered_ms": filtered, "labelled_ms": labelled}),
            );
        }
        shared::write_figures("pages", &json!({ "rows": rows }));
    });
}

/// Creates jobs whose names have the order of their ids, 256 at a time.
async fn fill(icebox: &Icebox, jobs: usize) {
    for start in (0..jobs).step_by(256) {
        let creates = (start..jobs.min(start + 256)).map(async |n| {
            let created = icebox.jobs().create(PROJECT, job(n)).await;
            created.expect("created");
        });
        futures_util::future::join_all(creates).await;
    }
}

fn id(n: usize) -> String {
    format!("{n:032x}")
}

fn job(n: usize) -> Job {
    let action = FreezerAction {
        action: "backup".into(),
        path_to_backup: "/var/lib/data/".repeat(60),
        ..FreezerAction::default()
    };
    let (client, tier) = if n.is_multiple_of(RARE) {
        ("rare", "gold")
    } else {
        ("usual", "bronze")
    };
    let labels = [("env", "production"), ("team", "storage"), ("tier", tier)];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    Job {
        job_id: id(n),
        client_id: client.into(),
        labels: labels.into(),
        description: format!("job {n:09}"),
        job_actions: vec![JobAction {
            freezer_action: Some(action),
            ..JobAction::default()
        }],
        ..Job::default()
    }
}

/// How long a walk takes through the whole list, with a filter that lets few jobs through.
async fn filtered_ms(icebox: &Icebox, filter: JobFilter, expected: usize) -> f64 {
    let mut times = Vec::with_capacity(WALKS);
    for _ in 0..WALKS {
        let start = Instant::now();
        let (mut found, mut token) = (0, String::new());
        loop {
            let list = icebox.jobs().list(PROJECT).filter(filter.clone());
            let page = list.page_token(token).encoded().await.expect("a page");
            found += page.count();
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(found, expected);
        times.push(start.elapsed());
    }
    times.sort_unstable();
    times[WALKS / 2].as_secs_f64() * 1e3
}

async fn median_us(icebox: &Icebox, marker: &str) -> f64 {
    let mut times = Vec::with_capacity(PAGES);
    for _ in 0..PAGES {
        let list = icebox.jobs().list(PROJECT).after(marker);
        let start = Instant::now();
        let page = list.encoded().await.expect("a page");
        times.push(start.elapsed());
        assert_eq!(page.count(), PAGE_ITEMS);
    }
    times.sort_unstable();
    times[PAGES / 2].as_secs_f64() * 1e6
}
