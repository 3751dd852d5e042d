//! What it takes to open a store: closed, killed, and with its view to be made anew.
//!
//! `cargo bench --bench reopen`. `ICEBOX_RECORDS` says how many backups of about 1.2 KB there are (100,000).

use std::{path::Path, sync::Arc, time::Instant};

use icebox::{
    catalog::Catalog,
    proto::{Backup, BackupMetadata},
    resource::Valid,
    store::{Options, Store},
};

/// As the command has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let records = std::env::var("ICEBOX_RECORDS").ok();
    let records: usize = records.map_or(100_000, |records| records.parse().expect("a number"));
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let store = Arc::new(Store::open(&path, &Options::default()).expect("a store"));
    let start = Instant::now();
    runtime.block_on(fill(&Catalog::new(store.clone()), records));
    let took = start.elapsed();
    println!("{records} backups, created in {took:.1?}");
    Arc::into_inner(store)
        .expect("nobody else")
        .close()
        .expect("it closes");
    println!("while they were created: {} MiB", peak_mib());
    println!(
        "closed: {:.2} s, {} MiB",
        seconds_to_open(&path),
        peak_mib()
    );
    println!(
        "killed: {:.2} s, {} MiB",
        seconds_to_open(&path),
        peak_mib()
    );
    std::fs::remove_dir_all(path.join("view")).expect("there is a view");
    println!(
        "view made anew: {:.2} s, {} MiB",
        seconds_to_open(&path),
        peak_mib()
    );
}

/// The most memory that the process had resident since it was last asked.
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
    // Starts counting anew.
    std::fs::write("/proc/self/clear_refs", "5").expect("one's own");
    kib >> 10
}

/// Opens the store and drops it as a process does that is killed.
fn seconds_to_open(path: &Path) -> f64 {
    let start = Instant::now();
    let store = Store::open(path, &Options::default()).expect("it opens");
    let elapsed = start.elapsed().as_secs_f64();
    store.abandon();
    elapsed
}

async fn fill(catalog: &Catalog, records: usize) {
    for first in (0..records).step_by(512) {
        let creates = (first..records.min(first + 512)).map(|n| catalog.create(backup(n)));
        for created in futures_util::future::join_all(creates).await {
            created.expect("created");
        }
    }
}

fn backup(n: usize) -> Valid<Backup> {
    // Names that are spread over the whole list, as those of many hosts are.
    let name = format!(
        "host-{:06}",
        (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44
    );
    let metadata = BackupMetadata {
        backup_name: name,
        container: "c".into(),
        hostname: "h".into(),
        path_to_backup: "/var/lib/data/".repeat(80),
        ..BackupMetadata::default()
    };
    let backup = Backup {
        backup_metadata: Some(metadata),
        ..Backup::default()
    };
    Valid::new("bench", Some(backup)).expect("a valid backup")
}
