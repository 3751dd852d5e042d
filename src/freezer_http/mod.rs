//! Freezer's HTTP API v2, as a translation. Each route has an RPC of gRPC as its twin: it makes the same call and is refused in the
//! same cases. What it takes and returns are Freezer's documents.

mod actions;
mod clients;
mod document;
mod jobs;
mod keystone;
mod list;
mod refusal;
mod resources;
mod search;
mod sessions;
mod versions;
mod walks;

use std::{convert::Infallible, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, FromRequestParts},
    handler::Handler,
    routing::{MethodFilter, MethodRouter, any, get, on, post},
};
use http::{Method, Request, StatusCode, Uri, request::Parts, uri::PathAndQuery};
use serde_json::Value;

pub(crate) use keystone::Door;
pub(crate) use refusal::refused;

use crate::{
    calls::{Behalf, Calls},
    catalog::Catalog,
    identity::{self, Rpc},
    proto::{Action, Backup, Client, Job, Session},
    resource::{Resource, Violations},
};
use refusal::Refused;
use walks::Walks;

/// The header with the caller's token.
pub(crate) const X_AUTH_TOKEN: &str = "x-auth-token";

/// The twin of routes that everybody may call.
const EVERYBODYS: &str = "/grpc.health.v1.Health/Check";

/// The state that handlers share.
#[derive(Clone, Debug)]
struct Edge {
    catalog: Catalog,
    walks: Arc<Walks>,
}

/// A request's caller, and the state.
#[derive(Debug)]
struct Asking {
    edge: Edge,
    behalf: Behalf,
}

impl Asking {
    /// The calls that the caller may make on one kind of resource.
    fn about<R: Resource>(&self) -> Calls<'_, R> {
        Calls::on_behalf(&self.behalf, &self.edge.catalog)
    }
}

impl FromRequestParts<Edge> for Asking {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, edge: &Edge) -> Result<Asking, Infallible> {
        // The guard adds the caller. Without one, nothing may be touched.
        let behalf = parts.extensions.get::<Behalf>().cloned();
        Ok(Asking {
            edge: edge.clone(),
            behalf: behalf.unwrap_or_else(Behalf::nobodys),
        })
    }
}

