//! The server: its services, health, reflection, and an orderly end.

mod admission;
mod connection;
mod corked;
mod guard;
#[cfg(feature = "http")]
mod http;
mod http2;
#[cfg(test)]
mod isolation;
mod limits;
mod listener;
mod metrics;
mod outcome;
mod outgoing;
mod request_log;
mod services;
mod tls;
mod turns;
mod waiting;

use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tonic::{body::Body, codec::CompressionEncoding, server::NamedService};
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
};

pub use limits::Limits;
pub use listener::Listener;
use metrics::Metrics;
use services::Services;
pub use tls::{BadTls, Tls};

use crate::{
    catalog::Catalog,
    clock,
    identity::Access,
    proto::{
        DESCRIPTOR_SET, action_service_server::ActionServiceServer,
        audit_service_server::AuditServiceServer, backup_service_server::BackupServiceServer,
        client_service_server::ClientServiceServer, job_service_server::JobServiceServer,
        maintenance_service_server::MaintenanceServiceServer,
        session_service_server::SessionServiceServer,
    },
    service::{Actions, Audit, Backups, Clients, Jobs, Maintenance, Sessions, Watches},
    store::Condition,
};

/// Ends the servers of one store, and waits until they have ended.
#[derive(Debug)]
pub(crate) struct Servers {
    ends: watch::Sender<bool>,
    metrics: Metrics,
    /// Each server holds a clone of the sender until it has ended.
    running: (mpsc::Sender<Infallible>, mpsc::Receiver<Infallible>),
}

impl Servers {
    /// The servers of a store that was just opened.
    pub(crate) fn new(catalog: Catalog) -> Self {
        Servers {
            ends: watch::channel(false).0,
            metrics: Metrics::new(catalog),
            running: mpsc::channel(1),
        }
    }

    /// Starts a server of gRPC.
    pub(crate) fn start(&self, catalog: Catalog, listener: Listener, access: Access) -> Serving {
        let (metrics, ends) = (self.metrics.clone(), self.ends.subscribe());
        self.run(async move {
            let services = services(catalog, &listener.limits, ends.clone()).await;
            http2::serve(services, listener, access, metrics, ends).await;
        })
    }

    /// Starts a server of Freezer's HTTP API.
    #[cfg(feature = "http")]
    pub(crate) fn start_http(
        &self,
        catalog: Catalog,
        listener: Listener,
        access: Access,
    ) -> Serving {
        let (metrics, ends) = (self.metrics.clone(), self.ends.subscribe());
        self.run(async move {
            self::http::serve(catalog, listener, access, metrics, ends).await;
        })
    }

    /// Runs a server. The end of all servers waits for it.
    fn run(&self, serving: impl Future<Output = ()> + Send + 'static) -> Serving {
        let running = self.running.0.clone();
        Serving(tokio::spawn(async move {
            serving.await;
            drop(running);
        }))
    }

    /// Starts a server of metrics.
    pub(crate) fn start_metrics(&self, listener: TcpListener) -> Serving {
        let serving = metrics::serve(self.metrics.clone(), listener, self.ends.subscribe());
        Serving(tokio::spawn(serving))
    }

    /// Ends all servers. What is under way has some seconds to finish.
    pub(crate) async fn end(self) {
        self.ends.send_replace(true);
        let (running, mut ended) = self.running;
        drop(running);
        ended.recv().await;
    }
}

/// A running server. It goes on if this is dropped. Awaiting it tells how it ended.
///
/// # Errors
/// If it was broken off.
#[derive(Debug)]
pub struct Serving(JoinHandle<()>);

impl Future for Serving {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|ended| ended.map_err(io::Error::other))
    }
}

/// Resolves once the value is true, or its sender has gone.
async fn until(mut said: watch::Receiver<bool>) {
    let _ = said.wait_for(|said| *said).await;
}

/// All services.
async fn services(catalog: Catalog, limits: &Limits, ends: watch::Receiver<bool>) -> Services {
    let watches = Watches {
        bookmark_interval: limits.bookmark_interval,
        ends,
    };
    let condition = catalog.condition();
    let maintained = catalog.clone();
    let audit = AuditServiceServer::new(Audit::new(catalog.clone()));
    let backups = BackupServiceServer::new(Backups::new(catalog.clone(), watches.clone()))
        .max_decoding_message_size(limits.request_bytes);
    let clients = ClientServiceServer::new(Clients::new(catalog.clone(), watches.clone()))
        .max_decoding_message_size(limits.request_bytes);
    let actions = ActionServiceServer::new(Actions::new(catalog.clone(), watches.clone()))
        .max_decoding_message_size(limits.request_bytes);
    let sessions = SessionServiceServer::new(Sessions::new(catalog.clone(), watches.clone()))
        .max_decoding_message_size(limits.request_bytes);
    let jobs = JobServiceServer::new(Jobs::new(catalog, watches))
        .max_decoding_message_size(limits.request_bytes);
    let maintenance = MaintenanceServiceServer::new(Maintenance::new(maintained));
    Services::default()
        .and(health(condition).await)
        .and(
            reflection()
                .build_v1()
                .expect("the descriptors were checked when they were compiled"),
        )
        .and(reflection().build_v1alpha().expect("as above"))
        .and(backups.accept_compressed(CompressionEncoding::Gzip))
        .and(jobs.accept_compressed(CompressionEncoding::Gzip))
        .and(clients.accept_compressed(CompressionEncoding::Gzip))
        .and(actions.accept_compressed(CompressionEncoding::Gzip))
        .and(sessions.accept_compressed(CompressionEncoding::Gzip))
        .and(maintenance)
        .and(audit)
}

/// Reports for each service whether it is served. Services that write are not served while the store accepts no writes.
async fn health(mut condition: watch::Receiver<Condition>) -> HealthServer<impl Health> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<BackupServiceServer<Backups>>().await;
    reporter.set_serving::<JobServiceServer<Jobs>>().await;
    reporter.set_serving::<ClientServiceServer<Clients>>().await;
    reporter.set_serving::<ActionServiceServer<Actions>>().await;
    reporter
        .set_serving::<SessionServiceServer<Sessions>>()
        .await;
    // These services only read. They go on when the store has stopped writing, because then a snapshot is needed most.
    reporter
        .set_serving::<MaintenanceServiceServer<Maintenance>>()
        .await;
    reporter.set_serving::<AuditServiceServer<Audit>>().await;
    tokio::spawn(async move {
        // This ends with the store. Until then, a store that accepts no writes is reported as not serving.
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
                ClientServiceServer::<Clients>::NAME,
                ActionServiceServer::<Actions>::NAME,
                SessionServiceServer::<Sessions>::NAME,
            ] {
                reporter.set_service_status(service, status).await;
            }
        }
    });
    health
}

/// hyper adds a date to every answer that has none, and panics if no date can express the clock's time.
fn date(mut response: ::http::Response<Body>) -> ::http::Response<Body> {
    if let Some(date) = clock::http_date_instead() {
        let date = ::http::HeaderValue::from_static(date);
        response.headers_mut().insert(::http::header::DATE, date);
    }
    response
}

/// Only what is served, and `google.rpc`, so that clients can decode the details of errors.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        // Each version adds only itself, but both are served.
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
}
