//! `icebox jobs`: the registry, for people.

use clap::Subcommand;
use prost_types::FieldMask;
use serde_json::Value;

use super::{
    Channel, Connection, Error,
    change::{Fields, chosen},
    connection::Placing,
    document,
    each::each,
    ids,
    output::{Format, Listing, Row, Singles, print_one},
    paging::{Paging, Place, for_each, print_pages},
    watch::{Beginning, print_watch},
};
use crate::{
    freezer_json::{self, Form},
    proto::{
        AbortJobRequest, CreateJobRequest, DeleteJobRequest, GetJobRequest, Job, JobFilter,
        JobSchedule, ListJobsRequest, ListJobsResponse, StartJobRequest, StopJobRequest,
        UpdateJobRequest, WatchJobsRequest, job_service_client::JobServiceClient,
    },
};

/// List, show, create, change, start, stop, abort and delete jobs
#[derive(clap::Args)]
#[command(after_help = "Examples:
  icebox jobs list --project demo --status scheduled
  icebox jobs create --project demo job.json
  icebox jobs update --project demo JOB_ID --set description=weekly \\
      --set job_schedule.schedule_interval='7 days'
  icebox jobs start --project demo JOB_ID
  icebox jobs get --project demo --output json JOB_ID")]
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
    /// Ask the jobs' clients to start them
    Start(Ask),
    /// Ask the jobs' clients to end their schedule
    Stop(Ask),
    /// Ask the jobs' clients to end the runs under way
    Abort(Ask),
    Delete(Delete),
}

/// List a project's jobs, sorted by description
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

/// Print a project's jobs, then whatever changes, until it is ended
///
/// A watch that breaks off is taken up again, and misses nothing.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  icebox jobs watch --project demo --client node1
  icebox jobs watch --project demo --output jsonl --after-revision 120000")]
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

#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Filters (all must match)")]
struct Filter {
    /// Run by this client
    #[arg(long, value_name = "CLIENT_ID")]
    client: Option<String>,
    /// Jobs whose description starts with this
    #[arg(long, visible_alias = "name", value_name = "PREFIX")]
    name_prefix: Option<String>,
    /// Of this session
    #[arg(long, value_name = "SESSION_ID")]
    session: Option<String>,
    /// scheduled, running, completed, stop, aborting or removed
    #[arg(long)]
    status: Option<String>,
    /// success, fail or aborted
    #[arg(long)]
    result: Option<String>,
    /// start, stop, abort or remove
    #[arg(long)]
    event: Option<String>,
    /// Whose labels match: key=value, key!=value, key in (a,b), key notin (a,b), key, !key, with commas between them
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Option<String>,
}

/// Show jobs
#[derive(clap::Args)]
struct Get {
    #[command(flatten)]
    connection: Connection,
    /// The jobs' IDs, or as much of each as names one
    #[arg(required = true, value_name = "JOB_ID")]
    ids: Vec<String>,
    /// How to print
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Create a job from a Freezer document
#[derive(clap::Args)]
struct Create {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    placing: Placing,
    /// A job as JSON; - reads standard input
    file: String,
    /// How to print what was stored
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Change a job
#[derive(clap::Args)]
#[command(
    after_help = "Without --mask, every field that the document sets is changed, and no other.

Examples:
  icebox jobs update JOB_ID --set description=weekly
  icebox jobs update JOB_ID --set job_schedule.schedule_end_date=   (clears it)
  echo '{\"job_schedule\": {\"status\": \"completed\"}}' | icebox jobs update JOB_ID --file -
  icebox jobs update JOB_ID --file job.json --mask job_schedule,job_actions"
)]
struct Update {
    #[command(flatten)]
    connection: Connection,
    /// The job's ID, or as much of it as names one
    #[arg(value_name = "JOB_ID")]
    id: String,
    #[command(flatten)]
    fields: Fields,
    /// Only if the job is still at this revision
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
    /// How to print what was stored
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(clap::Args)]
struct Ask {
    #[command(flatten)]
    connection: Connection,
    /// The jobs' IDs, or as much of each as names one
    #[arg(required = true, value_name = "JOB_ID")]
    ids: Vec<String>,
}

/// Delete jobs, by their IDs or by what they are
#[derive(clap::Args)]
#[command(after_help = "Examples:
  icebox jobs delete JOB_ID JOB_ID
  icebox jobs delete --status completed --result success --yes")]
