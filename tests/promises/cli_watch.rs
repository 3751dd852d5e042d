//! Promise: `icebox jobs watch` and `list --watch` print what is stored and then each change as it comes. After a restart of the
//! server they go on as if nothing had happened.

use std::{
    io::{BufRead, BufReader, Lines},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use crate::harness::child::ChildServer;
use serde_json::{Value, json};

const JOB: &str = r#"{"description": "nightly", "client_id": "node1",
    "job_actions": [{"freezer_action": {"action": "backup"}}]}"#;

fn icebox(address: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_icebox"));
    command
        .args(arguments)
        .env("ICEBOX_SERVER", address)
        .env("ICEBOX_PROJECT", "demo");
    command
}

/// Runs a command to its end, and returns its output.
fn printed(address: &str, arguments: &[&str]) -> String {
    let output = icebox(address, arguments).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.trim().to_owned()
}

/// A watch that runs until it is dropped.
struct Watch {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watch {
    fn start(address: &str, arguments: &[&str]) -> Watch {
        let mut command = icebox(address, arguments);
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it runs");
        let stdout = process.stdout.take().expect("it is piped");
        Watch {
            process,
            lines: BufReader::new(stdout).lines(),
        }
    }

    fn line(&mut self) -> String {
        let line = self.lines.next().expect("it goes on");
        line.expect("it can be read")
    }

    /// The next document that is not just a bookmark.
    fn document(&mut self) -> Value {
        loop {
            let document: Value = serde_json::from_str(&self.line()).expect("JSON");
            if document["synced"] != true {
                return document;
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn create(address: &str, dir: &Path) -> String {
    let file = dir.join("job.json");
    std::fs::write(&file, JOB).expect("it is written");
    let file = file.to_str().expect("UTF-8");
    printed(address, &["jobs", "create", file, "--output", "name"])
}

#[test]
fn a_watch_goes_on_after_the_server_was_started_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = dir.path().join("store");
    let server = ChildServer::start(&store);
    let address = server.address().to_owned();
    let first = create(&address, dir.path());
    let mut watch = Watch::start(&address, &["jobs", "watch", "-o", "jsonl"]);
    let stored = watch.document();
    assert_eq!(
        (&stored["revision"], &stored["put"]["job_id"]),
        (&json!(0), &json!(first))
    );
    printed(&address, &["jobs", "start", &first]);
    assert_eq!(
        watch.document()["put"]["job_schedule"]["event"],
        json!("start")
    );
    server.kill();
    let server = ChildServer::start_on(&address, &store);
    printed(&address, &["jobs", "delete", &first]);
    assert_eq!(watch.document(), json!({"revision": 3, "removed": first}));
    let second = create(&address, dir.path());
    assert_eq!(watch.document()["put"]["job_id"], json!(second));
    drop(server);
}

#[test]
fn a_watch_prints_lines_of_a_table() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = ChildServer::start(&dir.path().join("store"));
    let address = server.address();
    let job = create(address, dir.path());
    for arguments in [
        &["jobs", "watch", "--client", "node1"][..],
        &["jobs", "list", "--watch", "--client", "node1"],
    ] {
        let mut watch = Watch::start(address, arguments);
        let header = watch.line();
        assert!(header.starts_with("CHANGE   JOB ID "), "{header}");
        let stored = watch.line();
        assert!(stored.starts_with("stored   "), "{stored}");
        let at = stored.find(&job).expect("the id is there");
        let update = |client: &str| {
            let set = format!("client_id={client}");
            printed(address, &["jobs", "update", &job, "--set", &set]);
        };
        update("node2");
        let removed = watch.line();
        assert_eq!(removed.find(&job), Some(at), "{removed}");
        assert!(removed.starts_with("removed  "), "{removed}");
        update("node1");
        let put = watch.line();
        assert!(put.starts_with("put      "), "{put}");
        assert_eq!(put.find("nightly"), stored.find("nightly"));
    }
    let failed = icebox(address, &["jobs", "watch", "--after-revision", "99"]).output();
    let failed = failed.expect("it runs");
    assert_eq!(failed.status.code(), Some(1));
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(said.contains("revision 99 is not reached here"), "{said}");
}
