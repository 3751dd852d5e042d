//! `icebox backups`: the catalog, for people.

use clap::Subcommand;
use jiff::{Timestamp, civil};
use prost_types::FieldMask;
use serde_json::Value;

use super::{
    Channel, Connection, Error,
    change::{Fields, chosen},
    connection::Placing,
    document,
    each::each,
    ids,
    output::{Format, Listing, Row, Singles, print_one, time},
    paging::{Paging, Place, for_each, print_pages},
    watch::{Beginning, print_watch},
};
use crate::{
    freezer_json::{self, Form},
    proto::{
        Backup, BackupFilter, CreateBackupRequest, DeleteBackupRequest, GetBackupRequest,
        ListBackupsRequest, ListBackupsResponse, UpdateBackupRequest, WatchBackupsRequest,
        backup_service_client::BackupServiceClient,
    },
};

/// List, show, record, change and delete backups
#[derive(clap::Args)]
#[command(after_help = "Examples:
  icebox backups list --project demo
  icebox backups list --project demo --client node1 --after 2026-01-01 --output jsonl
  icebox backups get --project demo 96a5946a6e994a38a3d1008fbc6f3406
  icebox backups create --project demo backup.json
  icebox backups update --project demo 96a5946a --set status=error
  icebox backups delete --project demo 96a5946a6e994a38a3d1008fbc6f3406")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    List(List),
    Watch(Watch),
    Get(Get),
    Create(Create),
    Update(Update),
    Delete(Delete),
}

/// List a project's backups, sorted by name
#[derive(clap::Args)]
struct List {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    paging: Paging,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    listing: Listing,
    /// Go on printing whatever changes
    #[arg(long, short, conflicts_with_all = ["limit", "marker"])]
    watch: bool,
}

/// Print a project's backups, then whatever changes, until it is ended
///
/// A watch that breaks off is taken up again, and misses nothing.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  icebox backups watch --project demo --client node1
  icebox backups watch --project demo --output jsonl --after-revision 120000")]
struct Watch {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    from: Beginning,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    listing: Listing,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Filters (all must match)")]
struct Filter {
    /// Backups with this name
    #[arg(long)]
    name: Option<String>,
    /// Backups whose name starts with this
    #[arg(long, value_name = "PREFIX")]
    name_prefix: Option<String>,
    /// Taken by this client
    #[arg(long, value_name = "CLIENT_ID")]
    client: Option<String>,
    /// Caused by this job
    #[arg(long, value_name = "JOB_ID")]
    job: Option<String>,
    /// Of this host
    #[arg(long)]
    hostname: Option<String>,
    /// In this container
    #[arg(long)]
    container: Option<String>,
    /// On this kind of storage
    #[arg(long)]
    storage: Option<String>,
    /// Taken in this mode
    #[arg(long)]
    mode: Option<String>,
    /// creating, available, error, deleting or deleted
    #[arg(long)]
    status: Option<String>,
    /// Taken at or after this time: YYYY-MM-DD, RFC 3339, or seconds since the Unix epoch
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    after: Option<i64>,
    /// Taken before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    before: Option<i64>,
    /// Of this level; 0 is a full backup
    #[arg(long, value_name = "N")]
    level: Option<i32>,
    /// Whose labels match: key=value, key!=value, key in (a,b), key notin (a,b), key, !key, with commas between them
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Option<String>,
}

/// Show backups
#[derive(clap::Args)]
struct Get {
    #[command(flatten)]
    connection: Connection,
    /// The backups' IDs, or as much of each as names one
    #[arg(required = true, value_name = "BACKUP_ID")]
    ids: Vec<String>,
    /// How to print
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Record a backup from a Freezer document
#[derive(clap::Args)]
struct Create {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    placing: Placing,
    /// A backup, or bare metadata, as JSON; - reads standard input
    file: String,
    /// How to print what was stored
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Change a backup's status or metadata
#[derive(clap::Args)]
#[command(
    after_help = "Without --mask, every field that the document sets is changed, and no other. Metadata is merged; its name stays.

Examples:
  icebox backups update BACKUP_ID --set status=available
  icebox backups update BACKUP_ID --set backup_metadata.log_file=/var/log/freezer.log
  echo '{\"status\": \"error\"}' | icebox backups update BACKUP_ID --file -"
)]
struct Update {
    #[command(flatten)]
    connection: Connection,
    /// The backup's ID, or as much of it as names one
    #[arg(value_name = "BACKUP_ID")]
    id: String,
    #[command(flatten)]
    fields: Fields,
    /// Only if the backup is still at this revision
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
    /// How to print what was stored
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Delete backups from the catalog (not from their storage), by their IDs or by what they are
#[derive(clap::Args)]
#[command(after_help = "Examples:
  icebox backups delete BACKUP_ID BACKUP_ID
  icebox backups delete --client node1 --before 2025-01-01")]
struct Delete {
    #[command(flatten)]
    connection: Connection,
    /// The backups' IDs, or as much of each as names one
    #[arg(value_name = "BACKUP_ID")]
    ids: Vec<String>,
    /// Only if the backup is still at this revision
    #[arg(long, value_name = "N", requires = "ids")]
    revision: Option<u64>,
    /// Do not ask before those are deleted that a filter chooses
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    filter: Filter,
}

pub(super) async fn run(args: Args) -> Result<(), Error> {
    match args.command {
        Command::List(args) => list(args).await,
        Command::Watch(args) => watch(args).await,
        Command::Get(args) => get(args).await,
        Command::Create(args) => create(args).await,
        Command::Update(args) => update(args).await,
        Command::Delete(args) => delete(args).await,
    }
}

/// A connection, and the project that the command is about.
struct Backups {
    channel: Channel,
    client: BackupServiceClient<Channel>,
    project_id: String,
}

impl Backups {
    async fn connect(connection: &Connection) -> Result<Backups, Error> {
        let project_id = connection.project()?;
        let channel = connection.connect().await?;
        Ok(Backups {
            client: BackupServiceClient::new(channel.clone()),
            channel,
            project_id,
        })
    }

