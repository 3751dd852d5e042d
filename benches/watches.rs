//! What watches cost: the memory of idle ones, how soon a change reaches those of its client, and how they slow down changes that
//! concern none of them.
//!
//! `cargo bench --bench watches`. `ICEBOX_WATCHERS` is the number of idle ones (10,000), each of a client of its own.

mod shared;

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use icebox::proto::{
    CreateJobRequest, FreezerAction, Job, JobAction, JobFilter, UpdateJobRequest, WatchEvent,
    WatchJobsRequest, WatchJobsResponse, job_service_client::JobServiceClient,
};
use serde_json::json;
use tokio::sync::mpsc;
use tonic::{Streaming, transport::Channel};

/// The command uses the same allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROJECT: &str = "demo";
/// The streams of one connection: as many as a server allows.
const STREAMS: usize = 100;
/// The watchers of one client, and how often they are sent a change.
const REACHED: usize = 1_000;
const ROUNDS: usize = 30;
/// How many callers create at a time, and for how long.
const CALLERS: usize = 16;
const STRETCH: Duration = Duration::from_secs(3);

struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(store: &std::path::Path) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_icebox"));
        let mut process = command
            .args(["serve", "--listen", "127.0.0.1:0", "--store"])
            .arg(store)
            .env("ICEBOX_LOG", "warn")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut log = BufReader::new(process.stderr.take().expect("it is piped"));
        let mut line = String::new();
        log.read_line(&mut line).expect("a line");
        let first: serde_json::Value = serde_json::from_str(&line).expect("it is JSON");
        let address = first["fields"]["address"].as_str().expect("an address");
        let address = address.to_owned();
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Server { process, address }
    }

    fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        kib.and_then(|kib| kib.parse::<f64>().ok()).expect("a size") / 1024.0
    }

    async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).expect("a URI");
        endpoint.connect().await.expect("it listens")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn job(description: String, client_id: &str) -> Job {
    Job {
        project_id: PROJECT.into(),
        client_id: client_id.into(),
        description,
        job_actions: vec![JobAction {
            freezer_action: Some(FreezerAction {
                action: "backup".into(),
                ..FreezerAction::default()
            }),
            ..JobAction::default()
        }],
        ..Job::default()
    }
}

async fn create(channel: &Channel, job: Job) -> Job {
    let request = CreateJobRequest {
        project_id: String::new(),
        job: Some(job),
    };
    let mut jobs = JobServiceClient::new(channel.clone());
    let created = jobs.create_job(request);
    let created = created.await.expect("it is created").into_inner();
    created.decoded().expect("the job")
}

/// A watch of a client's jobs that has begun.
async fn watch(channel: &Channel, client_id: &str) -> Streaming<WatchJobsResponse> {
    let request = WatchJobsRequest {
        project_id: PROJECT.into(),
        filter: Some(JobFilter {
            client_id: client_id.into(),
            ..JobFilter::default()
        }),
        ..WatchJobsRequest::default()
    };
    let mut jobs = JobServiceClient::new(channel.clone());
    let watch = jobs.watch_jobs(request);
    let mut watch = watch.await.expect("a watch").into_inner();
    loop {
        let said = watch.message().await.expect("it goes on").expect("it says");
        if said.decoded().expect("it can be read") == Some(WatchEvent::Synced) {
            return watch;
        }
    }
}

/// Begins this many watches, over as few connections as possible.
async fn watches(
    server: &Server,
    count: usize,
    client_id: impl Fn(usize) -> String,
) -> Vec<Streaming<WatchJobsResponse>> {
    let mut watches = Vec::new();
    let mut channel = server.channel().await;
    for n in 0..count {
        if n > 0 && n % STREAMS == 0 {
            channel = server.channel().await;
        }
        watches.push(watch(&channel, &client_id(n)).await);
    }
    watches
}

