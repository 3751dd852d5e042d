//! Watches for people: prints each change as it comes.

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

/// How long to wait before a broken watch is resumed. The wait doubles each time until an event arrives.
const RETRY_AFTER: Duration = Duration::from_millis(200);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
/// The reason in a status that tells that the history does not go back far enough.
const COMPACTED: &str = "REVISION_COMPACTED";

/// The options of every watch command.
#[derive(clap::Args, Debug)]
pub(super) struct Beginning {
    /// Print only what is changed after this revision; without it, first what is stored
    #[arg(long = "after-revision", value_name = "REVISION", default_value_t = 0)]
    after_revision: u64,
}

impl Beginning {
    /// The beginning of a watch that first sends what is stored.
    pub(super) fn stored() -> Beginning {
        Beginning { after_revision: 0 }
    }
}

/// Prints the events of a watch, and resumes it whenever it breaks, without missing any.
///
/// # Errors
/// If the watch cannot begin, or is refused.
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

/// Whether the watch may succeed if it is tried again. The server never answers UNKNOWN or INTERNAL: these mean a broken
/// connection.
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
