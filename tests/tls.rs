//! Promise: `--server https://…` speaks to a server whose certificate this machine trusts, and to no other.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

use icebox::{Icebox, Options};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring::default_provider,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

/// Serves over TLS as `localhost`; the port, and the certificate in a file that the server's own is issued by.
async fn secure_server(dir: &Path) -> (u16, PathBuf) {
    let certified =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let trusted = dir.join("trusted.pem");
    std::fs::write(&trusted, certified.cert.pem()).expect("the directory is there");
    let options = Options {
        cache_bytes: 8 << 20,
        ..Options::default()
    };
    let icebox = Icebox::open(dir.join("store"), options).await;
    let icebox = icebox.expect("a new store");
    let plain = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let plain_address = plain.local_addr().expect("it is bound");

    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring knows them")
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], PrivateKeyDer::from(key))
        .expect("they belong together");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        let _serving = icebox.serve(plain);
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            // A client that does not trust the certificate breaks off.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            tokio::spawn(async move {
                let mut server = TcpStream::connect(plain_address).await.expect("it serves");
                drop(tokio::io::copy_bidirectional(&mut stream, &mut server).await);
            });
        }
    });
    (port, trusted)
}

fn list(server: &str, trusted: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_icebox"))
        .args([
            "jobs",
            "list",
            "--project",
            "demo",
            "--server",
            server,
            "--output",
            "json",
        ])
        .env("SSL_CERT_FILE", trusted)
        .output()
        .expect("the binary runs")
}

// The commands block one thread while the server answers them on the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_trusted_answers_and_one_that_is_not_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (port, trusted) = secure_server(dir.path()).await;
    let answered = list(&format!("https://localhost:{port}"), &trusted);
    let said = String::from_utf8_lossy(&answered.stderr);
    assert!(answered.status.success(), "{said}");

    let another = tempfile::tempdir().unwrap();
    let (_, issuer_of_another) = secure_server(another.path()).await;
    let distrusted = list(&format!("https://localhost:{port}"), &issuer_of_another);
    let said = String::from_utf8_lossy(&distrusted.stderr);
    assert_eq!(distrusted.status.code(), Some(1), "{said}");
    assert!(
        said.contains("no trusted server answers") && said.contains("certificate"),
        "{said}"
    );

    let plaintext = list(&format!("http://localhost:{port}"), &trusted);
    assert_eq!(plaintext.status.code(), Some(1));
}