    async fn resolve(&self, typed: &str) -> Result<String, Error> {
        ids::resolve(&self.channel, &self.project_id, "backup", typed).await
    }

    async fn page(
        &self,
        place: Place,
        filter: &BackupFilter,
    ) -> Result<ListBackupsResponse, Error> {
        let Place {
            limit,
            marker,
            page_token,
        } = place;
        let request = ListBackupsRequest {
            project_id: self.project_id.clone(),
            limit,
            marker,
            page_token,
            filter: Some(filter.clone()),
        };
        Ok(self
            .client
            .clone()
            .list_backups(request)
            .await?
            .into_inner())
    }

    async fn watch(
        &self,
        from: Beginning,
        filter: BackupFilter,
        listing: &Listing,
    ) -> Result<(), Error> {
        let open = async |after_revision| {
            let request = WatchBackupsRequest {
                project_id: self.project_id.clone(),
                after_revision,
                filter: Some(filter.clone()),
            };
            let watch = self.client.clone().watch_backups(request).await?;
            Ok(watch.into_inner())
        };
        print_watch::<Backup>(from, listing, self.project_id == "-", open).await
    }
}

async fn list(args: List) -> Result<(), Error> {
    let backups = Backups::connect(&args.connection).await?;
    let filter = BackupFilter::from(args.filter);
    let all_projects = backups.project_id == "-";
    if args.watch {
        return backups
            .watch(Beginning::stored(), filter, &args.listing)
            .await;
    }
    let page = async |place| backups.page(place, &filter).await;
    print_pages::<Backup>(args.paging, &args.listing, all_projects, "backup", page).await
}

async fn watch(args: Watch) -> Result<(), Error> {
    let backups = Backups::connect(&args.connection).await?;
    let filter = args.filter.into();
    backups.watch(args.from, filter, &args.listing).await
}

async fn get(args: Get) -> Result<(), Error> {
    let mut backups = Backups::connect(&args.connection).await?;
    let mut singles = Singles::new(args.output);
    each(&args.ids, async |typed| {
        let request = GetBackupRequest {
            project_id: backups.project_id.clone(),
            backup_id: backups.resolve(&typed).await?,
        };
        let answer = backups.client.get_backup(request).await?.into_inner();
        singles.print(&answer.decoded()?)
    })
    .await
}

async fn create(args: Create) -> Result<(), Error> {
    let mut backup = document::read(&args.file, freezer_json::read_backup)?;
    let meant = args.connection.project_if_named()?;
    let placed = args.placing.place_backup(&mut backup, meant.as_deref());
    placed.map_err(Error::Usage)?;
    let mut client = BackupServiceClient::new(args.connection.connect().await?);
    let request = CreateBackupRequest {
        project_id: String::new(),
        backup: Some(backup),
    };
    let answer = client.create_backup(request).await?.into_inner();
    print_one(&answer.backup.unwrap_or_default(), args.output)
}

async fn update(args: Update) -> Result<(), Error> {
    let (mut backup, paths) = args.fields.read(freezer_json::read_backup)?;
    let mut backups = Backups::connect(&args.connection).await?;
    backup.backup_id = backups.resolve(&args.id).await?;
    let request = UpdateBackupRequest {
        project_id: backups.project_id,
        backup: Some(backup),
        update_mask: Some(FieldMask { paths }),
        expected_revision: args.revision,
    };
    let answer = backups.client.update_backup(request).await?.into_inner();
    print_one(&answer.backup.unwrap_or_default(), args.output)
}

async fn delete(args: Delete) -> Result<(), Error> {
    let mut backups = Backups::connect(&args.connection).await?;
    let filter = BackupFilter::from(args.filter);
    let is_filtered = filter != BackupFilter::default();
    let find = async || {
        let mut found = Vec::new();
        let page = async |place| backups.page(place, &filter).await;
        let take = |backup: Backup| {
            found.push(backup.backup_id);
            Ok(())
        };
        for_each(Paging::default(), page, take).await?;
        Ok(found)
    };
    let chosen = chosen(args.ids, is_filtered, "backup", args.yes, find).await?;
    each(&chosen, async |typed| {
        let request = DeleteBackupRequest {
            project_id: backups.project_id.clone(),
            backup_id: backups.resolve(&typed).await?,
            expected_revision: args.revision,
        };
        backups.client.delete_backup(request).await?;
        Ok(())
    })
    .await
}

impl From<Filter> for BackupFilter {
    fn from(filter: Filter) -> Self {
        BackupFilter {
            backup_name: filter.name.unwrap_or_default(),
            backup_name_prefix: filter.name_prefix.unwrap_or_default(),
            client_id: filter.client.unwrap_or_default(),
            job_id: filter.job.unwrap_or_default(),
            hostname: filter.hostname.unwrap_or_default(),
            container: filter.container.unwrap_or_default(),
            storage: filter.storage.unwrap_or_default(),
            mode: filter.mode.unwrap_or_default(),
            status: filter.status.unwrap_or_default(),
            time_after: filter.after,
            time_before: filter.before,
            curr_backup_level: filter.level,
            label_selector: filter.selector.unwrap_or_default(),
        }
    }
}

impl Row for Backup {
    const COLUMNS: &'static [&'static str] = &[
        "BACKUP ID",
        "NAME",
        "HOSTNAME",
        "CLIENT",
        "LEVEL",
        "TAKEN",
        "STATUS",
    ];