/// The router of all routes. `guarded` puts the guard of a route's twin in front of it, so that whoever may call the twin may use
/// the route.
pub(crate) fn router(
    catalog: Catalog,
    door: &Door,
    guarded: impl Fn(&'static Rpc, MethodRouter) -> MethodRouter,
) -> Router {
    let edge = Edge {
        catalog,
        walks: Arc::default(),
    };
    let mut router = Router::new();
    for Way {
        path, twin, route, ..
    } in ways()
    {
        let rpc = identity::rpc(twin).expect("a twin is an RPC that is served");
        router = router.route(path, guarded(rpc, route.with_state(edge.clone())));
    }
    for (path, status) in [("/", StatusCode::MULTIPLE_CHOICES), ("/v2", StatusCode::OK)] {
        let scheme = door.scheme;
        let told = async move |request| versions::versions(status, scheme, &request);
        router = router.route(path, get(told));
    }
    let everybody = identity::rpc(EVERYBODYS).expect("it is served");
    for (path, route) in [
        ("/v3", get(keystone::version)),
        ("/v3/auth/tokens", post(keystone::token)),
    ] {
        router = router.route(path, guarded(everybody, route.with_state(door.clone())));
    }
    router
        .layer(DefaultBodyLimit::disable())
        .method_not_allowed_fallback(async || refusal::of(StatusCode::METHOD_NOT_ALLOWED))
        .fallback(any(async || refusal::of(StatusCode::NOT_FOUND)))
}

/// A route.
pub(crate) struct Way {
    /// Its method and path.
    #[cfg_attr(not(test), expect(dead_code, reason = "it is in the route"))]
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    /// The RPC that is its twin.
    pub(crate) twin: &'static str,
    route: MethodRouter<Edge>,
}

fn way<H, T>(method: Method, path: &'static str, twin: &'static str, handler: H) -> Way
where
    H: Handler<T, Edge>,
    T: 'static,
{
    let on_method = MethodFilter::try_from(method.clone()).expect("it is one of HTTP's own");
    Way {
        method,
        path,
        twin,
        route: on(on_method, handler),
    }
}

/// All routes.
#[rustfmt::skip]
pub(crate) fn ways() -> Vec<Way> {
    use resources as of;
    vec![
        way(Method::GET, "/v2/{project_id}/backups", "/freezer.v2.BackupService/ListBackups", list::list::<Backup>),
        way(Method::POST, "/v2/{project_id}/backups", "/freezer.v2.BackupService/CreateBackup", of::create::<Backup>),
        way(Method::GET, "/v2/{project_id}/backups/{id}", "/freezer.v2.BackupService/GetBackup", of::get::<Backup>),
        way(Method::PATCH, "/v2/{project_id}/backups/{id}", "/freezer.v2.BackupService/UpdateBackup", of::update::<Backup>),
        way(Method::DELETE, "/v2/{project_id}/backups/{id}", "/freezer.v2.BackupService/DeleteBackup", of::delete::<Backup>),
        way(Method::GET, "/v2/{project_id}/jobs", "/freezer.v2.JobService/ListJobs", list::list::<Job>),
        way(Method::POST, "/v2/{project_id}/jobs", "/freezer.v2.JobService/CreateJob", of::create::<Job>),
        way(Method::GET, "/v2/{project_id}/jobs/{id}", "/freezer.v2.JobService/GetJob", of::get::<Job>),
        way(Method::PATCH, "/v2/{project_id}/jobs/{id}", "/freezer.v2.JobService/UpdateJob", of::update::<Job>),
        way(Method::POST, "/v2/{project_id}/jobs/{id}", "/freezer.v2.JobService/CreateJob", of::replace::<Job>),
        way(Method::DELETE, "/v2/{project_id}/jobs/{id}", "/freezer.v2.JobService/DeleteJob", of::delete::<Job>),
        way(Method::POST, "/v2/{project_id}/jobs/{id}/event", "/freezer.v2.JobService/StartJob", jobs::event),
        way(Method::GET, "/v2/{project_id}/actions", "/freezer.v2.ActionService/ListActions", list::list::<Action>),
        way(Method::POST, "/v2/{project_id}/actions", "/freezer.v2.ActionService/CreateAction", of::create::<Action>),
        way(Method::GET, "/v2/{project_id}/actions/{id}", "/freezer.v2.ActionService/GetAction", of::get::<Action>),
        way(Method::PATCH, "/v2/{project_id}/actions/{id}", "/freezer.v2.ActionService/UpdateAction", of::update::<Action>),
        way(Method::POST, "/v2/{project_id}/actions/{id}", "/freezer.v2.ActionService/CreateAction", of::replace::<Action>),
        way(Method::DELETE, "/v2/{project_id}/actions/{id}", "/freezer.v2.ActionService/DeleteAction", actions::delete),
        way(Method::GET, "/v2/{project_id}/clients", "/freezer.v2.ClientService/ListClients", list::list::<Client>),
        way(Method::POST, "/v2/{project_id}/clients", "/freezer.v2.ClientService/RegisterClient", clients::register),
        way(Method::GET, "/v2/{project_id}/clients/{id}", "/freezer.v2.ClientService/GetClient", of::get::<Client>),
        way(Method::DELETE, "/v2/{project_id}/clients/{id}", "/freezer.v2.ClientService/DeleteClient", of::delete::<Client>),
        way(Method::GET, "/v2/{project_id}/sessions", "/freezer.v2.SessionService/ListSessions", list::list::<Session>),
        way(Method::POST, "/v2/{project_id}/sessions", "/freezer.v2.SessionService/CreateSession", of::create::<Session>),
        way(Method::GET, "/v2/{project_id}/sessions/{id}", "/freezer.v2.SessionService/GetSession", of::get::<Session>),
        way(Method::PATCH, "/v2/{project_id}/sessions/{id}", "/freezer.v2.SessionService/UpdateSession", of::update::<Session>),
        way(Method::POST, "/v2/{project_id}/sessions/{id}", "/freezer.v2.SessionService/CreateSession", of::replace::<Session>),
        way(Method::DELETE, "/v2/{project_id}/sessions/{id}", "/freezer.v2.SessionService/DeleteSession", of::delete::<Session>),
        way(Method::POST, "/v2/{project_id}/sessions/{id}/action", "/freezer.v2.SessionService/StartSession", sessions::action),
        way(Method::PUT, "/v2/{project_id}/sessions/{id}/jobs/{job_id}", "/freezer.v2.SessionService/AddJob", sessions::add_job),
        way(Method::DELETE, "/v2/{project_id}/sessions/{id}/jobs/{job_id}", "/freezer.v2.SessionService/RemoveJob", sessions::remove_job),
    ]
}

/// Accepts the URL of a collection with or without a slash at its end.
pub(crate) fn without_last_slash(mut request: Request<Body>) -> Request<Body> {
    let uri = request.uri();
    let path = uri.path();
    if path.len() > 1
        && let Some(path) = path.strip_suffix('/')
    {
        let query = uri.query().map(|query| format!("?{query}"));
        let shorter = format!("{path}{}", query.unwrap_or_default());
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = PathAndQuery::try_from(shorter).ok();
        if let Ok(shorter) = Uri::from_parts(parts) {
            *request.uri_mut() = shorter;
        }
    }
    request
}

/// The JSON document in a body, whatever content type it claims.
///
/// # Errors
/// If the body is not JSON.
fn document_in(body: &[u8]) -> Result<Value, Refused> {
    if body.trim_ascii().is_empty() {
        return Err(Violations::one("the body", "must be a JSON object, and is empty").into());
    }
    serde_json::from_slice(body).map_err(|error| {
        let why = format!("must be a JSON object, and is no JSON: {error}");
        Violations::one("the body", why).into()
    })
}

/// The only member of an object that has exactly one: what to do, and with what.
fn only_member(document: &Value) -> Option<(&str, &Value)> {
    let mut members = document.as_object()?.iter();
    let (name, value) = members.next()?;
    members.next().is_none().then_some((name.as_str(), value))
}
