//! A program that holds a catalog itself: it opens one, stores a backup, lists what is there, and closes it.
//!
//! `cargo run --example embedded [STORE]`

use std::{env, error::Error};

use icebox::{
    Icebox, Options,
    proto::{Backup, BackupMetadata},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = env::args().nth(1).unwrap_or_else(|| "example.db".into());
    let icebox = Icebox::open(store, Options::default()).await?;

    let backup = Backup {
        backup_metadata: Some(BackupMetadata {
            backup_name: "nightly".into(),
            container: "backups".into(),
            hostname: "db-1".into(),
            path_to_backup: "/var/lib/postgresql".into(),
            ..BackupMetadata::default()
        }),
        ..Backup::default()
    };
    let created = icebox.backups().create("demo", backup).await?;
    println!("stored {}", created.resource.backup_id);

    let mut token = String::new();
    loop {
        let page = icebox.backups().list("demo").page_token(token).await?;
        for backup in &page.items {
            let metadata = backup.backup_metadata.clone().unwrap_or_default();
            println!("{}  {}", backup.backup_id, metadata.backup_name);
        }
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }

    icebox.close().await?;
    Ok(())
}
