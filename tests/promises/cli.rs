//! Promise: what a person sees who runs the command.

#![allow(clippy::unwrap_used, reason = "in a test, it asserts")]

mod files;

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use crate::harness::child::ChildServer;
use serde_json::Value;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");

/// Runs `icebox` against the server, with this text as standard input.
fn icebox(server: &ChildServer, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_icebox"))
        .args(arguments)
        .env("ICEBOX_SERVER", server.address())
        .env("ICEBOX_PROJECT", "demo")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut stdin = command.stdin.take().expect("it is piped");
    // A command that refuses its arguments reads no input.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    command.wait_with_output().expect("it ends")
}

/// Its output, if it succeeds.
fn printed(server: &ChildServer, arguments: &[&str], input: &str) -> String {
    let output = icebox(server, arguments, input);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Its standard error, if it ends with this status.
fn refused(server: &ChildServer, status: i32, arguments: &[&str], input: &str) -> String {
    let output = icebox(server, arguments, input);
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// The ids of a list, one a line.
fn ids(server: &ChildServer, kind: &str) -> Vec<String> {
    let listed = printed(server, &[kind, "list", "-o", "name"], "");
    listed.lines().map(str::to_owned).collect()
}

#[test]
fn freezers_documents_go_through_and_back_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = ChildServer::start(&dir.path().join("store"));
    let files = ["backups-list.json", "jobs-list.json", "job-create.json"];
    let files = files.map(|name| format!("{DATA}/{name}"));
    let import = ["import", "--project", "-", &files[1], &files[2]];
    assert_eq!(
        printed(&server, &["import", &files[0]], ""),
        "imported 2 backups and 0 jobs; 0 updated, 0 unchanged, 0 refused\n"
    );
    assert_eq!(
        printed(&server, &import, ""),
        "imported 0 backups and 2 jobs; 0 updated, 0 unchanged, 0 refused\n"
    );
    let export = ["export", "--project", "-"];
    let exported = printed(&server, &export, "");
    printed(&server, &import, "");
    printed(&server, &["import", "--project", "-", "-"], &exported);
    assert_eq!(
        printed(&server, &export, ""),
        exported,
        "nothing was made twice"
    );

    let other = ChildServer::start(&dir.path().join("other"));
    printed(&other, &["import", "--project", "-", "-"], &exported);
    assert_eq!(printed(&other, &export, ""), exported);
    let lines = printed(
        &other,
        &["export", "--project", "-", "--format", "jsonl"],
        "",
    );
    assert_eq!(lines.lines().count(), 4);
    let third = ChildServer::start(&dir.path().join("third"));
    printed(&third, &["import", "--project", "-", "-"], &lines);
    assert_eq!(printed(&third, &export, ""), exported);
}

#[test]
fn what_has_no_field_and_what_does_not_fit_comes_out_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = ChildServer::start(&dir.path().join("store"));
    let metadata = r#"{"backup_name": "n", "container": "c", "hostname": "h", "max_level": "many",
        "always_level": "", "dry_run": null, "vendor": {"tape": [1, 2.5, null]}}"#;
    printed(&server, &["import", "-"], metadata);
    let exported: Value = serde_json::from_str(&printed(&server, &["export"], "")).unwrap();
    let stored = &exported["backups"][0]["backup_metadata"];
    assert_eq!(stored["max_level"], "many");
    assert_eq!(
        stored["vendor"],
        serde_json::json!({"tape": [1, 2.5, null]})
    );
}

#[test]
fn a_refused_record_is_reported_and_the_rest_imported() {
    let dir = tempfile::tempdir().unwrap();
    let server = ChildServer::start(&dir.path().join("store"));
    let lines = r#"{"backup_name": "good", "container": "c", "hostname": "h"}
{"backup_name": "bad", "container": ""}
{"description": "job", "job_actions": [{"freezer_action": {"action": "bakup"}}]}
{"backup_name": "also good", "container": "c", "hostname": "h"}
"#;
    let file = dir.path().join("mixed.jsonl");
    std::fs::write(&file, lines).unwrap();
    let said = refused(&server, 1, &["import", file.to_str().unwrap()], "");
    for expected in [
        "mixed.jsonl",
        "container is required",
        "hostname is required",
        "did you mean",
    ] {
        assert!(said.contains(expected), "{expected} in {said}");
    }
    let listed = printed(&server, &["backups", "list", "--output", "jsonl"], "");
    assert_eq!(listed.lines().count(), 2);
}

