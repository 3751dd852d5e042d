//! Logs one line for each request at debug. A span around the request holds the caller and the request's number, so that everything
//! logged within it, such as a change, shows them.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use http::{Request, Response};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::Instrument;

use super::{connection::Peer, metrics::Metrics};
use crate::identity::{self, Rpc};

/// The number of the next request of this process.
static REQUESTS: AtomicU64 = AtomicU64::new(1);

/// Logs and counts the requests that pass through it.
#[derive(Clone, Debug)]
pub(super) struct RequestLog(pub(super) Metrics);

impl<S> Layer<S> for RequestLog {
    type Service = Logged<S>;

    fn layer(&self, inner: S) -> Logged<S> {
        Logged {
            inner,
            metrics: self.0.clone(),
        }
    }
}

/// A service whose requests are logged.
#[derive(Clone, Debug)]
pub(super) struct Logged<S> {
    inner: S,
    metrics: Metrics,
}

impl<S> Service<Request<Body>> for Logged<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // Looked up once; the layers behind find it in the request. Over HTTP it is known already.
        let known = request.extensions().get::<&Rpc>().copied();
        let rpc = known.or_else(|| identity::rpc(request.uri().path()));
        if let Some(rpc) = rpc {
            request.extensions_mut().insert(rpc);
        }
        let id = REQUESTS.fetch_add(1, Ordering::Relaxed);
        let peer = request.extensions().get::<Arc<Peer>>();
        let peer = peer.map_or("unknown", |peer| &*peer.name);
        let method = request.uri().path().trim_start_matches('/');
        let span = tracing::info_span!("request", id, peer, method, caller = tracing::field::Empty);
        let mut outcome = Outcome {
            metrics: self.metrics.clone(),
            // A caller cannot add names to the metrics by calling RPCs that do not exist.
            method: rpc.map_or("unknown", |rpc| rpc.path),
            start: Instant::now(),
            code: Code::Cancelled,
        };
        // Layers such as the guard, which run during this call, log within the span.
        let answering = span.in_scope(|| self.inner.call(request));
        let answer = async move {
            let response = answering.await?;
            // A stream may still fail after its first message. This is how it began.
            let status = Status::from_header_map(response.headers());
            outcome.is(status.map_or(Code::Ok, |status| status.code()));
            Ok(response)
        };
        Box::pin(answer.instrument(span))
    }
}

/// The outcome of a request. It is logged when this is dropped: then the request was answered, or its caller has given up.
struct Outcome {
    metrics: Metrics,
    method: &'static str,
    start: Instant,
    code: Code,
}

impl Outcome {
    fn is(&mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        let Outcome {
            metrics,
            method,
            start,
            code,
        } = self;
        let took = start.elapsed();
        tracing::debug!(?code, elapsed_us = took.as_micros(), "answered");
        metrics.answered(method, *code, took);
    }
}
