//! Promise: a server takes on no more than its limits allow and tells those whom it refuses. Slow, silent or hostile callers harm
//! nobody else.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use crate::harness::frames::{self, Raw, kind};
use bytes::Bytes;
use icebox::{
    Access, Icebox, Limits, Listener, Options, Tokens,
    proto::{
        Backup, BackupMetadata, CreateBackupRequest, ListBackupsRequest, ListJobsRequest,
        backup_service_client::BackupServiceClient, job_service_client::JobServiceClient,
    },
};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tonic::{Code, Request, Status, transport::Channel};
use tonic_types::StatusExt;

struct Server {
    icebox: Icebox,
    address: String,
    _dir: TempDir,
}

impl Server {
    async fn start(limits: Limits, access: Access) -> Server {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options {
            cache_bytes: 8 << 20,
            ..Options::default()
        };
        let icebox = Icebox::open(dir.path().join("icebox.db"), options).await;
        let icebox = icebox.expect("a store");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound").to_string();
        drop(icebox.serve_those(Listener::from(listener).with_limits(limits), access));
        Server {
            icebox,
            address,
            _dir: dir,
        }
    }

    async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).expect("a URI");
        endpoint.connect().await.expect("it listens")
    }

    async fn raw(&self) -> Raw {
        Raw::connect(&self.address).await
    }

    /// Checks that a caller who behaves is answered.
    async fn answers(&self) {
        let listed = soon(list(self.channel().await)).await;
        assert!(listed.is_ok(), "{listed:?}");
    }

    /// As many backups as a page of `kib` takes.
    async fn fill(&self, kib: usize) {
        for n in 0..kib / 16 {
            let backup = Backup {
                backup_metadata: Some(BackupMetadata {
                    backup_name: format!("b{n}"),
                    container: "c".into(),
                    hostname: "h".into(),
                    fs_real_path: "f".repeat(4096),
                    path_to_backup: "p".repeat(4096),
                    vol_snap_path: "v".repeat(4096),
                    ..BackupMetadata::default()
                }),
                ..Backup::default()
            };
            self.icebox
                .backups()
                .create("demo", backup)
                .await
                .expect("room");
        }
    }
}

/// Nothing here may take forever.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what)
        .await
        .expect("it hangs")
}

async fn list(channel: Channel) -> Result<u64, Status> {
    let request = ListJobsRequest {
        project_id: "demo".into(),
        ..ListJobsRequest::default()
    };
    let mut jobs = JobServiceClient::new(channel);
    Ok(jobs.list_jobs(request).await?.into_inner().revision)
}

fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    details.error_info().expect("a reason").reason.clone()
}

#[tokio::test]
async fn a_connection_that_does_not_begin_ends_and_holds_up_nobody() {
    let limits = with(|limits| {
        limits.greeting_timeout = Duration::from_millis(300);
        limits.connections = 3;
    });
    let server = Server::start(limits, Access::default()).await;
    let before = Instant::now();
    let mut silent = [
        server.raw().await,
        server.raw().await,
        server.raw().await,
        server.raw().await,
    ];
    silent[1].send(b"PRI * HT").await;
    silent[2].send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    // These take all places. When their time is over, there is one again.
    server.answers().await;
    assert!(before.elapsed() >= Duration::from_millis(250));
    for silent in &mut silent {
        soon(silent.end()).await;
    }
    server.answers().await;
}