    const SPARE_COLUMNS: &'static [&'static str] = &["LEVEL", "CLIENT", "HOSTNAME", "TAKEN"];

    fn id(&self) -> &str {
        &self.backup_id
    }

    fn cells(&self) -> Vec<String> {
        let metadata = self.backup_metadata.clone().unwrap_or_default();
        vec![
            self.backup_id.clone(),
            metadata.backup_name,
            metadata.hostname,
            self.client_id.clone(),
            metadata.curr_backup_level.to_string(),
            time(metadata.time_stamp),
            if self.status.is_empty() {
                "available"
            } else {
                &self.status
            }
            .to_owned(),
        ]
    }

    fn project(&self) -> &str {
        &self.project_id
    }

    fn document(&self) -> Value {
        freezer_json::write_backup(self, Form::Full)
    }
}

/// A time on the command line, in seconds since the Unix epoch. A date is its midnight in UTC.
fn parse_time(text: &str) -> Result<i64, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.as_second());
    }
    let date = text
        .parse::<civil::Date>()
        .ok()
        .filter(|_| text.len() == "2026-01-31".len());
    date.and_then(|date| date.in_tz("UTC").ok())
        .map(|midnight| midnight.timestamp().as_second())
        .ok_or_else(|| "must be YYYY-MM-DD, RFC 3339 as in 2026-01-31T02:00:00Z, or seconds".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_understood_or_refused() {
        for (text, expected) in [
            ("1486660214", Some(1_486_660_214)),
            ("-1", Some(-1)),
            ("2017-02-09", Some(1_486_598_400)),
            ("2017-02-09T17:10:14Z", Some(1_486_660_214)),
            ("2017-02-09T18:10:14+01:00", Some(1_486_660_214)),
            ("2017-02-31", None),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(parse_time(text).ok(), expected, "{text}");
        }
    }
}
