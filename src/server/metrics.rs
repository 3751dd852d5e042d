//! The metrics for Prometheus. They are counted as things happen, and served over HTTP on a listener of their own, together with
//! whether the server is alive and ready.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time::timeout,
};
use tonic::Code;

use super::{listener::ACCEPT_RETRY, until};
use crate::{catalog::Catalog, clock};

/// The most scrapes at a time. Others wait.
const SCRAPES_MAX: usize = 8;
/// How long a scrape may take, from its connection to its answer.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);
/// The content type of the `OpenMetrics` format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The counters of all servers of one store. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    registry: Registry,
    calls: Family<Call, Counter>,
    call_seconds: Family<OfMethod, Histogram>,
    streams: Gauge,
    connections: Gauge,
    disconnected: Disconnected,
    store: StoreGauges,
    catalog: Catalog,
}

/// Values that a scrape asks the store for. The store knows each of them without looking for it.
#[derive(Debug, Default)]
struct StoreGauges {
    queued: Gauge,
    records: Family<OfKind, Gauge>,
    bytes: Family<OfPart, Gauge>,
    available_bytes: Gauge,
    revision: Gauge<u64, AtomicU64>,
    ready: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    method: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfMethod {
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPart {
    part: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    reason: &'static str,
}

impl Metrics {
    /// The metrics of a store that was just opened.
    pub(super) fn new(catalog: Catalog) -> Metrics {
        let mut registry = Registry::with_prefix("icebox");
        let calls = Family::default();
        registry.register("calls", "Calls that were answered, by code", calls.clone());
        let call_seconds = Family::new_with_constructor(call_seconds as fn() -> Histogram);
        registry.register_with_unit(
            "call",
            "How long calls took until their answer began",
            Unit::Seconds,
            call_seconds.clone(),
        );
        let streams = Gauge::default();
        registry.register(
            "streams",
            "Streams under way: watches, snapshots, reflection",
            streams.clone(),
        );
        let connections = Gauge::default();
        registry.register(
            "connections",
            "Connections that are open",
            connections.clone(),
        );
        let disconnected = Disconnected::default();
        registry.register(
            "disconnected",
            "Connections that the server has ended, by reason",
            disconnected.0.clone(),
        );
        let version = env!("CARGO_PKG_VERSION");
        registry.register(
            "build",
            "The server's version",
            Info::new([("version", version)]),
        );
        let started = Gauge::<u64, AtomicU64>::default();
        started.set(clock::now_ms() / 1000);
        registry.register_with_unit(
            "start_time",
            "When the store was opened",
            Unit::Seconds,
            started,
        );
        let store = StoreGauges::default();
        store.register(&mut registry);
        register_meters(&mut registry, &catalog);
        Metrics(Arc::new(Counted {
            registry,
            calls,
            call_seconds,
            streams,
            connections,
            disconnected,
            store,
            catalog,
        }))
    }

    /// Counts a call that was answered, or that its caller has given up.
    pub(super) fn answered(&self, method: &'static str, code: Code, took: Duration) {
        let code = name_of(code);
        self.0.calls.get_or_create(&Call { method, code }).inc();
        let seconds = self.0.call_seconds.get_or_create(&OfMethod { method });
        seconds.observe(took.as_secs_f64());
    }

    /// Counts an open connection until the returned value is dropped.
    pub(super) fn connected(&self) -> OneOf {
        OneOf::new(&self.0.connections)
    }

    /// Counts a stream until the returned value is dropped.
    pub(super) fn streaming(&self) -> OneOf {
        OneOf::new(&self.0.streams)
    }

    /// The counter for connections that the server closes.
    pub(super) fn disconnected(&self) -> Disconnected {
        self.0.disconnected.clone()
    }

    /// All metrics as text for Prometheus.
    async fn text(&self) -> String {
        self.0.store.look(&self.0.catalog).await;
        let mut text = String::new();
        text::encode(&mut text, &self.0.registry).expect("a String takes all");
        text
    }

    fn is_ready(&self) -> bool {
        self.0.catalog.condition().borrow().is_well()
    }
}

/// Buckets from 0.1 ms to 26 s.
fn call_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 4.0, 10))
}

