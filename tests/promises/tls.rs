//! Promise: a server uses TLS with clients that trust its certificate. `--server https://…` refuses servers that are not trusted. A
//! server that others can reach does not start without TLS and tokens.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use crate::harness::child::ChildServer;
use crate::harness::{PROJECT, job};
use icebox::{
    Icebox, Listener, Options, Tls,
    proto::{ListJobsRequest, job_service_client::JobServiceClient},
};
use tokio::net::TcpListener;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

/// The files of a certificate for `localhost`, which is its own issuer, and of its key.
fn certificate(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    let certified =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    (
        file(dir, &format!("{name}.pem"), &certified.cert.pem()),
        file(
            dir,
            &format!("{name}.key"),
            &certified.signing_key.serialize_pem(),
        ),
    )
}

fn icebox() -> Command {
    Command::new(env!("CARGO_BIN_EXE_icebox"))
}

fn list(server: &str, trusted: &Path, token: &str) -> Output {
    let list = [
        "jobs",
        "list",
        "--project",
        "demo",
        "--output",
        "json",
        "--server",
        server,
    ];
    icebox()
        .args(list)
        .env("SSL_CERT_FILE", trusted)
        .env("ICEBOX_TOKEN", token)
        .output()
        .expect("the binary runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_server_that_others_can_reach_serves_those_who_trust_it_and_have_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let (trusted, key) = certificate(dir.path(), "server");
    let (another, _) = certificate(dir.path(), "another");
    let made = icebox()
        .args([
            "token",
            "new",
            "--role",
            "reader",
            "--user-id",
            "u",
            "--project",
            "demo",
        ])
        .output()
        .unwrap();
    let tokens = dir.path().join("tokens.toml");
    fs::write(&tokens, &made.stdout).unwrap();
    let token = said(&made).trim().to_owned();

    let mut command = icebox();
    command
        .env("ICEBOX_TOKENS", &tokens)
        .env("ICEBOX_TLS_CERT", &trusted)
        .env("ICEBOX_TLS_KEY", &key);
    // It needs no --insecure: it is safe.
    let server = ChildServer::spawn(command, "0.0.0.0:0", &dir.path().join("icebox.db"));
    let (_, port) = server.address().rsplit_once(':').unwrap();
    let https = format!("https://localhost:{port}");
    let answered = list(&https, &trusted, &token);
    assert!(answered.status.success(), "{}", said(&answered));
    let nobody = list(&https, &trusted, "whatever");
    assert!(
        said(&nobody).contains("is not known here"),
        "{}",
        said(&nobody)
    );

    let distrusted = list(&https, &another, &token);
    let why = said(&distrusted);
    assert_eq!(distrusted.status.code(), Some(1), "{why}");
    assert!(
        why.contains("no trusted server answers") && why.contains("certificate"),
        "{why}"
    );
    let plaintext = list(&format!("http://localhost:{port}"), &trusted, &token);
    assert_eq!(plaintext.status.code(), Some(1), "{}", said(&plaintext));
    // A client that does not use TLS harms nobody.
    for _ in 0..20 {
        let mut stream =
            std::net::TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap();
        std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\n\r\n").unwrap();
    }
    assert!(list(&https, &trusted, &token).status.success());
    assert!(server.terminate().success());
}

#[test]
fn what_is_not_safe_does_not_start_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate(dir.path(), "server");
    let store = dir.path().join("icebox.db");
    let refused = |listen: &str, arguments: &[&Path]| {
        let output = icebox()
            .args(["serve", "--listen", listen, "--store"])
            .arg(&store)
            .args(arguments)
            .output()
            .unwrap();
        (output.status.code(), said(&output))
    };
    let with = |certificate: &Path, key: &Path| {
        refused(
            "127.0.0.1:0",
            &[
                Path::new("--tls-cert"),
                certificate,
                Path::new("--tls-key"),
                key,
            ],
        )
    };
    let (status, why) = refused("0.0.0.0:0", &[]);
    assert!(status == Some(2) && why.contains("--tokens"), "{why}");
    let tls = [
        Path::new("--tls-cert"),
        &certificate,
        Path::new("--tls-key"),
        &key,
    ];
    let (status, why) = refused("0.0.0.0:0", &tls);
    assert!(status == Some(2) && why.contains("--tokens"), "{why}");
    let (status, why) = refused("127.0.0.1:0", &tls[..2]);
    assert!(status == Some(2) && why.contains("--tls-key"), "{why}");

    let (status, why) = with(&dir.path().join("nowhere"), &key);
    assert!(
        status == Some(1) && why.contains("nowhere cannot be read"),
        "{why}"
    );
    // No certificate, no key, and a key of another certificate.
    let (_, another_key) = self::certificate(dir.path(), "another");
    for (certificate, key) in [
        (&key, &key),
        (&certificate, &certificate),
        (&certificate, &another_key),
    ] {
        fs::set_permissions(key, Permissions::from_mode(0o600)).unwrap();
        let (status, why) = with(certificate, key);
        assert!(
            status == Some(1) && why.contains("cannot be used for TLS"),
            "{why}"
        );
    }
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let (status, why) = with(&certificate, &key);
    assert!(
        status == Some(1) && why.contains("server.key can be read by others"),
        "{why}"
    );
    assert!(!store.exists());
}

