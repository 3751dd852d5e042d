//! `icebox jobs`: the registry, for people.

use clap::Subcommand;
use prost_types::FieldMask;
use serde_json::{Map, Value};
use tonic::transport::Channel;

use super::{
    Connection, Error, document,
    each::each,
    output::{Format, Row, print_one},
    paging::{Paging, Place, print_pages},
};
use crate::{
    proto::{
        AbortJobRequest, CreateJobRequest, DeleteJobRequest, GetJobRequest, Job, JobFilter,
        JobSchedule, ListJobsRequest, StartJobRequest, StopJobRequest, UpdateJobRequest,
        job_service_client::JobServiceClient,
    },
    resource::freezer_json::{self, Form},
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
    /// How to print
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Filters (all must match)")]
struct Filter {
    /// Run by this client
    #[arg(long, value_name = "CLIENT_ID")]
    client: Option<String>,
    /// Jobs whose description starts with this
    #[arg(long, value_name = "PREFIX")]
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
}

/// Show jobs
#[derive(clap::Args)]
struct Get {
    #[command(flatten)]
    connection: Connection,
    /// The jobs' IDs
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
    /// The job's ID
    #[arg(value_name = "JOB_ID")]
    id: String,
    /// Set one field; an empty VALUE clears it
    #[arg(long = "set", value_name = "PATH=VALUE", value_parser = parse_assignment, required_unless_present = "file")]
    assignments: Vec<(String, String)>,
    /// Take the fields from a document; - reads standard input
    #[arg(long, conflicts_with = "assignments")]
    file: Option<String>,
    /// Change just these fields, clearing those that the document does not set; * for all
    #[arg(long, value_name = "PATHS", value_delimiter = ',', requires = "file")]
    mask: Vec<String>,
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
    /// The jobs' IDs
    #[arg(required = true, value_name = "JOB_ID")]
    ids: Vec<String>,
}

/// Delete jobs
#[derive(clap::Args)]
struct Delete {
    #[command(flatten)]
    connection: Connection,
    /// The jobs' IDs
    #[arg(required = true, value_name = "JOB_ID")]
    ids: Vec<String>,
    /// Only if the job is still at this revision
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
}

pub(super) async fn run(args: Args) -> Result<(), Error> {
    match args.command {
        Command::List(args) => list(args).await,
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

async fn client(connection: &Connection) -> Result<JobServiceClient<Channel>, Error> {
    Ok(JobServiceClient::new(connection.connect().await?))
}

async fn list(args: List) -> Result<(), Error> {
    let project_id = args.connection.project()?.to_owned();
    let mut client = client(&args.connection).await?;
    let filter = JobFilter::from(args.filter);
    print_pages::<Job>(
        args.paging,
        args.output,
        project_id == "-",
        "job",
        async |place| {
            let Place {
                limit,
                marker,
                page_token,
            } = place;
            let request = ListJobsRequest {
                project_id: project_id.clone(),
                limit,
                marker,
                page_token,
                filter: Some(filter.clone()),
            };
            Ok(client.list_jobs(request).await?.into_inner())
        },
    )
    .await
}

async fn get(args: Get) -> Result<(), Error> {
    let project_id = args.connection.project()?.to_owned();
    let mut client = client(&args.connection).await?;
    each(&args.ids, async |job_id| {
        let request = GetJobRequest {
            project_id: project_id.clone(),
            job_id,
        };
        let job = client
            .get_job(request)
            .await?
            .into_inner()
            .job
            .unwrap_or_default();
        print_one(&job, args.output)
    })
    .await
}

async fn create(args: Create) -> Result<(), Error> {
    let job = document::read(&args.file, freezer_json::read_job)?;
    let project_id = if job.project_id.is_empty() {
        args.connection.project()?
    } else {
        ""
    }
    .to_owned();
    let mut client = client(&args.connection).await?;
    let request = CreateJobRequest {
        project_id,
        job: Some(job),
    };
    let job = client
        .create_job(request)
        .await?
        .into_inner()
        .job
        .unwrap_or_default();
    print_one(&job, args.output)
}

async fn update(args: Update) -> Result<(), Error> {
    let project_id = args.connection.project()?.to_owned();
    let (mut job, paths) = if let Some(file) = &args.file {
        (
            document::read(file, freezer_json::read_job_fields)?,
            args.mask,
        )
    } else {
        let (job, _) = freezer_json::read_job_fields(&nested(&args.assignments))?;
        // A key that was left out is no field: the server says so about its path in the mask.
        (
            job,
            args.assignments.into_iter().map(|(path, _)| path).collect(),
        )
    };
    job.job_id = args.id;
    let mut client = client(&args.connection).await?;
    let request = UpdateJobRequest {
        project_id,
        job: Some(job),
        update_mask: Some(FieldMask { paths }),
        expected_revision: args.revision,
    };
    let job = client
        .update_job(request)
        .await?
        .into_inner()
        .job
        .unwrap_or_default();
    print_one(&job, args.output)
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
    let project_id = args.connection.project()?.to_owned();
    let mut client = client(&args.connection).await?;
    each(&args.ids, async |job_id| {
        Ok(call(&mut client, project_id.clone(), job_id).await?)
    })
    .await
}

async fn delete(args: Delete) -> Result<(), Error> {
    let project_id = args.connection.project()?.to_owned();
    let mut client = client(&args.connection).await?;
    each(&args.ids, async |job_id| {
        let project_id = project_id.clone();
        let request = DeleteJobRequest {
            project_id,
            job_id,
            expected_revision: args.revision,
        };
        client.delete_job(request).await?;
        Ok(())
    })
    .await
}

fn parse_assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((path, value)) if !path.is_empty() => Ok((path.to_owned(), value.to_owned())),
        _ => Err("must be PATH=VALUE, as in description=weekly".into()),
    }
}

/// The document in which each path has its value.
fn nested(assignments: &[(String, String)]) -> Value {
    let mut document = Value::Object(Map::new());
    for (path, value) in assignments {
        let mut place = &mut document;
        for segment in path.split('.') {
            if !place.is_object() {
                *place = Value::Object(Map::new());
            }
            place = &mut place[segment];
        }
        *place = Value::String(value.clone());
    }
    document
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
    use serde_json::json;

    #[test]
    fn assignments_make_a_document() {
        let assignments = [
            "description=a=b",
            "job_schedule.status=",
            "job_schedule.event=stop",
        ]
        .map(|text| parse_assignment(text).unwrap());
        let expected =
            json!({"description": "a=b", "job_schedule": {"status": "", "event": "stop"}});
        assert_eq!(nested(&assignments), expected);
        assert!(parse_assignment("description").is_err() && parse_assignment("=x").is_err());
    }

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
