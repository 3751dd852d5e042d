//! Serves gRPC: the HTTP/2 connections, and the layers of each request.

use std::{pin::pin, sync::Arc};

use http::Request;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;
use tonic::body::Body;
use tower::{Layer, Service, ServiceExt};

use super::{
    Limits,
    admission::{Admission, Message},
    connection::Connection,
    corked::corked,
    date,
    guard::Guard,
    listener::{self, Listener},
    metrics::Metrics,
    request_log::RequestLog,
    services::Services,
    tls::HTTP2,
    turns::{Begun, Turns},
    until,
};
use crate::identity::Access;

/// How much a connection, and one call on it, may send before it is read: several requests, or a quarter of the largest one. With
/// hyper's default, which is four times this, 1,024 connections could take a gigabyte.
const CONNECTION_WINDOW_BYTES: u32 = 512 << 10;
const STREAM_WINDOW_BYTES: u32 = 256 << 10;

/// Serves until `ends` is true.
pub(super) async fn serve(
    services: Services,
    listener: Listener,
    access: Access,
    metrics: Metrics,
    ends: watch::Receiver<bool>,
) {
    let limits = listener.limits.clone();
    let admission = Admission::new(&limits, metrics.clone(), access.clone(), Message::Framed);
    let guarded = Guard(access).layer(admission.layer(services));
    let service = RequestLog(metrics.clone())
        .layer(guarded)
        .map_response(date);
    listener::serve(listener, HTTP2, metrics, ends.clone(), |connection| {
        converse(connection, service.clone(), limits.clone(), ends.clone())
    })
    .await;
}

/// Answers the requests of a connection until either side ends it.
async fn converse<S>(
    connection: Connection,
    service: S,
    limits: Limits,
    ends: watch::Receiver<bool>,
) where
    S: Service<Request<Body>, Response = http::Response<Body>> + Clone,
    S::Error: std::error::Error + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let peer = connection.peer();
    let answer = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Arc::clone(&peer));
        // It is always ready: what there is no room for is refused, or waits in the call.
        service.clone().call(request.map(Body::new))
    });
    let (connection, cork) = corked(connection);
    let begun = Begun::default();
    let mut turns = Turns::new(begun.clone(), cork);
    let mut conversation = pin!(
        http2::Builder::new(begun)
            .timer(TokioTimer::new())
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .max_concurrent_streams(limits.streams_per_connection)
            .max_header_list_size(limits.header_bytes)
            .keep_alive_interval(limits.keepalive_interval)
            .keep_alive_timeout(limits.keepalive_timeout)
            .serve_connection(TokioIo::new(connection), answer)
    );
    let ended = tokio::select! {
        ended = turns.run(conversation.as_mut()) => ended,
        () = until(ends) => {
            conversation.as_mut().graceful_shutdown();
            turns.run(conversation).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection has ended");
    }
}