/// A file that only its owner can read.
fn file(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).expect("room");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("it is there");
    path
}

/// The file of an issuer's certificate, and those of the certificates and keys that it has issued for these names.
fn issued(dir: &Path, names: [&str; 2]) -> (PathBuf, [(PathBuf, PathBuf); 2]) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no name is wrong");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let own = params.self_signed(&key).expect("a certificate");
    let own = file(dir, "issuer.pem", &own.pem());
    let issuer = rcgen::Issuer::new(params, key);
    let files = names.map(|name| {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new([name.to_owned()]).expect("a DNS name");
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        (
            file(dir, &format!("{name}.pem"), &certificate.pem()),
            file(dir, &format!("{name}.key"), &key.serialize_pem()),
        )
    });
    (own, files)
}

#[test]
fn who_has_a_certificate_is_known_by_a_name_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let (server_certificate, server_key) = certificate(dir.path(), "server");
    let names = ["node1.example.org", "node2.example.org"];
    let (issuers, [known, unknown]) = issued(dir.path(), names);
    // A certificate with the known name, but not from that issuer.
    let own = rcgen::generate_simple_self_signed([names[0].to_owned()]).unwrap();
    let forged = (
        file(dir.path(), "forged.pem", &own.cert.pem()),
        file(dir.path(), "forged.key", &own.signing_key.serialize_pem()),
    );
    let tokens = file(
        dir.path(),
        "tokens.toml",
        "[[token]]\ncertificate = \"node1.example.org\"\nuser_id = \"u\"\nrole = \"reader\"\nprojects = [\"demo\"]\n",
    );
    let mut command = icebox();
    command
        .env("ICEBOX_TOKENS", &tokens)
        .env("ICEBOX_TLS_CERT", &server_certificate)
        .env("ICEBOX_TLS_KEY", &server_key)
        .env("ICEBOX_TLS_CLIENT_CA", &issuers);
    let server = ChildServer::spawn(command, "127.0.0.1:0", &dir.path().join("icebox.db"));
    let (_, port) = server.address().rsplit_once(':').unwrap();
    let https = format!("https://localhost:{port}");
    let list_with = |shown: Option<&(PathBuf, PathBuf)>, project: &str| {
        let mut command = icebox();
        command.args(["jobs", "list", "--project", project, "--server", &https]);
        command.env("SSL_CERT_FILE", &server_certificate);
        if let Some((certificate, key)) = shown {
            command
                .env("ICEBOX_CLIENT_CERT", certificate)
                .env("ICEBOX_CLIENT_KEY", key);
        }
        let output = command.output().unwrap();
        (output.status.success(), said(&output))
    };
    let (ok, why) = list_with(Some(&known), "demo");
    assert!(ok, "{why}");
    let (ok, why) = list_with(Some(&known), "other");
    assert!(!ok && why.contains("is not yours"), "{why}");
    let (ok, why) = list_with(Some(&unknown), "demo");
    assert!(!ok && why.contains("is not known here"), "{why}");
    let (ok, why) = list_with(None, "demo");
    assert!(!ok && why.contains("Send a token"), "{why}");
    let (ok, why) = list_with(Some(&forged), "demo");
    assert!(!ok && !why.contains("is not known here"), "{why}");
    assert!(list_with(Some(&known), "demo").0);
    let over_plain_text = icebox()
        .args([
            "jobs",
            "list",
            "--project",
            "demo",
            "--server",
            server.address(),
        ])
        .env("ICEBOX_CLIENT_CERT", &known.0)
        .env("ICEBOX_CLIENT_KEY", &known.1)
        .output()
        .unwrap();
    assert!(
        said(&over_plain_text).contains("over TLS only"),
        "{}",
        said(&over_plain_text)
    );
}

