//! `icebox export`: the catalog as Freezer documents.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process,
};

use clap::ValueEnum;
use serde_json::Value;

use super::{Channel, Connection, Error, output::Printable};
use crate::{
    catalog::{self, Scope},
    freezer_json::{self, Form},
    proto::{
        ListBackupsRequest, ListJobsRequest, backup_service_client::BackupServiceClient,
        job_service_client::JobServiceClient,
    },
    resource::ProjectId,
    store::{self, Examined, OpenError},
};

/// The most that a server gives at once.
const PAGE_RECORDS: i32 = 1000;
const BUFFER_BYTES: usize = 256 << 10;

/// Writes backups and jobs as Freezer documents, which `icebox import` reads.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  icebox export --project 752d8bd43d654e7a840bbfda77ce41af --out catalog.json
  icebox export jobs --project - -o jsonl | grep backup-node1
  icebox export backups --project p | jq -r '.backups[].backup_metadata.backup_name'

A FILE is replaced when everything has been written to its end, and not before.")]
pub(super) struct Args {
    /// Just these; both without it.
    #[arg(value_enum)]
    what: Option<What>,
    /// How they are written
    #[arg(long = "output", short = 'o', alias = "format", value_enum, default_value_t = Format::Json)]
    format: Format,
    /// Where to; standard output without it, or if it is -
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// A snapshot, or the file of a store that no server runs on: what can be read of it is written, however damaged it is
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,
    /// The view's directory, if it is not FILE.view
    #[arg(long, value_name = "DIR", requires = "store")]
    view: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// The backups.
    Backups,
    /// The jobs.
    Jobs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One object: {"backups": […], "jobs": […]}.
    Json,
    /// One document a line.
    Jsonl,
}

/// Why an export failed.
enum Failure {
    /// The documents could not be read.
    Read(Error),
    /// The documents could not be written.
    Write(io::Error),
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        catalog::Error::from(error).into()
    }
}

impl From<catalog::Error> for Failure {
    fn from(error: catalog::Error) -> Self {
        Failure::Read(tonic::Status::from(error).into())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Write(error)
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        Failure::Read(status.into())
    }
}

impl From<prost::DecodeError> for Failure {
    fn from(error: prost::DecodeError) -> Self {
        Failure::Read(error.into())
    }
}

pub(super) async fn run(args: Args) -> Result<(), Error> {
    let Some(project) = args.connection.project_if_named()? else {
        return Err(Error::Usage(
            "whose records? Name a project with --project or ICEBOX_PROJECT; --project - exports every \
             project's"
                .into(),
        ));
    };
    let from = match &args.store {
        Some(store) => Source::Store(Box::new(examine(store, args.view.as_deref())?)),
        None => Source::Server(args.connection.connect().await?),
    };
    let result = match args.out.as_deref().filter(|out| out.as_os_str() != "-") {
        Some(path) if is_replaceable(path) => export_to_file(&from, &args, &project, path).await,
        Some(path) => match File::options().write(true).open(path) {
            Ok(file) => export(&from, &args, &project, file).await.map(drop),
            Err(error) => Err(error.into()),
        },
        None => export(&from, &args, &project, io::stdout()).await.map(drop),
    };
    match result {
        Ok(()) => Ok(()),
        // Whoever reads has seen enough.
        Err(Failure::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(Failure::Write(error)) => {
            let target = args.out.map_or_else(
                || "standard output".into(),
                |path| path.display().to_string(),
            );
            Err(Error::Failed(format!(
                "{target} cannot be written: {error}"
            )))
        }
        Err(Failure::Read(error)) => Err(error),
    }
}

/// Where documents come from.
enum Source {
    Server(Channel),
    /// A store's file.
    Store(Box<Examined>),
}

/// Opens a store to be read, and tells what is damaged in it.
fn examine(store: &Path, view: Option<&Path>) -> Result<Examined, Error> {
    let failed = |error: OpenError| Error::Failed(format!("{}: {error}", store.display()));
    let examined = store::examine(store, view).map_err(failed)?;
    for finding in &examined.findings {
        eprintln!("icebox: {}: {}", store.display(), Printable(&finding.what));
    }
    Ok(examined)
}

/// Whether a new file may take this place: a pipe or a device must stay what it is.
fn is_replaceable(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |metadata| metadata.is_file())
}

