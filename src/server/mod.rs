//! The server: services, health, reflection, and an orderly end.

mod guard;
#[cfg(test)]
mod isolation;
mod listener;
mod request_log;
mod tls;

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tonic::{
    Code, Status,
    body::Body,
    server::NamedService,
    transport::{Server, server::Router},
};
use tonic_health::ServingStatus;
use tonic_types::{ErrorDetails, StatusExt};
use tower::{
    layer::util::{Identity, Stack},
    util::MapResponseLayer,
};

use guard::Guard;
pub use listener::Listener;
use request_log::RequestLog;
pub use tls::{BadTls, Tls};

use crate::{
    catalog::Catalog,
    clock,
    identity::Access,
    proto::{
        DESCRIPTOR_SET, backup_service_server::BackupServiceServer,
        job_service_server::JobServiceServer, maintenance_service_server::MaintenanceServiceServer,
    },
    service::{Backups, Jobs, Maintenance},
};

/// A request's size: 16 times the largest record, so that a client's mistake is answered, not cut off.
const REQUEST_BYTES_MAX: usize = 1 << 20;
/// Requests that one connection may have under way (tonic sets no limit).
const STREAMS_PER_CONNECTION_MAX: u32 = 100;
/// All headers of one request (h2 accepts 16 MiB).
const HEADER_LIST_BYTES_MAX: u32 = 32 << 10;
/// How long requests under way may take to finish when the server ends; tonic's own drain has no end.
const DRAIN: Duration = Duration::from_secs(8);
/// How often an idle connection is asked whether it still lives, and how long it may take to answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// What ends the servers of one store, and waits for that.
#[derive(Debug)]
pub(crate) struct Servers {
    ends: watch::Sender<bool>,
    /// Each server holds a clone of the sender until it has ended.
    running: (mpsc::Sender<Infallible>, mpsc::Receiver<Infallible>),
}

impl Servers {
    pub(crate) fn new() -> Self {
        Servers {
            ends: watch::channel(false).0,
            running: mpsc::channel(1),
        }
    }

    /// Starts one.
    pub(crate) fn start(&self, catalog: Catalog, listener: Listener, access: Access) -> Serving {
        let running = self.running.0.clone();
        let ends = self.ends.subscribe();
        Serving(tokio::spawn(async move {
            let served = serve(catalog, listener, access, ends).await;
            drop(running);
            served.map_err(io::Error::other)
        }))
    }

    /// Ends all of them. What is under way has some seconds to finish.
    pub(crate) async fn end(self) {
        self.ends.send_replace(true);
        let (running, mut ended) = self.running;
        drop(running);
        ended.recv().await;
    }
}

/// A server at work. It goes on when this is dropped. Awaited, it tells how it ended.
///
/// # Errors
/// If the transport failed.
#[derive(Debug)]
pub struct Serving(JoinHandle<io::Result<()>>);

impl Future for Serving {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|ended| ended.map_err(io::Error::other)?)
    }
}

async fn serve(
    catalog: Catalog,
    listener: Listener,
    access: Access,
    ends: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let (cuts, cut) = watch::channel(false);
    let router = router(catalog, access, listener.tls.clone()).await?;
    let connections = listener::connections(listener, cut);
    let mut serving =
        std::pin::pin!(router.serve_with_incoming_shutdown(connections, until(ends.clone())));
    tokio::select! {
        served = &mut serving => return served,
        () = until(ends) => {}
    }
    if let Ok(served) = tokio::time::timeout(DRAIN, &mut serving).await {
        return served;
    }
    tracing::warn!(
        seconds = DRAIN.as_secs(),
        "requests still under way are broken off"
    );
    cuts.send_replace(true);
    serving.await
}

/// Resolves once it is true, or what could say so is gone.
async fn until(mut said: watch::Receiver<bool>) {
    let _ = said.wait_for(|said| *said).await;
}

/// What a request goes through, the last first.
type Layers = Stack<Guard, Stack<RequestLog, Stack<MapResponseLayer<Settle>, Identity>>>;

