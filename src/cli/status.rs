//! `icebox status`: the state of a server and its store.

use indicatif::{BinaryBytes, HumanDuration};
use jiff::Timestamp;
use serde_json::json;

use super::{Connection, Error, output::Format};
use crate::proto::{
    GetStatusRequest, GetStatusResponse, maintenance_service_client::MaintenanceServiceClient,
};

/// Show the state of a server: version, health, revision, what it holds and how much room that takes
#[derive(clap::Args)]
#[command(after_help = "Exit status: 0 when it takes writes, 1 when not.")]
pub(super) struct Args {
    /// How to print
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(flatten)]
    connection: Connection,
}

pub(super) async fn run(args: Args) -> Result<(), Error> {
    let mut client = MaintenanceServiceClient::new(args.connection.connect().await?);
    let status = client.get_status(GetStatusRequest {}).await?.into_inner();
    let lines = lines(&status);
    match args.output {
        Format::Table => {
            let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            for (name, value) in lines {
                println!("{name:width$}  {value}");
            }
        }
        format => println!("{}", format.one(&document(&status))?),
    }
    if status.problems.is_empty() {
        Ok(())
    } else {
        Err(Error::Failed(status.problems.join("; ")))
    }
}

fn time(time: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok())
}

fn health(status: &GetStatusResponse) -> &'static str {
    if status.problems.is_empty() {
        "serving"
    } else {
        "not serving"
    }
}

fn lines(status: &GetStatusResponse) -> Vec<(&'static str, String)> {
    let bytes = |bytes: u64| BinaryBytes(bytes).to_string();
    let mut lines = vec![
        ("version", status.version.clone()),
        ("health", health(status).to_owned()),
        ("store", status.store_id.clone()),
        ("revision", status.revision.to_string()),
        ("backups", status.backup_count.to_string()),
        ("jobs", status.job_count.to_string()),
        ("clients", status.client_count.to_string()),
        ("actions", status.action_count.to_string()),
        ("sessions", status.session_count.to_string()),
        ("records", bytes(status.records_bytes)),
        ("journal", bytes(status.journal_bytes)),
        ("view", bytes(status.view_bytes)),
    ];
    if let Some(available) = status.available_bytes {
        lines.push(("left on the disk", bytes(available)));
    }
    if let Some(start) = time(status.start_time.as_ref()) {
        let up = Timestamp::now().duration_since(start).unsigned_abs();
        lines.push(("up for", HumanDuration(up).to_string()));
    }
    if let Some(written) = time(status.records_time.as_ref()) {
        let revision = status.records_revision;
        lines.push((
            "last rewritten",
            format!("{written}, at revision {revision}"),
        ));
    }
    lines
}

fn document(status: &GetStatusResponse) -> serde_json::Value {
    let text = |at: Option<Timestamp>| at.map(|at| at.to_string());
    json!({
        "version": status.version,
        "health": health(status),
        "problems": status.problems,
        "store_id": status.store_id,
        "revision": status.revision,
        "backup_count": status.backup_count,
        "job_count": status.job_count,
        "client_count": status.client_count,
        "action_count": status.action_count,
        "session_count": status.session_count,
        "journal_bytes": status.journal_bytes,
        "records_bytes": status.records_bytes,
        "view_bytes": status.view_bytes,
        "available_bytes": status.available_bytes,
        "start_time": text(time(status.start_time.as_ref())),
        "records_time": text(time(status.records_time.as_ref())),
        "records_revision": status.records_revision,
    })
}
