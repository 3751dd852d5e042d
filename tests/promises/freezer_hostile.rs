//! Promise: Freezer's HTTP API answers everything that is sent to it, and never with a failure of the server.

use crate::harness::freezer::{self, Freezer};
use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::{Value, json};

/// Keys that have a meaning somewhere.
const KEYS: &[&str] = &[
    "backup_id",
    "job_id",
    "action_id",
    "session_id",
    "client_id",
    "project_id",
    "user_id",
    "description",
    "status",
    "hostname",
    "backup_name",
    "container",
    "backup_metadata",
    "job_schedule",
    "job_actions",
    "freezer_action",
    "action_defaults",
    "max_retries",
    "schedule",
    "hold_off",
    "jobs",
    "labels",
    "extra",
    "event",
    "schedule_interval",
    "time_created",
    "current_pid",
    "match",
    "match_not",
    "_all",
    "time_after",
    "time_before",
    "start",
    "stop",
    "abort",
    "end",
    "current_tag",
    "result",
    "client",
    "revision",
    "supported_actions",
    "user_credentials",
    "trust_id",
    "auth",
    "identity",
    "password",
    "user",
    "token",
];

const ID: &str = "00000000000000000000000000000007";

fn any_json() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-3..9_i64).prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        Just(json!(ID)),
        prop::sample::select(vec![
            "running",
            "completed",
            "success",
            "start",
            "1 days",
            "demo",
            "backup",
            "fs"
        ])
        .prop_map(Value::from),
    ];
    let key = prop_oneof![8 => prop::sample::select(KEYS).prop_map(str::to_owned), 1 => ".{0,4}"];
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::btree_map(key.clone(), inner, 0..7)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
    .boxed()
}

/// A valid document, except for what was added to it.
fn nearly_whole() -> BoxedStrategy<Value> {
    let whole = vec![
        freezer::job("nightly"),
        freezer::backup("etc"),
        json!({"description": "weekly"}),
        json!({"client_id": "node1", "hostname": "h"}),
        json!({"freezer_action": {"action": "exec"}}),
    ];
    let key = prop::sample::select(KEYS).prop_map(str::to_owned);
    let besides = prop::collection::btree_map(key, any_json(), 0..3);
    (prop::sample::select(whole), besides)
        .prop_map(|(mut document, besides)| {
            document.as_object_mut().expect("an object").extend(besides);
            document
        })
        .boxed()
}

/// A document, or something that is none.
fn any_body() -> BoxedStrategy<Vec<u8>> {
    let whole = any_json().prop_map(|json| json.to_string().into_bytes());
    let broken =
        (any_json(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(json, at, byte)| {
            let mut text = json.to_string().into_bytes();
            let at = at.index(text.len());
            text[at] = byte;
            text
        });
    let nearly = nearly_whole().prop_map(|json| json.to_string().into_bytes());
    prop_oneof![6 => whole, 6 => nearly, 2 => broken, 1 => prop::collection::vec(any::<u8>(), 0..64)].boxed()
}

fn any_request() -> impl Strategy<Value = (&'static str, String, Vec<u8>)> {
    let method = prop::sample::select(vec![
        "GET", "POST", "PATCH", "PUT", "DELETE", "HEAD", "OPTIONS",
    ]);
    let kind = prop::sample::select(vec!["backups", "jobs", "actions", "clients", "sessions"]);
    let behind = prop_oneof![
        Just(String::new()),
        Just("/".to_owned()),
        Just(format!("/{ID}")),
        Just(format!("/{ID}/event")),
        Just(format!("/{ID}/action")),
        Just(format!("/{ID}/jobs/{ID}")),
        "/[a-z0-9%]{0,6}",
    ];
    let query = prop_oneof![
        3 => Just(String::new()),
        2 => (any::<i64>(), -2..30_i64).prop_map(|(offset, limit)| format!("?offset={offset}&limit={limit}")),
        1 => "\\?[a-z_=&%+0-9]{0,20}",
        1 => Just(format!("?marker={ID}&all_projects=True")),
    ];
    let path = (kind, behind, query)
        .prop_map(|(kind, behind, query)| format!("/v2/demo/{kind}{behind}{query}"));
    let path =
        prop_oneof![8 => path, 1 => Just("/v3/auth/tokens".to_owned()), 1 => "/[a-z0-9/%]{0,12}"];
    (method, path, any_body())
}

#[test]
fn whatever_is_sent_is_answered_and_never_with_a_fault_of_the_servers() {
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let freezer = runtime.block_on(Freezer::start());
    let cases = ProptestConfig::with_cases(3000);
    let mut succeeded = 0;
    let tried = TestRunner::new(cases).run(&any_request(), |(method, path, body)| {
        let uri = format!("http://x{path}").parse::<http::Uri>();
        prop_assume!(uri.is_ok());
        let answer = runtime.block_on(freezer.send_as("", method, &path, body));
        prop_assert!(answer.status < 500, "{answer:?}");
        // An answer without a document belongs to a HEAD request, or says that something is done.
        let is_told = answer.document["description"].is_string();
        prop_assert!(
            answer.status < 400 || is_told || method == "HEAD",
            "{answer:?}"
        );
        Ok(())
    });
    tried.expect("no request is answered with a fault");
    // The server goes on as if nothing had happened.
    runtime.block_on(async {
        for kind in ["backups", "jobs", "actions", "clients", "sessions"] {
            let list = freezer.get(&format!("/v2/demo/{kind}")).await;
            succeeded += list[kind].as_array().expect("a list").len();
        }
        freezer.create(freezer::JOBS, freezer::job("nightly")).await;
    });
    assert!(succeeded > 0, "some of it was taken");
}