#[tokio::test]
async fn a_certificate_is_replaced_while_connections_go_on() {
    const PAGE: usize = 500;
    let dir = tempfile::tempdir().unwrap();
    let made = ["old", "new"].map(|name| {
        let (certificate, key) = certificate(dir.path(), name);
        (fs::read(certificate).unwrap(), fs::read(key).unwrap())
    });
    let [old, new] = made
        .each_ref()
        .map(|(certificate, key)| Tls::from_pem(certificate, key).unwrap());
    let icebox = Icebox::open(dir.path().join("icebox.db"), Options::default());
    let icebox = icebox.await.unwrap();
    for _ in 0..PAGE {
        // A page of them takes several frames.
        icebox.jobs().create(PROJECT, job("nightly")).await.unwrap();
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "https://localhost:{}",
        listener.local_addr().unwrap().port()
    );
    drop(icebox.serve(Listener::from(listener).with_tls(old.clone())));
    let connect = async |(certificate, _): &(Vec<u8>, Vec<u8>)| {
        let trusted = Certificate::from_pem(certificate);
        let tls = ClientTlsConfig::new().ca_certificate(trusted);
        let endpoint = Endpoint::from_shared(url.clone()).unwrap();
        endpoint.tls_config(tls).unwrap().connect().await
    };
    let list = async |channel: &Channel| {
        let request = ListJobsRequest {
            project_id: PROJECT.into(),
            limit: 1000,
            ..ListJobsRequest::default()
        };
        let mut jobs = JobServiceClient::new(channel.clone());
        let page = jobs.list_jobs(request).await.unwrap().into_inner();
        assert_eq!(page.decoded().unwrap().len(), PAGE);
    };
    let before = connect(&made[0]).await.unwrap();
    list(&before).await;
    assert!(connect(&made[1]).await.is_err());
    old.replace(&new);
    list(&before).await;
    list(&connect(&made[1]).await.unwrap()).await;
    assert!(connect(&made[0]).await.is_err());
}

#[test]
fn on_sighup_the_certificate_is_read_again_and_a_bad_one_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (first, first_key) = certificate(dir.path(), "first");
    let (second, second_key) = certificate(dir.path(), "second");
    let (used, used_key) = (dir.path().join("used.pem"), dir.path().join("used.key"));
    fs::copy(&first, &used).unwrap();
    fs::copy(&first_key, &used_key).unwrap();
    let mut command = icebox();
    command
        .env("ICEBOX_TLS_CERT", &used)
        .env("ICEBOX_TLS_KEY", &used_key);
    let server = ChildServer::spawn(command, "127.0.0.1:0", &dir.path().join("icebox.db"));
    let (_, port) = server.address().rsplit_once(':').unwrap();
    let https = format!("https://localhost:{port}");
    let is_trusted_by = |trusted: &Path| list(&https, trusted, "").status.success();
    assert!(is_trusted_by(&first) && !is_trusted_by(&second));
    // A certificate with the key of another.
    fs::copy(&second, &used).unwrap();
    server.hang_up();
    for _ in 0..5 {
        assert!(is_trusted_by(&first));
    }
    fs::copy(&second_key, &used_key).unwrap();
    server.hang_up();
    let asked = Instant::now();
    while !is_trusted_by(&second) {
        assert!(asked.elapsed() < Duration::from_secs(20));
    }
    assert!(!is_trusted_by(&first));
    assert!(server.terminate().success());
}
