//! The server: listener, services, health, reflection, and an orderly end.

mod listener;
mod request_log;

use std::{
    collections::HashMap,
    future::Future,
    io,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::sync::oneshot;
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

pub use listener::{Listen, ParseListenError};
use request_log::RequestLog;

use crate::{
    catalog::Catalog,
    clock,
    proto::{
        DESCRIPTOR_SET, backup_service_server::BackupServiceServer,
        job_service_server::JobServiceServer, maintenance_service_server::MaintenanceServiceServer,
    },
    service::{Backups, Jobs, Maintenance},
    store::{self, OpenError, Store},
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

/// What may be chosen about a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: Listen,
    /// The store's directory.
    pub store: PathBuf,
    /// The store's options.
    pub store_options: store::Options,
}

/// Why a server could not start, or ended.
#[derive(Debug)]
pub enum Error {
    /// The store could not be opened or closed.
    Store(PathBuf, OpenError),
    /// The address could not be listened on.
    Listen(Listen, io::Error),
    /// The transport failed.
    Transport(tonic::transport::Error),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Store(path, error) => write!(f, "store {}: {error}", path.display()),
            Error::Listen(listen, error) => write!(f, "could not listen on {listen}: {error}"),
            Error::Transport(error) => write!(f, "the server failed: {error}"),
        }
    }
}

impl std::error::Error for Error {}

/// Serves until `shutdown` resolves, then lets what is under way finish and closes the store.
///
/// `announce` is given the address that the server listens on, before the store is opened: whoever connects from then on is
/// answered once it is.
///
/// # Errors
/// If the store cannot be opened, the address is taken, or the transport fails.
pub async fn serve(
    config: Config,
    announce: impl FnOnce(&Listen),
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let Config {
        listen,
        store: path,
        store_options,
    } = config;
    // Bound first: a taken address is told at once, however long the store takes to open.
    let (listener, bound) = listener::bind(&listen)
        .await
        .map_err(|error| Error::Listen(listen.clone(), error))?;
    announce(&bound.listen);
    let store_failed = |error| Error::Store(path.clone(), error);
    let not_closed = |error: store::Error| Error::Store(path.clone(), error.into());
    let mut shutdown = std::pin::pin!(shutdown);
    let cancelled = store_options.cancelled.clone();
    let mut opening = {
        let path = path.clone();
        tokio::task::spawn_blocking(move || Store::open(&path, &store_options))
    };
    let opened = tokio::select! {
        opened = &mut opening => opened,
        () = &mut shutdown => {
            tracing::info!("shutting down before the store is open");
            cancelled.store(true, Ordering::Relaxed);
            bound.clean_up();
            return match finished(opening.await) {
                None | Some(Err(OpenError::Store(store::Error::Closed))) => Ok(()),
                Some(Err(error)) => Err(store_failed(error)),
                Some(Ok(store)) => close(store).await.map_err(not_closed),
            };
        }
    };
    let Some(opened) = finished(opened) else {
        return Ok(());
    };
    let store = Arc::new(opened.map_err(store_failed)?);
    let (end, ended) = oneshot::channel::<()>();
    let mut serving = tokio::spawn({
        let router = router(Catalog::new(store.clone()), &store).await;
        async move {
            let ended = async { drop(ended.await) };
            router
                .serve_with_incoming_shutdown(listener::connections(listener), ended)
                .await
        }
    });
    tracing::info!(revision = store.revision(), "serving");
    tokio::select! {
        result = &mut serving => return served(result),
        () = &mut shutdown => {}
    }
    tracing::info!("shutting down: finishing what is under way");
    drop(end);
    if let Ok(result) = tokio::time::timeout(DRAIN, &mut serving).await {
        served(result)?;
    } else {
        tracing::warn!(
            seconds = DRAIN.as_secs(),
            "requests still under way are dropped"
        );
        serving.abort();
        // Aborted or finished in the meantime: either way it is over.
        let _ = serving.await;
    }
    bound.clean_up();
    match Arc::into_inner(store) {
        Some(store) => close(store).await.map_err(not_closed),
        None => Ok(()),
    }
}

async fn close(store: Store) -> Result<(), store::Error> {
    let closed = tokio::task::spawn_blocking(move || store.close()).await;
    finished(closed).unwrap_or(Ok(()))
}

fn served(
    result: Result<Result<(), tonic::transport::Error>, tokio::task::JoinError>,
) -> Result<(), Error> {
    finished(result).unwrap_or(Ok(())).map_err(Error::Transport)
}

/// What a task came to; `None` if it was aborted. A panic goes on here.
fn finished<T>(result: Result<T, tokio::task::JoinError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(stopped) => match stopped.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => None,
        },
    }
}

async fn router(
    catalog: Catalog,
    store: &Store,
) -> Router<Stack<RequestLog, Stack<MapResponseLayer<Settle>, Identity>>> {
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
    let mut condition = store.condition();
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
    Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_max_header_list_size(HEADER_LIST_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(MapResponseLayer::new(settle as Settle))
        .layer(RequestLog)
        .add_service(health)
        .add_service(
            reflection()
                .build_v1()
                .expect("the descriptors were checked when they were compiled"),
        )
        .add_service(reflection().build_v1alpha().expect("as above"))
        .add_service(backups.accept_compressed(tonic::codec::CompressionEncoding::Gzip))
        .add_service(jobs.accept_compressed(tonic::codec::CompressionEncoding::Gzip))
        .add_service(maintenance)
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
