//! `icebox backups`: the catalog, for people.

use clap::Subcommand;
use jiff::{Timestamp, civil};
use serde_json::Value;

use super::{
    Error,
    commands::{self, Create, Delete, Get, Listed, Update, Watch, document_of},
    output::{Row, time},
};
use crate::proto::{Backup, BackupFilter};

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
    /// List a project's backups, sorted by name
    List(Listed<Filter>),
    /// Print a project's backups, then whatever changes, until it is ended
    #[command(after_help = "Examples:
  icebox backups watch --project demo --client node1
  icebox backups watch --project demo --output jsonl --after-revision 120000")]
    Watch(Watch<Filter>),
    /// Show backups
    Get(Get),
    /// Record a backup from a Freezer document, or from bare metadata
    Create(Create),
    /// Change a backup's status or metadata
    #[command(
        after_help = "Without --mask, every field that the document sets is changed, and no other. Metadata is merged; its name stays.

Examples:
  icebox backups update BACKUP_ID --set status=available
  icebox backups update BACKUP_ID --set backup_metadata.log_file=/var/log/freezer.log
  echo '{\"status\": \"error\"}' | icebox backups update BACKUP_ID --file -"
    )]
    Update(Update),
    /// Delete backups from the catalog (not from their storage), by their IDs or by what they are
    #[command(after_help = "Examples:
  icebox backups delete BACKUP_ID BACKUP_ID
  icebox backups delete --client node1 --before 2025-01-01")]
    Delete(Delete<Filter>),
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

pub(super) async fn run(args: Args) -> Result<(), Error> {
    match args.command {
        Command::List(args) => commands::list_or_watch::<Backup, _>(args).await,
        Command::Watch(args) => commands::watch::<Backup, _>(args).await,
        Command::Get(args) => commands::get::<Backup>(args).await,
        Command::Create(args) => commands::create::<Backup>(args).await,
        Command::Update(args) => commands::update::<Backup>(args).await,
        Command::Delete(args) => commands::delete::<Backup, _>(args).await,
    }
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
        document_of(self)
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
