//! `icebox import`: Freezer documents into the catalog, through a running server.

mod documents;

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io::{self, Write as _},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use prost_types::FieldMask;
use serde_json::Value;
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, transport::Channel};
use tonic_types::StatusExt;
use uuid::Uuid;

use self::documents::{Event, Expected, read_documents};
use super::{Connection, Error, connection::Placing, ids, output::Printable};
use crate::{
    freezer_json::{self, Document, Read},
    proto::{
        Backup, CreateBackupRequest, CreateJobRequest, GetBackupRequest, GetJobRequest, Job,
        Single, UpdateBackupRequest, UpdateJobRequest, backup_service_client::BackupServiceClient,
        job_service_client::JobServiceClient,
    },
    resource::{Resource, Stamps, Valid},
    service::UNCHANGED_METADATA,
};

/// Calls on their way at one time: enough that the server commits in groups, few enough that memory
/// stays small.
const CALLS_MAX: usize = 64;
/// Longer than any commit takes.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// With the waits between them, 11 seconds: a server that restarts is back by then.
const ATTEMPTS_MAX: u32 = 8;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Notes printed, and refusals; the others are counted.
const NOTES_MAX: u64 = 20;
const REFUSALS_MAX: u64 = 20;
/// What is shown of a record's name.
const NAME_CHARS_MAX: usize = 100;

/// Where the ids of documents without one come from.
const ID_NAMESPACE: Uuid = Uuid::from_u128(0x5f0e_93b1_6a0c_4f0e_9d7b_31c6_1ceb_0c01);

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
    // Not one of the runtime's threads: those are waited for at the end, and this one may be waiting
    // for a standard input that never ends.
    thread::spawn(move || read_files(&args.files, &sender));
    import(&target, receiver, report).await
}

/// Where documents go, and what becomes of those that are there.
struct Target {
    channel: Channel,
    /// The project that the command is about. "-" means every project in a list; no document can be in it.
    project: Option<String>,
    placing: Placing,
    overwrite: bool,
    dry_run: bool,
}

/// Something read, and where.
struct Item {
    file: Arc<str>,
    /// Of all files so far.
    read_bytes: u64,
    content: Content,
}

enum Content {
    Document {
        place: String,
        expected: Expected,
        value: Value,
    },
    Note(String),
    /// The rest of the file cannot be read.
    Broken(String),
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Reads the files one after another into `sender`, until nobody takes any more.
fn read_files(files: &[PathBuf], sender: &mpsc::Sender<Item>) {
    let mut files_before_bytes = 0;
    for path in files {
        let file: Arc<str> = if is_stdin(path) {
            "stdin".into()
        } else {
            path.to_string_lossy().into()
        };
        let mut file_bytes = 0;
        let mut hand_on = |event| {
            let content = match event {
                Event::Document {
                    place,
                    expected,
                    value,
                    read_bytes,
                } => {
                    file_bytes = read_bytes;
                    Content::Document {
                        place,
                        expected,
                        value,
                    }
                }
                Event::Note(note) => Content::Note(note),
            };
            let read_bytes = files_before_bytes + file_bytes;
            match sender.blocking_send(Item {
                file: Arc::clone(&file),
                read_bytes,
                content,
            }) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        };
        let result = if is_stdin(path) {
            read_documents(io::stdin().lock(), &mut hand_on)
        } else {
            File::open(path)
                .map_err(|error| error.to_string())
                .and_then(|source| read_documents(source, &mut hand_on))
        };
        files_before_bytes += file_size_bytes(path).unwrap_or(file_bytes);
        if let Err(reason) = result {
            let item = Item {
                file,
                read_bytes: files_before_bytes,
                content: Content::Broken(reason),
            };
            if sender.blocking_send(item).is_err() {
                return;
            }
        }
        if sender.is_closed() {
            return;
        }
    }
}

/// What became of an item.
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
    /// No call will get through any more.
    Lost(Status),
}

/// What became of a document that was not refused.
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
}

