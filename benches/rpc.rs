//! Calls a second over real sockets, each compared with its limit and its peer in the same run.
//!
//! `cargo bench --bench rpc`. The limit is a server that returns constants at once. The peer is etcd, if it is on `PATH`: its
//! `Range` of one key for a get, and its `Put` of the same bytes for a create. The loop is closed: each caller sends its next call
//! when the last one was answered. The client is this process, and the servers are other processes on the same cores; what it
//! creates is encoded ahead, and answers are not decoded.
//!
//! The figures are medians of several rounds, in which all servers take turns. A ratio is taken within each round, so that a machine
//! that is slower in some rounds is so for both sides; of these ratios, too, the median is told.
//!
//! Creates are also compared with the disk: with appends of groups of the size that the server has committed, each with its fdatasync,
//! one after the other. The creates of one caller are also compared with the least that they can take: a create that does nothing,
//! and then an append with its fdatasync.
//!
//! `ICEBOX_SECONDS` is the length of one turn (1), `ICEBOX_ROUNDS` the number of rounds (5), `ICEBOX_CALL` the only call to
//! measure, `ICEBOX_CALLERS` the only number of callers, and `ICEBOX_RECORDS` the number of backups before it begins (0).
//! `ICEBOX_LOG=info` shows what the log line of each change costs.

#[path = "rpc/client.rs"]
mod client;
#[path = "rpc/constants.rs"]
mod constants;
#[path = "rpc/disk.rs"]
mod disk;
#[path = "rpc/servers.rs"]
mod servers;
mod shared;
#[path = "../tests/wire/mod.rs"]
#[allow(dead_code)]
mod wire;

use std::{
    cmp::Ordering,
    future::Future,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{self, AtomicU64},
    },
    time::{Duration, Instant},
};

use icebox::{
    Icebox, Options,
    proto::{ListBackupsRequest, ListBackupsResponse, backup_service_client::BackupServiceClient},
};
use serde_json::json;
use tonic::transport::Channel;

use client::{Creates, create, create_request, etcd_get, get, list};
use servers::{Kind, Server, start_constants, start_etcd, start_icebox};
use shared::write_figures;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The backups for the lists and gets.
const STORED: u64 = 20_000;
/// The calls under way in one measurement, and the connections that they share.
const LOADS: [(usize, usize); 5] = [(1, 1), (16, 1), (64, 1), (64, 8), (256, 8)];
/// A turn warms up for this part of the time that is counted.
const WARM_UP_PART: u32 = 5;
/// More creates in a millisecond than any server here answers, to one caller and to all.
const CREATES_OF_A_CALLER_MAX: usize = 5;
const CREATES_MAX: usize = 25;
/// Set in the process that returns constants.
const CONSTANTS: &str = "ICEBOX_BENCH_CONSTANTS";
/// The number of the first backup that exists before.
const STORED_BEFORE: u64 = 1 << 40;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if let Ok(file) = std::env::var(CONSTANTS) {
        runtime.block_on(constants::serve(&file));
    } else {
        runtime.block_on(measure());
    }
}

/// What one call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    /// A page of 100 from the start.
    List,
    /// A page of 100 after any item.
    Page,
    Get,
    Create,
}

fn setting(name: &str, default: f64) -> f64 {
    let set = std::env::var(name).ok();
    set.map_or(default, |set| set.parse().expect("a number"))
}

