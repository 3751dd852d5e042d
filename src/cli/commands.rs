//! The commands that every kind of resource has: list, watch, get, create, update and delete.

use serde_json::Value;

use super::{
    Channel, Connection, Error,
    change::{Fields, chosen},
    connection::Placing,
    document,
    each::each,
    ids,
    output::{Format, Listing, Singles, print_one},
    paging::{Paging, for_each, print_pages},
    remote::{Remote, Watchable},
    watch::{Beginning, print_watch},
};
use crate::{
    freezer_json::{Form, Writer},
    resource::{Resource, ResourceId},
};

/// List what a project has, sorted by name
#[derive(clap::Args)]
pub(super) struct List<F: clap::Args> {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    paging: Paging,
    #[command(flatten)]
    filter: F,
    #[command(flatten)]
    listing: Listing,
}

/// List what a project has, sorted by name
#[derive(clap::Args)]
pub(super) struct Listed<F: clap::Args> {
    #[command(flatten)]
    list: List<F>,
    /// Go on printing whatever changes
    #[arg(long, short, conflicts_with_all = ["limit", "marker"])]
    watch: bool,
}

/// Print what a project has, then whatever changes, until it is ended
///
/// A watch that breaks off is taken up again, and misses nothing.
#[derive(clap::Args)]
pub(super) struct Watch<F: clap::Args> {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    beginning: Beginning,
    #[command(flatten)]
    filter: F,
    #[command(flatten)]
    listing: Listing,
}

/// Show those with these IDs
#[derive(clap::Args)]
pub(super) struct Get {
    #[command(flatten)]
    connection: Connection,
    /// The IDs, or as much of each as names one
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// How to print
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Store one from a Freezer document
#[derive(clap::Args)]
pub(super) struct Create {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    placing: Placing,
    /// A document as JSON; - reads standard input
    file: String,
    /// How to print what was stored
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Change one
#[derive(clap::Args)]
#[command(
    after_help = "Without --mask, every field that the document sets is changed, and no other."
)]
pub(super) struct Update {
    #[command(flatten)]
    connection: Connection,
    /// The ID, or as much of it as names one
    id: String,
    #[command(flatten)]
    fields: Fields,
    /// Only if it is still at this revision
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
    /// How to print what was stored
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Delete those with these IDs, or those that a filter chooses
#[derive(clap::Args)]
pub(super) struct Delete<F: clap::Args> {
    #[command(flatten)]
    connection: Connection,
    /// The IDs, or as much of each as names one
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Only if it is still at this revision
    #[arg(long, value_name = "N", requires = "ids")]
    revision: Option<u64>,
    /// Do not ask before those are deleted that a filter chooses
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    filter: F,
}

/// A connection, and the project that a command works in.
pub(super) struct Place {
    pub(super) channel: Channel,
    pub(super) project_id: String,
}

impl Place {
    pub(super) async fn of(connection: &Connection) -> Result<Place, Error> {
        let project_id = connection.project()?;
        Ok(Place {
            channel: connection.connect().await?,
            project_id,
        })
    }

    /// The whole id for what a person has typed.
    pub(super) async fn resolve<R: Remote>(&self, typed: &str) -> Result<String, Error> {
        if R::KIND.is_named_by_id {
            return Ok(typed.to_owned());
        }
        ids::resolve(&self.channel, &self.project_id, R::KIND.field, typed).await
    }
}

pub(super) async fn list<R: Remote, F: clap::Args>(args: List<F>) -> Result<(), Error>
where
    R::Filter: From<F>,
{
    let place = Place::of(&args.connection).await?;
    let filter = args.filter.into();
    let page = async |at| Ok(R::page(&place.channel, &place.project_id, at, &filter).await?);
    let all_projects = place.project_id == "-";
    print_pages::<R>(
        args.paging,
        &args.listing,
        all_projects,
        R::KIND.field,
        page,
    )
    .await
}

/// Like [`list`], for a kind that can be watched, too.
pub(super) async fn list_or_watch<R: Watchable, F: clap::Args>(args: Listed<F>) -> Result<(), Error>
where
    R::Filter: From<F>,
{
    let Listed { list: args, watch } = args;
    if !watch {
        return list::<R, F>(args).await;
    }
    let args = Watch {
        connection: args.connection,
        beginning: Beginning::stored(),
        filter: args.filter,
        listing: args.listing,
    };
    self::watch::<R, F>(args).await
}

pub(super) async fn watch<R: Watchable, F: clap::Args>(args: Watch<F>) -> Result<(), Error>
where
    R::Filter: From<F>,
{
    let place = Place::of(&args.connection).await?;
    let filter = args.filter.into();
    let open = async |after| R::watch(&place.channel, &place.project_id, after, &filter).await;
    let all_projects = place.project_id == "-";
    print_watch::<R>(args.beginning, &args.listing, all_projects, open).await
}

pub(super) async fn get<R: Remote>(args: Get) -> Result<(), Error> {
    let place = Place::of(&args.connection).await?;
    let mut singles = Singles::new(args.output);
    each(&args.ids, async |typed| {
        let id = place.resolve::<R>(&typed).await?;
        let answer = R::get(&place.channel, &place.project_id, id).await?;
        singles.print(&answer.decoded()?)
    })
    .await
}

pub(super) async fn create<R: Remote>(args: Create) -> Result<(), Error> {
    let mut resource: R = document::read(&args.file, R::read)?;
    let meant = args.connection.project_if_named()?;
    let placed = args.placing.place(&mut resource, meant.as_deref());
    placed.map_err(Error::Usage)?;
    let channel = args.connection.connect().await?;
    let created = R::create(&channel, resource).await?;
    print_one(&created.resource, args.output)
}

pub(super) async fn update<R: Remote>(args: Update) -> Result<(), Error> {
    let (mut resource, paths): (R, _) = args.fields.read(R::read_fields)?;
    let place = Place::of(&args.connection).await?;
    let id = place.resolve::<R>(&args.id).await?;
    let id = ResourceId::of(R::KIND, R::KIND.id_field, &id)?;
    resource.set_id(id);
    let (channel, project_id) = (&place.channel, &place.project_id);
    let updated = R::update(channel, project_id, resource, paths, args.revision).await?;
    print_one(&updated, args.output)
}

pub(super) async fn delete<R: Remote, F: clap::Args>(args: Delete<F>) -> Result<(), Error>
where
    R::Filter: From<F>,
{
    let place = Place::of(&args.connection).await?;
    let filter: R::Filter = args.filter.into();
    let is_filtered = filter != R::Filter::default();
    let find = async || {
        let mut found = Vec::new();
        let page = async |at| Ok(R::page(&place.channel, &place.project_id, at, &filter).await?);
        let take = |resource: R| {
            found.push(Resource::id(&resource).to_owned());
            Ok(())
        };
        for_each(Paging::default(), page, take).await?;
        Ok(found)
    };
    let chosen = chosen(args.ids, is_filtered, R::KIND.field, args.yes, find).await?;
    each(&chosen, async |typed| {
        let id = place.resolve::<R>(&typed).await?;
        Ok(R::delete(&place.channel, &place.project_id, id, args.revision).await?)
    })
    .await
}

/// The document of a resource that has only its own fields.
pub(super) fn document_of<R: Remote>(resource: &R) -> Value {
    Writer::of_fields::<R>(Form::Full).json_of(resource)
}
