//! Promise: jobs, backups and clients have labels from their creation or later, and every list and watch can choose by them.

use std::collections::BTreeMap;

use crate::harness::{PROJECT, Server, backup_with, bad_fields, job, job_update};
use icebox::proto::{BackupFilter, Client, ClientFilter, Job, JobFilter, WatchEvent};

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|&(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn labelled(description: &str, pairs: &[(&str, &str)]) -> Job {
    Job {
        labels: labels(pairs),
        ..job(description)
    }
}

fn selected(selector: &str) -> JobFilter {
    JobFilter {
        label_selector: selector.into(),
        ..JobFilter::default()
    }
}

#[tokio::test]
async fn lists_choose_by_labels() {
    let server = Server::start().await;
    let prod = [("env", "prod"), ("example.org/tier", "db")];
    server.create_job(labelled("a", &prod)).await.unwrap();
    let b = server.create_job(labelled("b", &[("env", "test")])).await;
    let b = b.unwrap();
    server.create_job(job("c")).await.unwrap();
    for (selector, expected) in [
        ("", &["a", "b", "c"][..]),
        ("env=prod", &["a"]),
        ("env", &["a", "b"]),
        ("!env", &["c"]),
        ("env!=prod", &["b", "c"]),
        ("env in (prod, test), example.org/tier notin (db)", &["b"]),
        ("env=nowhere", &[]),
    ] {
        let names = server.job_names(selected(selector)).await;
        assert_eq!(names, expected, "{selector}");
    }
    // Together with other fields of a filter.
    let filter = JobFilter {
        description_prefix: "b".into(),
        ..selected("env")
    };
    assert_eq!(server.job_names(filter).await, ["b"]);
    // Changed later: all of them replaced, and all removed.
    let mut update = job_update(&b.job_id);
    update.labels = labels(&[("env", "prod")]);
    server.update_job(update, &["labels"]).await.unwrap();
    assert_eq!(server.job_names(selected("env=prod")).await, ["a", "b"]);
    let none = job_update(&b.job_id);
    server.update_job(none, &["labels"]).await.unwrap();
    assert_eq!(server.job_names(selected("!env")).await, ["b", "c"]);
    let kept = backup_with("kept", |backup, _| {
        backup.labels = labels(&[("keep", "forever")]);
    });
    server.create_backup(kept).await.unwrap();
    let filter = BackupFilter {
        label_selector: "keep".into(),
        ..BackupFilter::default()
    };
    assert_eq!(server.backup_names(filter).await, ["kept"]);
    let client = Client {
        client_id: "node1".into(),
        hostname: "node1".into(),
        labels: labels(&[("rack", "7")]),
        ..Client::default()
    };
    let clients = server.icebox.clients();
    clients.register(PROJECT, client).await.unwrap();
    for (selector, expected) in [("rack=7", 1), ("rack=8", 0)] {
        let filter = ClientFilter {
            label_selector: selector.into(),
            ..ClientFilter::default()
        };
        let listed = clients.list(PROJECT).filter(filter).await.unwrap();
        assert_eq!(listed.items.len(), expected);
    }
}

#[tokio::test]
async fn a_watch_follows_labels() {
    let server = Server::start().await;
    let jobs = server.icebox.jobs();
    let mut watching = jobs.watch(PROJECT).filter(selected("env=prod")).await;
    let watching = watching.as_mut().unwrap();
    assert_eq!(watching.next().await, Ok(WatchEvent::Synced));
    server
        .create_job(labelled("a", &[("env", "test")]))
        .await
        .unwrap();
    let b = server.create_job(labelled("b", &[("env", "prod")])).await;
    let b = b.unwrap();
    assert_eq!(watching.next().await, Ok(WatchEvent::Put(b.clone())));
    let mut update = job_update(&b.job_id);
    update.labels = labels(&[("env", "test")]);
    server.update_job(update, &["labels"]).await.unwrap();
    assert_eq!(watching.next().await, Ok(WatchEvent::Removed(b.job_id)));
}

#[tokio::test]
async fn bad_labels_and_selectors_are_refused() {
    let server = Server::start().await;
    let bad = [("no spaces", "x"), ("ok", "no!")];
    let status = server.create_job(labelled("a", &bad)).await.unwrap_err();
    assert_eq!(
        bad_fields(&status),
        ["job.labels[\"no spaces\"]", "job.labels[\"ok\"]"]
    );
    let jobs = server.icebox.jobs();
    let refused = jobs.list(PROJECT).filter(selected("env=")).await;
    assert!(refused.is_ok());
    for selector in ["env within (a)", "env=a,,b", "(", "=x"] {
        let refused = jobs.list(PROJECT).filter(selected(selector)).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.starts_with("filter.label_selector "), "{refused}");
        let refused = jobs.watch(PROJECT).filter(selected(selector)).await;
        assert!(refused.is_err(), "{selector}");
    }
}
