//! `icebox verify`: whether a snapshot, or the store of a server that is not running, is whole.

use std::path::PathBuf;

use super::Error;
use crate::{
    catalog,
    store::{self, Options, Store},
};

/// Check a snapshot, or the store of a server that is not running
///
/// Reads everything: every checksum, the order, the journal, the view against the journal, every id
/// against its record, and whether all of it comes to what was written. A view that is damaged is made
/// anew first, as it is when a server starts.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  icebox verify icebox-2026-11-24.snapshot
  icebox verify /var/lib/icebox

Exit status: 0 when it is whole, 1 when not; what is wrong is said.")]
pub(super) struct Args {
    /// A snapshot, or a store's directory
    #[arg(value_name = "FILE|STORE")]
    path: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<(), Error> {
    let shown = args.path.display();
    let failed = |error: store::Error| Error::Failed(format!("{shown}: {error}"));
    if !args.path.exists() {
        return Err(Error::Failed(format!("{shown} is not there")));
    }
    if !args.path.is_dir() {
        let snapshot = store::verify_snapshot(&args.path).map_err(failed)?;
        println!(
            "{shown} is whole: revision {}, {} bytes",
            snapshot.revision, snapshot.bytes
        );
        return Ok(());
    }
    if !args.path.join("FORMAT").exists() {
        return Err(Error::Failed(format!("{shown} holds no store")));
    }
    let store = Store::open(&args.path, &Options::default()).map_err(failed)?;
    let verified = catalog::verify(&store).map_err(failed)?;
    println!(
        "{shown} is whole: revision {}, {} backups, {} jobs",
        store.revision(),
        verified.backups,
        verified.jobs
    );
    store.close().map_err(failed)
}