/// Writes beside the file and takes its place at the end, so that neither an error nor a crash leaves
/// half a catalog under its name.
async fn export_to_file(
    from: &Source,
    args: &Args,
    project: &str,
    path: &Path,
) -> Result<(), Failure> {
    // A link stays a link: the file that it leads to is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let Some(name) = path.file_name() else {
        return Err(io::Error::from(io::ErrorKind::InvalidFilename).into());
    };
    let mut temporary_name = name.to_owned();
    temporary_name.push(format!(".{}.part", process::id()));
    let temporary = path.with_file_name(temporary_name);

    // All of a project's backups are in it.
    let mut new = File::options();
    let file = new
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    let result = match export(from, args, project, file).await {
        Ok(file) => put_in_place(&file, &temporary, &path).map_err(Failure::Write),
        Err(failure) => Err(failure),
    };
    if result.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    result
}

fn put_in_place(file: &File, temporary: &Path, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    fs::rename(temporary, path)?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Writes what was asked for, a page at a time, and gives `to` back.
async fn export<W: Write>(from: &Source, args: &Args, project: &str, to: W) -> Result<W, Failure> {
    let mut documents = Documents::new(BufWriter::with_capacity(BUFFER_BYTES, to), args.format);
    if args.what != Some(What::Jobs) {
        documents.begin("backups")?;
        match from {
            Source::Server(channel) => export_backups(channel, project, &mut documents).await?,
            Source::Store(store) => catalog::for_each(&**store, &scope(project)?, |backup| {
                Ok::<_, Failure>(
                    documents.add(&freezer_json::write_backup(&backup, Form::Document))?,
                )
            })?,
        }
    }
    if args.what != Some(What::Backups) {
        documents.begin("jobs")?;
        match from {
            Source::Server(channel) => export_jobs(channel, project, &mut documents).await?,
            Source::Store(store) => catalog::for_each(&**store, &scope(project)?, |job| {
                Ok::<_, Failure>(documents.add(&freezer_json::write_job(&job, Form::Document))?)
            })?,
        }
    }
    documents
        .finish()?
        .into_inner()
        .map_err(|error| error.into_error().into())
}

fn scope(project: &str) -> Result<Scope, Failure> {
    if project == "-" {
        return Ok(Scope::AllProjects);
    }
    let project = ProjectId::parse("--project", project);
    project
        .map(Scope::Project)
        .map_err(|violations| Failure::Read(violations.into()))
}

async fn export_backups<W: Write>(
    channel: &Channel,
    project: &str,
    documents: &mut Documents<W>,
) -> Result<(), Failure> {
    let mut client = BackupServiceClient::new(channel.clone());
    let mut page_token = String::new();
    loop {
        let request = ListBackupsRequest {
            project_id: project.to_owned(),
            limit: PAGE_RECORDS,
            page_token,
            ..ListBackupsRequest::default()
        };
        let page = client.list_backups(request).await?.into_inner();
        for backup in page.decoded()? {
            documents.add(&freezer_json::write_backup(&backup, Form::Document))?;
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(());
        }
    }
}

async fn export_jobs<W: Write>(
    channel: &Channel,
    project: &str,
    documents: &mut Documents<W>,
) -> Result<(), Failure> {
    let mut client = JobServiceClient::new(channel.clone());
    let mut page_token = String::new();
    loop {
        let request = ListJobsRequest {
            project_id: project.to_owned(),
            limit: PAGE_RECORDS,
            page_token,
            ..ListJobsRequest::default()
        };
        let page = client.list_jobs(request).await?.into_inner();
        for job in page.decoded()? {
            documents.add(&freezer_json::write_job(&job, Form::Document))?;
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(());
        }
    }
}

/// Documents written one after another: JSON Lines, or one object with a document a line.
struct Documents<W> {
    to: W,
    format: Format,
    lists: u64,
    in_list: u64,
}

impl<W: Write> Documents<W> {
    fn new(to: W, format: Format) -> Self {
        Documents {
            to,
            format,
            lists: 0,
            in_list: 0,
        }
    }

    /// Starts the list of this name, and ends the one before.
    fn begin(&mut self, name: &str) -> io::Result<()> {
        if self.format == Format::Json {
            let before = if self.lists == 0 { "{" } else { "\n],\n" };
            write!(self.to, "{before}\"{name}\": [")?;
        }
        self.lists += 1;
        self.in_list = 0;
        Ok(())
    }

    fn add(&mut self, document: &Value) -> io::Result<()> {
        match self.format {
            Format::Jsonl => writeln!(self.to, "{document}")?,
            Format::Json => {
                let before = if self.in_list == 0 { "\n" } else { ",\n" };
                write!(self.to, "{before}{document}")?;
            }
        }
        self.in_list += 1;
        Ok(())
    }

    /// Ends what was begun, and gives back where it was written to.
    fn finish(mut self) -> io::Result<W> {
        if self.format == Format::Json {
            self.to.write_all(b"\n]}\n")?;
        }
        self.to.flush()?;
        Ok(self.to)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clap::Parser;
    use prost::Message;
    use serde_json::json;
    use tonic::{
        Request, Response, Status,
        transport::{Endpoint, server::TcpIncoming},
    };

    use super::*;
    use crate::cli::connection::without_token;
    use crate::proto::{
        Backup, BackupMetadata, CreateBackupRequest, CreateBackupResponse, DeleteBackupRequest,
        DeleteBackupResponse, GetBackupRequest, GetBackupResponse, ListBackupsResponse, Splice,
        UpdateBackupRequest, UpdateBackupResponse, WatchBackupsRequest, WatchBackupsResponse,
        backup_service_server::{BackupService, BackupServiceServer},
    };

    type Answer<T> = Result<Response<T>, Status>;

    /// A catalog that gives one backup a page.
    struct Catalog(Vec<Backup>);

    #[tonic::async_trait]
    impl BackupService for Catalog {
        async fn list_backups(
            &self,
            request: Request<ListBackupsRequest>,
        ) -> Answer<ListBackupsResponse> {
            let request = request.into_inner();
            if request.project_id != "p" {
                return Err(Status::permission_denied("not yours"));
            }
            let n: usize = request.page_token.parse().unwrap_or(0);
            let mut records = Splice::default();
            if let Some(backup) = self.0.get(n) {
                records.push(&backup.encode_to_vec(), backup.revision);
            }
            let next = if n + 1 < self.0.len() {
                (n + 1).to_string()
            } else {
                String::new()
            };
            Ok(Response::new(records.into_page(next, 1)))
        }

        async fn create_backup(
            &self,
            _: Request<CreateBackupRequest>,
        ) -> Answer<CreateBackupResponse> {
            Err(Status::unimplemented("create"))
        }

        async fn get_backup(&self, _: Request<GetBackupRequest>) -> Answer<GetBackupResponse> {
            Err(Status::unimplemented("get"))
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

    async fn serve(catalog: Catalog) -> Source {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let service = BackupServiceServer::from_arc(Arc::new(catalog));
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming),
        );
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = channel.connect().await.unwrap();
        Source::Server(without_token(channel))
    }

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &str) -> Args {
        Command::parse_from(std::iter::once("export").chain(line.split_whitespace())).args
    }

    fn backup(n: u64) -> Backup {
        let metadata = BackupMetadata {
            backup_name: format!("b{n}"),
            ..BackupMetadata::default()
        };
        let id = format!("{n:032x}");
        Backup {
            backup_id: id,
            project_id: "p".into(),
            backup_metadata: Some(metadata),
            revision: n,
            ..Backup::default()
        }
    }

    #[tokio::test]
    async fn every_page_is_exported_and_reads_back_the_same() {
        let backups: Vec<Backup> = (0..5).map(backup).collect();
        let source = serve(Catalog(backups.clone())).await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.json");
        fs::write(&path, "old").unwrap();
        assert!(
            export_to_file(&source, &args("backups"), "p", &path)
                .await
                .is_ok()
        );
        let value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert!(value.get("jobs").is_none());
        let read = value["backups"].as_array().unwrap().iter().map(|document| {
            let (backup, notes) = freezer_json::read_backup(document).unwrap();
            assert_eq!(notes, Vec::<String>::new());
            backup
        });
        let sent = backups.into_iter().map(|backup| Backup {
            revision: 0,
            ..backup
        });
        assert_eq!(read.collect::<Vec<_>>(), sent.collect::<Vec<_>>());

        let lines = export(&source, &args("backups --format jsonl"), "p", Vec::new()).await;
        let lines = String::from_utf8(lines.ok().unwrap()).unwrap();
        assert_eq!(lines.lines().count(), 5);
    }

    #[tokio::test]
    async fn a_failed_export_leaves_the_file_as_it_was() {
        let source = serve(Catalog(vec![backup(1)])).await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.json");
        fs::write(&path, "old").unwrap();
        // The server has no jobs to list: it fails after the backups have been written.
        for (line, project) in [("backups", "q"), ("", "p")] {
            assert!(
                export_to_file(&source, &args(line), project, &path)
                    .await
                    .is_err()
            );
            assert_eq!(fs::read_to_string(&path).unwrap(), "old");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }

    fn written(format: Format, lists: &[(&str, &[Value])]) -> String {
        let mut documents = Documents::new(Vec::new(), format);
        for (name, elements) in lists {
            documents.begin(name).unwrap();
            for element in *elements {
                documents.add(element).unwrap();
            }
        }
        String::from_utf8(documents.finish().unwrap()).unwrap()
    }

    #[test]
    fn an_export_is_one_object_with_a_document_a_line() {
        let text = written(
            Format::Json,
            &[
                ("backups", &[json!({"a": 1}), json!({"a": 2})]),
                ("jobs", &[json!({})]),
            ],
        );
        assert_eq!(
            text,
            "{\"backups\": [\n{\"a\":1},\n{\"a\":2}\n],\n\"jobs\": [\n{}\n]}\n"
        );
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            value,
            json!({"backups": [{"a": 1}, {"a": 2}], "jobs": [{}]})
        );
        let empty: Value = serde_json::from_str(&written(Format::Json, &[("jobs", &[])])).unwrap();
        assert_eq!(empty, json!({"jobs": []}));
    }

    #[test]
    fn json_lines_are_a_document_a_line() {
        let lists: &[(&str, &[Value])] =
            &[("backups", &[json!({"a": "x\ny"})]), ("jobs", &[json!({})])];
        assert_eq!(written(Format::Jsonl, lists), "{\"a\":\"x\\ny\"}\n{}\n");
    }

    #[test]
    fn the_file_appears_whole_under_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let (temporary, path) = (
            folder.path().join("out.json.1.part"),
            folder.path().join("out.json"),
        );
        fs::write(&path, "old").unwrap();
        let mut file = File::create(&temporary).unwrap();
        file.write_all(b"new").unwrap();
        put_in_place(&file, &temporary, &path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert!(!temporary.exists());
    }

    #[test]
    fn devices_and_pipes_are_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        assert!(is_replaceable(&folder.path().join("new")));
        assert!(!is_replaceable(Path::new("/dev/null")));
        assert!(!is_replaceable(folder.path()));
    }
}
