//! Checks who calls before anything of a request is read: by its token, and by the table of what each role may call.

use std::{
    collections::HashMap,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::Either;
use http::{Request, Response, header::AUTHORIZATION};
use tonic::{Code, Status, body::Body};
use tonic_types::{ErrorDetails, StatusExt};
use tower::{Layer, Service};

use super::connection::Peer;
use crate::identity::{Access, Caller, Row, Rpc, Unknown};

/// Admits callers to the RPCs that they may call, and adds who they are to the request.
#[derive(Clone, Debug)]
pub(super) struct Guard(pub(super) Access);

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            inner,
            access: self.0.clone(),
        }
    }
}

/// A service behind the guard.
#[derive(Clone, Debug)]
pub(super) struct Guarded<S> {
    inner: S,
    access: Access,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Arc<Peer>>().cloned();
        let peer = peer.expect("every connection says who is at its other end");
        match admit(&self.access, &request, &peer) {
            Ok(caller) => {
                // An RPC for everybody has no caller.
                if let Some(caller) = caller {
                    let behalf = caller.behalf(peer.name.clone());
                    request.extensions_mut().insert(behalf);
                    request.extensions_mut().insert(caller);
                }
                Either::Left(self.inner.call(request))
            }
            Err(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}

/// The caller, if it may call this.
fn admit(
    access: &Access,
    request: &Request<Body>,
    peer: &Peer,
) -> Result<Option<Arc<Caller>>, Status> {
    let path = request.uri().path();
    let row = request.extensions().get::<&Rpc>().map(|rpc| rpc.row);
    if row == Some(Row::Everybody) {
        return Ok(None);
    }
    let authorizations = request.headers().get_all(AUTHORIZATION).iter();
    let caller = access
        .caller(
            authorizations.map(http::HeaderValue::as_bytes),
            &peer.certified,
        )
        .map_err(|unknown| match unknown {
            Unknown::NoToken => {
                let message = "who are you? Send a token, as `authorization: Bearer TOKEN`";
                refusal(Code::Unauthenticated, "NO_TOKEN", message.into())
            }
            Unknown::BadToken => bad_token(),
        })?;
    tracing::Span::current().record("caller", &*caller.name);
    match row {
        Some(Row::Roles(roles)) if roles.contains(&caller.role) => Ok(Some(caller)),
        // An RPC without a row in the table is one that somebody forgot.
        None => Err(Status::unimplemented(format!(
            "there is no RPC {path} here"
        ))),
        _ => {
            let role = format!("{:?}", caller.role).to_lowercase();
            let method = path.trim_start_matches('/');
            let message = format!("{method} is not for the role {role}");
            Err(refusal(Code::PermissionDenied, "DENIED", message))
        }
    }
}

/// The refusal of a caller whose token is not known.
pub(super) fn bad_token() -> Status {
    let message = "the token or certificate is not known here, or no longer: ask for another";
    refusal(Code::Unauthenticated, "BAD_TOKEN", message.into())
}

fn refusal(code: Code, reason: &str, message: String) -> Status {
    let details = ErrorDetails::with_error_info(reason, "icebox", HashMap::new());
    Status::with_error_details(code, message, details)
}