fn register_meters(registry: &mut Registry, catalog: &Catalog) {
    let meters = catalog.meters().clone();
    registry.register_with_unit(
        "append",
        "How long it took to append a group of changes to the journal and to sync it",
        Unit::Seconds,
        meters.append_seconds,
    );
    registry.register(
        "group_changes",
        "Changes that were made durable as one",
        meters.group_changes,
    );
    registry.register_with_unit(
        "appended",
        "What was appended of keys and values",
        Unit::Bytes,
        meters.appended_bytes,
    );
    registry.register(
        "rewrites",
        "How often the store's file was written anew",
        meters.rewrites,
    );
}

impl StoreGauges {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "queued_changes",
            "Changes that wait to be committed",
            self.queued.clone(),
        );
        registry.register(
            "records",
            "Records of all projects, by kind",
            self.records.clone(),
        );
        registry.register_with_unit(
            "store",
            "What the store takes, by part",
            Unit::Bytes,
            self.bytes.clone(),
        );
        registry.register_with_unit(
            "available",
            "What is left on the store's disk",
            Unit::Bytes,
            self.available_bytes.clone(),
        );
        registry.register(
            "revision",
            "The revision of the last change",
            self.revision.clone(),
        );
        registry.register(
            "ready",
            "1 while the store takes writes",
            self.ready.clone(),
        );
    }

    async fn look(&self, catalog: &Catalog) {
        // A store that is closing has nothing new to report.
        let Ok(status) = catalog.status().await else {
            return;
        };
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.queued.set(count(catalog.queued() as u64));
        let counts = status.counts;
        for (kind, records) in [
            ("backup", counts.backups),
            ("job", counts.jobs),
            ("client", counts.clients),
            ("action", counts.actions),
            ("session", counts.sessions),
        ] {
            self.records
                .get_or_create(&OfKind { kind })
                .set(count(records));
        }
        let usage = status.usage;
        for (part, bytes) in [
            ("journal", usage.journal_bytes),
            ("records", usage.records_bytes),
            ("view", usage.view_bytes),
        ] {
            self.bytes.get_or_create(&OfPart { part }).set(count(bytes));
        }
        self.available_bytes
            .set(count(usage.room_bytes.unwrap_or(0)));
        self.revision.set(status.revision);
        self.ready.set(i64::from(status.condition.is_well()));
    }
}

/// Counts the connections that the server has closed, by reason.
#[derive(Clone, Debug, Default)]
pub(super) struct Disconnected(Family<Why, Counter>);

impl Disconnected {
    /// Counts one more.
    pub(super) fn because(&self, reason: &'static str) {
        self.0.get_or_create(&Why { reason }).inc();
    }
}

/// Counts one until it is dropped.
#[derive(Debug)]
#[cfg_attr(test, derive(Default))]
pub(super) struct OneOf(Gauge);

impl OneOf {
    fn new(gauge: &Gauge) -> OneOf {
        gauge.inc();
        OneOf(gauge.clone())
    }
}

impl Drop for OneOf {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The name of a code in gRPC.
fn name_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Answers scrapes until `ends` is true.
pub(super) async fn serve(metrics: Metrics, listener: TcpListener, ends: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(SCRAPES_MAX));
    let accept = async {
        loop {
            let place = places.clone().acquire_owned().await;
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            };
            let (metrics, ends) = (metrics.clone(), ends.clone());
            tokio::spawn(async move {
                let _place = place;
                let answer = service_fn(|request| answer(&metrics, request));
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), answer);
                // Connections are just dropped at the end: a scrape can be repeated.
                tokio::select! {
                    _ = timeout(SCRAPE_TIMEOUT, connection) => {}
                    () = until(ends) => {}
                }
            });
        }
    };
    tokio::select! {
        () = accept => {}
        () = until(ends.clone()) => {}
    }
}

async fn answer(
    metrics: &Metrics,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let mut kind = "text/plain; charset=utf-8";
    let (status, text) = match request.uri().path() {
        _ if !is_read => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into()),
        "/metrics" => {
            kind = OPEN_METRICS;
            (StatusCode::OK, metrics.text().await)
        }
        "/livez" => (StatusCode::OK, "lives\n".into()),
        "/readyz" if metrics.is_ready() => (StatusCode::OK, "ready\n".into()),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "takes no writes\n".into()),
        _ => (
            StatusCode::NOT_FOUND,
            "there are /metrics, /livez and /readyz\n".into(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}
