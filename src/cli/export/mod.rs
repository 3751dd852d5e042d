//! `icebox export`: the catalog as Freezer documents.

#[cfg(test)]
mod tests;

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process,
};

use clap::ValueEnum;
use serde_json::Value;

use super::{Channel, Connection, Error, output::Printable, paging::Place, remote::Remote};
use crate::{
    catalog::{self, Scope},
    freezer_json::Form,
    proto::{Action, Backup, Client, Job, Session},
    resource::ProjectId,
    store::{self, Examined, OpenError},
};

/// The most records that a server returns in one page.
const PAGE_RECORDS: i32 = 1000;
const BUFFER_BYTES: usize = 256 << 10;

/// Writes what there is as Freezer documents, which `icebox import` reads.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  icebox export --project 752d8bd43d654e7a840bbfda77ce41af --out catalog.json
  icebox export jobs --project - -o jsonl | grep backup-node1
  icebox export backups --project p | jq -r '.backups[].backup_metadata.backup_name'

A FILE is replaced when everything has been written to its end, and not before.")]
pub(super) struct Args {
    /// Just these; everything without it.
    #[arg(value_enum)]
    what: Option<What>,
    /// How they are written
    #[arg(long = "output", short = 'o', alias = "format", value_enum, default_value_t = Format::Json)]
    format: Format,
    /// Where to; standard output without it, or if it is -
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Export a snapshot, or the file of a store that no server runs on; if it is damaged, everything that can still be read
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
    /// The stored actions.
    Actions,
    /// The sessions.
    Sessions,
    /// The clients.
    Clients,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One object: {"backups": […], "jobs": […], …}.
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

/// Where the documents come from.
enum Source {
    Server(Channel),
    /// The file of a store.
    Store(Box<Examined>),
}

/// Opens a store for reading, and reports what is damaged in it.
fn examine(store: &Path, view: Option<&Path>) -> Result<Examined, Error> {
    let failed = |error: OpenError| Error::Failed(format!("{}: {error}", store.display()));
    let examined = store::examine(store, view).map_err(failed)?;
    for finding in &examined.findings {
        eprintln!("icebox: {}: {}", store.display(), Printable(&finding.what));
    }
    Ok(examined)
}

/// Whether a new file may take the place of this path. A pipe or a device must stay what it is.
fn is_replaceable(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |metadata| metadata.is_file())
}

/// Writes a file beside `path` and renames it at the end, so that neither an error nor a crash leaves half a catalog under its
/// name.
async fn export_to_file(
    from: &Source,
    args: &Args,
    project: &str,
    path: &Path,
) -> Result<(), Failure> {
    // A symbolic link stays: the file that it points to is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let Some(name) = path.file_name() else {
        return Err(io::Error::from(io::ErrorKind::InvalidFilename).into());
    };
    let mut temporary_name = name.to_owned();
    temporary_name.push(format!(".{}.part", process::id()));
    let temporary = path.with_file_name(temporary_name);

    // The file holds all of a project's backups, so that only its owner may read it.
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
        // The first error is the one to report.
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

/// Writes the kinds that were asked for, page by page, and gives `to` back.
async fn export<W: Write>(from: &Source, args: &Args, project: &str, to: W) -> Result<W, Failure> {
    let mut documents = Documents::new(BufWriter::with_capacity(BUFFER_BYTES, to), args.format);
    let source = (from, args.what, project);
    write::<Backup, _>(source, What::Backups, &mut documents).await?;
    write::<Job, _>(source, What::Jobs, &mut documents).await?;
    write::<Action, _>(source, What::Actions, &mut documents).await?;
    write::<Session, _>(source, What::Sessions, &mut documents).await?;
    write::<Client, _>(source, What::Clients, &mut documents).await?;
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

/// Writes the documents of one kind, if it was asked for.
async fn write<R: Remote, W: Write>(
    (from, wanted, project): (&Source, Option<What>, &str),
    what: What,
    documents: &mut Documents<W>,
) -> Result<(), Failure> {
    if wanted.is_some_and(|wanted| wanted != what) {
        return Ok(());
    }
    documents.begin(R::PLURAL)?;
    let channel = match from {
        Source::Server(channel) => channel,
        Source::Store(store) => {
            return catalog::for_each(&**store, &scope(project)?, |resource: R| {
                Ok::<_, Failure>(documents.add(&resource.to_document(Form::Document))?)
            });
        }
    };
    let mut place = Place {
        limit: PAGE_RECORDS,
        ..Place::default()
    };
    let filter = R::Filter::default();
    loop {
        let page = R::page(channel, project, place.clone(), &filter).await?;
        for resource in page.decoded()? {
            documents.add(&resource.to_document(Form::Document))?;
        }
        place.page_token = page.next_page_token;
        if place.page_token.is_empty() {
            return Ok(());
        }
    }
}

/// Writes documents one after another: as JSON Lines, or as one object with one document a line.
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

    /// Starts the list with this name, and ends the list before it.
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

    /// Ends what has begun, and gives the writer back.
    fn finish(mut self) -> io::Result<W> {
        if self.format == Format::Json {
            self.to.write_all(b"\n]}\n")?;
        }
        self.to.flush()?;
        Ok(self.to)
    }
}
