//! Promise: what a server does is counted as it happens and shown to Prometheus on a listener of its own, without stored data. A
//! supervisor can tell whether the server is alive and whether it is ready.

use std::time::Duration;

use crate::harness::{PROJECT, Server, backup, job};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// The head and the body of the answer to a request.
async fn get(address: &str, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let request = format!("{request} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it reads");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

/// The value of a metric, found by everything that stands before it. The digits after the point are cut.
fn value(text: &str, metric: &str) -> u64 {
    let line = text.lines().find(|line| {
        line.strip_prefix(metric)
            .is_some_and(|rest| rest.starts_with(' '))
    });
    let line = line.unwrap_or_else(|| panic!("no {metric} in {text}"));
    let (_, value) = line.rsplit_once(' ').expect("a value");
    let whole = value.split('.').next().expect("a value");
    whole.parse().expect("a number")
}

#[tokio::test]
async fn prometheus_reads_what_was_done() {
    let server = Server::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(server.icebox.serve_metrics(listener));
    for n in 0..3 {
        server
            .create_backup(backup(&format!("secret{n}")))
            .await
            .unwrap();
    }
    server.create_job(job("hidden")).await.unwrap();
    server.get_job(PROJECT, &"0".repeat(32)).await.unwrap_err();
    let (head, text) = get(&address, "GET /metrics").await;
    assert!(
        head.starts_with("HTTP/1.1 200") && head.contains("openmetrics-text"),
        "{head}"
    );
    let create =
        "icebox_calls_total{method=\"/freezer.v2.BackupService/CreateBackup\",code=\"OK\"}";
    assert_eq!(value(&text, create), 3);
    let missing = "icebox_calls_total{method=\"/freezer.v2.JobService/GetJob\",code=\"NOT_FOUND\"}";
    assert_eq!(value(&text, missing), 1);
    let took = "icebox_call_seconds_count{method=\"/freezer.v2.JobService/CreateJob\"}";
    assert_eq!(value(&text, took), 1);
    assert_eq!(value(&text, "icebox_records{kind=\"backup\"}"), 3);
    assert_eq!(value(&text, "icebox_records{kind=\"job\"}"), 1);
    assert_eq!(value(&text, "icebox_revision"), 4);
    assert_eq!(value(&text, "icebox_ready"), 1);
    assert_eq!(value(&text, "icebox_connections"), 1);
    assert_eq!(value(&text, "icebox_queued_changes"), 0);
    assert_eq!(value(&text, "icebox_group_changes_sum"), 4);
    assert_eq!(value(&text, "icebox_append_seconds_count"), 4);
    assert!(value(&text, "icebox_appended_bytes_total") > 100);
    assert!(value(&text, "icebox_store_bytes{part=\"journal\"}") > 100);
    assert!(text.ends_with("# EOF\n"), "{text}");
    // It counts, and shows nothing of what is stored or of its owners.
    for secret in ["secret", "hidden", PROJECT] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    // Callers cannot choose the names of what is counted.
    let mut other = tonic::client::Grpc::new(server.channel.clone());
    other.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/made.Up/Method");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let refused = other.unary(tonic::Request::new(()), path, codec).await;
    assert_eq!(refused.unwrap_err().code(), tonic::Code::Unimplemented);
    let (_, text) = get(&address, "GET /metrics").await;
    assert!(!text.contains("made.Up"), "{text}");
    let unknown = "icebox_calls_total{method=\"unknown\",code=\"UNIMPLEMENTED\"}";
    assert_eq!(value(&text, unknown), 1);
}

#[tokio::test]
async fn the_listener_answers_what_it_has_and_holds_nobody_up() {
    let server = Server::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = server.icebox.serve_metrics(listener);
    for (request, status) in [
        ("GET /livez", "200"),
        ("GET /readyz", "200"),
        ("HEAD /metrics", "200"),
        ("GET /", "404"),
        ("GET /metrics/../secret", "404"),
        ("POST /metrics", "405"),
        ("nonsense", "400"),
    ] {
        let (head, _) = get(&address, request).await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status}")),
            "{request}: {head}"
        );
    }
    // Silent connections leave room for one that speaks, and do not keep the server from ending.
    let mut silent = Vec::new();
    for _ in 0..7 {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    assert!(get(&address, "GET /livez").await.0.contains("200"));
    let ending = async {
        server.close().await;
        serving.await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(20), ending)
        .await
        .expect("it ends");
}