async fn import(
    target: &Target,
    items: mpsc::Receiver<Item>,
    mut report: Report,
) -> Result<(), Error> {
    let outcomes = ReceiverStream::new(items)
        .map(|item| import_item(target, item))
        // In the order of the files, so that what is said can be compared with them.
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

/// The record that a document describes, with a project and an id.
fn prepare(value: &Value, expected: Expected, target: &Target) -> Result<Read, String> {
    let read = match expected {
        Expected::Any => freezer_json::read_document(value),
        Expected::Backup => freezer_json::read_backup(value).map(|(backup, notes)| Read {
            document: Document::Backup(backup),
            notes,
        }),
        Expected::Job => freezer_json::read_job(value).map(|(job, notes)| Read {
            document: Document::Job(job),
            notes,
        }),
    };
    let mut read = read.map_err(|violations| violations.to_string())?;
    let meant = target.project.as_deref();
    let (own_project, id) = match &mut read.document {
        Document::Backup(backup) => {
            target.placing.place_backup(backup, meant)?;
            (&backup.project_id, &mut backup.backup_id)
        }
        Document::Job(job) => {
            target.placing.place_job(job, meant)?;
            (&job.project_id, &mut job.job_id)
        }
    };
    *id = ids::normalized(id);
    if id.is_empty() {
        // The same document gets the same id each time, or repeating an import would create it again.
        // Other spellings of it (key order, white space) are the same document.
        let content = format!("{own_project}\n{}", sorted(value));
        *id = Uuid::new_v5(&ID_NAMESPACE, content.as_bytes())
            .simple()
            .to_string();
    }
    if let Document::Job(job) = &mut read.document
        && job.description.is_empty()
    {
        job.description.clone_from(&job.job_id);
    }
    Ok(read)
}

/// The same value with every object's keys in order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(elements) => elements.iter().map(sorted).collect(),
        Value::Object(members) => {
            let members: BTreeMap<_, _> = members
                .iter()
                .map(|(key, value)| (key, sorted(value)))
                .collect();
            Value::Object(
                members
                    .into_iter()
                    .map(|(key, value)| (key.clone(), value))
                    .collect(),
            )
        }
        scalar => scalar.clone(),
    }
}

/// What a person knows the document by, even where it cannot be read.
fn name_of(value: &Value) -> Option<String> {
    [
        "/backup_metadata/backup_name",
        "/backup_name",
        "/description",
        "/backup_id",
        "/job_id",
    ]
    .iter()
    .filter_map(|path| value.pointer(path)?.as_str())
    .find(|name| !name.is_empty())
    .map(|name| name.chars().take(NAME_CHARS_MAX).collect())
}

/// Stores the record, or says what would become of it, again and again if the server does not answer: each of the calls may be
/// repeated.
async fn store(target: &Target, document: &Document) -> Result<Done, Status> {
    let mut wait = FIRST_WAIT;
    let mut attempts = 1;
    loop {
        let result = match document {
            Document::Backup(backup) => store_once(target, backup.clone()).await,
            Document::Job(job) => store_once(target, job.clone()).await,
        };
        match result {
            Err(status) if passes(&status) && attempts < ATTEMPTS_MAX => {
                sleep(wait).await;
                wait = (wait * 2).min(WAIT_MAX);
                attempts += 1;
            }
            result => return result,
        }
    }
}

async fn store_once<R: Imported>(target: &Target, resource: R) -> Result<Done, Status> {
    let channel = &target.channel;
    if target.dry_run {
        let checked = Valid::new("", Some(resource))
            .map_err(Status::from)?
            .into_inner();
        return match R::get(channel, &checked).await {
            Err(status) if status.code() == Code::NotFound => Ok(Done::Stored),
            Err(status) => Err(status),
            Ok(mut stored) => {
                stored.set_stamps(Stamps::default());
                if stored == checked {
                    Ok(Done::Unchanged)
                } else if target.overwrite {
                    Ok(Done::Updated)
                } else {
                    Err(Status::already_exists(
                        "it is there already and differs: --overwrite updates it",
                    ))
                }
            }
        };
    }
    match R::create(channel, resource.clone()).await {
        Err(status) if status.code() == Code::AlreadyExists && target.overwrite => {
            R::update(channel, resource).await.map(|()| Done::Updated)
        }
        result => result,
    }
}

