//! What it costs to write the store's file anew while backups are created: their rate, how long the slowest one waits, and the room
//! on the disk.
//!
//! `cargo bench --bench rewrite`. `ICEBOX_RECORDS` is the number of backups of about 1.2 KB (100,000).

mod shared;

use std::{
    cell::RefCell,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

use icebox::{Icebox, Options};
use prost::Message;
use serde_json::json;

/// The command uses the same allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many backups are created between two checks.
const STEP: u64 = 5_000;
/// How many creates the rate without rewriting is measured with.
const RATED: u64 = 50_000;

/// The measurements of some creates.
#[derive(Default)]
struct Stretch {
    waits: Vec<Duration>,
    elapsed: Duration,
    bytes_on_disk_max: u64,
}

impl Stretch {
    #[expect(clippy::cast_precision_loss)]
    fn rate(&self) -> f64 {
        self.waits.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// In milliseconds.
    fn wait_ms(&mut self, per_mille: usize) -> f64 {
        self.waits.sort_unstable();
        let last = self.waits.len() - 1;
        self.waits[last * per_mille / 1000].as_secs_f64() * 1000.0
    }
}

#[expect(clippy::too_many_lines, reason = "one measurement")]
fn main() {
    let records = std::env::var("ICEBOX_RECORDS").ok();
    let records: u64 = records.map_or(100_000, |records| records.parse().expect("a number"));
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("icebox.db");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let open = |floor_bytes| {
        let options = Options {
            rewrite_floor_bytes: floor_bytes,
            ..Options::default()
        };
        runtime
            .block_on(Icebox::open(&path, options))
            .expect("a store")
    };
    let mut next = 0;
    let mut create_while = |icebox: &Icebox, go_on: &mut dyn FnMut(u64) -> bool| {
        let mut stretch = Stretch::default();
        let start = Instant::now();
        while go_on(next) {
            let waits = RefCell::new(&mut stretch.waits);
            let took = |wait| waits.borrow_mut().push(wait);
            runtime.block_on(shared::fill(icebox, next..next + STEP, took));
            next += STEP;
            stretch.bytes_on_disk_max = stretch.bytes_on_disk_max.max(bytes_in(dir.path()));
        }
        stretch.elapsed = start.elapsed();
        stretch
    };

    let icebox = open(u64::MAX);
    create_while(&icebox, &mut |next| next < records);
    let mut before = create_while(&icebox, &mut |next| next < records + RATED);
    runtime.block_on(icebox.close()).expect("it closes");
    // The records have nothing of what is stored yet, so that the file is written anew.
    let icebox = open(1);
    let is_rewritten = || {
        let usage = runtime.block_on(icebox.status()).expect("it is open").usage;
        usage.records.is_some()
    };
    let mut during = create_while(&icebox, &mut |_| !is_rewritten());
    let bytes: u64 = (0..next)
        .map(|n| shared::backup(n).encoded_len() as u64)
        .sum();
    let at_rest = bytes_in(dir.path());
    runtime.block_on(icebox.close()).expect("it closes");

    let ratio = during.rate() / before.rate();
    println!(
        "{next} backups, {} MiB: {:.0} creates/s, {:.0} while the file is written anew in {:.1} s: {ratio:.2}",
        bytes >> 20,
        before.rate(),
        during.rate(),
        during.elapsed.as_secs_f64(),
    );
    for (what, per_mille) in [("median", 500), ("p99", 990), ("slowest", 1000)] {
        println!(
            "{what}: {:.1} ms, {:.1} ms while it is written anew",
            before.wait_ms(per_mille),
            during.wait_ms(per_mille)
        );
    }
    #[expect(clippy::cast_precision_loss)]
    let times = |on_disk: u64| on_disk as f64 / bytes as f64;
    println!(
        "on the disk: {:.1} times the data while it is written anew, {:.1} behind it",
        times(during.bytes_on_disk_max),
        times(at_rest)
    );
    shared::write_figures(
        "rewrite",
        &json!({
            "records": next,
            "creates_before": before.rate(),
            "creates_during": during.rate(),
            "slowest_before_ms": before.wait_ms(1000),
            "slowest_during_ms": during.wait_ms(1000),
            "bytes": bytes,
            "bytes_on_disk_during": during.bytes_on_disk_max,
            "bytes_on_disk_behind": at_rest,
        }),
    );
}

/// The room that the files below a directory take on the disk.
fn bytes_in(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        // The file was removed meanwhile.
        Err(_) => 0,
    });
    bytes.sum()
}
