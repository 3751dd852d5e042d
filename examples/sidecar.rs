//! A sidecar: a process of its own that serves a catalog on a Unix socket, with the program beside it as its client.
//!
//! `cargo run --example sidecar [DIRECTORY]` starts itself again as the sidecar, and ends it when it is done.

use std::{
    env,
    error::Error,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use icebox::{
    Icebox, Options,
    proto::{
        CreateJobRequest, FreezerAction, Job, JobAction, ListJobsRequest,
        job_service_client::JobServiceClient,
    },
};
use tokio::{io::AsyncReadExt, net::UnixListener};
use tonic::transport::{Channel, Endpoint};

/// How often, and after which time, the program tries to reach the sidecar's socket.
const TRIES_MAX: u32 = 200;
const RETRY: Duration = Duration::from_millis(50);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match &arguments[..] {
        [word, directory] if word == "serve" => serve(Path::new(directory)).await,
        [directory] => work(Path::new(directory)).await,
        _ => work(Path::new(".")).await,
    }
}

/// The sidecar. It serves until its standard input ends, which happens when the program that started it ends.
async fn serve(directory: &Path) -> Result<(), Box<dyn Error>> {
    let socket = directory.join("sidecar.sock");
    // A sidecar that was killed has left its socket.
    let _ = std::fs::remove_file(&socket);
    let icebox = Icebox::open(directory.join("sidecar.db"), Options::default()).await?;
    let serving = icebox.serve(UnixListener::bind(&socket)?);
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    icebox.close().await?;
    std::fs::remove_file(&socket)?;
    Ok(serving.await?)
}

/// The program beside it.
async fn work(directory: &Path) -> Result<(), Box<dyn Error>> {
    let mut sidecar = Command::new(env::current_exe()?)
        .arg("serve")
        .arg(directory)
        .stdin(Stdio::piped())
        .spawn()?;
    let mut jobs = JobServiceClient::new(connected(&directory.join("sidecar.sock")).await?);

    let action = FreezerAction {
        action: "backup".into(),
        path_to_backup: "/srv".into(),
        ..FreezerAction::default()
    };
    let job = Job {
        client_id: "web-1".into(),
        description: "nightly".into(),
        job_actions: vec![JobAction {
            freezer_action: Some(action),
            ..JobAction::default()
        }],
        ..Job::default()
    };
    let request = CreateJobRequest {
        project_id: "demo".into(),
        job: Some(job),
    };
    jobs.create_job(request).await?;
    let request = ListJobsRequest {
        project_id: "demo".into(),
        ..ListJobsRequest::default()
    };
    for job in jobs.list_jobs(request).await?.into_inner().decoded()? {
        println!("{}  {}", job.job_id, job.description);
    }

    drop(sidecar.stdin.take());
    let ended = sidecar.wait()?;
    println!("the sidecar has ended: {ended}");
    Ok(())
}

async fn connected(socket: &Path) -> Result<Channel, Box<dyn Error>> {
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()))?;
    for _ in 0..TRIES_MAX {
        if let Ok(channel) = endpoint.connect().await {
            return Ok(channel);
        }
        tokio::time::sleep(RETRY).await;
    }
    Ok(endpoint.connect().await?)
}