/// A resource that documents describe, and the calls that store it.
trait Imported: Resource {
    async fn create(channel: &Channel, resource: Self) -> Result<Done, Status>;
    async fn get(channel: &Channel, resource: &Self) -> Result<Self, Status>;
    async fn update(channel: &Channel, resource: Self) -> Result<(), Status>;
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// Every field, those cleared that the document does not set.
fn everything() -> FieldMask {
    FieldMask {
        paths: vec!["*".into()],
    }
}

fn done<T>(response: &Response<T>) -> Done {
    if response.metadata().contains_key(UNCHANGED_METADATA) {
        Done::Unchanged
    } else {
        Done::Stored
    }
}

impl Imported for Backup {
    async fn create(channel: &Channel, backup: Backup) -> Result<Done, Status> {
        let request = CreateBackupRequest {
            project_id: String::new(),
            backup: Some(backup),
        };
        let mut client = BackupServiceClient::new(channel.clone());
        Ok(done(&client.create_backup(timed(request)).await?))
    }

    async fn get(channel: &Channel, backup: &Backup) -> Result<Backup, Status> {
        let request = GetBackupRequest {
            project_id: backup.project_id.clone(),
            backup_id: backup.backup_id.clone(),
        };
        let mut client = BackupServiceClient::new(channel.clone());
        let answer = client.get_backup(timed(request)).await?.into_inner();
        decoded(&answer)
    }

    async fn update(channel: &Channel, backup: Backup) -> Result<(), Status> {
        let request = UpdateBackupRequest {
            project_id: String::new(),
            backup: Some(backup),
            update_mask: Some(everything()),
            expected_revision: None,
        };
        let mut client = BackupServiceClient::new(channel.clone());
        client.update_backup(timed(request)).await.map(drop)
    }
}

impl Imported for Job {
    async fn create(channel: &Channel, job: Job) -> Result<Done, Status> {
        let request = CreateJobRequest {
            project_id: String::new(),
            job: Some(job),
        };
        let mut client = JobServiceClient::new(channel.clone());
        Ok(done(&client.create_job(timed(request)).await?))
    }

    async fn get(channel: &Channel, job: &Job) -> Result<Job, Status> {
        let request = GetJobRequest {
            project_id: job.project_id.clone(),
            job_id: job.job_id.clone(),
        };
        let mut client = JobServiceClient::new(channel.clone());
        let answer = client.get_job(timed(request)).await?.into_inner();
        decoded(&answer)
    }

    async fn update(channel: &Channel, job: Job) -> Result<(), Status> {
        let request = UpdateJobRequest {
            project_id: String::new(),
            job: Some(job),
            update_mask: Some(everything()),
            expected_revision: None,
        };
        let mut client = JobServiceClient::new(channel.clone());
        client.update_job(timed(request)).await.map(drop)
    }
}

/// The resource that the server has.
fn decoded<R: Resource>(answer: &Single<R>) -> Result<R, Status> {
    answer
        .decoded()
        .map_err(|error| Status::data_loss(format!("the server's answer cannot be read: {error}")))
}

/// Whether the call failed on the way. A status that was made on this side has its cause with it, one
/// that the server sent has none.
fn connection_failed(status: &Status) -> bool {
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}

/// Whether the same call may do better in a moment.
fn passes(status: &Status) -> bool {
    // A server that is too busy says when to come back, or was too busy to say anything.
    let busy = status.code() == Code::ResourceExhausted
        && (status.details().is_empty() || status.get_details_retry_info().is_some());
    busy || connection_failed(status)
}

/// Whether every other record would fail the same.
fn stops_everything(status: &Status) -> bool {
    connection_failed(status)
        || matches!(status.code(), Code::Unauthenticated | Code::Unimplemented)
}

/// Every bad field by its path in the document, or else the message.
fn reason_of(status: &Status) -> String {
    let violations = status
        .get_details_bad_request()
        .map_or_else(Vec::new, |bad| bad.field_violations);
    if violations.is_empty() {
        return status.message().to_owned();
    }
    let reasons = violations.iter().map(|violation| {
        let field = violation.field.as_str();
        let path = field
            .strip_prefix("backup.")
            .or_else(|| field.strip_prefix("job."))
            .unwrap_or(field);
        format!("{path} {}", violation.description)
    });
    reasons.collect::<Vec<_>>().join("; ")
}

/// What is told while importing, and counted for the end.
struct Report {
    bar: ProgressBar,
    is_quiet: bool,
    is_dry: bool,
    backups: u64,
    jobs: u64,
    updated: u64,
    unchanged: u64,
    refused: u64,
    broken_files: u64,
    notes: u64,
}

impl Report {
    fn new(bar: ProgressBar) -> Report {
        Report {
            bar,
            is_quiet: false,
            is_dry: false,
            backups: 0,
            jobs: 0,
            updated: 0,
            unchanged: 0,
            refused: 0,
            broken_files: 0,
            notes: 0,
        }
    }