#[expect(clippy::too_many_lines, reason = "one measurement")]
async fn measure() {
    let duration = Duration::from_secs_f64(setting("ICEBOX_SECONDS", 1.0));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rounds = setting("ICEBOX_ROUNDS", 5.0) as usize;
    let dir = tempfile::tempdir().expect("a directory");
    store_before(dir.path()).await;
    let icebox = start_icebox(dir.path());
    let markers = fill(&icebox).await;
    let constant = start_constants(&icebox, dir.path()).await;
    let etcd = start_etcd(dir.path()).await;
    println!(
        "{:<8}{:>8}{:>6}{:>11}{:>8}{:>8}{:>8}{:>11}{:>7}{:>11}{:>7}{:>7}{:>11}{:>7}",
        "call",
        "callers",
        "conns",
        "icebox/s",
        "p50 µs",
        "p99 µs",
        "CPU µs",
        "limit/s",
        "ratio",
        "etcd/s",
        "ratio",
        "group",
        "disk/s",
        "ratio"
    );
    let mut rows = Vec::new();
    let only = std::env::var("ICEBOX_CALL").ok();
    let only_callers = std::env::var("ICEBOX_CALLERS").ok();
    for call in [Call::List, Call::Page, Call::Get, Call::Create] {
        if leaves_out(only.as_ref(), &format!("{call:?}")) {
            continue;
        }
        for (callers, connections) in LOADS {
            if leaves_out(only_callers.as_ref(), &callers.to_string()) {
                continue;
            }
            let mut turns: [Vec<Figures>; 3] = Default::default();
            let groups_before = icebox.groups();
            let peer = etcd
                .as_ref()
                .filter(|_| matches!(call, Call::Get | Call::Create));
            let mut least_us: [Vec<u64>; 2] = Default::default();
            for _ in 0..rounds {
                if call == Call::Create && callers == 1 {
                    for (handed_over, least_us) in [false, true].into_iter().zip(&mut least_us) {
                        let us = least_us_of_a_create(&constant, dir.path(), duration, handed_over);
                        least_us.push(us.await);
                    }
                }
                let servers = [Some(&icebox), Some(&constant), peer];
                for (server, turns) in servers.into_iter().zip(&mut turns) {
                    if let Some(server) = server {
                        turns.push(
                            load(server, call, &markers, callers, connections, duration).await,
                        );
                    }
                }
            }
            let [real, limit, peer] = turns.each_ref().map(|turns| median(turns));
            let (real, limit) = (real.expect("measured"), limit.expect("measured"));
            let [of_limit, of_etcd] =
                [&turns[1], &turns[2]].map(|other| of_rates(&turns[0], other));
            let etcd = peer.as_ref().zip(of_etcd).map_or_else(
                || format!("{:>18}", ""),
                |(etcd, ratio)| format!("{:>11.0}{ratio:>7.2}", etcd.rate),
            );
            let disk = (call == Call::Create).then(|| {
                let creates = icebox.groups().mean_since(groups_before);
                disk::Appends::measure(dir.path(), creates, duration)
            });
            let disk_columns = disk.as_ref().map_or_else(String::new, |disk| {
                let creates = disk.creates_a_second();
                format!(
                    "{:>7}{creates:>11.0}{:>7.2}",
                    disk.creates,
                    real.rate / creates
                )
            });
            println!(
                "{:<8}{callers:>8}{connections:>6}{:>11.0}{:>8}{:>8}{:>8.0}{:>11.0}{:>7.2}{etcd}{disk_columns}",
                format!("{call:?}"),
                real.rate,
                real.p50_us,
                real.p99_us,
                real.server_cpu_us,
                limit.rate,
                of_limit.expect("measured"),
            );
            let least = (!least_us[0].is_empty())
                .then(|| least_us.map(|least_us| Least::of(&turns[0], &least_us)));
            if let Some([least, handed_over]) = &least {
                println!(
                    "  a create that does nothing, then an append: {} µs (icebox: {:.2}); by another thread: {} µs (icebox: {:.2})",
                    least.us, least.ratio, handed_over.us, handed_over.ratio
                );
            }
            rows.push(json!({
                "call": format!("{call:?}"),
                "callers": callers,
                "connections": connections,
                "icebox": real.json(),
                "limit": limit.json(),
                "etcd": peer.as_ref().map(Figures::json),
                "of_limit": of_limit,
                "of_etcd": of_etcd,
                "disk": disk.map(|disk| disk.json()),
                "least_us": least.as_ref().map(|least| least.each_ref().map(|least| least.us)),
                "of_least": least.as_ref().map(|least| least.each_ref().map(|least| least.ratio)),
            }));
        }
    }
    // What was measured in part leaves the figures of the last whole run alone.
    if only.is_none() && only_callers.is_none() {
        write_figures("rpc", &json!({"rows": rows}));
    }
}

/// Whether only something else is to be measured.
fn leaves_out(only: Option<&String>, this: &str) -> bool {
    only.is_some_and(|only| only != this)
}

/// Fills the store before its server starts.
async fn store_before(dir: &Path) {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let records = setting("ICEBOX_RECORDS", 0.0) as u64;
    if records > 0 {
        let icebox = Icebox::open(dir.join("store"), Options::default()).await;
        let icebox = icebox.expect("a store");
        shared::fill(&icebox, STORED_BEFORE..STORED_BEFORE + records, |_| ()).await;
        icebox.close().await.expect("it closes");
    }
}

