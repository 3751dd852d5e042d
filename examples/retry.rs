//! A client that creates a job and tries again when the server cannot be reached, or does not answer.
//!
//! `cargo run --example retry [SERVER [PROJECT]]`, with a server such as `icebox serve`. The client chooses the id, so that a
//! repeated create finds what an earlier try has stored.

use std::{env, error::Error, time::Duration};

use icebox::proto::{
    CreateJobRequest, FreezerAction, Job, JobAction, job_service_client::JobServiceClient,
};
use tonic::{Code, transport::Endpoint};
use tonic_types::StatusExt;

/// How long one try may take.
const TIMEOUT: Duration = Duration::from_secs(5);
const TRIES_MAX: u32 = 6;
/// How long to wait after the first try. Each further wait is twice as long.
const FIRST_DELAY: Duration = Duration::from_millis(200);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let server = arguments.next().unwrap_or_else(|| "127.0.0.1:50051".into());
    let project_id = arguments.next().unwrap_or_else(|| "demo".into());
    // Connects when it is first used, and again when the connection is lost.
    let endpoint = Endpoint::from_shared(format!("http://{server}"))?.timeout(TIMEOUT);
    let mut jobs = JobServiceClient::new(endpoint.connect_lazy());

    let action = FreezerAction {
        action: "backup".into(),
        path_to_backup: "/srv".into(),
        ..FreezerAction::default()
    };
    let job = Job {
        job_id: uuid::Uuid::now_v7().simple().to_string(),
        client_id: "web-1".into(),
        description: "nightly".into(),
        job_actions: vec![JobAction {
            freezer_action: Some(action),
            ..JobAction::default()
        }],
        ..Job::default()
    };
    let request = CreateJobRequest {
        project_id,
        job: Some(job),
    };
    let mut delay = FIRST_DELAY;
    for tries in 1.. {
        let status = match jobs.create_job(request.clone()).await {
            Ok(created) => {
                let job = created.into_inner().decoded()?;
                println!("{} is stored at revision {}", job.job_id, job.revision);
                return Ok(());
            }
            Err(status) => status,
        };
        // Any other error would be the same again.
        let is_passing = matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded);
        if !is_passing || tries == TRIES_MAX {
            return Err(status.into());
        }
        let asked_for = status
            .get_details_retry_info()
            .and_then(|info| info.retry_delay);
        let wait = asked_for.unwrap_or(delay).max(delay);
        eprintln!("{}: trying again in {wait:?}", status.message());
        tokio::time::sleep(wait).await;
        delay *= 2;
    }
    unreachable!("the last try returns")
}
