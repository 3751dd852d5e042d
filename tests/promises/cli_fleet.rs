//! Promise: what a person sees who manages clients, stored actions and sessions with the command.

use std::{path::Path, process::Command};

use crate::harness::child::ChildServer;
use serde_json::Value;

/// Runs a command to its end. Returns its status, its output and its errors.
fn run(server: &ChildServer, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_icebox"));
    command
        .args(arguments)
        .env("ICEBOX_SERVER", server.address())
        .env("ICEBOX_PROJECT", "demo");
    let output = command.output().expect("it runs");
    let said = if output.status.success() {
        output.stdout
    } else {
        output.stderr
    };
    let said = String::from_utf8(said).expect("UTF-8");
    (output.status.code(), said.trim().to_owned())
}

fn printed(server: &ChildServer, arguments: &[&str]) -> String {
    let (status, said) = run(server, arguments);
    assert_eq!(status, Some(0), "{arguments:?}: {said}");
    said
}

/// The id of what a command has stored from a document.
fn stored(server: &ChildServer, dir: &Path, arguments: &[&str], document: &str) -> String {
    let file = dir.join("document.json");
    std::fs::write(&file, document).expect("it is written");
    let file = file.to_str().expect("UTF-8");
    printed(server, &[arguments, &[file, "-o", "name"]].concat())
}

fn document(server: &ChildServer, arguments: &[&str]) -> Value {
    let said = printed(server, &[arguments, &["-o", "json"]].concat());
    serde_json::from_str(&said).expect("JSON")
}

#[test]
fn clients_are_registered_listed_changed_and_deleted() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = ChildServer::start(&dir.path().join("store"));
    let client =
        r#"{"client_id": "node1", "hostname": "node1", "supported_modes": ["fs", "nova"]}"#;
    let create = ["clients", "create"];
    assert_eq!(stored(&server, dir.path(), &create, client), "node1");
    assert_eq!(stored(&server, dir.path(), &create, client), "node1");
    let list = printed(&server, &["clients", "list"]);
    let lines: Vec<_> = list.lines().collect();
    assert!(
        lines[0].starts_with("CLIENT ID  HOSTNAME") && lines[1].contains("fs,nova"),
        "{list}"
    );
    let changed = [
        "clients",
        "update",
        "node1",
        "--set",
        "description=the first",
    ];
    assert_eq!(document(&server, &changed)["description"], "the first");
    let (status, said) = run(
        &server,
        &["clients", "update", "node2", "--set", "description=x"],
    );
    assert_eq!(status, Some(1));
    assert!(said.contains("client_id node2"), "{said}");
    let bad = ["clients", "update", "node1", "--set", "hostname="];
    let (status, said) = run(&server, &bad);
    assert_eq!(status, Some(1));
    assert!(said.contains("client.hostname is required"), "{said}");
    printed(&server, &["clients", "delete", "node1"]);
    assert_eq!(printed(&server, &["clients", "list", "-q"]), "");
}

