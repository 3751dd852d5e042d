//! One line a request, at debug, and the span around it that tells who asked: what is logged within, such as a change, carries
//! the caller and the request's number.

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

/// Numbers the requests of this process.
static REQUESTS: AtomicU64 = AtomicU64::new(1);

/// Logs and counts what passes through it.
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
        // Looked up once: what comes next finds it there. Over HTTP it is known already.
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
            // Whoever calls what is not there does not choose what is counted.
            method: rpc.map_or("unknown", |rpc| rpc.path),
            start: Instant::now(),
            code: Code::Cancelled,
        };
        // What is called at once, such as the guard, says within the span who calls.
        let answering = span.in_scope(|| self.inner.call(request));
        let answer = async move {
            let response = answering.await?;
            // A stream may still fail after its first message: this is how it began.
            let status = Status::from_header_map(response.headers());
            outcome.is(status.map_or(Code::Ok, |status| status.code()));
            Ok(response)
        };
        Box::pin(answer.instrument(span))
    }
}

/// What became of a request, told when it is dropped: then it was answered, or its caller has given it up.
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