#[test]
fn what_is_no_json_is_told_by_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let server = ChildServer::start(&dir.path().join("store"));
    let sample = std::fs::read_to_string(format!("{DATA}/backups-list.json")).unwrap();
    for (name, text) in [
        ("truncated.json", &sample[..900]),
        ("thesis.tex", "\\documentclass{}"),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let said = refused(&server, 1, &["import", path.to_str().unwrap()], "");
        assert!(said.contains(name), "{said}");
    }
    let said = refused(&server, 1, &["import", "/nowhere/missing.json"], "");
    assert!(said.contains("/nowhere/missing.json"), "{said}");
}

#[test]
fn a_job_lives_from_create_to_delete() {
    let dir = tempfile::tempdir().unwrap();
    let server = ChildServer::start(&dir.path().join("store"));
    let job =
        r#"{"description": "nightly", "job_actions": [{"freezer_action": {"action": "backup"}}]}"#;
    let created: Value = serde_json::from_str(&printed(
        &server,
        &["jobs", "create", "-", "-o", "jsonl"],
        job,
    ))
    .unwrap();
    let id = created["job_id"].as_str().unwrap();
    let said = refused(&server, 1, &["jobs", "abort", id], "");
    assert!(said.contains("only a running job can be aborted"), "{said}");
    printed(
        &server,
        &["jobs", "update", id, "--set", "job_schedule.status=running"],
        "",
    );
    printed(&server, &["jobs", "abort", id], "");
    let shown = printed(&server, &["jobs", "get", id, "-o", "jsonl"], "");
    assert!(shown.contains(r#""event":"abort""#), "{shown}");
    assert!(printed(&server, &["jobs", "list"], "").contains("nightly"));
    printed(&server, &["jobs", "delete", id], "");
    let said = refused(&server, 1, &["jobs", "get", id], "");
    assert!(said.contains("has no job"), "{said}");
}

#[test]
fn a_list_pages_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let server = ChildServer::start(&dir.path().join("store"));
    let document =
        |n| format!("{{\"backup_name\": \"{n:04}\", \"container\": \"c\", \"hostname\": \"h\"}}");
    let documents: Vec<_> = (0..1005).map(document).collect();
    let documents = documents.join("\n");
    printed(&server, &["import", "-"], &documents);
    let listed = printed(&server, &["backups", "list", "--output", "jsonl"], "");
    assert_eq!(listed.lines().count(), 1005);
    let listed = printed(
        &server,
        &["backups", "list", "--output", "jsonl", "--limit", "3"],
        "",
    );
    assert_eq!(listed.lines().count(), 3);
}

#[test]
fn a_mistake_on_the_command_line_ends_with_2_and_a_missing_server_with_1() {
    let dir = tempfile::tempdir().unwrap();
    let server = ChildServer::start(&dir.path().join("store"));
    refused(&server, 2, &["jobs", "lst"], "");
    refused(
        &server,
        2,
        &["serve", "--listen", "0.0.0.0:0", "--store", "never"],
        "",
    );
    refused(&server, 2, &["jobs", "list", "--server", "nonsense"], "");
    refused(&server, 2, &["jobs", "list", "--project", ""], "");
    let said = refused(&server, 1, &["jobs", "list", "--server", "127.0.0.1:1"], "");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("icebox serve"), "{said}");
}

#[test]
fn a_document_goes_into_no_other_project_than_was_said() {
    let dir = tempfile::tempdir().unwrap();
    let server = ChildServer::start(&dir.path().join("store"));
    let file = format!("{DATA}/job-create.json");
    let said = refused(&server, 2, &["jobs", "create", &file], "");
    assert!(
        said.contains("752d8bd43d654e7a840bbfda77ce41af") && said.contains("--into-project demo"),
        "{said}"
    );
    let said = refused(&server, 1, &["import", &file], "");
    assert!(said.contains("--into-project demo"), "{said}");
    assert_eq!(ids(&server, "jobs"), Vec::<String>::new());
    printed(
        &server,
        &["jobs", "create", "--into-project", "demo", &file],
        "",
    );
    printed(
        &server,
        &[
            "import",
            "--into-project",
            "demo",
            &format!("{DATA}/jobs-list.json"),
        ],
        "",
    );
    assert_eq!(ids(&server, "jobs").len(), 2);
}

