//! Watches, for people: each change as it comes, until the reader has had enough.

use std::time::Duration;

use prost::Message;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use super::{
    Error,
    output::{Listing, Row},
    stream::Stream,
};
use crate::proto::{Revisioned, WatchEvent, Watched};

/// How long is waited before a watch is taken up again that broke off: twice as long each time, until something is said.
const RETRY_AFTER: Duration = Duration::from_millis(200);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
/// What says that the history does not go back so far.
const COMPACTED: &str = "REVISION_COMPACTED";

/// What every watch command takes.
#[derive(clap::Args, Debug)]
pub(super) struct Beginning {
    /// Print only what is changed after this revision; without it, first what is stored
    #[arg(long = "after-revision", value_name = "REVISION", default_value_t = 0)]
    after_revision: u64,
}

impl Beginning {
    /// What is stored first.
    pub(super) fn stored() -> Beginning {
        Beginning { after_revision: 0 }
    }
}

/// Prints what a watch says, and takes it up again whenever it breaks off, without missing anything.
///
/// # Errors
/// If it cannot begin, or is refused.
pub(super) async fn print_watch<R: Row + Message + Revisioned + Default>(
    from: Beginning,
    listing: &Listing,
    all_projects: bool,
    mut open: impl AsyncFnMut(u64) -> Result<Streaming<Watched<R>>, Status>,
) -> Result<(), Error> {
    let mut stream = Stream::new(listing, all_projects)?;
    let mut after = from.after_revision;
    let mut has_begun = false;
    let mut pause = RETRY_AFTER;
    loop {
        let broken = match open(after).await {
            Ok(mut watch) => loop {
                match watch.message().await {
                    Ok(Some(said)) => {
                        (has_begun, pause) = (true, RETRY_AFTER);
                        after = said.revision;
                        print(&mut stream, &said)?;
                    }
                    Ok(None) => break Status::unavailable("the server has ended the watch"),
                    Err(status) => break status,
                }
            },
            Err(status) => status,
        };
        if is_compacted(&broken) && has_begun {
            eprintln!(
                "icebox: {}: here is all that there is now",
                broken.message()
            );
            after = 0;
            continue;
        }
        if !has_begun || !may_pass(&broken) {
            return Err(broken.into());
        }
        eprintln!(
            "icebox: {}: going on after revision {after}",
            broken.message()
        );
        tokio::time::sleep(pause).await;
        pause = RETRY_AFTER_MAX.min(pause * 2);
    }
}

fn print<R: Row + Message + Revisioned + Default>(
    stream: &mut Stream<R>,
    said: &Watched<R>,
) -> Result<(), Error> {
    match said.decoded()? {
        Some(WatchEvent::Put(resource)) => stream.put(&resource, said.revision),
        Some(WatchEvent::Removed(id)) => stream.removed(&id, said.revision),
        Some(WatchEvent::Synced) => stream.synced(said.revision),
        None => Ok(()),
    }
}

/// Whether it may go on when it is tried again. The server answers neither UNKNOWN nor INTERNAL: that is a connection that broke.
fn may_pass(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Internal | Code::ResourceExhausted
    )
}

fn is_compacted(status: &Status) -> bool {
    let info = status.get_details_error_info();
    info.is_some_and(|info| info.reason == COMPACTED)
}
