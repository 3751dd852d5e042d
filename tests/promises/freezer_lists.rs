//! Promise: over Freezer's HTTP API clients can sort, search and walk lists in their way, whatever is written meanwhile.

use std::collections::BTreeSet;

use crate::harness::freezer::{BACKUPS, Freezer, JOBS, backup, job, values};
use serde_json::{Value, json};

#[tokio::test]
async fn lists_are_sorted_by_name_and_go_on_after_a_marker_or_an_offset() {
    let freezer = Freezer::start().await;
    let mut ids = Vec::new();
    for name in ["d", "b", "a", "e", "c"] {
        ids.push((name.to_owned(), freezer.create(JOBS, job(name)).await));
    }
    ids.sort();
    let names = |path: &'static str| freezer.listed(path, "description");
    assert_eq!(names("/v2/demo/jobs/").await, ["a", "b", "c", "d", "e"]);
    assert_eq!(names("/v2/demo/jobs?limit=2").await, ["a", "b"]);
    assert_eq!(names("/v2/demo/jobs?limit=2&offset=3").await, ["d", "e"]);
    assert_eq!(names("/v2/demo/jobs/?limit=10&offset=4").await, ["e"]);
    assert_eq!(names("/v2/demo/jobs/?offset=5").await, Vec::<String>::new());
    assert_eq!(
        names("/v2/demo/jobs?offset=4294967295").await,
        Vec::<String>::new()
    );
    assert_eq!(names("/v2/other/jobs").await, Vec::<String>::new());
    let after = format!("/v2/demo/jobs?limit=2&marker={}", ids[1].1);
    assert_eq!(freezer.listed(&after, "description").await, ["c", "d"]);
    let after = format!("/v2/demo/jobs?marker={}&offset=1", ids[1].1);
    assert_eq!(freezer.listed(&after, "description").await, ["d", "e"]);
}

#[tokio::test]
async fn a_walk_by_offset_sees_each_once_whatever_is_written_meanwhile() {
    let freezer = Freezer::start().await;
    let mut ids = Vec::new();
    for n in 0..35 {
        ids.push(freezer.create(JOBS, job(&format!("job {n:02}"))).await);
    }
    let search = json!({"match": [{"client_id": "node1"}], "match_not": [{"status": "completed"}]});
    let mut seen = Vec::new();
    for page in 0.. {
        let path = format!(
            "/v2/demo/jobs/?limit=10&offset={}&all_projects=False",
            page * 10
        );
        let answer = freezer.send("GET", &path, search.clone()).await;
        let found = values(&answer.document, "job_id");
        seen.extend(found.clone());
        if found.len() < 10 {
            break;
        }
        // A seen item is deleted, a new one sorts before the seen ones, and a seen one no longer matches.
        let path = format!("{JOBS}{}", ids[page]);
        assert_eq!(freezer.send("DELETE", &path, Value::Null).await.status, 204);
        freezer.create(JOBS, job(&format!("a job {page}"))).await;
        let done = json!({"job_schedule": {"status": "completed"}});
        let path = format!("{JOBS}{}", ids[page + 5]);
        assert_eq!(freezer.send("PATCH", &path, done).await.status, 200);
    }
    assert_eq!(seen, ids);
}

#[tokio::test]
async fn a_long_list_comes_whole() {
    let freezer = Freezer::start().await;
    let mut large = backup("large");
    large["notes"] = json!("n".repeat(3000));
    let mut ids = BTreeSet::new();
    for n in 0..450 {
        large["path_to_backup"] = json!(format!("/path/{n}"));
        ids.insert(freezer.create(BACKUPS, large.clone()).await);
    }
    let all = freezer
        .listed("/v2/demo/backups?limit=5000", "backup_id")
        .await;
    assert_eq!(all.len(), 450);
    assert_eq!(all.iter().cloned().collect::<BTreeSet<_>>(), ids);
    let some = freezer
        .listed("/v2/demo/backups?limit=333", "backup_id")
        .await;
    assert_eq!(some, all[..333]);
}

#[tokio::test]
async fn a_search_finds_a_key_wherever_it_is() {
    let freezer = Freezer::start().await;
    for (name, client, status, level) in [
        ("a", "node1", "scheduled", 0),
        ("b", "node1", "completed", 1),
        ("c", "node2", "scheduled", 2),
        ("d", "node2", "", 3),
    ] {
        let mut job = job(name);
        job["client_id"] = json!(client);
        job["job_schedule"]["status"] = json!(status);
        job["job_actions"][0]["freezer_action"]["max_level"] = json!(level);
        job["job_actions"][0]["freezer_action"]["volume"] = json!(format!("vol-{name}"));
        freezer.create(JOBS, job).await;
    }
    for (search, expected) in [
        (json!({}), "abcd"),
        (Value::Null, "abcd"),
        (json!({"match": []}), "abcd"),
        (json!({"match": [{"client_id": "node1"}]}), "ab"),
        (
            json!({"match": [{"client_id": "node1"}, {"status": "completed"}]}),
            "b",
        ),
        (
            json!({"match": [{"client_id": "node1", "status": "scheduled"}]}),
            "a",
        ),
        (json!({"match_not": [{"status": "completed"}]}), "acd"),
        (
            json!({"match": [{"client_id": "node1"}], "match_not": [{"status": "completed"}]}),
            "a",
        ),
        (json!({"match": [{"max_level": 2}]}), "c"),
        (json!({"match": [{"max_level": "2"}]}), "c"),
        (json!({"match": [{"max_level": 0}]}), "a"),
        (json!({"match": [{"volume": "vol-d"}]}), "d"),
        (json!({"match": [{"volume": "vol"}]}), ""),
        (json!({"match": [{"status": ""}]}), "d"),
        (json!({"match": [{"session_id": null}]}), "abcd"),
        (json!({"match": [{"unheard": "of"}]}), ""),
        (json!({"match": [{"time_started": -1}]}), "abcd"),
        (
            json!({"match": [{"_all": "[{\"client_id\": \"node2\"}]"}]}),
            "cd",
        ),
        (
            json!({"match": [{"_all": "[{\"client_id\": \"node2\"}, {\"status\": \"scheduled\"}]"}]}),
            "c",
        ),
    ] {
        let answer = freezer.send("GET", JOBS, search.clone()).await;
        assert_eq!(answer.status, 200, "{search}: {answer:?}");
        let found = values(&answer.document, "description").concat();
        assert_eq!(found, expected, "{search}");
    }
}

#[tokio::test]
async fn backups_are_found_by_time() {
    let freezer = Freezer::start().await;
    for (name, time) in [("a", 100), ("b", 200), ("c", 300)] {
        let mut backup = backup(name);
        backup["time_stamp"] = json!(time);
        freezer.create(BACKUPS, backup).await;
    }
    for (search, expected) in [
        (json!({"time_after": 200}), 2),
        (json!({"time_before": 200}), 2),
        (json!({"time_after": "150", "time_before": 250}), 1),
    ] {
        let answer = freezer.send("GET", BACKUPS, search.clone()).await;
        let found = answer.document["backups"].as_array().unwrap().len();
        assert_eq!(found, expected, "{search}: {answer:?}");
    }
}