#[test]
fn actions_and_sessions_are_kept_with_their_jobs() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = ChildServer::start(&dir.path().join("store"));
    let create =
        |what: &str, document: &str| stored(&server, dir.path(), &[what, "create"], document);
    let action = r#"{"freezer_action": {"action": "backup", "backup_name": "etc"}}"#;
    let action = create("actions", action);
    let backup = r#"{"freezer_action": {"action": "info"}}"#;
    let job = format!(
        r#"{{"description": "nightly", "job_actions": [{{"action_id": "{action}"}}, {backup}]}}"#
    );
    let job = create("jobs", &job);
    let name = |job: &str| {
        let job = document(&server, &["jobs", "get", job]);
        let action = &job["job_actions"][0]["freezer_action"];
        action["backup_name"].as_str().map(str::to_owned)
    };
    assert_eq!(name(&job).as_deref(), Some("etc"));
    let changed = [
        "actions",
        "update",
        &action[..12],
        "--set",
        "freezer_action.backup_name=var",
    ];
    printed(&server, &changed);
    assert_eq!(name(&job).as_deref(), Some("var"));
    let (status, said) = run(&server, &["actions", "delete", &action]);
    assert_eq!(status, Some(1));
    assert!(said.contains(&job) && said.contains("detach"), "{said}");
    printed(&server, &["actions", "delete", "--detach", &action]);
    assert_eq!(name(&job), None);
    assert!(printed(&server, &["actions", "list", "-q"]).is_empty());

    let session = r#"{"description": "all", "schedule": {"schedule_interval": "1 days"}}"#;
    let session = create("sessions", session);
    let member = |command: &str| {
        document(&server, &["sessions", command, &session, &job])["jobs"]
            .as_object()
            .map_or(0, serde_json::Map::len)
    };
    assert_eq!(member("add-job"), 1);
    let job_now = document(&server, &["jobs", "get", &job]);
    assert_eq!(job_now["job_schedule"]["schedule_interval"], "1 days");
    let start = ["sessions", "start", &session, &job, "--tag", "0"];
    assert_eq!(printed(&server, &start), "success 1");
    let end = [
        "sessions", "end", &session, &job, "--tag", "1", "--result", "success",
    ];
    assert_eq!(printed(&server, &end), "success 1");
    let list = printed(&server, &["sessions", "list"]);
    assert!(list.contains("completed  success"), "{list}");
    assert_eq!(member("remove-job"), 0);
    printed(
        &server,
        &["sessions", "delete", "--status", "completed", "--yes"],
    );
    assert!(printed(&server, &["sessions", "list", "-q"]).is_empty());
    let status = document(&server, &["status"]);
    assert_eq!(
        (&status["job_count"], &status["action_count"]),
        (&1.into(), &0.into())
    );
}

#[test]
fn all_five_kinds_go_out_and_come_back_the_same() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = ChildServer::start(&dir.path().join("store"));
    let create =
        |what: &str, document: &str| stored(&server, dir.path(), &[what, "create"], document);
    create(
        "clients",
        r#"{"client_id": "node1", "hostname": "node1", "supported_modes": ["fs"], "labels": {"rack": "7"}}"#,
    );
    let action = create(
        "actions",
        r#"{"freezer_action": {"action": "backup", "backup_name": "etc"}}"#,
    );
    let job = format!(
        r#"{{"description": "nightly", "labels": {{"env": "prod"}}, "job_actions": [{{"action_id": "{action}"}}]}}"#
    );
    let job = create("jobs", &job);
    let session = create(
        "sessions",
        r#"{"description": "all", "schedule": {"schedule_interval": "1 days"}, "hold_off": 60}"#,
    );
    printed(&server, &["sessions", "add-job", &session, &job]);
    printed(
        &server,
        &["sessions", "start", &session, &job, "--tag", "0"],
    );
    create(
        "backups",
        r#"{"backup_metadata": {"backup_name": "b", "container": "c", "hostname": "h"}}"#,
    );

    for format in ["json", "jsonl"] {
        let export = |server: &ChildServer| printed(server, &["export", "-o", format]);
        let exported = export(&server);
        let file = dir.path().join("exported");
        std::fs::write(&file, &exported).expect("it is written");
        let file = file.to_str().expect("UTF-8");
        let again = printed(&server, &["import", file]);
        assert!(again.contains("5 unchanged, 0 refused"), "{again}");
        let other = ChildServer::start(&dir.path().join(format));
        let said = printed(&other, &["import", file]);
        let all = "imported 1 backup, 1 job, 1 client, 1 action and 1 session; 0 updated, 0 unchanged, 0 refused";
        assert_eq!(said, all);
        assert_eq!(export(&other), exported);
        // The action changes in the jobs that use it, too.
        let changed = [
            "actions",
            "update",
            &action,
            "--set",
            "freezer_action.backup_name=var",
        ];
        printed(&other, &changed);
        let job = document(&other, &["jobs", "get", &job]);
        assert_eq!(
            job["job_actions"][0]["freezer_action"]["backup_name"],
            "var"
        );
    }
}
