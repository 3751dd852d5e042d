//! `icebox jobs`: the registry, for people.

use clap::Subcommand;
use serde_json::Value;
use tonic::Status;

use super::{
    Channel, Connection, Error,
    commands::{self, Create, Delete, Get, Listed, Place, Update, Watch, document_of},
    each::each,
    output::Row,
};
use crate::proto::{
    AbortJobRequest, Job, JobFilter, JobSchedule, StartJobRequest, StopJobRequest,
    job_service_client::JobServiceClient,
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
    /// List a project's jobs, sorted by description
    List(Listed<Filter>),
    /// Print a project's jobs, then whatever changes, until it is ended
    #[command(after_help = "Examples:
  icebox jobs watch --project demo --client node1
  icebox jobs watch --project demo --output jsonl --after-revision 120000")]
    Watch(Watch<Filter>),
    /// Show jobs
    Get(Get),
    /// Create a job from a Freezer document
    Create(Create),
    /// Change a job
    #[command(
        after_help = "Without --mask, every field that the document sets is changed, and no other.

Examples:
  icebox jobs update JOB_ID --set description=weekly
  icebox jobs update JOB_ID --set job_schedule.schedule_end_date=   (clears it)
  echo '{\"job_schedule\": {\"status\": \"completed\"}}' | icebox jobs update JOB_ID --file -
  icebox jobs update JOB_ID --file job.json --mask job_schedule,job_actions"
    )]
    Update(Update),
    /// Ask the jobs' clients to start them
    Start(Ask),
    /// Ask the jobs' clients to end their schedule
    Stop(Ask),
    /// Ask the jobs' clients to end the runs under way
    Abort(Ask),
    /// Delete jobs, by their IDs or by what they are
    #[command(after_help = "Examples:
  icebox jobs delete JOB_ID JOB_ID
  icebox jobs delete --status completed --result success --yes")]
    Delete(Delete<Filter>),
}

#[derive(clap::Args)]
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

#[derive(clap::Args)]
struct Ask {
    #[command(flatten)]
    connection: Connection,
    /// The jobs' IDs, or as much of each as names one
    #[arg(required = true, value_name = "JOB_ID")]
    ids: Vec<String>,
}

pub(super) async fn run(args: Args) -> Result<(), Error> {
    match args.command {
        Command::List(args) => commands::list_or_watch::<Job, _>(args).await,
        Command::Watch(args) => commands::watch::<Job, _>(args).await,
        Command::Get(args) => commands::get::<Job>(args).await,
        Command::Create(args) => commands::create::<Job>(args).await,
        Command::Update(args) => commands::update::<Job>(args).await,
        Command::Start(args) => {
            ask(args, async |mut client, project_id, job_id| {
                let request = StartJobRequest { project_id, job_id };
                client.start_job(request).await.map(drop)
            })
            .await
        }
        Command::Stop(args) => {
            ask(args, async |mut client, project_id, job_id| {
                let request = StopJobRequest { project_id, job_id };
                client.stop_job(request).await.map(drop)
            })
            .await
        }
        Command::Abort(args) => {
            ask(args, async |mut client, project_id, job_id| {
                let request = AbortJobRequest { project_id, job_id };
                client.abort_job(request).await.map(drop)
            })
            .await
        }
        Command::Delete(args) => commands::delete::<Job, _>(args).await,
    }
}

/// Starts, stops or aborts each job.
async fn ask(
    args: Ask,
    call: impl AsyncFn(JobServiceClient<Channel>, String, String) -> Result<(), Status>,
) -> Result<(), Error> {
    let place = Place::of(&args.connection).await?;
    let client = JobServiceClient::new(place.channel.clone());
    each(&args.ids, async |typed| {
        let job_id = place.resolve::<Job>(&typed).await?;
        Ok(call(client.clone(), place.project_id.clone(), job_id).await?)
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
        document_of(self)
    }
}

/// The interval, the date, or both of the cron-like fields that are set. Without any of these the job runs once.
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
