//! What becomes of documents, with a server that stores only ids.

use std::{fs, sync::atomic::Ordering::Relaxed};

use indicatif::ProgressBar;
use serde_json::{Value, json};
use tonic::{Code, transport::Endpoint};
use tonic_types::{ErrorDetails, StatusExt};

use super::{call::passes, documents::Expected, *};
use crate::cli::{
    connection::without_token,
    fake_server::{self, Catalog},
};

/// A target to which nothing is sent.
fn target(project: Option<&str>) -> Target {
    Target {
        channel: without_token(Endpoint::from_static("http://127.0.0.1:1").connect_lazy()),
        project: project.map(str::to_owned),
        placing: Placing::default(),
        overwrite: false,
        dry_run: false,
    }
}

fn id(value: &Value, project: &str) -> String {
    match prepare(value, Expected::Any, &target(Some(project)))
        .unwrap()
        .document
    {
        Document::Backup(backup) => backup.backup_id,
        Document::Job(job) => job.job_id,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_document_without_an_id_gets_the_same_one_each_time() {
    let document = json!({"backup_name": "db", "hostname": "n", "extra": {"b": 1, "a": 2}});
    let respelled = json!({"extra": {"a": 2, "b": 1}, "hostname": "n", "backup_name": "db"});
    let other = json!({"backup_name": "db", "hostname": "m"});
    assert_eq!(id(&document, "p"), id(&respelled, "p"));
    assert_ne!(id(&document, "p"), id(&document, "q"));
    assert_ne!(id(&document, "p"), id(&other, "p"));
    assert_eq!(id(&document, "p").len(), 32);
}

#[tokio::test]
async fn a_documents_own_project_and_id_are_kept() {
    let document = json!({"job_id": "J-1", "project_id": "own"});
    for project in [None, Some("-"), Some("own")] {
        let read = prepare(&document, Expected::Job, &target(project)).unwrap();
        let Document::Job(job) = read.document else {
            panic!("a job was expected")
        };
        assert_eq!(
            (job.job_id.as_str(), job.project_id.as_str()),
            ("j1", "own")
        );
        assert_eq!(job.description, "J-1");
    }
}

#[tokio::test]
async fn a_document_of_another_project_is_refused_or_put_where_was_said() {
    let document = json!({"backup_name": "db", "project_id": "own"});
    let refused = prepare(&document, Expected::Any, &target(Some("p"))).unwrap_err();
    assert!(
        refused.contains("project own") && refused.contains("--into-project p"),
        "{refused}"
    );
    let into = Target {
        placing: Placing::into("p"),
        ..target(Some("q"))
    };
    let Document::Backup(backup) = prepare(&document, Expected::Any, &into).unwrap().document
    else {
        panic!("a backup was expected")
    };
    assert_eq!(backup.project_id, "p");
}

#[tokio::test]
async fn a_document_without_any_project_is_refused() {
    let refused = prepare(&json!({"backup_name": "db"}), Expected::Any, &target(None)).unwrap_err();
    assert!(refused.starts_with("project_id is missing"), "{refused}");
}

#[tokio::test]
async fn a_job_is_never_without_a_name() {
    let read = prepare(
        &json!({"job_actions": []}),
        Expected::Any,
        &target(Some("p")),
    )
    .unwrap();
    let Document::Job(job) = read.document else {
        panic!("a job was expected")
    };
    assert_eq!(job.description, job.job_id);
}

#[test]
fn records_are_named_as_people_know_them() {
    assert_eq!(
        name_of(&json!({"backup_id": "b", "backup_metadata": {"backup_name": "db"}})).unwrap(),
        "db"
    );
    assert_eq!(
        name_of(&json!({"description": "", "job_id": "j"})).unwrap(),
        "j"
    );
    assert_eq!(name_of(&json!([1])), None);
}

#[test]
fn a_refusal_names_every_bad_field() {
    let mut details = ErrorDetails::new();
    details.add_bad_request_violation("backup.backup_metadata.hostname", "must be set");
    details.add_bad_request_violation("project_id", "must be set");
    let status = Status::with_error_details(Code::InvalidArgument, "2 fields are wrong", details);
    assert_eq!(
        reason_of(&status),
        "backup_metadata.hostname must be set; project_id must be set"
    );
    assert_eq!(
        reason_of(&Status::already_exists("it differs")),
        "it differs"
    );
}

#[test]
fn only_what_may_pass_is_tried_again() {
    let full = Status::with_error_details(
        Code::ResourceExhausted,
        "the disk is full",
        ErrorDetails::with_error_info("DISK_FULL", "icebox", std::collections::HashMap::new()),
    );
    assert!(passes(&Status::unavailable("gone")));
    assert!(passes(&Status::resource_exhausted(
        "too many active requests"
    )));
    assert!(!passes(&full));
    assert!(!passes(&Status::invalid_argument("bad")));
    assert!(!stops_everything(&full));
    assert!(stops_everything(&Status::unauthenticated("who?")));
}

/// The result of importing `text` into `catalog`.
async fn import_text(catalog: &Arc<Catalog>, text: String) -> Result<(), String> {
    let channel = fake_server::serve(catalog).await;
    let folder = tempfile::tempdir().unwrap();
    let files = [folder.path().join("catalog.json")];
    fs::write(&files[0], text).unwrap();
    let (sender, receiver) = mpsc::channel(CALLS_MAX);
    thread::spawn(move || read_files(&files, &sender));
    let report = Report::new(ProgressBar::hidden());
    let target = Target {
        channel,
        ..target(Some("p"))
    };
    let result = import(&target, receiver, report).await;
    result.map_err(|error| error.to_string())
}

fn backups(count: u64) -> Vec<Value> {
    (0..count)
        .map(|n| json!({"backup_metadata": {"backup_name": format!("b{n}")}}))
        .collect()
}

#[tokio::test]
async fn an_import_repeated_creates_nothing_twice() {
    let catalog = Arc::new(Catalog::default());
    let text = json!({ "backups": backups(300) }).to_string();
    import_text(&catalog, text.clone()).await.unwrap();
    assert_eq!(catalog.ids.lock().unwrap().len(), 300);
    import_text(&catalog, text).await.unwrap();
    assert_eq!(catalog.ids.lock().unwrap().len(), 300);
    assert_eq!(catalog.calls.load(Relaxed), 600);
    assert!(catalog.calls_now_max.load(Relaxed) <= CALLS_MAX as u64);
}

#[tokio::test]
async fn a_server_that_comes_back_is_waited_for() {
    let catalog = Arc::new(Catalog {
        away_for_calls: 100.into(),
        ..Catalog::default()
    });
    import_text(&catalog, json!(backups(80)).to_string())
        .await
        .unwrap();
    assert_eq!(catalog.ids.lock().unwrap().len(), 80);
}

#[tokio::test]
async fn what_is_refused_does_not_keep_the_rest_out() {
    let catalog = Arc::new(Catalog::default());
    let mut documents = backups(4);
    documents.insert(2, json!({"backup_name": "bad"}));
    documents.insert(3, json!({}));
    let refused = import_text(&catalog, json!(documents).to_string())
        .await
        .unwrap_err();
    assert_eq!(refused, "2 of 6 records were refused");
    assert_eq!(catalog.ids.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn what_no_record_would_survive_ends_it() {
    let catalog = Arc::new(Catalog::default());
    let documents = vec![json!({"backup_name": "secret"}); 10_000];
    let refused = import_text(&catalog, json!(documents).to_string())
        .await
        .unwrap_err();
    assert!(
        refused.starts_with("stopped after 0 records: say who you are"),
        "{refused}"
    );
    assert!(catalog.calls.load(Relaxed) <= CALLS_MAX as u64);
}

fn outcome(end: End) -> Outcome {
    Outcome {
        file: "f".into(),
        read_bytes: 0,
        notes: Vec::new(),
        end,
    }
}

#[test]
fn the_verdict_counts() {
    let mut report = Report::new(ProgressBar::hidden());
    report.take(outcome(End::Done(Kind::Backup, Done::Stored)));
    report.take(outcome(End::Done(Kind::Job, Done::Unchanged)));
    assert!(report.verdict().is_ok());
    report.take(outcome(End::Refused {
        record: "jobs[1]".into(),
        reason: "no".into(),
    }));
    assert_eq!(
        report.verdict().unwrap_err().to_string(),
        "1 of 3 records was refused"
    );
    report.take(outcome(End::Broken("truncated".into())));
    assert_eq!(
        report.verdict().unwrap_err().to_string(),
        "1 of 3 records was refused, 1 file could not be read to the end"
    );
}

#[test]
fn a_broken_file_does_not_keep_the_next_from_being_read() {
    let folder = tempfile::tempdir().unwrap();
    let files = ["a", "b", "missing", "c"]
        .map(|name| folder.path().join(name))
        .to_vec();
    fs::write(&files[0], "{\"jobs\": [1, 2").unwrap();
    fs::write(&files[1], "").unwrap();
    fs::write(&files[3], "3").unwrap();
    let (sender, mut receiver) = mpsc::channel(CALLS_MAX);
    let reading = thread::spawn(move || read_files(&files, &sender));
    let mut found = Vec::new();
    while let Some(item) = receiver.blocking_recv() {
        let file = item.file.rsplit('/').next().unwrap().to_owned();
        found.push(match item.content {
            Content::Document { value, .. } => format!("{file} {value}"),
            Content::Note(note) => format!("{file} note {note}"),
            Content::Broken(_) => format!("{file} broken"),
        });
    }
    reading.join().unwrap();
    assert_eq!(
        found,
        [
            "a 1",
            "a 2",
            "a broken",
            "b broken",
            "missing broken",
            "c 3"
        ]
    );
}