/// Creates a second, of a client that nobody watches.
#[expect(clippy::cast_precision_loss)]
async fn creates_per_s(server: &Server) -> f64 {
    let channel = server.channel().await;
    let start = Instant::now();
    let callers = (0..CALLERS).map(|caller| {
        let channel = channel.clone();
        tokio::spawn(async move {
            let mut created = 0_u64;
            while start.elapsed() < STRETCH {
                let name = format!("{caller} {created}");
                create(&channel, job(name, "unwatched")).await;
                created += 1;
            }
            created
        })
    });
    let mut created = 0;
    for caller in callers.collect::<Vec<_>>() {
        created += caller.await.expect("it ends");
    }
    created as f64 / start.elapsed().as_secs_f64()
}

/// How long it takes, in milliseconds, until a change has reached all watchers of its client, each time.
async fn reach_ms(server: &Server, watches: Vec<Streaming<WatchJobsResponse>>) -> Vec<f64> {
    let channel = server.channel().await;
    let stored = create(&channel, job("watched".into(), "watched")).await;
    let count = watches.len();
    let (reached, mut all) = mpsc::channel(count);
    for mut watch in watches {
        let reached = reached.clone();
        tokio::spawn(async move {
            while let Ok(Some(said)) = watch.message().await {
                if matches!(said.decoded(), Ok(Some(WatchEvent::Put(_)))) {
                    let _ = reached.send(Instant::now()).await;
                }
            }
        });
    }
    // The create itself is not part of it.
    for _ in 0..count {
        all.recv().await;
    }
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let request = UpdateJobRequest {
            project_id: PROJECT.into(),
            job: Some(Job {
                job_id: stored.job_id.clone(),
                session_tag: i64::try_from(round).expect("few") + 1,
                ..Job::default()
            }),
            ..UpdateJobRequest::default()
        };
        let start = Instant::now();
        let mut jobs = JobServiceClient::new(channel.clone());
        let update = jobs.update_job(request);
        update.await.expect("it is updated");
        let mut last = start;
        for _ in 0..count {
            last = last.max(all.recv().await.expect("it is told"));
        }
        times.push((last - start).as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    times
}

#[expect(clippy::cast_precision_loss)]
fn main() {
    let watchers = std::env::var("ICEBOX_WATCHERS").ok();
    let watchers: usize = watchers.map_or(10_000, |watchers| watchers.parse().expect("a number"));
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(&dir.path().join("icebox.db"));
    // When a watch begins it scans once what is stored. That is not measured here.
    let other = Server::start(&dir.path().join("other.db"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let before_mib = server.resident_mib();
        let idle = watches(&server, watchers, |n| format!("node{n}")).await;
        let idle_mib = server.resident_mib() - before_mib;
        creates_per_s(&server).await;
        let watched_per_s = creates_per_s(&server).await;
        // With the ones that follow there would be more streams than a server allows.
        drop(idle);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let alone_per_s = creates_per_s(&server).await;
        let reached = watches(&other, REACHED, |_| "watched".into()).await;
        let reach = reach_ms(&other, reached).await;
        let (median, slowest) = (reach[reach.len() / 2], reach[reach.len() - 1]);
        println!("{watchers} idle watches   {idle_mib:.0} MiB, {:.1} KiB each", idle_mib * 1024.0 / watchers as f64);
        println!("a change reaches {REACHED} watches of its client   median {median:.1} ms, slowest {slowest:.1} ms");
        println!(
            "creates of {CALLERS} callers that concern none of the idle ones   {watched_per_s:.0}/s, {:.2} of {alone_per_s:.0}/s without",
            watched_per_s / alone_per_s
        );
        shared::write_figures(
            "watches",
            &json!({
                "idle_watches": watchers,
                "idle_mib": idle_mib,
                "reached_watches": REACHED,
                "reach_median_ms": median,
                "reach_slowest_ms": slowest,
                "creates_per_s": watched_per_s,
                "creates_alone_per_s": alone_per_s,
            }),
        );
    });
}
