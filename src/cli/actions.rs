//! `icebox actions`: stored actions, for people.

use clap::Subcommand;
use serde_json::Value;

use super::{
    Connection, Error,
    commands::{self, Create, Get, List, Place, Update, document_of},
    each::each,
    output::Row,
};
use crate::proto::{
    Action, ActionFilter, DeleteActionRequest, action_service_client::ActionServiceClient,
};

/// List, show, create, change and delete stored actions, which jobs name by their IDs
#[derive(clap::Args)]
#[command(after_help = "Examples:
  icebox actions list --project demo
  icebox actions create --project demo action.json
  icebox actions update --project demo ACTION_ID --set freezer_action.path_to_backup=/srv
  icebox actions delete --project demo --detach ACTION_ID

A change to an action is a change to the jobs that use it.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    List(List<Filter>),
    Get(Get),
    Create(Create),
    Update(Update),
    Delete(Delete),
}

#[derive(clap::Args)]
#[command(next_help_heading = "Filters (all must match)")]
struct Filter {
    /// Actions whose backup's name starts with this
    #[arg(long, value_name = "PREFIX")]
    name_prefix: Option<String>,
    /// backup, restore, info, admin or exec
    #[arg(long)]
    action: Option<String>,
    /// fs, mongo, mysql, sqlserver, cinder, glance, cindernative or nova
    #[arg(long)]
    mode: Option<String>,
}

/// Delete actions
#[derive(clap::Args)]
struct Delete {
    #[command(flatten)]
    connection: Connection,
    /// The actions' IDs, or as much of each as names one
    #[arg(required = true, value_name = "ACTION_ID")]
    ids: Vec<String>,
    /// Take them out of the jobs that use them
    #[arg(long)]
    detach: bool,
}

impl From<Filter> for ActionFilter {
    fn from(filter: Filter) -> Self {
        ActionFilter {
            backup_name_prefix: filter.name_prefix.unwrap_or_default(),
            action: filter.action.unwrap_or_default(),
            mode: filter.mode.unwrap_or_default(),
        }
    }
}

pub(super) async fn run(args: Args) -> Result<(), Error> {
    match args.command {
        Command::List(args) => commands::list::<Action, _>(args).await,
        Command::Get(args) => commands::get::<Action>(args).await,
        Command::Create(args) => commands::create::<Action>(args).await,
        Command::Update(args) => commands::update::<Action>(args).await,
        Command::Delete(args) => delete(args).await,
    }
}

async fn delete(args: Delete) -> Result<(), Error> {
    let place = Place::of(&args.connection).await?;
    let mut client = ActionServiceClient::new(place.channel.clone());
    each(&args.ids, async |typed| {
        let request = DeleteActionRequest {
            project_id: place.project_id.clone(),
            action_id: place.resolve::<Action>(&typed).await?,
            expected_revision: None,
            detach: args.detach,
        };
        client.delete_action(request).await?;
        Ok(())
    })
    .await
}

impl Row for Action {
    const COLUMNS: &'static [&'static str] = &[
        "ACTION ID",
        "BACKUP NAME",
        "ACTION",
        "MODE",
        "STORAGE",
        "PATH",
    ];
    const SPARE_COLUMNS: &'static [&'static str] = &["STORAGE", "MODE", "PATH"];

    fn id(&self) -> &str {
        &self.action_id
    }

    fn cells(&self) -> Vec<String> {
        let action = self.freezer_action.clone().unwrap_or_default();
        vec![
            self.action_id.clone(),
            action.backup_name,
            action.action,
            action.mode,
            action.storage,
            action.path_to_backup,
        ]
    }

    fn project(&self) -> &str {
        &self.project_id
    }

    fn document(&self) -> Value {
        document_of(self)
    }
}