struct Delete {
    #[command(flatten)]
    connection: Connection,
    /// The jobs' IDs, or as much of each as names one
    #[arg(value_name = "JOB_ID")]
    ids: Vec<String>,
    /// Only if the job is still at this revision
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
        Command::Start(args) => {
            ask(args, async |client, project_id, job_id| {
                client
                    .start_job(StartJobRequest { project_id, job_id })
                    .await
                    .map(drop)
            })
            .await
        }
        Command::Stop(args) => {
            ask(args, async |client, project_id, job_id| {
                client
                    .stop_job(StopJobRequest { project_id, job_id })
                    .await
                    .map(drop)
            })
            .await
        }
        Command::Abort(args) => {
            ask(args, async |client, project_id, job_id| {
                client
                    .abort_job(AbortJobRequest { project_id, job_id })
                    .await
                    .map(drop)
            })
            .await
        }
        Command::Delete(args) => delete(args).await,
    }
}

/// A connection, and the project that the command is about.
struct Jobs {
    channel: Channel,
    client: JobServiceClient<Channel>,
    project_id: String,
}

impl Jobs {
    async fn connect(connection: &Connection) -> Result<Jobs, Error> {
        let project_id = connection.project()?;
        let channel = connection.connect().await?;
        Ok(Jobs {
            client: JobServiceClient::new(channel.clone()),
            channel,
            project_id,
        })
    }

    async fn resolve(&self, typed: &str) -> Result<String, Error> {
        ids::resolve(&self.channel, &self.project_id, "job", typed).await
    }

    async fn page(&self, place: Place, filter: &JobFilter) -> Result<ListJobsResponse, Error> {
        let Place {
            limit,
            marker,
            page_token,
        } = place;
        let request = ListJobsRequest {
            project_id: self.project_id.clone(),
            limit,
            marker,
            page_token,
            filter: Some(filter.clone()),
        };
        Ok(self.client.clone().list_jobs(request).await?.into_inner())
    }

    async fn watch(
        &self,
        from: Beginning,
        filter: JobFilter,
        listing: &Listing,
    ) -> Result<(), Error> {
        let open = async |after_revision| {
            let request = WatchJobsRequest {
                project_id: self.project_id.clone(),
                after_revision,
                filter: Some(filter.clone()),
            };
            let watch = self.client.clone().watch_jobs(request).await?;
            Ok(watch.into_inner())
        };
        print_watch::<Job>(from, listing, self.project_id == "-", open).await
    }
}

async fn list(args: List) -> Result<(), Error> {
    let jobs = Jobs::connect(&args.connection).await?;
    let filter = JobFilter::from(args.filter);
    let all_projects = jobs.project_id == "-";
    if args.watch {
        return jobs.watch(Beginning::stored(), filter, &args.listing).await;
    }
    let page = async |place| jobs.page(place, &filter).await;
    print_pages::<Job>(args.paging, &args.listing, all_projects, "job", page).await
}

async fn watch(args: Watch) -> Result<(), Error> {
    let jobs = Jobs::connect(&args.connection).await?;
    let filter = args.filter.into();
    jobs.watch(args.from, filter, &args.listing).await
}

async fn get(args: Get) -> Result<(), Error> {
    let mut jobs = Jobs::connect(&args.connection).await?;
    let mut singles = Singles::new(args.output);
    each(&args.ids, async |typed| {
        let request = GetJobRequest {
            project_id: jobs.project_id.clone(),
            job_id: jobs.resolve(&typed).await?,
        };
        let answer = jobs.client.get_job(request).await?.into_inner();
        singles.print(&answer.decoded()?)
    })
    .await
}

async fn create(args: Create) -> Result<(), Error> {
    let mut job = document::read(&args.file, freezer_json::read_job)?;
    let meant = args.connection.project_if_named()?;
    let placed = args.placing.place_job(&mut job, meant.as_deref());
    placed.map_err(Error::Usage)?;
    let mut client = JobServiceClient::new(args.connection.connect().await?);
    let request = CreateJobRequest {
        project_id: String::new(),
        job: Some(job),
    };
    let answer = client.create_job(request).await?.into_inner();
    print_one(&answer.job.unwrap_or_default(), args.output)
}

