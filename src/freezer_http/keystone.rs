//! The part of Keystone's API v3 that Freezer's programs call before anything else. They have no other way to bring a token: the
//! password is a token of Icebox, and they get back the same token with the addresses of the services.

use axum::{
    body::{Body, Bytes},
    extract::State,
    response::Response,
};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use tonic::Status;

use super::{document_in, refusal::Refused, resources::answer, versions::host_of};
use crate::{
    clock,
    identity::{Access, Caller},
    resource::Violations,
};

/// The expiry of a token that never expires.
const NEVER: &str = "2999-01-01T00:00:00.000000Z";
/// The refusal of a password that is not a token.
const UNKNOWN: &str =
    "the password must be a token of this server: it is not known here, or no longer";
/// The token that is given out if the server asks nobody for one.
const NO_TOKEN: &str = "notused";
/// OpenStack's name of the only region.
const REGION: &str = "RegionOne";
/// The header in which the token is returned.
const X_SUBJECT_TOKEN: &str = "x-subject-token";

/// Who may call, and the scheme of the URLs that they use.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    pub(crate) access: Access,
    pub(crate) scheme: &'static str,
}

/// `GET /v3`
pub(super) async fn version(State(door): State<Door>, request: Request<Body>) -> Response {
    let at = host_of(door.scheme, request.headers());
    let links = json!([{"rel": "self", "href": format!("{at}/v3/")}]);
    let version = json!({"id": "v3.14", "status": "stable", "links": links});
    answer(StatusCode::OK, &json!({"version": version}))
}

/// `POST /v3/auth/tokens`
pub(super) async fn token(
    State(door): State<Door>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refused> {
    let asked = Asked::read(&document_in(&body)?)?;
    let bearer = format!("Bearer {}", asked.token);
    let caller = door.access.caller([bearer.as_bytes()].into_iter(), &[]);
    let caller = caller.map_err(|_| Refused::of(Status::unauthenticated(UNKNOWN)))?;
    let project = project_of(&caller, asked.project.as_deref())?;
    let given = if door.access.asks() {
        &asked.token
    } else {
        NO_TOKEN
    };
    let given = HeaderValue::from_str(given);
    let given = given.map_err(|_| Violations::one("the password", "must be a token"))?;
    let at = host_of(door.scheme, &headers);
    let told = token_of(&caller, &asked, &project, &at);
    let mut response = answer(StatusCode::CREATED, &told);
    response.headers_mut().insert(X_SUBJECT_TOKEN, given);
    Ok(response)
}

/// What a request for a token contains.
struct Asked {
    user: String,
    token: String,
    /// The project's id or its name: they are the same here.
    project: Option<String>,
}

impl Asked {
    /// # Errors
    /// If it has neither a password nor a token.
    fn read(document: &Value) -> Result<Asked, Violations> {
        let text = |at: &str| document.pointer(at).and_then(Value::as_str);
        let password = text("/auth/identity/password/user/password");
        let token = password.or_else(|| text("/auth/identity/token/id"));
        let Some(token) = token else {
            let expected = "must have a password, which is a token of this server";
            return Err(Violations::one("auth.identity", expected));
        };
        let name = text("/auth/identity/password/user/name");
        let name = name.or_else(|| text("/auth/identity/password/user/id"));
        let project = text("/auth/scope/project/id").or_else(|| text("/auth/scope/project/name"));
        Ok(Asked {
            user: name.unwrap_or_default().to_owned(),
            token: token.to_owned(),
            project: project.map(str::to_owned),
        })
    }
}

/// The project of the token: the one that the request names, or the caller's only one.
///
/// # Errors
/// If there is none.
fn project_of(caller: &Caller, asked: Option<&str>) -> Result<String, Refused> {
    let own = caller.authority.projects.as_deref();
    let refuse = |message: String| Err(Refused::of(Status::unauthenticated(message)));
    match (asked, own) {
        (Some(asked), Some(own)) if !own.iter().any(|own| own == asked) => {
            refuse(format!("the token is not good for project {asked}"))
        }
        (Some(asked), _) => Ok(asked.to_owned()),
        (None, Some([only])) => Ok(only.clone()),
        (None, _) => refuse("which project? The token does not say: name one".into()),
    }
}

/// A time as Keystone writes it.
fn time(ms: u64) -> String {
    let time = i64::try_from(ms).ok().map(Timestamp::from_millisecond);
    match time {
        Some(Ok(time)) => time.strftime("%Y-%m-%dT%H:%M:%S.000000Z").to_string(),
        _ => NEVER.to_owned(),
    }
}

fn token_of(caller: &Caller, asked: &Asked, project: &str, at: &str) -> Value {
    let domain = json!({"id": "default", "name": "Default"});
    let (id, name) = match &caller.authority.user {
        Some(user) => (user.id.as_str(), user.name.as_str()),
        None => (asked.user.as_str(), asked.user.as_str()),
    };
    let endpoint = |interface: &str| json!({"id": interface, "interface": interface, "region": REGION, "region_id": REGION, "url": at});
    let endpoints = ["public", "internal", "admin"].map(endpoint);
    json!({"token": {
        "methods": ["password"],
        "user": {"id": id, "name": name, "domain": domain},
        "project": {"id": project, "name": project, "domain": domain},
        "roles": [{"id": "member", "name": "member"}],
        "issued_at": time(clock::now_ms()),
        "expires_at": caller.expires_ms.map_or_else(|| NEVER.to_owned(), time),
        "catalog": [{"id": "freezer", "type": "backup", "name": "freezer", "endpoints": endpoints}],
    }})
}