    /// Gives back what makes going on pointless, if that is how it ended.
    fn take(&mut self, outcome: Outcome) -> Option<Status> {
        let Outcome {
            file,
            read_bytes,
            notes,
            end,
        } = outcome;
        for note in notes {
            self.notes += 1;
            if self.notes <= NOTES_MAX && !self.is_quiet {
                self.tell(&format!("note: {file}: {note}"));
            }
        }
        match end {
            End::Done(_, Done::Updated) => self.updated += 1,
            End::Done(_, Done::Unchanged) => self.unchanged += 1,
            End::Done(Kind::Backup, Done::Stored) => self.backups += 1,
            End::Done(Kind::Job, Done::Stored) => self.jobs += 1,
            End::OnlyNotes => {}
            End::Refused { record, reason } => {
                self.refused += 1;
                if self.refused <= REFUSALS_MAX {
                    self.tell(&format!("{file}: {record}: {reason}"));
                }
            }
            End::Broken(reason) => {
                self.broken_files += 1;
                self.tell(&format!("{file}: {reason}"));
            }
            End::Lost(status) => return Some(status),
        }
        let position = if self.bar.length().is_some() {
            read_bytes
        } else {
            self.records()
        };
        // Calls end in any order; the bar only goes forward.
        self.bar.set_position(position.max(self.bar.position()));
        None
    }

    fn records(&self) -> u64 {
        self.backups + self.jobs + self.updated + self.unchanged + self.refused
    }

    /// Prints the summary. Gives the number of records that were imported or refused.
    fn finish(&self) -> u64 {
        if self.notes > NOTES_MAX && !self.is_quiet {
            self.tell(&format!("note: and {} more", self.notes - NOTES_MAX));
        }
        if self.refused > REFUSALS_MAX {
            self.tell(&format!(
                "and {} more were refused",
                self.refused - REFUSALS_MAX
            ));
        }
        self.bar.finish_and_clear();
        if !self.is_quiet {
            // A summary that nobody reads is not worth failing for.
            let _ = writeln!(
                io::stdout(),
                "{} {} and {}; {} updated, {} unchanged, {} refused",
                if self.is_dry {
                    "would import"
                } else {
                    "imported"
                },
                Count(self.backups, "backup"),
                Count(self.jobs, "job"),
                self.updated,
                self.unchanged,
                self.refused
            );
        }
        self.records()
    }

    fn verdict(&self) -> Result<(), Error> {
        let mut complaints = Vec::new();
        if self.refused > 0 {
            let were = if self.refused == 1 { "was" } else { "were" };
            complaints.push(format!(
                "{} of {} {were} refused",
                self.refused,
                Count(self.records(), "record")
            ));
        }
        if self.broken_files > 0 {
            complaints.push(format!(
                "{} could not be read to the end",
                Count(self.broken_files, "file")
            ));
        }
        if complaints.is_empty() {
            Ok(())
        } else {
            Err(Error::Failed(complaints.join(", ")))
        }
    }

    fn tell(&self, line: &str) {
        let line = Printable(line);
        self.bar.suspend(|| {
            // Without a standard error there is nobody to tell.
            let _ = writeln!(io::stderr(), "{line}");
        });
    }
}

struct Count(u64, &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Count(count, noun) = self;
        write!(f, "{count} {noun}{}", if *count == 1 { "" } else { "s" })
    }
}

