//! The services of gRPC by their names: hands each request to the service that its path names.
//!
//! tonic's own `Routes` does this with axum's router, which puts each body into two more boxes and matches patterns: a get takes a
//! tenth more of the processor's time.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    future::ready,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::{Status, body::Body, codegen::BoxFuture, server::NamedService};
use tower::Service;

type Answer = BoxFuture<Response<Body>, Infallible>;
type Answering = Arc<dyn Fn(Request<Body>) -> Answer + Send + Sync>;

/// Services by their names. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Services(Arc<HashMap<&'static str, Answering>>);

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Services {
    /// The same services and another one.
    pub(super) fn and<S>(mut self, service: S) -> Services
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Answer>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        // A service of tonic is always ready.
        let answering: Answering = Arc::new(move |request| service.clone().call(request));
        Arc::make_mut(&mut self.0).insert(S::NAME, answering);
        self
    }
}

impl Service<Request<Body>> for Services {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        // The path is `/service/method`.
        let name = request.uri().path().split('/').nth(1);
        match name.and_then(|name| self.0.get(name)) {
            Some(answering) => answering(request),
            None => Box::pin(ready(Ok(Status::unimplemented("").into_http()))),
        }
    }
}