async fn router(
    catalog: Catalog,
    access: Access,
    tls: Option<Tls>,
) -> Result<Router<Layers>, tonic::transport::Error> {
    let mut condition = catalog.condition();
    let maintained = catalog.clone();
    let backups = BackupServiceServer::new(Backups::new(catalog.clone()))
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    let jobs =
        JobServiceServer::new(Jobs::new(catalog)).max_decoding_message_size(REQUEST_BYTES_MAX);
    let maintenance = MaintenanceServiceServer::new(Maintenance::new(maintained));
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<BackupServiceServer<Backups>>().await;
    reporter.set_serving::<JobServiceServer<Jobs>>().await;
    // It only reads, and goes on when the store has stopped writing: that is when a snapshot is wanted most.
    reporter
        .set_serving::<MaintenanceServiceServer<Maintenance>>()
        .await;
    tokio::spawn(async move {
        // Ends with the store; until then, a store that takes no writes is not serving.
        while condition.changed().await.is_ok() {
            let status = if condition.borrow_and_update().is_well() {
                ServingStatus::Serving
            } else {
                ServingStatus::NotServing
            };
            for service in [
                "",
                BackupServiceServer::<Backups>::NAME,
                JobServiceServer::<Jobs>::NAME,
            ] {
                reporter.set_service_status(service, status).await;
            }
        }
    });
    let mut server = Server::builder();
    if let Some(Tls(config)) = tls {
        server = server.tls_config(config)?;
    }
    let router = server
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_max_header_list_size(HEADER_LIST_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(MapResponseLayer::new(settle as Settle))
        .layer(RequestLog)
        .layer(Guard(access))
        .add_service(health)
        .add_service(
            reflection()
                .build_v1()
                .expect("the descriptors were checked when they were compiled"),
        )
        .add_service(reflection().build_v1alpha().expect("as above"))
        .add_service(backups.accept_compressed(tonic::codec::CompressionEncoding::Gzip))
        .add_service(jobs.accept_compressed(tonic::codec::CompressionEncoding::Gzip))
        .add_service(maintenance);
    Ok(router)
}

type Settle = fn(http::Response<Body>) -> http::Response<Body>;

/// What every answer gets on its way out.
fn settle(mut response: http::Response<Body>) -> http::Response<Body> {
    blame_the_request(&mut response);
    explain_the_size(&mut response);
    // hyper dates every answer that has no date, and panics where the clock says what no date can.
    if let Some(date) = clock::http_date_instead() {
        let date = http::HeaderValue::from_static(date);
        response.headers_mut().insert(http::header::DATE, date);
    }
    response
}

/// tonic answers INTERNAL, and no service here does, when it cannot read a request's message: nested beyond
/// prost's limit, not UTF-8, not protobuf. Sending it again would not help: the caller is at fault.
fn blame_the_request(response: &mut http::Response<Body>) {
    let header = response.headers_mut().get_mut(Status::GRPC_STATUS);
    if let Some(code) = header.filter(|code| Code::from_bytes(code.as_bytes()) == Code::Internal) {
        *code = http::HeaderValue::from(Code::InvalidArgument as i32);
    }
}

/// tonic answers `OUT_OF_RANGE`, and no service here does, when a message is larger than a request may be: it gets the details
/// that every other error has, and the code that other servers give.
fn explain_the_size(response: &mut http::Response<Body>) {
    let headers = response.headers_mut();
    let code = headers
        .get(Status::GRPC_STATUS)
        .map(|code| Code::from_bytes(code.as_bytes()));
    if code == Some(Code::OutOfRange) {
        let message =
            format!("the request is larger than {REQUEST_BYTES_MAX} bytes: send less at once");
        let details = ErrorDetails::with_error_info("REQUEST_TOO_LARGE", "icebox", HashMap::new());
        let status = Status::with_error_details(Code::ResourceExhausted, message, details);
        // The message is plain text: it fits into a header.
        let _ = status.add_header(headers);
    }
}

/// Just what is served, and `google.rpc`, so that clients can read the details of errors.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        // Each version brings itself only, but both are served.
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
}
