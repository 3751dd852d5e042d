//! A server of Freezer's HTTP API over a store of its own, with a client that returns what it gets.

use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use icebox::{Access, Icebox, Limits, Listener};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::opened;

/// The project that tests work in.
pub(crate) const PROJECT: &str = "demo";
/// The API's collections.
pub(crate) const JOBS: &str = "/v2/demo/jobs/";
pub(crate) const BACKUPS: &str = "/v2/demo/backups/";
pub(crate) const SESSIONS: &str = "/v2/demo/sessions/";

/// A running server. It ends with the test's runtime, and its store is removed with it.
pub(crate) struct Freezer {
    pub(crate) icebox: Icebox,
    pub(crate) address: String,
    client: Client<HttpConnector, Full<bytes::Bytes>>,
    _store: TempDir,
}

/// An answer: its status and its document, which is `null` if there is none.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) document: Value,
}

impl Freezer {
    /// A server whose callers may do everything.
    pub(crate) async fn start() -> Freezer {
        Freezer::start_for(Access::default(), Limits::default()).await
    }

    pub(crate) async fn start_for(access: Access, limits: Limits) -> Freezer {
        let (icebox, store) = opened().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound").to_string();
        // It runs as long as the test does.
        drop(icebox.serve_http(Listener::from(listener).with_limits(limits), access));
        Freezer {
            icebox,
            address,
            client: Client::builder(TokioExecutor::new()).build_http(),
            _store: store,
        }
    }

    /// Sends a document. `null` means none.
    pub(crate) async fn send(&self, method: &str, path: &str, document: Value) -> Answer {
        let body = if document.is_null() {
            String::new()
        } else {
            document.to_string()
        };
        self.send_as("notused", method, path, body).await
    }

    /// Sends a body with a token.
    pub(crate) async fn send_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: impl Into<bytes::Bytes>,
    ) -> Answer {
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address));
        if !token.is_empty() {
            request = request.header("X-Auth-Token", token);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        let response = self.client.request(request).await.expect("an answer");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("all of it");
        let body = body.to_bytes();
        let document = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body).expect("JSON")
        };
        Answer { status, document }
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = self.send("GET", path, Value::Null).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.document
    }

    /// Creates a resource in a collection, and returns its id.
    pub(crate) async fn create(&self, path: &str, document: Value) -> String {
        let created = self.send("POST", path, document).await;
        assert_eq!(created.status, 201, "{path}: {created:?}");
        let members = created.document.as_object().expect("an object");
        let id = members.values().next().expect("an id");
        id.as_str().expect("an id").to_owned()
    }

    /// The values of a key in the documents of an answer.
    pub(crate) async fn listed(&self, path: &str, key: &str) -> Vec<String> {
        values(&self.get(path).await, key)
    }
}

/// The values of a key in the documents of a list.
pub(crate) fn values(list: &Value, key: &str) -> Vec<String> {
    let lists = list.as_object().expect("an object").values();
    let documents = lists.flat_map(|list| list.as_array().expect("a list"));
    let values = documents.map(|document| document[key].as_str().expect("a string").to_owned());
    values.collect()
}

/// A job's document.
pub(crate) fn job(description: &str) -> Value {
    json!({
        "description": description, "client_id": "node1",
        "job_schedule": {"schedule_interval": "5 minutes", "event": ""},
        "job_actions": [{"freezer_action": {
            "action": "backup", "mode": "fs", "backup_name": "etc", "container": "c", "path_to_backup": "/etc",
            "storage": "local",
        }}],
    })
}

/// A backup's metadata, as an agent sends it.
pub(crate) fn backup(name: &str) -> Value {
    json!({
        "backup_name": name, "container": "c", "hostname": "node1", "time_stamp": 1_490_000_000, "max_level": "",
        "curr_backup_level": 0, "mode": "fs", "action": "backup", "storage": "local", "job_id": "", "volume": "v",
    })
}