/// A bar over the bytes to read if that is known, else a count of records; seen on terminals only.
fn progress_bar(files: &[PathBuf]) -> ProgressBar {
    let sizes_bytes: Option<u64> = files.iter().map(|path| file_size_bytes(path)).sum();
    let (bar, template) = match sizes_bytes {
        Some(total_bytes) => (
            ProgressBar::new(total_bytes),
            "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        ),
        None => (
            ProgressBar::no_length(),
            "{spinner} {human_pos} records, {per_sec}",
        ),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn file_size_bytes(path: &Path) -> Option<u64> {
    if is_stdin(path) {
        return None;
    }
    let metadata = fs::metadata(path).ok()?;
    metadata.is_file().then_some(metadata.len())
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::{
            Mutex,
            atomic::{AtomicU64, Ordering::Relaxed},
        },
    };

    use serde_json::json;
    use tonic::transport::server::TcpIncoming;
    use tonic_types::ErrorDetails;

    use super::*;
    use crate::proto::{
        CreateBackupResponse, DeleteBackupRequest, DeleteBackupResponse, GetBackupResponse,
        ListBackupsRequest, ListBackupsResponse, UpdateBackupResponse, WatchBackupsRequest,
        WatchBackupsResponse,
        backup_service_server::{BackupService, BackupServiceServer},
    };

    /// A target that nothing is sent to.
    fn target(project: Option<&str>) -> Target {
        Target {
            channel: Channel::from_static("http://127.0.0.1:1").connect_lazy(),
            project: project.map(str::to_owned),
            placing: Placing::default(),
            overwrite: false,
            dry_run: false,
        }
    }

    fn id(value: &Value, project: &str) -> String {
        match prepare(value, Expected::Any, &target(Some(project)))
            .unwrap()
            .document
        {
            Document::Backup(backup) => backup.backup_id,
            Document::Job(job) => job.job_id,
        }
    }

    #[tokio::test]
    async fn a_document_without_an_id_gets_the_same_one_each_time() {
        let document = json!({"backup_name": "db", "hostname": "n", "extra": {"b": 1, "a": 2}});
        let respelled = json!({"extra": {"a": 2, "b": 1}, "hostname": "n", "backup_name": "db"});
        let other = json!({"backup_name": "db", "hostname": "m"});
        assert_eq!(id(&document, "p"), id(&respelled, "p"));
        assert_ne!(id(&document, "p"), id(&document, "q"));
        assert_ne!(id(&document, "p"), id(&other, "p"));
        assert_eq!(id(&document, "p").len(), 32);
    }

    #[tokio::test]
    async fn a_documents_own_project_and_id_are_kept() {
        let document = json!({"job_id": "J-1", "project_id": "own"});
        for project in [None, Some("-"), Some("own")] {
            let read = prepare(&document, Expected::Job, &target(project)).unwrap();
            let Document::Job(job) = read.document else {
                panic!("a job was expected")
            };
            assert_eq!(
                (job.job_id.as_str(), job.project_id.as_str()),
                ("j1", "own")
            );
            assert_eq!(job.description, "J-1");
        }
    }

    #[tokio::test]
    async fn a_document_of_another_project_is_refused_or_put_where_was_said() {
        let document = json!({"backup_name": "db", "project_id": "own"});
        let refused = prepare(&document, Expected::Any, &target(Some("p"))).unwrap_err();
        assert!(
            refused.contains("project own") && refused.contains("--into-project p"),
            "{refused}"
        );
        let into = Target {
            placing: Placing::into("p"),
            ..target(Some("q"))
        };
        let Document::Backup(backup) = prepare(&document, Expected::Any, &into).unwrap().document
        else {
            panic!("a backup was expected")
        };
        assert_eq!(backup.project_id, "p");
    }

    #[tokio::test]
    async fn a_document_without_any_project_is_refused() {
        let refused =
            prepare(&json!({"backup_name": "db"}), Expected::Any, &target(None)).unwrap_err();
        assert!(refused.starts_with("project_id is missing"), "{refused}");
    }

    #[tokio::test]
    async fn a_job_is_never_without_a_name() {
        let read = prepare(
            &json!({"job_actions": []}),
            Expected::Any,
            &target(Some("p")),
        )
        .unwrap();
        let Document::Job(job) = read.document else {
            panic!("a job was expected")
        };
        assert_eq!(job.description, job.job_id);
    }

    #[test]
    fn records_are_named_as_people_know_them() {
        assert_eq!(
            name_of(&json!({"backup_id": "b", "backup_metadata": {"backup_name": "db"}})).unwrap(),
            "db"
        );
        assert_eq!(
            name_of(&json!({"description": "", "job_id": "j"})).unwrap(),
            "j"
        );
        assert_eq!(name_of(&json!([1])), None);
    }

    #[test]
    fn a_refusal_names_every_bad_field() {
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("backup.backup_metadata.hostname", "must be set");
        details.add_bad_request_violation("project_id", "must be set");
        let status =
            Status::with_error_details(Code::InvalidArgument, "2 fields are wrong", details);
        assert_eq!(
            reason_of(&status),
            "backup_metadata.hostname must be set; project_id must be set"
        );
        assert_eq!(
            reason_of(&Status::already_exists("it differs")),
            "it differs"
        );
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let full = Status::with_error_details(
            Code::ResourceExhausted,
            "the disk is full",
            ErrorDetails::with_error_info("DISK_FULL", "icebox", std::collections::HashMap::new()),
        );
        assert!(passes(&Status::unavailable("gone")));
        assert!(passes(&Status::resource_exhausted(
            "too many active requests"
        )));
        assert!(!passes(&full));
        assert!(!passes(&Status::invalid_argument("bad")));
        assert!(!stops_everything(&full));
        assert!(stops_everything(&Status::unauthenticated("who?")));
    }

    /// A catalog of backups that is away for its first few calls, and refuses what is named "bad".
    #[derive(Default)]
    struct Catalog {
        away_for_calls: AtomicU64,
        calls: AtomicU64,
        calls_now: AtomicU64,
        calls_now_max: AtomicU64,
        ids: Mutex<BTreeSet<String>>,
    }

    type Answer<T> = Result<Response<T>, Status>;

    #[tonic::async_trait]
    impl BackupService for Arc<Catalog> {
        async fn create_backup(
            &self,
            request: Request<CreateBackupRequest>,
        ) -> Answer<CreateBackupResponse> {
            self.calls_now_max
                .fetch_max(self.calls_now.fetch_add(1, Relaxed) + 1, Relaxed);
            sleep(Duration::from_millis(2)).await;
            self.calls_now.fetch_sub(1, Relaxed);
            if self.calls.fetch_add(1, Relaxed) < self.away_for_calls.load(Relaxed) {
                return Err(Status::unavailable("starting"));
            }
            let backup = request.into_inner().backup.unwrap();
            match backup
                .backup_metadata
                .as_ref()
                .unwrap()
                .backup_name
                .as_str()
            {
                "bad" => Err(Status::invalid_argument("it is bad")),
                "secret" => Err(Status::unauthenticated("say who you are")),
                _ => {
                    self.ids.lock().unwrap().insert(backup.backup_id.clone());
                    Ok(Response::new(CreateBackupResponse {
                        backup: Some(backup),
                    }))
                }
            }
        }

        async fn get_backup(&self, _: Request<GetBackupRequest>) -> Answer<GetBackupResponse> {
            Err(Status::unimplemented("get"))
        }

        async fn list_backups(
            &self,
            _: Request<ListBackupsRequest>,
        ) -> Answer<ListBackupsResponse> {
            Err(Status::unimplemented("list"))
        }

        async fn update_backup(
            &self,
            _: Request<UpdateBackupRequest>,
        ) -> Answer<UpdateBackupResponse> {
            Err(Status::unimplemented("update"))
        }

        async fn delete_backup(
            &self,
            _: Request<DeleteBackupRequest>,
        ) -> Answer<DeleteBackupResponse> {
            Err(Status::unimplemented("delete"))
        }

        type WatchBackupsStream = tokio_stream::Empty<Result<WatchBackupsResponse, Status>>;

        async fn watch_backups(
            &self,
            _: Request<WatchBackupsRequest>,
        ) -> Answer<Self::WatchBackupsStream> {
            Err(Status::unimplemented("watch"))
        }
    }

    /// What importing `text` into `catalog` ends with.
    async fn import_text(catalog: &Arc<Catalog>, text: String) -> Result<(), String> {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let service = BackupServiceServer::new(Arc::clone(catalog));
        let server = tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming),
        );
        let channel = Channel::from_shared(format!("http://{address}"))
            .unwrap()
            .connect()
            .await
            .unwrap();

        let folder = tempfile::tempdir().unwrap();
        let files = [folder.path().join("catalog.json")];
        fs::write(&files[0], text).unwrap();
        let (sender, receiver) = mpsc::channel(CALLS_MAX);
        thread::spawn(move || read_files(&files, &sender));
        let report = Report::new(ProgressBar::hidden());
        let target = Target {
            channel,
            ..target(Some("p"))
        };
        let result = import(&target, receiver, report).await;
        server.abort();
        result.map_err(|error| error.to_string())
    }

    fn backups(count: u64) -> Vec<Value> {
        (0..count)
            .map(|n| json!({"backup_metadata": {"backup_name": format!("b{n}")}}))
            .collect()
    }

    #[tokio::test]
    async fn an_import_repeated_creates_nothing_twice() {
        let catalog = Arc::new(Catalog::default());
        let text = json!({ "backups": backups(300) }).to_string();
        import_text(&catalog, text.clone()).await.unwrap();
        assert_eq!(catalog.ids.lock().unwrap().len(), 300);
        import_text(&catalog, text).await.unwrap();
        assert_eq!(catalog.ids.lock().unwrap().len(), 300);
        assert_eq!(catalog.calls.load(Relaxed), 600);
        assert!(catalog.calls_now_max.load(Relaxed) <= CALLS_MAX as u64);
    }

    #[tokio::test]
    async fn a_server_that_comes_back_is_waited_for() {
        let catalog = Arc::new(Catalog {
            away_for_calls: 100.into(),
            ..Catalog::default()
        });
        import_text(&catalog, json!(backups(80)).to_string())
            .await
            .unwrap();
        assert_eq!(catalog.ids.lock().unwrap().len(), 80);
    }

    #[tokio::test]
    async fn what_is_refused_does_not_keep_the_rest_out() {
        let catalog = Arc::new(Catalog::default());
        let mut documents = backups(4);
        documents.insert(2, json!({"backup_name": "bad"}));
        documents.insert(3, json!({}));
        let refused = import_text(&catalog, json!(documents).to_string())
            .await
            .unwrap_err();
        assert_eq!(refused, "2 of 6 records were refused");
        assert_eq!(catalog.ids.lock().unwrap().len(), 4);
    }

    #[tokio::test]
    async fn what_no_record_would_survive_ends_it() {
        let catalog = Arc::new(Catalog::default());
        let documents = vec![json!({"backup_name": "secret"}); 10_000];
        let refused = import_text(&catalog, json!(documents).to_string())
            .await
            .unwrap_err();
        assert!(
            refused.starts_with("stopped after 0 records: say who you are"),
            "{refused}"
        );
        assert!(catalog.calls.load(Relaxed) <= CALLS_MAX as u64);
    }

    fn outcome(end: End) -> Outcome {
        Outcome {
            file: "f".into(),
            read_bytes: 0,
            notes: Vec::new(),
            end,
        }
    }

    #[test]
    fn the_verdict_counts() {
        let mut report = Report::new(ProgressBar::hidden());
        report.take(outcome(End::Done(Kind::Backup, Done::Stored)));
        report.take(outcome(End::Done(Kind::Job, Done::Unchanged)));
        assert!(report.verdict().is_ok());
        report.take(outcome(End::Refused {
            record: "jobs[1]".into(),
            reason: "no".into(),
        }));
        assert_eq!(
            report.verdict().unwrap_err().to_string(),
            "1 of 3 records was refused"
        );
        report.take(outcome(End::Broken("truncated".into())));
        assert_eq!(
            report.verdict().unwrap_err().to_string(),
            "1 of 3 records was refused, 1 file could not be read to the end"
        );
    }

    #[test]
    fn a_broken_file_does_not_keep_the_next_from_being_read() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["a", "b", "missing", "c"]
            .map(|name| folder.path().join(name))
            .to_vec();
        fs::write(&files[0], "{\"jobs\": [1, 2").unwrap();
        fs::write(&files[1], "").unwrap();
        fs::write(&files[3], "3").unwrap();
        let (sender, mut receiver) = mpsc::channel(CALLS_MAX);
        let reading = thread::spawn(move || read_files(&files, &sender));
        let mut found = Vec::new();
        while let Some(item) = receiver.blocking_recv() {
            let file = item.file.rsplit('/').next().unwrap().to_owned();
            found.push(match item.content {
                Content::Document { value, .. } => format!("{file} {value}"),
                Content::Note(note) => format!("{file} note {note}"),
                Content::Broken(_) => format!("{file} broken"),
            });
        }
        reading.join().unwrap();
        assert_eq!(
            found,
            [
                "a 1",
                "a 2",
                "a broken",
                "b broken",
                "missing broken",
                "c 3"
            ]
        );
    }
}
