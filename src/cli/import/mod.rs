//! `icebox import`: Freezer documents into the catalog, through a running server.

mod call;
mod documents;
mod files;
mod record;
mod report;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc, thread};

use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use self::{
    call::{connection_failed, reason_of, stops_everything, store},
    files::{Content, Item, read_files},
    record::{name_of, prepare},
    report::{Report, progress_bar},
};
use super::{Channel, Connection, Error, connection::Placing, output::Count};
use crate::freezer_json::{Document, Read};

/// The most calls under way: enough for the server to commit in groups, and few enough to keep memory small.
const CALLS_MAX: usize = 64;

/// Reads Freezer documents into the catalog.
///
/// A FILE holds backups and jobs as Freezer writes them: {"backups": […]}, {"jobs": […]}, single
/// documents, an agent's bare backup metadata, an array of those, or any number of them one after
/// another (JSON Lines). Its size does not matter: it is never in memory as a whole.
///
/// Ids are kept, and a document without one gets an id made from its content, so that an import may
/// be repeated: nothing is created twice. What is refused is reported, and the rest is imported.
///
/// What is there already and differs is refused, or updated with --overwrite: so a catalog follows a
/// running Freezer by importing its documents again and again.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  icebox import backups.json jobs.json
  icebox import --project 752d8bd43d654e7a840bbfda77ce41af catalog.jsonl
  icebox import --dry-run --into-project demo catalog.jsonl
  icebox export --server old:50051 --project p -o jsonl | icebox import --overwrite -

Exit status: 0 when everything was imported, 1 when something was refused or unreadable.")]
pub(super) struct Args {
    /// Files to read; - is standard input.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Update what is there already and differs
    #[arg(long)]
    overwrite: bool,
    /// Say what would become of each document, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Say only what is refused
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    placing: Placing,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: Args) -> Result<(), Error> {
    let target = Target {
        channel: args.connection.connect().await?,
        project: args.connection.project_if_named()?,
        placing: args.placing,
        overwrite: args.overwrite,
        dry_run: args.dry_run,
    };
    let mut report = Report::new(progress_bar(&args.files));
    report.is_quiet = args.quiet;
    report.is_dry = args.dry_run;

    let (sender, receiver) = mpsc::channel(CALLS_MAX);
    // This is not one of the runtime's threads. The runtime waits for its own threads at the end, and this one may wait for a
    // standard input that never ends.
    thread::spawn(move || read_files(&args.files, &sender));
    import(&target, receiver, report).await
}

/// Where documents go, and what to do with those that exist already.
struct Target {
    channel: Channel,
    /// The project that the command works in. "-" means every project in a list; no document can be in it.
    project: Option<String>,
    placing: Placing,
    overwrite: bool,
    dry_run: bool,
}

/// The outcome for one item.
struct Outcome {
    file: Arc<str>,
    read_bytes: u64,
    notes: Vec<String>,
    end: End,
}

enum End {
    Done(Kind, Done),
    OnlyNotes,
    Refused {
        record: String,
        reason: String,
    },
    Broken(String),
    /// No further call will succeed.
    Lost(Status),
}

/// The outcome for a document that was not refused.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Done {
    Stored,
    Updated,
    Unchanged,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Backup,
    Job,
    Client,
    Action,
    Session,
}

async fn import(
    target: &Target,
    items: mpsc::Receiver<Item>,
    mut report: Report,
) -> Result<(), Error> {
    let outcomes = ReceiverStream::new(items)
        .map(|item| import_item(target, item))
        // The outcomes keep the order of the files, so that a person can compare them with the files.
        .buffered(CALLS_MAX);
    let mut outcomes = std::pin::pin!(outcomes);
    while let Some(outcome) = outcomes.next().await {
        if let Some(status) = report.take(outcome) {
            let so_far = Count(report.finish(), "record");
            let reason = if connection_failed(&status) {
                format!(
                    "the server cannot be reached any more ({})",
                    status.message()
                )
            } else {
                status.message().to_owned()
            };
            return Err(Error::Failed(format!(
                "stopped after {so_far}: {reason}; import the same again to go on: nothing is created twice"
            )));
        }
    }
    report.finish();
    report.verdict()
}

async fn import_item(target: &Target, item: Item) -> Outcome {
    let (notes, end) = match item.content {
        Content::Note(note) => (vec![note], End::OnlyNotes),
        Content::Broken(reason) => (Vec::new(), End::Broken(reason)),
        Content::Document {
            place,
            expected,
            value,
        } => {
            let record = match name_of(&value) {
                Some(name) => format!("{place} ({name})"),
                None => place,
            };
            match prepare(&value, expected, target) {
                Err(reason) => (Vec::new(), End::Refused { record, reason }),
                Ok(Read { document, notes }) => {
                    let notes = notes
                        .iter()
                        .map(|note| format!("{record}: {note}"))
                        .collect();
                    let kind = match &document {
                        Document::Backup(_) => Kind::Backup,
                        Document::Job(_) => Kind::Job,
                        Document::Client(_) => Kind::Client,
                        Document::Action(_) => Kind::Action,
                        Document::Session(_) => Kind::Session,
                    };
                    let end = match store(target, &document).await {
                        Ok(done) => End::Done(kind, done),
                        Err(status) if stops_everything(&status) => End::Lost(status),
                        Err(status) => End::Refused {
                            record,
                            reason: reason_of(&status),
                        },
                    };
                    (notes, end)
                }
            }
        }
    };
    Outcome {
        file: item.file,
        read_bytes: item.read_bytes,
        notes,
        end,
    }
}
