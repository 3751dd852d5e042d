//! Exports of a catalog made for the test.
use std::sync::Arc;

use clap::Parser;
use serde_json::json;

use super::*;
use crate::cli::fake_server::{self, Catalog};
use crate::freezer_json::Documented;
use crate::proto::{Backup, BackupMetadata};

/// A source that holds these backups in project p.
async fn serve(backups: Vec<Backup>) -> Source {
    let catalog = Catalog {
        backups,
        ..Catalog::default()
    };
    Source::Server(fake_server::serve(&Arc::new(catalog)).await)
}

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: Args,
}

fn args(line: &str) -> Args {
    Command::parse_from(std::iter::once("export").chain(line.split_whitespace())).args
}

fn backup(n: u64) -> Backup {
    let metadata = BackupMetadata {
        backup_name: format!("b{n}"),
        ..BackupMetadata::default()
    };
    let id = format!("{n:032x}");
    Backup {
        backup_id: id,
        project_id: "p".into(),
        backup_metadata: Some(metadata),
        revision: n,
        ..Backup::default()
    }
}

#[tokio::test]
async fn every_page_is_exported_and_reads_back_the_same() {
    let backups: Vec<Backup> = (0..5).map(backup).collect();
    let source = serve(backups.clone()).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.json");
    fs::write(&path, "old").unwrap();
    assert!(
        export_to_file(&source, &args("backups"), "p", &path)
            .await
            .is_ok()
    );
    let value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert!(value.get("jobs").is_none());
    let read = value["backups"].as_array().unwrap().iter().map(|document| {
        let (backup, notes) = Backup::read(document).unwrap();
        assert_eq!(notes, Vec::<String>::new());
        backup
    });
    let sent = backups.into_iter().map(|backup| Backup {
        revision: 0,
        ..backup
    });
    assert_eq!(read.collect::<Vec<_>>(), sent.collect::<Vec<_>>());

    let lines = export(&source, &args("backups --format jsonl"), "p", Vec::new()).await;
    let lines = String::from_utf8(lines.ok().unwrap()).unwrap();
    assert_eq!(lines.lines().count(), 5);
}

#[tokio::test]
async fn a_failed_export_leaves_the_file_as_it_was() {
    let source = serve(vec![backup(1)]).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.json");
    fs::write(&path, "old").unwrap();
    // The server has no service for jobs: the export fails after the backups have been written.
    for (line, project) in [("backups", "q"), ("", "p")] {
        assert!(
            export_to_file(&source, &args(line), project, &path)
                .await
                .is_err()
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

fn written(format: Format, lists: &[(&str, &[Value])]) -> String {
    let mut documents = Documents::new(Vec::new(), format);
    for (name, elements) in lists {
        documents.begin(name).unwrap();
        for element in *elements {
            documents.add(element).unwrap();
        }
    }
    String::from_utf8(documents.finish().unwrap()).unwrap()
}

#[test]
fn an_export_is_one_object_with_a_document_a_line() {
    let text = written(
        Format::Json,
        &[
            ("backups", &[json!({"a": 1}), json!({"a": 2})]),
            ("jobs", &[json!({})]),
        ],
    );
    assert_eq!(
        text,
        "{\"backups\": [\n{\"a\":1},\n{\"a\":2}\n],\n\"jobs\": [\n{}\n]}\n"
    );
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        value,
        json!({"backups": [{"a": 1}, {"a": 2}], "jobs": [{}]})
    );
    let empty: Value = serde_json::from_str(&written(Format::Json, &[("jobs", &[])])).unwrap();
    assert_eq!(empty, json!({"jobs": []}));
}

#[test]
fn json_lines_are_a_document_a_line() {
    let lists: &[(&str, &[Value])] =
        &[("backups", &[json!({"a": "x\ny"})]), ("jobs", &[json!({})])];
    assert_eq!(written(Format::Jsonl, lists), "{\"a\":\"x\\ny\"}\n{}\n");
}

#[test]
fn the_file_appears_whole_under_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let (temporary, path) = (
        folder.path().join("out.json.1.part"),
        folder.path().join("out.json"),
    );
    fs::write(&path, "old").unwrap();
    let mut file = File::create(&temporary).unwrap();
    file.write_all(b"new").unwrap();
    put_in_place(&file, &temporary, &path).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    assert!(!temporary.exists());
}

#[test]
fn devices_and_pipes_are_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    assert!(is_replaceable(&folder.path().join("new")));
    assert!(!is_replaceable(Path::new("/dev/null")));
    assert!(!is_replaceable(folder.path()));
}
