//! Promise: a server speaks TLS with those who trust its certificate, `--server https://…` with no server that is not trusted, and
//! one that others can reach does not start without TLS and tokens.

mod child;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use child::ChildServer;

/// The files of a certificate for `localhost`, which is its own issuer, and of its key.
fn certificate(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    let certified =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let certificate = dir.join(name).with_extension("pem");
    let key = dir.join(name).with_extension("key");
    fs::write(&certificate, certified.cert.pem()).expect("room");
    fs::write(&key, certified.signing_key.serialize_pem()).expect("room");
    fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("it is there");
    (certificate, key)
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
    // No --insecure: it is safe.
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
    // What does not speak TLS at all harms nobody.
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
    // No certificate, no key, and two that do not belong together.
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

#[test]
fn who_has_a_certificate_is_known_by_a_name_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    };
    let (server_certificate, server_key) = certificate(dir.path(), "server");
    let issuer_key = rcgen::KeyPair::generate().unwrap();
    let mut issuer = rcgen::CertificateParams::new(Vec::new()).unwrap();
    issuer.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuers = file("issuer.pem", issuer.self_signed(&issuer_key).unwrap().pem());
    let issuer = rcgen::Issuer::new(issuer, issuer_key);
    let made_for = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = certificate.signed_by(&key, &issuer).unwrap();
        (
            file(&format!("{name}.pem"), certificate.pem()),
            file(&format!("{name}.key"), key.serialize_pem()),
        )
    };
    let known = made_for("node1.example.org");
    let unknown = made_for("node2.example.org");
    // One that names itself as the known one does, without that issuer.
    let own = rcgen::generate_simple_self_signed(["node1.example.org".to_owned()]).unwrap();
    let forged = (
        file("forged.pem", own.cert.pem()),
        file("forged.key", own.signing_key.serialize_pem()),
    );
    let tokens = file(
        "tokens.toml",
        "[[token]]\ncertificate = \"node1.example.org\"\nuser_id = \"u\"\nrole = \"reader\"\nprojects = [\"demo\"]\n"
            .into(),
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
}
