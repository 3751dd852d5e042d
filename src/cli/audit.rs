//! `icebox audit`: who has changed what.

use serde_json::{Value, json};

use super::{
    Connection, Error,
    output::{Listing, Printer, Row, time},
};
use crate::{
    catalog::PAGE_ITEMS_MAX,
    proto::{
        ChangeOperation, ChangeRecord, ListChangesRequest, audit_service_client::AuditServiceClient,
    },
};

/// List who has changed what, oldest first, as far back as the server keeps it
#[derive(clap::Args)]
#[command(after_help = "Examples:
  icebox audit --project demo
  icebox audit --project - --after 120000 --output jsonl
  icebox audit --project demo --kind job --id JOB_ID")]
pub(super) struct Args {
    #[command(flatten)]
    connection: Connection,
    /// Only what was committed after this revision
    #[arg(long, value_name = "REVISION", default_value_t = 0)]
    after: u64,
    /// Print at most this many (default: all)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Only of this kind
    #[arg(long, value_parser = ["backup", "job", "client", "action", "session"])]
    kind: Option<String>,
    /// Only of the resource with this ID
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    listing: Listing,
}

pub(super) async fn run(args: Args) -> Result<(), Error> {
    let project_id = args.connection.project()?;
    let mut printer = Printer::new(&args.listing, project_id == "-")?;
    let mut client = AuditServiceClient::new(args.connection.connect().await?);
    let mut request = ListChangesRequest {
        project_id,
        after_revision: args.after,
        limit: 0,
        kind: args.kind.unwrap_or_default(),
        resource_id: args.id.unwrap_or_default(),
    };
    let mut left = args.limit.unwrap_or(u64::MAX);
    loop {
        let limit = left.min(PAGE_ITEMS_MAX as u64);
        request.limit = i32::try_from(limit).expect("a page's limit is small");
        let page = client.list_changes(request.clone()).await?.into_inner();
        left -= page.changes.len() as u64;
        for change in page.changes {
            printer.print(change)?;
        }
        if page.is_last || left == 0 {
            return printer.finish("change");
        }
        request.after_revision = page.next_after_revision;
    }
}

impl Row for ChangeRecord {
    const COLUMNS: &'static [&'static str] = &[
        "REVISION", "TIME", "CALLER", "FROM", "CHANGE", "KIND", "NAME", "ID",
    ];
    const SPARE_COLUMNS: &'static [&'static str] = &["FROM", "NAME"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.revision.to_string(),
            time(self.commit_time.map_or(0, |time| time.seconds)),
            self.caller.clone(),
            self.peer.clone(),
            operation(self).to_owned(),
            self.kind.clone(),
            self.name.clone(),
            self.resource_id.clone(),
        ]
    }

    fn id(&self) -> &str {
        &self.resource_id
    }

    fn project(&self) -> &str {
        &self.project_id
    }

    fn document(&self) -> Value {
        json!({
            "revision": self.revision,
            "commit_time": time(self.commit_time.map_or(0, |time| time.seconds)),
            "operation": operation(self),
            "kind": self.kind,
            "project_id": self.project_id,
            "resource_id": self.resource_id,
            "name": self.name,
            "caller": self.caller,
            "peer": self.peer,
        })
    }
}

fn operation(change: &ChangeRecord) -> &'static str {
    match change.operation() {
        ChangeOperation::Created => "created",
        ChangeOperation::Updated => "updated",
        ChangeOperation::Deleted => "deleted",
        ChangeOperation::Unspecified => "",
    }
}
