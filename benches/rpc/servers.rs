//! The servers that are compared: Icebox, one that returns constants, and etcd.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use icebox::proto::backup_service_client::BackupServiceClient;
use prost::Message;
use tonic::transport::Channel;

use super::{
    CONSTANTS,
    client::{get, list},
    disk, store,
};

/// A server in a process of its own. It ends when this is dropped.
pub(crate) struct Server {
    process: Child,
    address: String,
    pub(crate) kind: Kind,
    /// Where its metrics are, if it has any.
    metrics: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A server with Icebox's services.
    Freezer,
    Etcd,
}

pub(crate) fn start_icebox(dir: &Path) -> Server {
    let mut serve = Command::new(env!("CARGO_BIN_EXE_icebox"));
    let metrics = format!("127.0.0.1:{}", port(2));
    serve
        .args(["serve", "--listen", "127.0.0.1:0", "--metrics", &metrics])
        .arg("--store")
        .arg(dir.join("store"))
        .env(
            "ICEBOX_LOG",
            std::env::var("ICEBOX_LOG").unwrap_or_else(|_| "warn".into()),
        );
    let mut server = Server::start(serve);
    server.metrics = Some(metrics);
    server
}

/// One of the ports that this process uses.
fn port(n: u32) -> u32 {
    20_000 + std::process::id() % 10_000 * 3 + n
}

/// Starts a server that returns the real server's answers.
pub(crate) async fn start_constants(icebox: &Server, dir: &Path) -> Server {
    let mut client = BackupServiceClient::new(icebox.channel().await);
    let page = client.list_backups(list("")).await.expect("a page");
    let got = client.get_backup(get(7)).await.expect("a backup");
    let answers = dir.join("answers");
    for (name, message) in [
        ("page", page.into_inner().encode_to_vec()),
        ("backup", got.into_inner().encode_to_vec()),
    ] {
        let mut framed = vec![0];
        framed.extend_from_slice(&u32::try_from(message.len()).expect("small").to_be_bytes());
        framed.extend(message);
        std::fs::write(answers.with_extension(name), framed).expect("room");
    }
    let mut constant = Command::new(std::env::current_exe().expect("this"));
    constant.env(CONSTANTS, &answers);
    Server::start(constant)
}

/// Starts etcd with one member, if it is installed, and gives it as many keys as Icebox has backups.
pub(crate) async fn start_etcd(dir: &Path) -> Option<Server> {
    let (client, peer) = (
        format!("http://127.0.0.1:{}", port(0)),
        format!("http://127.0.0.1:{}", port(1)),
    );
    let process = Command::new("etcd")
        .arg("--data-dir")
        .arg(dir.join("etcd"))
        .args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ])
        .args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ])
        .args([
            "--initial-cluster",
            &format!("default={peer}"),
            "--log-level",
            "error",
        ])
        .args(["--quota-backend-bytes", "8589934592"])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .ok()?;
    let server = Server {
        process,
        address: client.trim_start_matches("http://").to_owned(),
        kind: Kind::Etcd,
        metrics: None,
    };
    let start = Instant::now();
    while tokio::net::TcpStream::connect(&server.address)
        .await
        .is_err()
    {
        if start.elapsed() > Duration::from_secs(20) {
            eprintln!("etcd does not listen: measuring without it");
            return None;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // It elects itself before it accepts writes.
    tokio::time::sleep(Duration::from_secs(2)).await;
    store(server.kind, &server.channel().await).await;
    Some(server)
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
        Server {
            process,
            address,
            kind: Kind::Freezer,
            metrics: None,
        }
    }

    /// The groups that it has committed so far.
    pub(crate) fn groups(&self) -> disk::Groups {
        let address = self.metrics.as_ref().expect("a server with metrics");
        disk::Groups::scraped(address)
    }

    pub(crate) async fn channel(&self) -> Channel {
        let uri = format!("http://{}", self.address);
        let endpoint = Channel::from_shared(uri)
            .expect("a URI")
            .initial_stream_window_size(4 << 20);
        let endpoint = endpoint
            .initial_connection_window_size(16 << 20)
            .tcp_nodelay(true);
        endpoint.connect().await.expect("it listens")
    }

    /// The processor time that it has used.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()));
        let stat = stat.expect("it runs");
        // The fields start after the name, which may contain anything.
        let fields = stat.rsplit(')').next().expect("fields").split_whitespace();
        let ticks: u64 = fields
            .skip(11)
            .take(2)
            .map(|ticks| ticks.parse::<u64>().expect("a number"))
            .sum();
        // USER_HZ is 100 on Linux, whatever the kernel's own clock.
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
