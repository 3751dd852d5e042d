//! `icebox snapshot`: everything that a running server holds, in one file.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::{
    Connection, Error,
    progress::{self, AtDisk},
};
use crate::{
    proto::{DownloadSnapshotRequest, maintenance_service_client::MaintenanceServiceClient},
    store,
};

/// Take a snapshot of a running server's store
///
/// It is exact at one revision, while writes go on. `icebox verify` checks it, and `icebox restore` makes a store from it.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  icebox snapshot --out icebox-$(date +%F).snapshot
  icebox verify icebox-2026-11-24.snapshot

The FILE takes its name when all of it has been received, checked and synced, and not before.")]
pub(super) struct Args {
    /// The snapshot's file, which is replaced if it exists; - is standard output, which is not checked
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: Args) -> Result<(), Error> {
    let channel = args.connection.connect().await?;
    let mut client = MaintenanceServiceClient::new(channel);
    let mut chunks = client
        .download_snapshot(DownloadSnapshotRequest {})
        .await?
        .into_inner();
    if args.out.as_os_str() == "-" {
        let mut out = io::stdout().lock();
        while let Some(answer) = chunks.message().await? {
            out.write_all(&answer.chunk)?;
        }
        return Ok(out.flush()?);
    }
    let failed = |error: io::Error| {
        Error::Failed(format!("{} cannot be written: {error}", args.out.display()))
    };
    let mut name = args.out.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = Part(args.out.with_file_name(name));
    // The file holds all projects' backups, so that only its owner may read it.
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&part.0)
        .map_err(failed)?;
    let progress = progress::bytes_received();
    while let Some(answer) = chunks.message().await? {
        file.write_all(&answer.chunk).map_err(failed)?;
        progress.inc(answer.chunk.len() as u64);
    }
    progress.finish_and_clear();
    file.sync_all().map_err(failed)?;
    let checking = AtDisk::new("checking");
    let snapshot = store::verify_file(&part.0).map_err(|error| Error::Failed(error.to_string()))?;
    drop(checking);
    fs::rename(&part.0, &args.out).map_err(failed)?;
    sync_parent(&args.out).map_err(failed)?;
    println!(
        "{}: revision {}, {} bytes",
        args.out.display(),
        snapshot.revision,
        snapshot.bytes
    );
    Ok(())
}

/// A file that is removed at the end, unless it was renamed to its final name.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        // After success the file no longer has this name.
        let _ = fs::remove_file(&self.0);
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
}