async fn update(args: Update) -> Result<(), Error> {
    let (mut job, paths) = args.fields.read(freezer_json::read_job_fields)?;
    let mut jobs = Jobs::connect(&args.connection).await?;
    job.job_id = jobs.resolve(&args.id).await?;
    let request = UpdateJobRequest {
        project_id: jobs.project_id,
        job: Some(job),
        update_mask: Some(FieldMask { paths }),
        expected_revision: args.revision,
    };
    let answer = jobs.client.update_job(request).await?.into_inner();
    print_one(&answer.job.unwrap_or_default(), args.output)
}

/// Start, stop or abort each job.
async fn ask(
    args: Ask,
    mut call: impl AsyncFnMut(
        &mut JobServiceClient<Channel>,
        String,
        String,
    ) -> Result<(), tonic::Status>,
) -> Result<(), Error> {
    let mut jobs = Jobs::connect(&args.connection).await?;
    each(&args.ids, async |typed| {
        let job_id = jobs.resolve(&typed).await?;
        Ok(call(&mut jobs.client, jobs.project_id.clone(), job_id).await?)
    })
    .await
}

async fn delete(args: Delete) -> Result<(), Error> {
    let mut jobs = Jobs::connect(&args.connection).await?;
    let filter = JobFilter::from(args.filter);
    let is_filtered = filter != JobFilter::default();
    let find = async || {
        let mut found = Vec::new();
        let page = async |place| jobs.page(place, &filter).await;
        let take = |job: Job| {
            found.push(job.job_id);
            Ok(())
        };
        for_each(Paging::default(), page, take).await?;
        Ok(found)
    };
    let chosen = chosen(args.ids, is_filtered, "job", args.yes, find).await?;
    each(&chosen, async |typed| {
        let request = DeleteJobRequest {
            project_id: jobs.project_id.clone(),
            job_id: jobs.resolve(&typed).await?,
            expected_revision: args.revision,
        };
        jobs.client.delete_job(request).await?;
        Ok(())
    })
    .await
}

impl From<Filter> for JobFilter {
    fn from(filter: Filter) -> Self {
        JobFilter {
            client_id: filter.client.unwrap_or_default(),
            description_prefix: filter.name_prefix.unwrap_or_default(),
            session_id: filter.session.unwrap_or_default(),
            status: filter.status.unwrap_or_default(),
            result: filter.result.unwrap_or_default(),
            event: filter.event.unwrap_or_default(),
            label_selector: filter.selector.unwrap_or_default(),
        }
    }
}

impl Row for Job {
    const COLUMNS: &'static [&'static str] = &[
        "JOB ID",
        "DESCRIPTION",
        "CLIENT",
        "SCHEDULE",
        "STATUS",
        "EVENT",
        "RESULT",
    ];

    const SPARE_COLUMNS: &'static [&'static str] = &["RESULT", "EVENT", "CLIENT", "SCHEDULE"];

    fn id(&self) -> &str {
        &self.job_id
    }

    fn cells(&self) -> Vec<String> {
        let schedule = self.job_schedule.clone().unwrap_or_default();
        vec![
            self.job_id.clone(),
            self.description.clone(),
            self.client_id.clone(),
            in_short(&schedule),
            schedule.status,
            schedule.event,
            schedule.result,
        ]
    }

    fn project(&self) -> &str {
        &self.project_id
    }

    fn document(&self) -> Value {
        freezer_json::write_job(self, Form::Full)
    }
}

/// How often, or when, or both of the cron-like fields that are set; without any of these, once.
fn in_short(schedule: &JobSchedule) -> String {
    let cron = [
        ("year", &schedule.schedule_year),
        ("month", &schedule.schedule_month),
        ("day", &schedule.schedule_day),
        ("week", &schedule.schedule_week),
        ("day_of_week", &schedule.schedule_day_of_week),
        ("hour", &schedule.schedule_hour),
        ("minute", &schedule.schedule_minute),
        ("second", &schedule.schedule_second),
    ];
    let cron = cron
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}={value}"));
    let parts: Vec<_> = [&schedule.schedule_interval, &schedule.schedule_date]
        .into_iter()
        .filter(|part| !part.is_empty())
        .cloned()
        .chain(cron)
        .collect();
    if parts.is_empty() {
        "once".into()
    } else {
        parts.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_told_in_short() {
        let schedule = JobSchedule {
            schedule_interval: "1 days".into(),
            schedule_hour: "2".into(),
            schedule_minute: "30".into(),
            ..JobSchedule::default()
        };
        assert_eq!(in_short(&schedule), "1 days hour=2 minute=30");
        assert_eq!(in_short(&JobSchedule::default()), "once");
    }
}
