//! Promise: only those who may use gRPC can use Freezer's HTTP API. It uses TLS if gRPC does, and ends with the server.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::harness::freezer::{Freezer, JOBS, job, values};
use icebox::{Access, Icebox, Limits, Listener, Options, Tls, Tokens};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};

/// Runs a server that should serve HTTP there until it ends, and returns its status and output. It makes no store.
fn refused(http: &str) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = dir.path().join("icebox.db");
    let mut serve = Command::new(env!("CARGO_BIN_EXE_icebox"));
    serve.args([
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--http",
        http,
        "--store",
    ]);
    let refused = serve.arg(&store).output().expect("the binary runs");
    assert!(!store.exists());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    (refused.status.code(), said)
}

#[test]
fn an_address_that_others_can_reach_wants_tls_and_tokens() {
    let (status, said) = refused("0.0.0.0:0");
    assert_eq!(status, Some(2), "{said}");
    assert!(
        said.contains("0.0.0.0:0 can be reached from other machines"),
        "{said}"
    );
}

#[test]
fn an_address_that_is_taken_is_told_before_anything_is_opened() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (status, said) = refused(&taken.local_addr().unwrap().to_string());
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("could not listen on"), "{said}");
}

#[test]
fn a_unix_socket_serves_it_as_well_and_goes_with_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("http.sock");
    let mut server = Command::new(env!("CARGO_BIN_EXE_icebox"))
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--cache-mib",
            "16",
            "--http",
        ])
        .arg(format!("unix:{}", socket.display()))
        .arg("--store")
        .arg(dir.path().join("icebox.db"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let answer = ask_unix(&socket);
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let pid = rustix::process::Pid::from_child(&server);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(server.wait().unwrap().success());
    assert!(!socket.exists());
}

/// The answer from there, once somebody listens.
fn ask_unix(socket: &Path) -> String {
    use std::io::{Read, Write};
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let connected = std::os::unix::net::UnixStream::connect(socket);
        if let Ok(mut stream) = connected {
            let request = b"GET /v2/demo/jobs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            stream.write_all(request).expect("it is taken");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            return answer;
        }
        assert!(Instant::now() < until, "nobody listens");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn a_server_that_ends_waits_for_no_connection_that_is_idle() {
    let freezer = Freezer::start().await;
    freezer.get("/v2/demo/jobs").await;
    let mut idle = TcpStream::connect(&freezer.address).await.unwrap();
    idle.write_all(b"GET /v2/demo/jobs HT").await.unwrap();
    let start = Instant::now();
    freezer.icebox.close().await.unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn a_body_may_come_in_chunks_and_be_called_plain_text() {
    let freezer = Freezer::start().await;
    let document = job("nightly").to_string();
    let (begin, end) = document.split_at(document.len() / 2);
    let mut stream = TcpStream::connect(&freezer.address).await.unwrap();
    let head = "POST /v2/demo/jobs/ HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    for chunk in [begin, end, ""] {
        let chunk = format!("{:x}\r\n{chunk}\r\n", chunk.len());
        stream.write_all(chunk.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 Created"), "{answer}");
    assert_eq!(
        freezer.listed("/v2/demo/jobs/", "description").await,
        ["nightly"]
    );
}

/// The answer of a server with TLS to a client that speaks these protocols.
async fn over_tls(
    address: &str,
    trusted: &RootCertStore,
    protocols: &[&[u8]],
) -> std::io::Result<String> {
    let config = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(trusted.clone());
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    let request = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn over_tls_it_speaks_http_1_and_nothing_else() {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
    let mut trusted = RootCertStore::empty();
    trusted.add(certified.cert.der().clone()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let icebox = Icebox::open(dir.path().join("icebox.db"), Options::default())
        .await
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let tls = Tls::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
    drop(icebox.serve_http(Listener::from(listener).with_tls(tls), Access::default()));
    let (http1, http2) = (&b"http/1.1"[..], &b"h2"[..]);
    for protocols in [&[][..], &[http1], &[http2, http1]] {
        let answer = over_tls(&address, &trusted, protocols).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(answer.contains("https://localhost/v2/"), "{answer}");
    }
    assert!(over_tls(&address, &trusted, &[http2]).await.is_err());
}

/// Tokens whose names are their roles.
fn tokens() -> Tokens {
    let entry = |role: &str, hash: &str, client: &str| {
        format!(
            "[[token]]\nsha256 = \"{hash}\"\nuser_id = \"the-{role}\"\nrole = \"{role}\"\nprojects = [\"demo\"]\n{client}\n"
        )
    };
    let text = [
        entry(
            "member",
            "e31ab643c44f7a0ec824b59d1194d60dac334200d845e61d2d289daa0f087ea4",
            "",
        ),
        entry(
            "reader",
            "3d0941964aa3ebdcb00ccef58b1bb399f9f898465e9886d5aec7f31090a0fb30",
            "",
        ),
        entry(
            "agent",
            "d4f0bc5a29de06b510f9aa428f1eedba926012b591fef7a518e776a7c9bd1824",
            "client_id = \"node1\"",
        ),
    ];
    Tokens::parse(&text.concat()).expect("tokens")
}

#[tokio::test]
async fn a_token_may_here_what_it_may_over_grpc() {
    let access = Access::with_tokens(tokens());
    let freezer = Freezer::start_for(access, Limits::default()).await;
    let job_of = |client: &str| {
        let mut job = job("nightly");
        job["client_id"] = json!(client);
        job.to_string()
    };
    let created = async |client: &str| {
        let created = freezer
            .send_as("member", "POST", JOBS, job_of(client))
            .await;
        assert_eq!(created.status, 201, "{created:?}");
        format!("{JOBS}{}", created.document["job_id"].as_str().unwrap())
    };
    let (own, foreign) = (created("node1").await, created("node2").await);
    let stored = freezer.send_as("member", "GET", &own, "").await;
    assert_eq!(stored.document["user_id"], "the-member");
    let patch = r#"{"job_schedule": {"status": "running"}}"#;
    let event = format!("{own}/event");
    let revision = freezer.icebox.revision();
    for (token, method, path, body, status) in [
        ("", "GET", JOBS, "", 401),
        ("nobody", "GET", JOBS, "", 401),
        ("member, member", "GET", JOBS, "", 401),
        ("reader", "GET", JOBS, "", 200),
        ("reader", "POST", JOBS, &job_of("node1"), 403),
        ("reader", "POST", &own, &job_of("node1"), 403),
        ("reader", "PATCH", &own, patch, 403),
        ("reader", "DELETE", &own, "", 403),
        ("reader", "POST", &event, r#"{"start": null}"#, 403),
        ("member", "GET", "/v2/other/jobs", "", 403),
        ("member", "POST", "/v2/other/jobs", &job_of("node1"), 403),
        ("member", "DELETE", &own.replace("demo", "other"), "", 403),
        ("member", "GET", "/v2/demo/jobs?all_projects=True", "", 403),
        ("agent", "POST", JOBS, &job_of("node1"), 403),
        ("agent", "GET", &own, "", 200),
        ("agent", "GET", &foreign, "", 404),
        ("agent", "PATCH", &foreign, patch, 404),
        ("agent", "DELETE", &own, "", 403),
        ("agent", "GET", "/v2/demo/sessions", "", 403),
    ] {
        let answer = freezer.send_as(token, method, path, body.to_owned()).await;
        assert_eq!(
            answer.status, status,
            "{token}: {method} {path}: {answer:?}"
        );
        if status >= 400 {
            assert!(answer.document["description"].is_string(), "{answer:?}");
        }
    }
    assert_eq!(freezer.icebox.revision(), revision);
    let listed = freezer.send_as("agent", "GET", JOBS, "").await;
    assert_eq!(values(&listed.document, "client_id"), ["node1"]);
    let patched = freezer.send_as("agent", "PATCH", &own, patch).await;
    assert_eq!(patched.status, 200, "{patched:?}");
}

/// What Freezer's programs ask a Keystone for.
fn login(password: &str, project: &str) -> String {
    let user = json!({"name": "freezer", "password": password, "domain": {"name": "Default"}});
    let scope = json!({"project": {"name": project, "domain": {"name": "Default"}}});
    json!({"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}).to_string()
}

#[tokio::test]
async fn a_token_is_the_password_of_those_who_ask_a_keystone() {
    let access = Access::with_tokens(tokens());
    let freezer = Freezer::start_for(access, Limits::default()).await;
    let version = freezer.send_as("", "GET", "/v3/", "").await;
    let identity = &version.document["version"];
    assert_eq!((version.status, &identity["id"]), (200, &json!("v3.14")));
    let path = "/v3/auth/tokens";
    let given = freezer
        .send_as("", "POST", path, login("member", "demo"))
        .await;
    assert_eq!(given.status, 201, "{given:?}");
    let token = &given.document["token"];
    assert_eq!(token["user"]["id"], "the-member");
    assert_eq!(token["project"]["id"], "demo");
    let endpoint = &token["catalog"][0]["endpoints"][0]["url"];
    assert_eq!(*endpoint, format!("http://{}", freezer.address));
    for (body, status) in [
        (login("nobody", "demo"), 401),
        (login("member", "other"), 401),
        (login("", "demo"), 401),
        (login("m\nr", "demo"), 401),
        (
            r#"{"auth": {"identity": {"methods": ["password"]}}}"#.into(),
            400,
        ),
        ("[]".into(), 400),
        (String::new(), 400),
    ] {
        let refused = freezer.send_as("", "POST", path, body.clone()).await;
        assert_eq!(refused.status, status, "{body}: {refused:?}");
        assert!(refused.document["description"].is_string(), "{refused:?}");
    }
}