/// Runs `run` for every number below `count`, 64 at a time.
async fn for_all<F: Future<Output = ()>>(count: u64, run: impl Fn(u64) -> F) {
    let next = AtomicU64::new(0);
    let callers = (0..64).map(|_| async {
        loop {
            let n = next.fetch_add(1, atomic::Ordering::Relaxed);
            if n >= count {
                return;
            }
            run(n).await;
        }
    });
    futures_util::future::join_all(callers).await;
}

/// Stores the backups for the lists and gets.
async fn store(kind: Kind, channel: &Channel) {
    for_all(STORED, |n| {
        create(channel.clone(), kind, create_request(kind, n))
    })
    .await;
}

/// Fills the server. Returns the ids of some backups, spread over the list.
async fn fill(server: &Server) -> Vec<String> {
    let channel = server.channel().await;
    store(server.kind, &channel).await;
    let mut markers = Vec::new();
    let mut client = BackupServiceClient::new(channel);
    let mut page_token = String::new();
    loop {
        let request = ListBackupsRequest {
            page_token,
            ..list("")
        };
        let page: ListBackupsResponse = client
            .list_backups(request)
            .await
            .expect("a page")
            .into_inner();
        if page.next_page_token.is_empty() {
            return markers;
        }
        let last = page.decoded().expect("backups").pop().expect("a full page");
        markers.push(last.backup_id);
        page_token = page.next_page_token;
    }
}

#[derive(Clone, Copy)]
struct Figures {
    rate: f64,
    p50_us: u64,
    p99_us: u64,
    server_cpu_us: f64,
}

impl Figures {
    fn json(&self) -> serde_json::Value {
        json!({
            "rate": self.rate.round(),
            "p50_us": self.p50_us,
            "p99_us": self.p99_us,
            "server_cpu_us": self.server_cpu_us.round(),
        })
    }
}

/// The median.
fn middle<T: Copy>(all: impl Iterator<Item = T>, compare: impl Fn(&T, &T) -> Ordering) -> T {
    let mut all: Vec<T> = all.collect();
    all.sort_by(compare);
    all[all.len() / 2]
}

/// The median of each figure.
fn median(turns: &[Figures]) -> Option<Figures> {
    (!turns.is_empty()).then(|| Figures {
        rate: middle(turns.iter().map(|turn| turn.rate), f64::total_cmp),
        p50_us: middle(turns.iter().map(|turn| turn.p50_us), u64::cmp),
        p99_us: middle(turns.iter().map(|turn| turn.p99_us), u64::cmp),
        server_cpu_us: middle(turns.iter().map(|turn| turn.server_cpu_us), f64::total_cmp),
    })
}

/// The median of the ratios of rates in the same rounds.
fn of_rates(turns: &[Figures], others: &[Figures]) -> Option<f64> {
    let rounds = turns.iter().zip(others);
    let ratios = rounds.map(|(turn, other)| turn.rate / other.rate);
    (!others.is_empty()).then(|| middle(ratios, f64::total_cmp))
}

/// The least that a create can take.
struct Least {
    us: u64,
    /// The median of what creates took of it in the same rounds.
    ratio: f64,
}

impl Least {
    #[expect(clippy::cast_precision_loss)]
    fn of(turns: &[Figures], least_us: &[u64]) -> Self {
        let rounds = turns.iter().zip(least_us);
        let ratios = rounds.map(|(turn, &least_us)| turn.p50_us as f64 / least_us as f64);
        Least {
            us: middle(least_us.iter().copied(), u64::cmp),
            ratio: middle(ratios, f64::total_cmp),
        }
    }
}

