//! One line a request, at debug, and the span around it that tells who asked: what is logged within, such as a change, carries
//! the caller and the request's number.

use std::{
    future::Future,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
    time::Instant,
};

use http::{Request, Response};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::Instrument;

use super::connection::Peer;

/// Numbers the requests of this process.
static REQUESTS: AtomicU64 = AtomicU64::new(1);

/// Logs what passes through it.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestLog;

impl<S> Layer<S> for RequestLog {
    type Service = Logged<S>;

    fn layer(&self, inner: S) -> Logged<S> {
        Logged { inner }
    }
}

/// A service whose requests are logged.
#[derive(Clone, Debug)]
pub(super) struct Logged<S> {
    inner: S,
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

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let id = REQUESTS.fetch_add(1, Ordering::Relaxed);
        let peer = request.extensions().get::<Peer>();
        let peer = peer.map_or("unknown", |peer| &*peer.name);
        let method = request.uri().path().trim_start_matches('/');
        let span = tracing::info_span!("request", id, peer, method, caller = tracing::field::Empty);
        let start = Instant::now();
        // What is called at once, such as the guard, says within the span who calls.
        let answering = span.in_scope(|| self.inner.call(request));
        let answer = async move {
            let response = answering.await?;
            // A stream may still fail after its first message: this is how it began.
            let status = Status::from_header_map(response.headers());
            let code = status.map_or(Code::Ok, |status| status.code());
            tracing::debug!(?code, elapsed_us = start.elapsed().as_micros(), "answered");
            Ok(response)
        };
        Box::pin(answer.instrument(span))
    }
}
