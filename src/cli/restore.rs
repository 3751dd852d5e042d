//! `icebox restore`: makes a store from a snapshot, or from another store.

use std::path::PathBuf;

use jiff::Timestamp;

use super::{Error, progress::AtDisk};
use crate::store::{self, Until};

/// Make a store of a snapshot
///
/// It has the ids, revisions and pages of the original, and an id of its own. With --journal, what the original's
/// journal has behind the snapshot is replayed. A snapshot can also be served as it is: copy it.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  icebox restore icebox-2026-11-24.snapshot --store icebox.db
  icebox restore icebox.snapshot --store new.db --journal old.db
  icebox restore icebox.snapshot --store new.db --journal old.db --until-time 2026-11-24T04:00:00Z")]
pub(super) struct Args {
    /// The snapshot, or the file of a store that no server runs on
    file: PathBuf,
    /// The file of the new store, which must be missing
    #[arg(long, value_name = "FILE")]
    store: PathBuf,
    /// The file of the store that the snapshot was taken of, for its journal
    #[arg(long, value_name = "STORE")]
    journal: Option<PathBuf>,
    /// Replay up to and with this revision
    #[arg(long, value_name = "N", conflicts_with = "until_time")]
    until_revision: Option<u64>,
    /// Replay up to and with this time: RFC 3339
    #[arg(long, value_name = "TIME")]
    until_time: Option<Timestamp>,
}

pub(super) fn run(args: &Args) -> Result<(), Error> {
    let until = match (args.until_revision, args.until_time) {
        (Some(revision), _) => Until::Revision(revision),
        (None, Some(time)) => Until::TimeMs(u64::try_from(time.as_millisecond()).unwrap_or(0)),
        (None, None) => Until::End,
    };
    // Only its owner may read the new store, as with a store that a server makes.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let restoring = AtDisk::new("restoring");
    let revision = store::restore(&args.file, &args.store, args.journal.as_deref(), until)
        .map_err(|error| Error::Failed(error.to_string()))?;
    drop(restoring);
    println!("{}: restored to revision {revision}", args.store.display());
    Ok(())
}
