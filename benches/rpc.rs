//! Calls a second over real sockets, each beside its limit in the same run: a server that answers constants at once.
//!
//! `cargo bench --bench rpc`. Closed loop: each caller sends its next call when the last was answered. The client is this process,
//! the servers are others, on the same cores; lists are not decoded. `ICEBOX_SECONDS` is how long each figure is taken (2);
//! `ICEBOX_LOG=info` shows what the line that each change gets costs.

use std::{
    convert::Infallible,
    future::Future,
    io::{BufRead, BufReader},
    pin::Pin,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use icebox::proto::{
    Backup, BackupMetadata, CreateBackupRequest, GetBackupRequest, ListBackupsRequest,
    backup_service_client::BackupServiceClient,
};
use prost::Message;
use tonic::{
    body::Body,
    server::NamedService,
    transport::{Channel, server::TcpIncoming},
};
use tower::Service;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Backups that the lists and gets are of.
const STORED: u64 = 20_000;
/// Calls of one measurement under way, and the connections that they share.
const LOADS: [(usize, usize); 3] = [(1, 1), (16, 1), (64, 8)];
/// Set in the process that answers constants.
const CONSTANTS: &str = "ICEBOX_BENCH_CONSTANTS";

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if let Ok(file) = std::env::var(CONSTANTS) {
        runtime.block_on(serve_constants(&file));
    } else {
        runtime.block_on(measure());
    }
}

/// What one call does: its name, and its request as a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Create,
    Get,
    List,
}

async fn measure() {
    let seconds = std::env::var("ICEBOX_SECONDS").ok();
    let seconds = seconds.map_or(2.0, |seconds| seconds.parse().expect("a number"));
    let duration = Duration::from_secs_f64(seconds);
    let dir = tempfile::tempdir().expect("a directory");
    let mut serve = Command::new(env!("CARGO_BIN_EXE_icebox"));
    serve
        .args(["serve", "--listen", "127.0.0.1:0", "--store"])
        .arg(dir.path().join("store"))
        .env(
            "ICEBOX_LOG",
            std::env::var("ICEBOX_LOG").unwrap_or_else(|_| "warn".into()),
        );
    let icebox = Server::start(serve);
    fill(&icebox).await;

    // What the constant server answers are answers of the real one.
    let mut client = icebox.client().await;
    let page = client
        .list_backups(list())
        .await
        .expect("a page")
        .into_inner();
    let got = client
        .get_backup(get(7))
        .await
        .expect("a backup")
        .into_inner();
    let answers = dir.path().join("answers");
    let answer = |message: Vec<u8>| {
        let mut framed = vec![0];
        framed.extend_from_slice(&u32::try_from(message.len()).expect("small").to_be_bytes());
        framed.extend(message);
        framed
    };
    for (name, message) in [
        ("page", page.encode_to_vec()),
        ("backup", got.encode_to_vec()),
    ] {
        std::fs::write(answers.with_extension(name), answer(message)).expect("room");
    }
    let mut constant = Command::new(std::env::current_exe().expect("this"));
    constant.env(CONSTANTS, &answers);
    let constant = Server::start(constant);

    println!(
        "{:<8}{:>8}{:>6}{:>12}{:>12}{:>8}{:>10}{:>10}",
        "call", "callers", "conns", "icebox/s", "limit/s", "ratio", "p50 µs", "p99 µs"
    );
    for call in [Call::List, Call::Get, Call::Create] {
        for (callers, connections) in LOADS {
            let limit = load(&constant, call, callers, connections, duration).await;
            let real = load(&icebox, call, callers, connections, duration).await;
            println!(
                "{:<8}{callers:>8}{connections:>6}{:>12.0}{:>12.0}{:>8.2}{:>10}{:>10}",
                format!("{call:?}"),
                real.rate,
                limit.rate,
                real.rate / limit.rate,
                real.p50_us,
                real.p99_us,
            );
        }
    }
}

