//! Compares Icebox's HTTP API with Freezer's own, with the same requests in the same run: lists of 100, creates, and a scheduler's
//! poll with 1,000 jobs.
//!
//! `python3 benches/freezer/compare.py` installs Freezer's API, starts it, and runs this. Alone, `cargo bench --bench freezer`
//! measures only Icebox. `FREEZER_API` is the address of another API, such as `http://127.0.0.1:9090`.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};

/// The command uses the same allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many callers there are at a time, and how long each keeps calling.
const CALLERS: usize = 16;
const STRETCH: Duration = Duration::from_secs(5);
/// The items in each list.
const LISTED: usize = 100;
/// The jobs that a scheduler's poll looks through, and the number of their clients.
const POLLED: usize = 1000;
const CLIENTS: usize = 100;
/// The projects of the lists, of the polls, and of the creates.
const LISTS: &str = "11111111111111111111111111111111";
const POLLS: &str = "22222222222222222222222222222222";
const CREATES: &str = "33333333333333333333333333333333";

const BACKUPS_LIST: &str = include_str!("../../tests/data/backups-list.json");
const JOB_CREATE: &str = include_str!("../../tests/data/job-create.json");

/// An API and its client.
struct Api {
    at: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// The result of many requests.
#[derive(Debug)]
struct Measured {
    per_second: f64,
    failed: u64,
}

impl Api {
    fn at(at: String) -> Api {
        Api {
            at,
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    /// Whether a request succeeds.
    async fn ask(&self, method: &str, path: &str, body: &str) -> bool {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{}/v2/{path}", self.at))
            .header("Content-Type", "application/json")
            .body(Full::new(Bytes::from(body.to_owned())))
            .expect("a request");
        let Ok(response) = self.client.request(request).await else {
            return false;
        };
        let is_success = response.status().is_success();
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            if frame.is_err() {
                return false;
            }
        }
        is_success
    }

    /// Sends the same request again and again from all callers.
    async fn measure(&self, method: &str, path: &str, body: &str) -> Measured {
        let (done, failed) = (AtomicU64::new(0), AtomicU64::new(0));
        let start = Instant::now();
        let callers = (0..CALLERS).map(|_| async {
            while start.elapsed() < STRETCH {
                let count = if self.ask(method, path, body).await {
                    &done
                } else {
                    &failed
                };
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        futures_util::future::join_all(callers).await;
        #[allow(clippy::cast_precision_loss, reason = "there are few")]
        let done = done.into_inner() as f64;
        Measured {
            per_second: done / start.elapsed().as_secs_f64(),
            failed: failed.into_inner(),
        }
    }

    async fn create(&self, path: &str, document: &Value) {
        let body = document.to_string();
        assert!(self.ask("POST", path, &body).await, "{path}: {body}");
    }

    /// Fills the API with what the figures are about.
    async fn figures(&self) -> Vec<(&'static str, Measured)> {
        let (backup, job) = (backup(), job());
        for project in [LISTS, POLLS, CREATES] {
            for n in 0..CLIENTS {
                let client = json!({"client_id": client_of(n), "hostname": client_of(n)});
                self.create(&format!("{project}/clients/"), &client).await;
            }
        }
        for n in 0..LISTED {
            let mut backup = backup.clone();
            backup["backup_name"] = json!(format!("backup {n:03}"));
            self.create(&format!("{LISTS}/backups/"), &backup).await;
            self.create(&format!("{LISTS}/jobs/"), &job_named(&job, n))
                .await;
        }
        for n in 0..POLLED {
            self.create(&format!("{POLLS}/jobs/"), &job_named(&job, n))
                .await;
        }
        let search = json!({
            "match_not": [{"status": "completed"}],
            "match": [{"client_id": client_of(7)}],
        });
        let limit = format!("limit={LISTED}");
        let poll = "limit=10&offset=0&all_projects=False";
        vec![
            (
                "list 100 backups",
                self.measure("GET", &format!("{LISTS}/backups/?{limit}"), "")
                    .await,
            ),
            (
                "list 100 jobs",
                self.measure("GET", &format!("{LISTS}/jobs/?{limit}"), "")
                    .await,
            ),
            (
                "a page of a scheduler's poll, 1,000 jobs",
                self.measure("GET", &format!("{POLLS}/jobs/?{poll}"), &search.to_string())
                    .await,
            ),
            (
                "create a backup",
                self.measure("POST", &format!("{CREATES}/backups/"), &backup.to_string())
                    .await,
            ),
            (
                "create a job",
                self.measure("POST", &format!("{CREATES}/jobs/"), &job.to_string())
                    .await,
            ),
        ]
    }
}

/// The published backup's metadata, as an agent sends it.
fn backup() -> Value {
    let list: Value = serde_json::from_str(BACKUPS_LIST).expect("JSON");
    list["backups"][0]["backup_metadata"].clone()
}

/// The published job, in another project.
fn job() -> Value {
    let mut job: Value = serde_json::from_str(JOB_CREATE).expect("JSON");
    job["client_id"] = json!(client_of(0));
    job.as_object_mut().expect("an object").remove("project_id");
    let action = &mut job["job_actions"][0]["freezer_action"];
    action
        .as_object_mut()
        .expect("an object")
        .remove("project_id");
    job
}

fn job_named(job: &Value, n: usize) -> Value {
    let mut job = job.clone();
    job["description"] = json!(format!("job {n:04}"));
    job["client_id"] = json!(client_of(n % CLIENTS));
    job
}

fn client_of(n: usize) -> String {
    format!("node{n:03}")
}

/// A running Icebox. Killed when dropped.
struct Server(Child);

impl Server {
    fn start(store: &std::path::Path) -> (Server, String) {
        let mut process = Command::new(env!("CARGO_BIN_EXE_icebox"))
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--http",
                "127.0.0.1:0",
                "--store",
            ])
            .arg(store)
            .env("ICEBOX_LOG", "warn")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let log = BufReader::new(process.stderr.take().expect("it is piped"));
        let mut lines = log.lines();
        // The second line has the address of HTTP.
        let line = lines.nth(1).expect("a line").expect("text");
        let said: Value = serde_json::from_str(&line).expect("it is JSON");
        let address = said["fields"]["address"].as_str().expect("an address");
        let at = format!("http://{address}");
        std::thread::spawn(move || lines.for_each(drop));
        (Server(process), at)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (_server, at) = Server::start(&dir.path().join("icebox.db"));
    let own = Api::at(at).figures().await;
    let theirs = match std::env::var("FREEZER_API") {
        Ok(at) => Some(Api::at(at).figures().await),
        Err(_) => None,
    };
    println!("| {CALLERS} callers, a second | Icebox | freezer-api | ratio |");
    println!("|---|---|---|---|");
    for (n, (what, own)) in own.iter().enumerate() {
        assert_eq!(own.failed, 0, "{what}");
        let (other, ratio) = match theirs.as_ref().map(|theirs| &theirs[n].1) {
            Some(theirs) => (
                format!("{:.2} ({} failed)", theirs.per_second, theirs.failed),
                format!("{:.0}", own.per_second / theirs.per_second),
            ),
            None => Default::default(),
        };
        println!("| {what} | {:.0} | {other} | {ratio} |", own.per_second);
    }
}
