//! `icebox clients`: the agents on hosts, for people.

use clap::Subcommand;
use serde_json::Value;

use super::{
    Error,
    commands::{self, Create, Delete, Get, Listed, Update, Watch, document_of},
    output::{Row, time},
};
use crate::proto::{Client, ClientFilter};

/// List, watch, show, register, change and delete clients
#[derive(clap::Args)]
#[command(after_help = "Examples:
  icebox clients list --project demo
  icebox clients create --project demo client.json
  icebox clients update --project demo node1 --set description='the database'
  icebox clients watch --project demo --output jsonl
  icebox clients delete --project demo node1")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    List(Listed<Filter>),
    Watch(Watch<Filter>),
    Get(Get),
    /// Register one from a Freezer document; one that is registered takes what the document says of it
    #[command(visible_alias = "register")]
    Create(Create),
    Update(Update),
    Delete(Delete<Filter>),
}

#[derive(clap::Args)]
#[command(next_help_heading = "Filters (all must match)")]
struct Filter {
    /// Clients whose ID starts with this
    #[arg(long, value_name = "PREFIX")]
    name_prefix: Option<String>,
    /// On this host
    #[arg(long)]
    hostname: Option<String>,
    /// Those that back up what belongs to the whole cloud, or those that do not
    #[arg(long, value_name = "BOOL")]
    central: Option<bool>,
    /// Whose labels match: key=value, key!=value, key in (a,b), key notin (a,b), key, !key, with commas between them
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Option<String>,
}

impl From<Filter> for ClientFilter {
    fn from(filter: Filter) -> Self {
        ClientFilter {
            client_id_prefix: filter.name_prefix.unwrap_or_default(),
            hostname: filter.hostname.unwrap_or_default(),
            is_central: filter.central,
            label_selector: filter.selector.unwrap_or_default(),
            ..ClientFilter::default()
        }
    }
}

pub(super) async fn run(args: Args) -> Result<(), Error> {
    match args.command {
        Command::List(args) => commands::list_or_watch::<Client, _>(args).await,
        Command::Watch(args) => commands::watch::<Client, _>(args).await,
        Command::Get(args) => commands::get::<Client>(args).await,
        Command::Create(args) => commands::create::<Client>(args).await,
        Command::Update(args) => commands::update::<Client>(args).await,
        Command::Delete(args) => commands::delete::<Client, _>(args).await,
    }
}

impl Row for Client {
    const COLUMNS: &'static [&'static str] =
        &["CLIENT ID", "HOSTNAME", "DESCRIPTION", "MODES", "LAST SEEN"];
    const SPARE_COLUMNS: &'static [&'static str] = &["MODES", "DESCRIPTION"];

    fn id(&self) -> &str {
        &self.client_id
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.client_id.clone(),
            self.hostname.clone(),
            self.description.clone(),
            self.supported_modes.join(","),
            time(self.last_seen_time.map_or(0, |time| time.seconds)),
        ]
    }

    fn project(&self) -> &str {
        &self.project_id
    }

    fn document(&self) -> Value {
        document_of(self)
    }
}