#[test]
#[expect(clippy::too_many_lines, reason = "one catalog, told to its end")]
fn an_import_that_is_repeated_says_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let server = ChildServer::start(&dir.path().join("store"));
    let document = |status: &str, name: &str| {
        format!(
            "{{\"jobs\": [{{\"job_id\": \"{:032x}\", \"description\": \"{name}\", \"job_schedule\": \
             {{\"status\": \"{status}\"}}, \"job_actions\": [{{\"freezer_action\": {{\"action\": \
             \"backup\", \"n\": 9007199254740993}}}}]}}]}}",
            7
        )
    };
    let import = |arguments: &[&str], input: &str| {
        printed(&server, &[&["import"], arguments, &["-"]].concat(), input)
    };
    let first = document("scheduled", "a");
    let counts = |stored: u8, updated: u8, unchanged: u8| {
        format!(
            "0 backups and {stored} job{}; {updated} updated, {unchanged} unchanged, 0 refused\n",
            if stored == 1 { "" } else { "s" }
        )
    };
    assert_eq!(
        import(&["--dry-run"], &first),
        format!("would import {}", counts(1, 0, 0))
    );
    assert_eq!(ids(&server, "jobs"), Vec::<String>::new());
    assert_eq!(import(&[], &first), format!("imported {}", counts(1, 0, 0)));
    assert_eq!(
        import(&["--dry-run"], &first),
        format!("would import {}", counts(0, 0, 1))
    );
    assert_eq!(
        import(&["--overwrite"], &first),
        format!("imported {}", counts(0, 0, 1))
    );
    let changed = document("running", "b");
    refused(&server, 1, &["import", "-"], &changed);
    refused(&server, 1, &["import", "--dry-run", "-"], &changed);
    assert_eq!(
        import(&["--overwrite", "--dry-run"], &changed),
        format!("would import {}", counts(0, 1, 0))
    );
    assert_eq!(
        import(&["--overwrite"], &changed),
        format!("imported {}", counts(0, 1, 0))
    );
    let stored = printed(
        &server,
        &[
            "jobs",
            "get",
            "0000000000000000000000000000-0007",
            "-o",
            "json",
        ],
        "",
    );
    let stored: Value = serde_json::from_str(&stored).unwrap();
    assert_eq!(stored["description"], "b");
    assert_eq!(stored["job_schedule"]["status"], "running");
    assert_eq!(
        stored["job_actions"][0]["freezer_action"]["n"], "9007199254740993",
        "exactly"
    );
    assert_eq!(import(&["--quiet"], &changed), "");

    let many: Vec<String> = (0..30)
        .map(|n| format!("{{\"backup_name\": \"b{n}\"}}"))
        .collect();
    let said = refused(&server, 1, &["import", "-"], &many.join("\n"));
    let told: Vec<_> = said
        .lines()
        .filter(|line| line.contains("hostname"))
        .collect();
    assert_eq!(told.len(), 20, "{said}");
    let places: Vec<_> = told
        .iter()
        .map(|line| line.split_whitespace().nth(2).unwrap())
        .collect();
    assert_eq!(
        places[..3],
        ["1", "2", "3"],
        "in the order of the file: {said}"
    );
    assert!(said.contains("and 10 more were refused"), "{said}");
}

