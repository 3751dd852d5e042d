//! Serves Freezer's HTTP API: the HTTP/1.1 connections, and the layers of each request, which are those of its twin of gRPC.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    routing::{MethodRouter, Route},
};
use http::{HeaderValue, Request, Response, header::AUTHORIZATION};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;
use tower::{Layer, ServiceExt, layer::layer_fn};

use super::{
    Limits, Listener,
    admission::{Admission, Message},
    connection::Connection,
    date,
    guard::Guard,
    listener,
    metrics::Metrics,
    request_log::RequestLog,
    tls::HTTP1,
    until,
};
use crate::{
    catalog::Catalog,
    freezer_http::{self, Door, X_AUTH_TOKEN},
    identity::{Access, Rpc},
};

/// The least that hyper may buffer of one connection: it does not work with less.
const BUFFER_BYTES_MIN: usize = 8 << 10;
/// The body of answers, as the shared layers know it.
type GrpcBody = tonic::body::Body;

/// Serves until `ends` is true.
pub(super) async fn serve(
    catalog: Catalog,
    listener: Listener,
    access: Access,
    metrics: Metrics,
    ends: watch::Receiver<bool>,
) {
    let limits = listener.limits.clone();
    let scheme = if listener.is_secure() {
        "https"
    } else {
        "http"
    };
    let door = Door { access, scheme };
    let router = router(catalog, &door, metrics.clone(), &limits);
    listener::serve(listener, HTTP1, metrics, ends.clone(), |connection| {
        converse(connection, router.clone(), limits.clone(), ends.clone())
    })
    .await;
}

/// Answers the requests of a connection one after another, until either side ends it.
async fn converse(
    connection: Connection,
    router: Router,
    limits: Limits,
    ends: watch::Receiver<bool>,
) {
    let peer = connection.peer();
    let answer = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Arc::clone(&peer));
        answer(router.clone(), request.map(Body::new))
    });
    let mut conversation = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(idle_timeout(&limits))
            .max_buf_size(BUFFER_BYTES_MIN.max(limits.header_bytes as usize))
            .serve_connection(TokioIo::new(connection), answer)
    );
    let ended = tokio::select! {
        ended = &mut conversation => ended,
        () = until(ends) => {
            conversation.as_mut().graceful_shutdown();
            conversation.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection has ended");
    }
}

/// How long a connection may wait for its next request.
fn idle_timeout(limits: &Limits) -> Duration {
    limits.stall_timeout
}

async fn answer(router: Router, request: Request<Body>) -> Result<Response<Body>, Infallible> {
    router
        .oneshot(freezer_http::without_last_slash(request))
        .await
}

fn router(catalog: Catalog, door: &Door, metrics: Metrics, limits: &Limits) -> Router {
    let log = RequestLog(metrics.clone());
    let guard = Guard(door.access.clone());
    let admission = Admission::new(limits, metrics, door.access.clone(), Message::Whole);
    let guarded = move |rpc: &'static Rpc, route: MethodRouter| {
        let (log, guard, admission) = (log.clone(), guard.clone(), admission.clone());
        route.layer(layer_fn(move |route: Route| {
            let inner = route
                .map_request(|request: Request<GrpcBody>| request.map(Body::new))
                .map_response(|response: Response<Body>| response.map(GrpcBody::new));
            log.layer(guard.layer(admission.layer(inner)))
                .map_request(move |request| as_of_twin(rpc, request))
                .map_response(|response: Response<GrpcBody>| date(response).map(Body::new))
                .map_response(freezer_http::refused)
        }))
    };
    freezer_http::router(catalog, door, guarded)
}

/// Gives a request the `authorization` header that its twin of gRPC would have.
fn as_of_twin(rpc: &'static Rpc, mut request: Request<Body>) -> Request<GrpcBody> {
    request.extensions_mut().insert(rpc);
    let headers = request.headers_mut();
    let tokens: Vec<_> = headers.get_all(X_AUTH_TOKEN).iter().cloned().collect();
    headers.remove(X_AUTH_TOKEN);
    for token in tokens {
        let bearer = [b"Bearer ", token.as_bytes()].concat();
        if let Ok(mut bearer) = HeaderValue::from_bytes(&bearer) {
            bearer.set_sensitive(true);
            headers.append(AUTHORIZATION, bearer);
        }
    }
    request.map(GrpcBody::new)
}
