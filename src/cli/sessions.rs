//! `icebox sessions`: jobs that run together, for people.

use clap::Subcommand;
use serde_json::Value;

use super::{
    Connection, Error,
    commands::{self, Create, Delete, Get, Listed, Place, Update, Watch, document_of},
    output::{Format, Row, print_one, time},
};
use crate::proto::{
    AddJobRequest, EndSessionRequest, Job, RemoveJobRequest, Session, SessionFilter,
    StartSessionRequest, session_service_client::SessionServiceClient,
};

/// List, watch, show, create, change and delete sessions, and what their members do
#[derive(clap::Args)]
#[command(after_help = "Examples:
  icebox sessions list --project demo
  icebox sessions create --project demo session.json
  icebox sessions add-job --project demo SESSION_ID JOB_ID
  icebox sessions start --project demo SESSION_ID JOB_ID --tag 3
  icebox sessions end --project demo SESSION_ID JOB_ID --tag 4 --result success")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    List(Listed<Filter>),
    Watch(Watch<Filter>),
    Get(Get),
    Create(Create),
    Update(Update),
    Delete(Delete<Filter>),
    /// Add a job to a session
    AddJob(Member),
    /// Remove a job from a session
    RemoveJob(Member),
    Start(Start),
    End(End),
}

#[derive(clap::Args)]
#[command(next_help_heading = "Filters (all must match)")]
struct Filter {
    /// Sessions whose description starts with this
    #[arg(long, value_name = "PREFIX")]
    name_prefix: Option<String>,
    /// running or completed
    #[arg(long)]
    status: Option<String>,
    /// success or fail
    #[arg(long = "last-result", value_name = "RESULT")]
    result: Option<String>,
    /// With this member
    #[arg(long, value_name = "JOB_ID")]
    job: Option<String>,
}

#[derive(clap::Args)]
struct Member {
    #[command(flatten)]
    connection: Connection,
    /// The session's ID, or as much of it as names one
    session_id: String,
    /// The job's ID, or as much of it as names one
    job_id: String,
    /// How to print what was stored
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Ask, as a member, whether it may run now: prints the answer and the session's tag
#[derive(clap::Args)]
struct Start {
    #[command(flatten)]
    connection: Connection,
    /// The session's ID, or as much of it as names one
    session_id: String,
    /// The member's ID, or as much of it as names one
    job_id: String,
    /// The session's tag as the member knows it
    #[arg(long, value_name = "N")]
    tag: i64,
}

/// Report, as a member, how its run has ended: prints the answer and the session's tag
#[derive(clap::Args)]
struct End {
    #[command(flatten)]
    member: Start,
    /// success, fail or aborted
    #[arg(long)]
    result: String,
}

impl From<Filter> for SessionFilter {
    fn from(filter: Filter) -> Self {
        SessionFilter {
            description_prefix: filter.name_prefix.unwrap_or_default(),
            status: filter.status.unwrap_or_default(),
            result: filter.result.unwrap_or_default(),
            job_id: filter.job.unwrap_or_default(),
        }
    }
}

pub(super) async fn run(args: Args) -> Result<(), Error> {
    match args.command {
        Command::List(args) => commands::list_or_watch::<Session, _>(args).await,
        Command::Watch(args) => commands::watch::<Session, _>(args).await,
        Command::Get(args) => commands::get::<Session>(args).await,
        Command::Create(args) => commands::create::<Session>(args).await,
        Command::Update(args) => commands::update::<Session>(args).await,
        Command::Delete(args) => commands::delete::<Session, _>(args).await,
        Command::AddJob(args) => member(args, true).await,
        Command::RemoveJob(args) => member(args, false).await,
        Command::Start(args) => start(args).await,
        Command::End(args) => end(args).await,
    }
}

impl Place {
    async fn resolve_both(&self, session: &str, job: &str) -> Result<(String, String), Error> {
        let session = self.resolve::<Session>(session).await?;
        let job = super::ids::resolve(&self.channel, &self.project_id, JOB, job).await?;
        Ok((session, job))
    }
}

const JOB: &str = <Job as crate::resource::Resource>::KIND.field;

async fn member(args: Member, joins: bool) -> Result<(), Error> {
    let place = Place::of(&args.connection).await?;
    let both = place.resolve_both(&args.session_id, &args.job_id);
    let (session_id, job_id) = both.await?;
    let mut client = SessionServiceClient::new(place.channel.clone());
    let project_id = place.project_id;
    let session = if joins {
        let request = AddJobRequest {
            project_id,
            session_id,
            job_id,
        };
        client.add_job(request).await?.into_inner().session
    } else {
        let request = RemoveJobRequest {
            project_id,
            session_id,
            job_id,
        };
        client.remove_job(request).await?.into_inner().session
    };
    print_one(&session.unwrap_or_default(), args.output)
}

async fn start(args: Start) -> Result<(), Error> {
    let place = Place::of(&args.connection).await?;
    let both = place.resolve_both(&args.session_id, &args.job_id);
    let (session_id, job_id) = both.await?;
    let request = StartSessionRequest {
        project_id: place.project_id,
        session_id,
        job_id,
        current_tag: args.tag,
    };
    let mut client = SessionServiceClient::new(place.channel);
    let answer = client.start_session(request).await?.into_inner();
    println!("{} {}", answer.result, answer.session_tag);
    Ok(())
}

async fn end(args: End) -> Result<(), Error> {
    let End { member, result } = args;
    let place = Place::of(&member.connection).await?;
    let both = place.resolve_both(&member.session_id, &member.job_id);
    let (session_id, job_id) = both.await?;
    let request = EndSessionRequest {
        project_id: place.project_id,
        session_id,
        job_id,
        current_tag: member.tag,
        result,
    };
    let mut client = SessionServiceClient::new(place.channel);
    let answer = client.end_session(request).await?.into_inner();
    println!("{} {}", answer.result, answer.session_tag);
    Ok(())
}

impl Row for Session {
    const COLUMNS: &'static [&'static str] = &[
        "SESSION ID",
        "DESCRIPTION",
        "JOBS",
        "TAG",
        "STATUS",
        "RESULT",
        "STARTED",
    ];
    const SPARE_COLUMNS: &'static [&'static str] = &["STARTED", "TAG", "JOBS"];

    fn id(&self) -> &str {
        &self.session_id
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.session_id.clone(),
            self.description.clone(),
            self.jobs.len().to_string(),
            self.session_tag.to_string(),
            self.status.clone(),
            self.result.clone(),
            time(self.time_start),
        ]
    }

    fn project(&self) -> &str {
        &self.project_id
    }

    fn document(&self) -> Value {
        document_of(self)
    }
}