#[test]
fn ids_may_be_typed_in_part_and_lists_are_printed_as_people_and_programs_want_them() {
    let dir = tempfile::tempdir().unwrap();
    let server = ChildServer::start(&dir.path().join("store"));
    for (id, name, level) in [("0a1", "b", 2), ("0a2", "a", 10), ("0b1", "c", 1)] {
        let document = format!(
            "{{\"backup_id\": \"{id:0<32}\", \"backup_name\": \"{name}\", \"hostname\": \"h\", \
             \"container\": \"c\", \"curr_backup_level\": {level}}}"
        );
        printed(&server, &["backups", "create", "-"], &document);
    }
    let full = |id: &str| format!("{id:0<32}");
    assert!(printed(&server, &["backups", "get", "0B"], "").contains(&full("0b1")));
    let said = refused(&server, 1, &["backups", "get", "0a"], "");
    assert!(
        said.contains(&full("0a1")) && said.contains(&full("0a2")),
        "{said}"
    );
    let said = refused(&server, 1, &["backups", "get", "f"], "");
    assert!(said.contains("no backup whose ID starts with f"), "{said}");
    let two = printed(&server, &["backups", "get", "0a1", "0a2"], "");
    assert!(two.contains("\n\n"), "records are apart: {two}");

    let list =
        |arguments: &[&str]| printed(&server, &[&["backups", "list"], arguments].concat(), "");
    let by_level = [full("0a2"), full("0a1"), full("0b1")]
        .map(|id| id + "\n")
        .concat();
    assert_eq!(list(&["--sort", "-level", "--quiet"]), by_level);
    assert_eq!(list(&["--no-headers"]).lines().count(), 3);
    let yaml = list(&["-o", "yaml"]);
    assert!(
        yaml.starts_with("---\n") && yaml.contains("backup_name: a"),
        "{yaml}"
    );
    refused(&server, 2, &["backups", "list", "--sort", "size"], "");

    printed(
        &server,
        &["backups", "update", "0a1", "--set", "status=error"],
        "",
    );
    printed(
        &server,
        &["backups", "update", "0a2", "--file", "-"],
        "{\"status\": \"error\"}",
    );
    assert_eq!(list(&["--status", "error", "-q"]).lines().count(), 2);
    refused(&server, 2, &["backups", "delete"], "");
    let said = refused(&server, 2, &["backups", "delete", "--status", "error"], "");
    assert!(
        said.contains("2 backups") && said.contains("--yes"),
        "{said}"
    );
    printed(
        &server,
        &["backups", "delete", "--status", "error", "--yes"],
        "",
    );
    assert_eq!(list(&["-q"]), full("0b1") + "\n");
    printed(&server, &["backups", "delete", "0b"], "");
    assert_eq!(list(&["-q"]), "");
    let trick = "{\"backup_name\": \"a\u{202e}b\", \"hostname\": \"h\", \"container\": \"c\"}";
    let said = refused(&server, 1, &["backups", "create", "-"], trick);
    assert!(said.contains("backup_name"), "{said}");
}

#[test]
fn the_kit_around_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let server = ChildServer::start(&dir.path().join("deep/below/store"));
    let status = printed(&server, &["status"], "");
    assert!(
        status.contains("health") && status.contains("serving"),
        "{status}"
    );
    let status = printed(&server, &["status", "-o", "json"], "");
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(
        (&status["health"], &status["backup_count"]),
        (&"serving".into(), &0.into())
    );
    assert!(printed(&server, &["version"], "").starts_with("icebox "));
    assert!(printed(&server, &["completions", "bash"], "").contains("_icebox"));
    let manual = dir.path().join("man");
    printed(&server, &["man", manual.to_str().unwrap()], "");
    assert!(manual.join("icebox-backups-list.1").exists());

    let configured = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_icebox"))
            .args(arguments)
            .env("ICEBOX_CONFIG", dir.path().join("config/icebox.toml"))
            .env_remove("ICEBOX_SERVER")
            .env_remove("ICEBOX_PROJECT")
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let set = [
        "context",
        "set",
        "here",
        "--server",
        server.address(),
        "--project",
        "demo",
    ];
    assert_eq!(configured(&set).0, Some(0));
    assert_eq!(configured(&["context", "use", "there"]).0, Some(2));
    assert_eq!(configured(&["context", "use", "here"]).0, Some(0));
    assert_eq!(configured(&["backups", "list"]), (Some(0), String::new()));
    assert!(configured(&["context", "list"]).1.starts_with("* here"));

    let output = Command::new(env!("CARGO_BIN_EXE_icebox"))
        .args(["serve", "--listen", "127.0.0.1:0", "--store"])
        .arg(dir.path().join("other"))
        .env("ICEBOX_LOG", "info,icebox=loud")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(2) && said.contains("ICEBOX_LOG"),
        "{said}"
    );

    let snapshot = icebox(&server, &["snapshot", "--out", "-"], "").stdout;
    let file = dir.path().join("snapshot");
    std::fs::write(&file, snapshot).unwrap();
    printed(&server, &["verify", file.to_str().unwrap()], "");
    let export = dir.path().join("export.json");
    printed(&server, &["export", "--out", export.to_str().unwrap()], "");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&export).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(printed(&server, &["export", "--out", "-"], "").starts_with('{'));
}
