//! What a large store needs: room on the disk, memory, and time to open after a close, after a kill, and when its view has to be
//! made again.
//!
//! `cargo bench --bench reopen`. `ICEBOX_RECORDS` is the number of backups of about 1.2 KB (100,000).

mod shared;

use std::{path::Path, process::Command, time::Instant};

use icebox::{Icebox, Options};
use prost::Message;
use serde_json::json;

/// The command uses the same allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many creates the rates at the beginning and at the end are measured with.
const RATED: u64 = 50_000;

/// Set in a process that only opens the store in this file.
const OPENS: &str = "ICEBOX_BENCH_OPENS";

fn main() {
    if let Some(path) = std::env::var_os(OPENS) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let seconds = runtime.block_on(seconds_to_open(Path::new(&path)));
        println!("{seconds} {}", peak_mib());
        return;
    }
    let records = std::env::var("ICEBOX_RECORDS").ok();
    let records: u64 = records.map_or(100_000, |records| records.parse().expect("a number"));
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let icebox = runtime.block_on(Icebox::open(&path, Options::default()));
    let icebox = icebox.expect("a store");
    let rated = RATED.min(records / 2);
    let rate = |numbers: std::ops::Range<u64>| {
        let count = f64::from(u32::try_from(numbers.end - numbers.start).expect("few"));
        let start = Instant::now();
        runtime.block_on(shared::fill(&icebox, numbers, |_| ()));
        count / start.elapsed().as_secs_f64()
    };
    let first = rate(0..rated);
    rate(rated..records - rated);
    let last = rate(records - rated..records);
    println!("{records} backups: {first:.0} creates/s at the beginning, {last:.0} at the end");
    let usage = runtime.block_on(icebox.status()).expect("it is open").usage;
    let bytes: u64 = (0..records)
        .map(|n| shared::backup(n).encoded_len() as u64)
        .sum();
    let on_disk = usage.journal_bytes + usage.records_bytes + usage.view_bytes;
    println!(
        "on the disk: {} MiB of {} (journal {}, records {}, view {})",
        on_disk >> 20,
        bytes >> 20,
        usage.journal_bytes >> 20,
        usage.records_bytes >> 20,
        usage.view_bytes >> 20,
    );
    runtime.block_on(icebox.close()).expect("it closes");
    let created_mib = peak_mib();
    println!("while they were created: {created_mib} MiB");
    let mut opened = Vec::new();
    for what in ["closed", "killed", "view made anew"] {
        if what == "view made anew" {
            std::fs::remove_dir_all(path.with_extension("view")).expect("there is a view");
        }
        let (seconds, mib) = opened_elsewhere(&path);
        println!("{what}: {seconds:.2} s, {mib} MiB");
        opened.push(json!({"what": what, "seconds": seconds, "mib": mib}));
    }
    shared::write_figures(
        "reopen",
        &json!({
            "records": records,
            "creates_first": first,
            "creates_last": last,
            "bytes": bytes,
            "bytes_on_disk": on_disk,
            "created_mib": created_mib,
            "opened": opened,
        }),
    );
}

/// The most memory that the process had resident.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("a peak");
    let kib: u64 = line
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number");
    kib >> 10
}

/// Opens the store in a process of its own. Returns how many seconds and how many MiB that took.
fn opened_elsewhere(path: &Path) -> (f64, u64) {
    let this = std::env::current_exe().expect("this");
    let output = Command::new(this)
        .env(OPENS, path)
        .output()
        .expect("it runs");
    let said = String::from_utf8(output.stdout).expect("text");
    let (seconds, mib) = said.trim().split_once(' ').expect("two numbers");
    (
        seconds.parse().expect("a number"),
        mib.parse().expect("a number"),
    )
}

/// Opens the store, and drops it as a killed process does.
async fn seconds_to_open(path: &Path) -> f64 {
    let start = Instant::now();
    let icebox = Icebox::open(path, Options::default()).await;
    let elapsed = start.elapsed().as_secs_f64();
    drop(icebox.expect("it opens"));
    elapsed
}
