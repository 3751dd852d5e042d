//! Freezer's HTTP API v2, over a catalog: a translation. Each request has a twin of gRPC, ends in the same call, and is refused as
//! that is; what it takes and gives are Freezer's documents.

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

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::DefaultBodyLimit,
    routing::{MethodRouter, any, delete, get, patch, post, put},
};
use http::{Request, StatusCode, Uri, uri::PathAndQuery};
use serde_json::Value;

pub(crate) use keystone::Door;
pub(crate) use refusal::refused;

use crate::{
    catalog::Catalog,
    identity::{self, Rpc},
    proto::{Action, Backup, Client, Job, Session},
    resource::Violations,
};
use refusal::Refused;
use walks::Walks;

/// The header that a token is in.
pub(crate) const X_AUTH_TOKEN: &str = "x-auth-token";

/// The twin of what everybody may ask.
const EVERYBODYS: &str = "/grpc.health.v1.Health/Check";

/// What handlers work with.
#[derive(Clone, Debug)]
struct Edge {
    catalog: Catalog,
    walks: Arc<Walks>,
}

/// What answers, over a catalog. `guarded` lets a route's requests through as their twin's: who may call that may make them.
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
    for (path, twin, route) in routes() {
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

/// Where requests go, and their twins.
#[rustfmt::skip]
fn routes() -> Vec<(&'static str, &'static str, MethodRouter<Edge>)> {
    use resources as of;
    vec![
        ("/v2/{project_id}/backups", "/freezer.v2.BackupService/ListBackups", get(list::list::<Backup>)),
        ("/v2/{project_id}/backups", "/freezer.v2.BackupService/CreateBackup", post(of::create::<Backup>)),
        ("/v2/{project_id}/backups/{id}", "/freezer.v2.BackupService/GetBackup", get(of::get::<Backup>)),
        ("/v2/{project_id}/backups/{id}", "/freezer.v2.BackupService/UpdateBackup", patch(of::update::<Backup>)),
        ("/v2/{project_id}/backups/{id}", "/freezer.v2.BackupService/DeleteBackup", delete(of::delete::<Backup>)),
        ("/v2/{project_id}/jobs", "/freezer.v2.JobService/ListJobs", get(list::list::<Job>)),
        ("/v2/{project_id}/jobs", "/freezer.v2.JobService/CreateJob", post(of::create::<Job>)),
        ("/v2/{project_id}/jobs/{id}", "/freezer.v2.JobService/GetJob", get(of::get::<Job>)),
        ("/v2/{project_id}/jobs/{id}", "/freezer.v2.JobService/UpdateJob", patch(of::update::<Job>)),
        ("/v2/{project_id}/jobs/{id}", "/freezer.v2.JobService/CreateJob", post(of::replace::<Job>)),
        ("/v2/{project_id}/jobs/{id}", "/freezer.v2.JobService/DeleteJob", delete(of::delete::<Job>)),
        ("/v2/{project_id}/jobs/{id}/event", "/freezer.v2.JobService/StartJob", post(jobs::event)),
        ("/v2/{project_id}/actions", "/freezer.v2.ActionService/ListActions", get(list::list::<Action>)),
        ("/v2/{project_id}/actions", "/freezer.v2.ActionService/CreateAction", post(of::create::<Action>)),
        ("/v2/{project_id}/actions/{id}", "/freezer.v2.ActionService/GetAction", get(of::get::<Action>)),
        ("/v2/{project_id}/actions/{id}", "/freezer.v2.ActionService/UpdateAction", patch(of::update::<Action>)),
        ("/v2/{project_id}/actions/{id}", "/freezer.v2.ActionService/CreateAction", post(of::replace::<Action>)),
        ("/v2/{project_id}/actions/{id}", "/freezer.v2.ActionService/DeleteAction", delete(of::delete::<Action>)),
        ("/v2/{project_id}/clients", "/freezer.v2.ClientService/ListClients", get(list::list::<Client>)),
        ("/v2/{project_id}/clients", "/freezer.v2.ClientService/RegisterClient", post(clients::register)),
        ("/v2/{project_id}/clients/{id}", "/freezer.v2.ClientService/GetClient", get(of::get::<Client>)),
        ("/v2/{project_id}/clients/{id}", "/freezer.v2.ClientService/DeleteClient", delete(of::delete::<Client>)),
        ("/v2/{project_id}/sessions", "/freezer.v2.SessionService/ListSessions", get(list::list::<Session>)),
        ("/v2/{project_id}/sessions", "/freezer.v2.SessionService/CreateSession", post(of::create::<Session>)),
        ("/v2/{project_id}/sessions/{id}", "/freezer.v2.SessionService/GetSession", get(of::get::<Session>)),
        ("/v2/{project_id}/sessions/{id}", "/freezer.v2.SessionService/UpdateSession", patch(of::update::<Session>)),
        ("/v2/{project_id}/sessions/{id}", "/freezer.v2.SessionService/CreateSession", post(of::replace::<Session>)),
        ("/v2/{project_id}/sessions/{id}", "/freezer.v2.SessionService/DeleteSession", delete(of::delete::<Session>)),
        ("/v2/{project_id}/sessions/{id}/action", "/freezer.v2.SessionService/StartSession", post(sessions::action)),
        ("/v2/{project_id}/sessions/{id}/jobs/{job_id}", "/freezer.v2.SessionService/AddJob", put(sessions::add_job)),
        ("/v2/{project_id}/sessions/{id}/jobs/{job_id}", "/freezer.v2.SessionService/RemoveJob", delete(sessions::remove_job)),
    ]
}

/// Collections are asked for with a slash behind them, and without.
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

/// The document in a body, whatever type it says it is of.
///
/// # Errors
/// If there is none.
fn document_in(body: &[u8]) -> Result<Value, Refused> {
    if body.trim_ascii().is_empty() {
        return Err(Violations::one("the body", "must be a JSON object, and is empty").into());
    }
    serde_json::from_slice(body).map_err(|error| {
        let why = format!("must be a JSON object, and is no JSON: {error}");
        Violations::one("the body", why).into()
    })
}