/// A server in a process of its own, ended with this.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(mut command: Command) -> Server {
        let mut process = command.stderr(Stdio::piped()).spawn().expect("it starts");
        let mut log = BufReader::new(process.stderr.take().expect("piped"));
        let mut line = String::new();
        log.read_line(&mut line).expect("a line");
        let first: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        let address = first["fields"]["address"]
            .as_str()
            .expect("an address")
            .to_owned();
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Server { process, address }
    }

    async fn client(&self) -> BackupServiceClient<Channel> {
        let uri = format!("http://{}", self.address);
        let endpoint = Channel::from_shared(uri)
            .expect("a URI")
            .initial_stream_window_size(4 << 20);
        let endpoint = endpoint
            .initial_connection_window_size(16 << 20)
            .tcp_nodelay(true);
        BackupServiceClient::new(endpoint.connect().await.expect("it listens"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn backup(n: u64) -> Backup {
    let metadata = BackupMetadata {
        backup_name: format!("host-{:06}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44),
        container: "c".into(),
        hostname: "h".into(),
        path_to_backup: "/var/lib/data/".repeat(80),
        ..BackupMetadata::default()
    };
    Backup {
        backup_id: format!("{n:032x}"),
        project_id: "bench".into(),
        backup_metadata: Some(metadata),
        ..Backup::default()
    }
}

fn list() -> ListBackupsRequest {
    ListBackupsRequest {
        project_id: "bench".into(),
        limit: 100,
        ..ListBackupsRequest::default()
    }
}

fn get(n: u64) -> GetBackupRequest {
    GetBackupRequest {
        project_id: "bench".into(),
        backup_id: format!("{n:032x}"),
    }
}

async fn create(client: &mut BackupServiceClient<Channel>, n: u64) {
    let request = CreateBackupRequest {
        project_id: String::new(),
        backup: Some(backup(n)),
    };
    client.create_backup(request).await.expect("created");
}

async fn fill(server: &Server) {
    let client = server.client().await;
    let next = Arc::new(AtomicU64::new(0));
    let callers = (0..64).map(|_| {
        let (mut client, next) = (client.clone(), next.clone());
        async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= STORED {
                    return;
                }
                create(&mut client, n).await;
            }
        }
    });
    futures_util::future::join_all(callers).await;
}

struct Figures {
    rate: f64,
    p50_us: u128,
    p99_us: u128,
}

/// Numbers of backups that no earlier measurement has created.
static NEXT: AtomicU64 = AtomicU64::new(1 << 32);

async fn load(
    server: &Server,
    call: Call,
    callers: usize,
    connections: usize,
    duration: Duration,
) -> Figures {
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(server.client().await);
    }
    let start = Instant::now();
    // The first fifth warms up.
    let counted_from = start + duration / 5;
    let end = counted_from + duration;
    let callers = (0..callers).map(|caller| {
        let mut client = clients[caller % connections].clone();
        tokio::spawn(async move {
            let mut times = Vec::new();
            let mut n = caller as u64;
            loop {
                let begun = Instant::now();
                if begun >= end {
                    return times;
                }
                match call {
                    Call::List => drop(client.list_backups(list()).await.expect("a page")),
                    Call::Get => {
                        n = (n + 7919) % STORED;
                        client.get_backup(get(n)).await.expect("a backup");
                    }
                    Call::Create => create(&mut client, NEXT.fetch_add(1, Ordering::Relaxed)).await,
                }
                if begun >= counted_from {
                    times.push(begun.elapsed());
                }
            }
        })
    });
    let mut times: Vec<Duration> = Vec::new();
    for caller in futures_util::future::join_all(callers).await {
        times.extend(caller.expect("it does not panic"));
    }
    times.sort_unstable();
    let at = |share: usize| times[times.len() * share / 100].as_micros();
    Figures {
        rate: f64::from(u32::try_from(times.len()).expect("few")) / duration.as_secs_f64(),
        p50_us: at(50),
        p99_us: at(99),
    }
}

/// Reads each request and answers it with the same bytes: what the transport alone can do.
#[derive(Clone, Copy)]
struct Constants {
    page: &'static [u8],
    backup: &'static [u8],
}

impl NamedService for Constants {
    const NAME: &'static str = "freezer.v2.BackupService";
}

impl Service<Request<Body>> for Constants {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Constants { page, backup } = *self;
        let is_list = request.uri().path().ends_with("/ListBackups");
        let answer = if is_list { page } else { backup };
        Box::pin(async move {
            request.into_body().collect().await.expect("a request");
            let ok = [("grpc-status", "0")].map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            });
            let trailers = async move { Some(Ok::<_, Infallible>(HeaderMap::from_iter(ok))) };
            let body = Full::new(Bytes::from_static(answer)).with_trailers(trailers);
            let response = Response::builder().header("content-type", "application/grpc");
            Ok(response.body(Body::new(body)).expect("a response"))
        })
    }
}

async fn serve_constants(file: &str) {
    let read = |name: &str| -> &'static [u8] {
        std::fs::read(format!("{file}.{name}"))
            .expect("it was written")
            .leak()
    };
    let constants = Constants {
        page: read("page"),
        backup: read("backup"),
    };
    let address = "127.0.0.1:0".parse().expect("an address");
    let incoming = TcpIncoming::bind(address)
        .expect("a free port")
        .with_nodelay(Some(true));
    let address = incoming.local_addr().expect("it is bound");
    eprintln!("{{\"fields\": {{\"address\": \"{address}\"}}}}");
    let serving = tonic::transport::Server::builder().add_service(constants);
    serving
        .serve_with_incoming(incoming)
        .await
        .expect("it serves");
}
