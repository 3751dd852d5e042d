//! `icebox verify`: checks whether a snapshot, or the store of a server that is not running, is whole.

use std::path::PathBuf;

use super::{Error, output::Count, progress::AtDisk};
use crate::{
    catalog,
    store::{self, Finding, OpenError},
};

/// Check a snapshot, or the store of a server that is not running
///
/// Reads everything: every checksum, the order, the journal, the view against the journal, every id against its record, and whether
/// everything adds up to what was written. It only reads, so that the store may lie on a read-only medium; the view is copied to
/// $TMPDIR for that.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  icebox verify icebox-2026-11-24.snapshot
  icebox verify /var/lib/icebox/icebox.db

Exit status: 0 when it is whole, 1 when not; what is wrong is said, and what would heal it.")]
pub(super) struct Args {
    /// A snapshot, or a store's file
    #[arg(value_name = "FILE")]
    path: PathBuf,
    /// The view's directory, if it is not FILE.view
    #[arg(long, value_name = "DIR")]
    view: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<(), Error> {
    let shown = args.path.display();
    let failed = |error: OpenError| Error::Failed(format!("{shown}: {error}"));
    if !args.path.exists() {
        return Err(Error::Failed(format!("{shown} is not there")));
    }
    let checking = AtDisk::new("checking");
    let view = args.view.as_deref();
    if !store::has_view(&args.path, view).map_err(failed)? {
        match store::verify_file(&args.path) {
            Ok(snapshot) => {
                drop(checking);
                println!(
                    "{shown} is whole: revision {}, {} bytes",
                    snapshot.revision, snapshot.bytes
                );
                return Ok(());
            }
            // The damage is reported below, with what can still be read.
            Err(OpenError::Store(store::Error::Corrupt { .. })) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let examined = store::examine(&args.path, view).map_err(failed)?;
    let verified = catalog::verify(&examined);
    drop(checking);
    for Finding { what, cure } in &examined.findings {
        println!("{shown}: {what}; {cure}");
    }
    let verified = verified.map_err(|error| failed(error.into()))?;
    if !examined.findings.is_empty() {
        return Err(Error::Failed(format!("{shown} is damaged")));
    }
    println!(
        "{shown} is whole: revision {}, {}, {}, {}, {}, {}",
        examined.revision,
        Count(verified.backups, "backup"),
        Count(verified.jobs, "job"),
        Count(verified.clients, "client"),
        Count(verified.actions, "action"),
        Count(verified.sessions, "session")
    );
    Ok(())
}
