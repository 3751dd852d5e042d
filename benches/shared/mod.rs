//! What the benches have in common: the backups that they store, and where their figures go.
#![allow(dead_code)]

use icebox::proto::{Backup, BackupMetadata};
use serde_json::Value;

/// A backup of about 1.2 KB. Names are spread over the whole list, as those of many hosts are.
pub(crate) fn backup(n: u64) -> Backup {
    let metadata = BackupMetadata {
        backup_name: format!("host-{:06}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44),
        container: "c".into(),
        hostname: "h".into(),
        path_to_backup: "/var/lib/data/".repeat(80),
        ..BackupMetadata::default()
    };
    Backup {
        backup_id: format!("{n:032x}"),
        project_id: "bench".into(),
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
