//! What the benches share: the backups that they store, and where their figures go.
#![allow(dead_code)]

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use icebox::{
    Icebox,
    proto::{Backup, BackupMetadata},
};
use serde_json::Value;

/// How many creates are under way at a time, if as many as possible are to be made.
const CALLERS: u64 = 512;

/// A backup of about 1.2 KB. Names are spread over the whole list, as those of many hosts are.
pub(crate) fn backup(n: u64) -> Backup {
    // What a fleet's agents report: words and paths that are the same everywhere, and ids that are not.
    let hex = |salt: u64| {
        format!(
            "{:016x}",
            (n ^ salt << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        )
    };
    let uuid = |salt: u64| hex(salt) + &hex(salt + 1);
    let run = format!("/var/lib/freezer_{}/.", uuid(1));
    let volume = |salt: u64| format!("/srv/tenants/{}/volumes/{}", uuid(salt), hex(salt));
    let volumes: Vec<String> = (10..21).map(volume).collect();
    let metadata = BackupMetadata {
        backup_name: format!("host-{:06}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44),
        container: "freezer_database_backups".into(),
        hostname: format!("node{:05}.example.org", n % 20_000),
        path_to_backup: volumes.join(","),
        fs_real_path: "/var/lib/mysql/".into(),
        vol_snap_path: run,
        log_file: "/var/log/freezer/agent.log".into(),
        client_os: "linux2".into(),
        client_version: "2.0.2".into(),
        mode: "mysql".into(),
        action: "backup".into(),
        storage: "swift".into(),
        backup_media: "fs".into(),
        compression: "gzip".into(),
        ..BackupMetadata::default()
    };
    Backup {
        backup_id: format!("{n:032x}"),
        project_id: "bench".into(),
        user_id: uuid(3),
        user_name: "os_backup".into(),
        client_id: format!("node{:05}", n % 20_000),
        job_id: uuid(5),
        backup_uuid: uuid(7),
        backup_metadata: Some(metadata),
        ..Backup::default()
    }
}

/// Writes a bench's figures to `target/figures/<name>.json`, where `benches/draw.py` finds them.
pub(crate) fn write_figures(name: &str, figures: &Value) {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/figures");
    std::fs::create_dir_all(&dir).expect("room");
    let text = serde_json::to_string_pretty(figures).expect("JSON");
    std::fs::write(dir.join(name).with_extension("json"), text + "\n").expect("room");
}

/// Creates the backups with these numbers, and calls `took` with how long each took.
pub(crate) async fn fill(icebox: &Icebox, numbers: Range<u64>, took: impl Fn(Duration)) {
    let next = AtomicU64::new(numbers.start);
    let callers = (0..CALLERS).map(|_| async {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= numbers.end {
                return;
            }
            let start = Instant::now();
            let created = icebox.backups().create("bench", backup(n)).await;
            created.expect("created");
            took(start.elapsed());
        }
    });
    futures_util::future::join_all(callers).await;
}
