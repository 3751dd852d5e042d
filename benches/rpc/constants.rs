//! A server that returns constants at once: the limit.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use tonic::{body::Body, server::NamedService, transport::server::TcpIncoming};
use tower::Service;

/// Reads each request and answers with the same bytes. This is what the transport alone can do.
#[derive(Clone, Copy)]
struct Constants {
    page: &'static [u8],
    backup: &'static [u8],
}

impl NamedService for Constants {
    const NAME: &'static str = "freezer.v2.BackupService";
}

impl Service<Request<Body>> for Constants {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Constants { page, backup } = *self;
        let is_list = request.uri().path().ends_with("/ListBackups");
        let answer = if is_list { page } else { backup };
        Box::pin(async move {
            request.into_body().collect().await.expect("a request");
            let ok = [("grpc-status", "0")].map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            });
            let trailers = async move { Some(Ok::<_, Infallible>(HeaderMap::from_iter(ok))) };
            let body = Full::new(Bytes::from_static(answer)).with_trailers(trailers);
            let response = Response::builder().header("content-type", "application/grpc");
            Ok(response.body(Body::new(body)).expect("a response"))
        })
    }
}

/// Serves the answers that were written beside `file`.
pub(super) async fn serve(file: &str) {
    let read = |name: &str| -> &'static [u8] {
        std::fs::read(format!("{file}.{name}"))
            .expect("it was written")
            .leak()
    };
    let constants = Constants {
        page: read("page"),
        backup: read("backup"),
    };
    let address = "127.0.0.1:0".parse().expect("an address");
    let incoming = TcpIncoming::bind(address)
        .expect("a free port")
        .with_nodelay(Some(true));
    let address = incoming.local_addr().expect("it is bound");
    eprintln!("{{\"fields\": {{\"address\": \"{address}\"}}}}");
    let serving = tonic::transport::Server::builder().add_service(constants);
    serving
        .serve_with_incoming(incoming)
        .await
        .expect("it serves");
}
