//! `icebox restore`: a store made of a snapshot.

use std::path::PathBuf;

use jiff::Timestamp;

use super::Error;
use crate::store::{self, Until};

/// Make a store of a snapshot
///
/// It has the ids, revisions and pages of the original. With --journal, what the original's journal has
/// behind the snapshot is replayed, to its end or up to a revision or time.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  icebox restore icebox-2026-11-24.snapshot --store icebox.db
  icebox restore icebox.snapshot --store new.db --journal old.db
  icebox restore icebox.snapshot --store new.db --journal old.db --until-time 2026-11-24T04:00:00Z")]
pub(super) struct Args {
    /// The snapshot
    file: PathBuf,
    /// The directory of the new store, empty or missing
    #[arg(long)]
    store: PathBuf,
    /// The directory of the store that the snapshot was taken of, with its journal
    #[arg(long, value_name = "STORE")]
    journal: Option<PathBuf>,
    /// Replay up to and with this revision
    #[arg(
        long,
        value_name = "N",
        requires = "journal",
        conflicts_with = "until_time"
    )]
    until_revision: Option<u64>,
    /// Replay up to and with this time: RFC 3339
    #[arg(long, value_name = "TIME", requires = "journal")]
    until_time: Option<Timestamp>,
}

pub(super) fn run(args: &Args) -> Result<(), Error> {
    let until = match (args.until_revision, args.until_time) {
        (Some(revision), _) => Until::Revision(revision),
        (None, Some(time)) => Until::TimeMs(u64::try_from(time.as_millisecond()).unwrap_or(0)),
        (None, None) => Until::End,
    };
    let replay = args.journal.as_deref().map(|journal| (journal, until));
    // The store is readable by its owner only, as one that a server makes.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let revision = store::restore(&args.file, &args.store, replay)
        .map_err(|error| Error::Failed(error.to_string()))?;
    println!("{}: restored to revision {revision}", args.store.display());
    Ok(())
}
