//! Promise: `--server https://…` speaks to a server whose certificate this machine trusts, and to no other.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

use icebox::{
    catalog::Catalog,
    proto::job_service_server::JobServiceServer,
    service::Jobs,
    store::{Options, Store},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, Server, ServerTlsConfig};

/// Serves jobs over TLS as `localhost`; the port, and the certificate in a file that the server's own is issued by.
async fn secure_server(dir: &Path) -> (u16, PathBuf) {
    let certified =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let trusted = dir.join("trusted.pem");
    std::fs::write(&trusted, certified.cert.pem()).expect("the directory is there");
    let store = Store::open(
        &dir.join("store"),
        &Options {
            cache_bytes: 8 << 20,
            ..Options::default()
        },
    )
    .expect("a new store");
    let jobs = JobServiceServer::new(Jobs::new(Catalog::new(Arc::new(store))));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let identity = Identity::from_pem(certified.cert.pem(), certified.signing_key.serialize_pem());
    let mut server = Server::builder()
        .tls_config(ServerTlsConfig::new().identity(identity))
        .expect("a TLS server");
    tokio::spawn(
        server
            .add_service(jobs)
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
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