fn with(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

/// A connection of a client that sends and reads exactly what the test says.
async fn h2(server: &Server) -> h2::client::SendRequest<Bytes> {
    let tcp = TcpStream::connect(&server.address)
        .await
        .expect("it listens");
    let (requests, connection) = h2::client::handshake(tcp).await.expect("HTTP/2");
    tokio::spawn(connection);
    requests.ready().await.expect("HTTP/2")
}

fn request(method: &str) -> http::request::Builder {
    http::Request::post(format!("http://localhost/freezer.v2.{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

/// A message in the form that it has on the wire.
fn message(message: &impl prost::Message) -> Bytes {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).expect("small").to_be_bytes();
    [&[0], &length[..], &message[..]].concat().into()
}

fn code(answer: &http::Response<h2::RecvStream>) -> Code {
    Code::from_bytes(answer.headers()["grpc-status"].as_bytes())
}

#[tokio::test]
async fn a_request_has_an_end_whether_its_caller_says_so_or_not() {
    let limits = with(|limits| limits.request_timeout = Duration::from_millis(300));
    let server = Server::start(limits, Access::default()).await;
    let mut requests = h2(&server).await;
    for timeout in [None, Some("20m"), Some("1H"), Some("soon")] {
        let mut request = request("JobService/ListJobs");
        if let Some(timeout) = timeout {
            request = request.header("grpc-timeout", timeout);
        }
        let request = request.body(()).unwrap();
        let (answer, mut body) = requests.send_request(request, false).unwrap();
        // The end of its message never comes.
        let part = Bytes::from_static(&[0, 0, 0, 0, 9, 1, 2]);
        body.send_data(part, false).unwrap();
        assert_eq!(code(&soon(answer).await.unwrap()), Code::DeadlineExceeded);
    }
    server.answers().await;
}

/// Two callers who may do everything, with the tokens `test` and `3`.
fn two_callers() -> Access {
    let token = |name: &str, hash: &str| {
        format!("[[token]]\nsha256 = \"{hash}\"\nuser_id = \"{name}\"\nrole = \"admin\"\n")
    };
    let text = token(
        "a",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    ) + &token(
        "b",
        "4e07408562bedb8b60ce05c1decfe3ad16b72230967de01f640b7e4729b49fce",
    );
    Access::with_tokens(Tokens::parse(&text).expect("tokens"))
}

/// The results of backups that many callers create at once, by the token of each.
async fn create_at_once(channel: &Channel, tokens: &[&str], round: usize) -> Vec<Status> {
    let creates = tokens.iter().enumerate().map(|(caller, token)| {
        let backup = Backup {
            backup_metadata: Some(BackupMetadata {
                backup_name: format!("b{round}-{caller}"),
                container: "c".into(),
                hostname: "h".into(),
                ..BackupMetadata::default()
            }),
            ..Backup::default()
        };
        let mut request = Request::new(CreateBackupRequest {
            project_id: "demo".into(),
            backup: Some(backup),
        });
        let bearer = format!("Bearer {token}").parse().expect("ASCII");
        request.metadata_mut().insert("authorization", bearer);
        let mut backups = BackupServiceClient::new(channel.clone());
        async move { backups.create_backup(request).await }
    });
    let answers = soon(futures_util::future::join_all(creates)).await;
    answers.into_iter().filter_map(Result::err).collect()
}

#[tokio::test]
async fn as_many_calls_as_may_be_under_way_are_taken_and_no_more() {
    const ROUNDS: usize = 50;
    let all = with(|limits| limits.calls = 3);
    // Each of the requests is smaller than 1 KiB.
    let bytes = with(|limits| limits.calls_bytes = 3 << 10);
    let of_one = with(|limits| limits.calls_per_caller = 3);
    for (limits, code, why) in [
        (all, Code::Unavailable, "SERVER_LIMIT"),
        (bytes, Code::Unavailable, "SERVER_LIMIT"),
        (of_one, Code::ResourceExhausted, "CALLER_LIMIT"),
    ] {
        let server = Server::start(limits, two_callers()).await;
        let channel = server.channel().await;
        for round in 0..ROUNDS {
            let refused = create_at_once(&channel, &["test"; 3], round).await;
            assert!(refused.is_empty(), "{refused:?}");
        }
        if why == "CALLER_LIMIT" {
            // The calls of one caller do not count for another.
            let both = ["test", "3", "test", "3", "test", "3"];
            let refused = create_at_once(&channel, &both, ROUNDS).await;
            assert!(refused.is_empty(), "{refused:?}");
        }
        // They wait for the disk, so that some of them come while others are under way. If that did not happen, try again.
        let mut rounds = ROUNDS + 1..2 * ROUNDS;
        let refused = loop {
            let round = rounds.next().expect("some are refused");
            let refused = create_at_once(&channel, &["test"; 12], round).await;
            if !refused.is_empty() {
                break refused;
            }
        };
        for refused in refused {
            assert_eq!((refused.code(), reason(&refused).as_str()), (code, why));
            let retry = refused.get_error_details().retry_info().cloned();
            assert!(retry.unwrap().retry_delay.unwrap() > Duration::ZERO);
        }
        let refused = create_at_once(&channel, &["test"; 3], 2 * ROUNDS).await;
        assert!(refused.is_empty(), "{refused:?}");
    }
}

#[tokio::test]
async fn streams_that_there_is_no_room_for_are_refused_and_may_come_again() {
    // An admitted one waits for the reader of a snapshot: a stream keeps its place.
    let access = two_callers();
    let limits = with(|limits| {
        limits.streams = 3;
        limits.streams_per_caller = 2;
    });
    let server = Server::start(limits, access).await;
    let channel = server.channel().await;
    let watch = async |token: &str| {
        let mut health = tonic::client::Grpc::new(channel.clone());
        health.ready().await.unwrap();
        let (open, requests) = tokio::sync::mpsc::channel::<()>(1);
        let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
        let requests = tokio_stream::StreamExt::map(requests, |()| {
            tonic_reflection::pb::v1::ServerReflectionRequest::default()
        });
        let mut request = Request::new(requests);
        let bearer = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        let mut reflection =
            tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(
                channel.clone(),
            );
        let answered = soon(reflection.server_reflection_info(request)).await;
        answered.map(|answer| (answer.into_inner(), open))
    };
    let first = watch("test").await.unwrap();
    let _second = watch("test").await.unwrap();
    let refused = watch("test").await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(reason(&refused), "CALLER_LIMIT");
    let retry = refused.get_error_details().retry_info().cloned();
    assert!(retry.unwrap().retry_delay.unwrap() > Duration::ZERO);
    // The other caller is not affected and gets the last place. Then all are taken.
    let _third = watch("3").await.unwrap();
    let refused = watch("3").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(reason(&refused), "SERVER_LIMIT");
    // A place is free again as soon as a stream ends.
    drop(first);
    let again = async {
        while watch("3").await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(again).await;
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_before_it_is_read() {
    let limits = with(|limits| limits.request_bytes = 100_000);
    let server = Server::start(limits, Access::default()).await;
    // It claims 100 MiB and sends nothing.
    let create = request("JobService/CreateJob").body(()).unwrap();
    let (answer, mut body) = h2(&server).await.send_request(create, false).unwrap();
    let prefix = Bytes::from_static(&[0, 6, 64, 0, 0]);
    body.send_data(prefix, false).unwrap();
    assert_eq!(code(&soon(answer).await.unwrap()), Code::ResourceExhausted);
    let mut backups = BackupServiceClient::new(server.channel().await);
    for (bytes, code) in [
        (99_000, Code::InvalidArgument),
        (100_001, Code::ResourceExhausted),
    ] {
        let request = CreateBackupRequest {
            project_id: "p".repeat(bytes),
            backup: None,
        };
        let refused = soon(backups.create_backup(request.clone()))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), code);
        // A message that is small on the wire counts with its size after decompression.
        let mut packed = backups
            .clone()
            .send_compressed(tonic::codec::CompressionEncoding::Gzip);
        let refused = soon(packed.create_backup(request)).await.unwrap_err();
        assert_eq!(refused.code(), code);
        if code == Code::ResourceExhausted {
            assert_eq!(reason(&refused), "REQUEST_TOO_LARGE");
        }
    }
}

#[tokio::test]
async fn headers_are_limited_and_calls_of_one_connection_wait_for_each_other() {
    let limits = with(|limits| {
        limits.header_bytes = 8 << 10;
        limits.streams_per_connection = 2;
        limits.request_timeout = Duration::from_millis(500);
    });
    let server = Server::start(limits, Access::default()).await;
    let mut requests = h2(&server).await;
    let with_header = |bytes: usize| {
        let request = request("JobService/ListJobs").header("x-long", "x".repeat(bytes));
        request.body(()).unwrap()
    };
    let (answer, _) = requests.send_request(with_header(9 << 10), true).unwrap();
    let refused = soon(answer).await.map(|answer| answer.status().as_u16());
    assert!(!matches!(refused, Ok(200)), "{refused:?}");
    let mut requests = h2(&server).await;
    let (answer, mut body) = requests.send_request(with_header(6 << 10), false).unwrap();
    let list = ListJobsRequest {
        project_id: "demo".into(),
        ..ListJobsRequest::default()
    };
    body.send_data(message(&list), true).unwrap();
    assert_eq!(soon(answer).await.unwrap().status().as_u16(), 200);
    // Two that do not end, and a third that waits until one has.
    let mut open = Vec::new();
    for _ in 0..2 {
        requests = soon(requests.ready()).await.unwrap();
        let begun = requests.send_request(request("JobService/ListJobs").body(()).unwrap(), false);
        open.push(begun.unwrap());
    }
    let third = async {
        let mut requests = requests.ready().await.unwrap();
        let third = request("JobService/ListJobs").body(()).unwrap();
        let (answer, mut body) = requests.send_request(third, false).unwrap();
        body.send_data(message(&list), true).unwrap();
        answer.await.unwrap()
    };
    tokio::pin!(third);
    let waits = tokio::time::timeout(Duration::from_millis(100), &mut third);
    assert!(waits.await.is_err());
    for (answer, _body) in open {
        assert_eq!(code(&soon(answer).await.unwrap()), Code::DeadlineExceeded);
    }
    assert_eq!(soon(third).await.status().as_u16(), 200);
    server.answers().await;
}

#[tokio::test]
async fn who_does_not_read_loses_the_connection_and_others_are_answered() {
    let limits = with(|limits| limits.stall_timeout = Duration::from_millis(500));
    let server = Server::start(limits, Access::default()).await;
    server.fill(512).await;
    let request = ListBackupsRequest {
        project_id: "demo".into(),
        limit: 1000,
        ..ListBackupsRequest::default()
    };
    let ask = async |requests: &mut h2::client::SendRequest<Bytes>| {
        let list = self::request("BackupService/ListBackups").body(()).unwrap();
        let (answer, mut body) = requests.send_request(list, false)?;
        body.send_data(message(&request), true)?;
        soon(answer).await
    };
    // It reads the headers of all answers, and of the rest only what it has room for.
    let mut stalled = h2(&server).await;
    let mut answers = Vec::new();
    let ended = async {
        while let Ok(answer) = ask(&mut stalled).await {
            answers.push(answer);
        }
    };
    tokio::join!(soon(ended), server.answers());
    // Only 16 are made for a client that does not read, besides what fits into the window.
    assert!((16..=24).contains(&answers.len()), "{}", answers.len());
    server.answers().await;
    // A client that reads slowly is not cut off.
    let mut slow = h2(&server).await;
    let mut body = ask(&mut slow).await.unwrap().into_body();
    let mut bytes = 0;
    while let Some(data) = soon(body.data()).await {
        let data = data.unwrap();
        bytes += data.len();
        body.flow_control().release_capacity(data.len()).unwrap();
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    assert!(bytes > 300_000, "{bytes}");
}

#[tokio::test]
async fn floods_end_their_connection_and_others_are_answered() {
    let server = Server::start(Limits::default(), Access::default()).await;
    let path = "/freezer.v2.JobService/ListJobs";
    // Streams that are reset as soon as they are opened.
    let mut resets = server.raw().await;
    resets.begin().await;
    let flood = async {
        for stream in 0..50_000 {
            let stream = 2 * stream + 1;
            if !resets.try_request(stream, path).await
                || !resets
                    .try_frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8])
                    .await
            {
                return;
            }
        }
        resets.end().await;
    };
    tokio::join!(soon(flood), server.answers());

    // Headers that never end.
    let mut headers = server.raw().await;
    headers.begin().await;
    headers.frame(kind::HEADERS, 0, 1, &[0x82]).await;
    let flood = async {
        // A literal header without indexing, `a: 1`.
        let fragment = [0, 1, b'a', 1, b'1'].repeat(2000);
        for _ in 0..10_000 {
            if !headers.try_frame(kind::CONTINUATION, 0, 1, &fragment).await {
                return;
            }
        }
        headers.end().await;
    };
    tokio::join!(soon(flood), server.answers());

    // A body of empty frames.
    let mut empty = server.raw().await;
    empty.begin().await;
    assert!(empty.try_request(1, path).await);
    let flood = async {
        for _ in 0..20_000 {
            if !empty.try_frame(kind::DATA, 0, 1, &[]).await {
                return;
            }
        }
    };
    tokio::join!(soon(flood), server.answers());

    // Many streams, and bytes after the preface that are not HTTP/2.
    let mut many = server.raw().await;
    many.begin().await;
    for stream in 0..5000 {
        if !many.try_request(2 * stream + 1, path).await {
            break;
        }
    }
    server.answers().await;
    let mut garbage = server.raw().await;
    garbage.send(frames::PREFACE).await;
    garbage.send(&[0xff; 4096]).await;
    soon(garbage.end()).await;
    // Settings and pings that each ask for an answer.
    let mut pings = server.raw().await;
    pings.begin().await;
    let flood = async {
        for _ in 0..50_000 {
            if !pings.try_frame(kind::PING, 0, 0, &[7; 8]).await
                || !pings.try_frame(kind::SETTINGS, 0, 0, &[]).await
            {
                return;
            }
        }
    };
    tokio::join!(soon(flood), server.answers());
}