/// How long a create takes that does nothing, and behind it an append of its bytes with its fdatasync, in the median. They take turns,
/// because a disk that has rested takes longer for a sync.
///
/// With `handed_over`, another thread appends, as in any server that goes on while the disk works.
async fn least_us_of_a_create(
    constant: &Server,
    dir: &Path,
    duration: Duration,
    handed_over: bool,
) -> u64 {
    let (channel, kind) = (constant.channel().await, constant.kind);
    let creates = Creates::encoded(kind, ahead(1, duration));
    let file = Arc::new(Mutex::new(disk::Appended::new(dir, 1)));
    let append = move || file.lock().expect("nobody panics").append();
    let append_there = append.clone();
    let (hand_over, handed) = std::sync::mpsc::channel::<tokio::sync::oneshot::Sender<()>>();
    let appending = std::thread::spawn(move || {
        while let Ok(done) = handed.recv() {
            append_there();
            done.send(()).expect("it waits");
        }
    });
    let taking_turns = tokio::spawn(async move {
        let (start, mut times_us) = (Instant::now(), Vec::new());
        while start.elapsed() < duration {
            let begun = Instant::now();
            create(channel.clone(), kind, creates.take()).await;
            if handed_over {
                let (done, waits) = tokio::sync::oneshot::channel();
                hand_over.send(done).expect("it runs");
                waits.await.expect("it is appended");
            } else {
                append();
            }
            times_us.push(u64::try_from(begun.elapsed().as_micros()).expect("short"));
        }
        middle(times_us.into_iter(), u64::cmp)
    });
    let median_us = taking_turns.await.expect("it does not panic");
    appending.join().expect("it does not panic");
    median_us
}

/// The creates that are encoded before a turn: more than so many callers make in it.
fn ahead(callers: usize, duration: Duration) -> usize {
    let turn = duration + duration / WARM_UP_PART;
    let a_millisecond = (callers * CREATES_OF_A_CALLER_MAX).min(CREATES_MAX);
    usize::try_from(turn.as_millis()).expect("short") * a_millisecond
}

/// Makes one call.
async fn make(
    call: Call,
    kind: Kind,
    channel: &Channel,
    n: u64,
    markers: &[String],
    creates: &Creates,
) {
    let channel = channel.clone();
    let client = || BackupServiceClient::new(channel.clone());
    match (kind, call) {
        (_, Call::List) => {
            client().list_backups(list("")).await.expect("a page");
        }
        (_, Call::Page) => {
            let marker = &markers[usize::try_from(n).expect("small") % markers.len()];
            client().list_backups(list(marker)).await.expect("a page");
        }
        (Kind::Freezer, Call::Get) => {
            client().get_backup(get(n)).await.expect("a backup");
        }
        (Kind::Etcd, Call::Get) => etcd_get(channel, n).await,
        (_, Call::Create) => create(channel, kind, creates.take()).await,
    }
}

async fn load(
    server: &Server,
    call: Call,
    markers: &[String],
    callers: usize,
    connections: usize,
    duration: Duration,
) -> Figures {
    let mut channels = Vec::new();
    for _ in 0..connections {
        channels.push(server.channel().await);
    }
    let kind = server.kind;
    let ahead = if call == Call::Create {
        ahead(callers, duration)
    } else {
        0
    };
    let creates = Arc::new(Creates::encoded(kind, ahead));
    let start = Instant::now();
    let counted_from = start + duration / WARM_UP_PART;
    let end = counted_from + duration;
    let markers: Arc<[String]> = markers.into();
    let callers: Vec<_> = (0..callers)
        .map(|caller| {
            let channel = channels[caller % connections].clone();
            let (markers, creates) = (markers.clone(), creates.clone());
            tokio::spawn(async move {
                let mut times = Vec::new();
                let mut n = caller as u64;
                loop {
                    let begun = Instant::now();
                    if begun >= end {
                        return times;
                    }
                    n = (n + 7919) % STORED;
                    make(call, kind, &channel, n, &markers, &creates).await;
                    if begun >= counted_from {
                        times.push(begun.elapsed());
                    }
                }
            })
        })
        .collect();
    tokio::time::sleep_until(counted_from.into()).await;
    let cpu = server.cpu();
    tokio::time::sleep_until(end.into()).await;
    let cpu = server.cpu().saturating_sub(cpu);
    let mut times: Vec<Duration> = Vec::new();
    for caller in callers {
        times.extend(caller.await.expect("it does not panic"));
    }
    times.sort_unstable();
    let at =
        |share: usize| u64::try_from(times[times.len() * share / 100].as_micros()).expect("short");
    let count = f64::from(u32::try_from(times.len()).expect("few"));
    Figures {
        rate: count / duration.as_secs_f64(),
        p50_us: at(50),
        p99_us: at(99),
        server_cpu_us: cpu.as_secs_f64() * 1e6 / count,
    }
}
