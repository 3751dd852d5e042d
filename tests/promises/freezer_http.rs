//! Promise: Freezer's HTTP API works as its clients use it, and better than the original where that one causes trouble.

use crate::harness::freezer::{Answer, BACKUPS, Freezer, JOBS, PROJECT, SESSIONS, backup, job};
use icebox::{
    Access, Limits,
    proto::{Job, JobSchedule},
};
use serde_json::{Value, json};

/// The project of the published documents.
const PUBLISHED: &str = "752d8bd43d654e7a840bbfda77ce41af";

fn parse(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

#[tokio::test]
async fn the_published_documents_hold_as_they_are() {
    let freezer = Freezer::start().await;
    let at = |kind: &str| format!("/v2/{PUBLISHED}/{kind}/");
    let create = parse(include_str!("../data/job-create.json"));
    freezer.create(&at("jobs"), create.clone()).await;
    // A document that is sent to another project belongs to that project.
    freezer.create(JOBS, create).await;
    let jobs = parse(include_str!("../data/jobs-list.json"));
    let sample = &jobs["jobs"][0];
    let one = format!("{}{}", at("jobs"), sample["job_id"].as_str().unwrap());
    let replaced = freezer.send("POST", &one, sample.clone()).await;
    assert_eq!(replaced.status, 201, "{replaced:?}");
    assert_eq!(freezer.get(&one).await, *sample);
    let backups = parse(include_str!("../data/backups-list.json"));
    for sample in backups["backups"].as_array().unwrap() {
        freezer.create(&at("backups"), sample.clone()).await;
    }
    let listed = freezer.get(&at("backups")).await;
    let listed = listed["backups"].as_array().unwrap();
    for sample in backups["backups"].as_array().unwrap() {
        let is_it = |found: &&Value| found["backup_id"] == sample["backup_id"];
        let mut found = listed.iter().find(is_it).unwrap().clone();
        // What the samples leave out: whose they are, and that they exist.
        let members = found.as_object_mut().unwrap();
        assert_eq!(members.remove("project_id"), Some(json!(PUBLISHED)));
        assert_eq!(members.remove("status"), Some(json!("available")));
        assert_eq!(found, *sample);
    }
}

#[tokio::test]
async fn both_doors_lead_to_the_same() {
    let freezer = Freezer::start().await;
    let stored = Job {
        description: "nightly".into(),
        client_id: "node1".into(),
        job_actions: vec![icebox::proto::JobAction {
            freezer_action: Some(icebox::proto::FreezerAction {
                action: "exec".into(),
                ..Default::default()
            }),
            ..Default::default()
        }],
        ..Job::default()
    };
    let created = freezer.icebox.jobs().create(PROJECT, stored).await.unwrap();
    let read = freezer
        .get(&format!("{JOBS}{}", created.resource.job_id))
        .await;
    assert_eq!(read["description"], "nightly");
    // A scheduler always reads this key.
    let unbegun = json!({"event": "", "time_created": -1, "time_started": -1, "time_ended": -1});
    assert_eq!(read["job_schedule"], unbegun);
    let id = freezer.create(JOBS, job("weekly")).await;
    let job = freezer.icebox.jobs().get(PROJECT, &id).await.unwrap();
    assert_eq!(job.description, "weekly");
}

#[tokio::test]
async fn versions_are_told_to_everybody() {
    let freezer = Freezer::start().await;
    for (path, status) in [("/", 300), ("/v2", 200), ("/v2/", 200)] {
        let answer = freezer.send_as("", "GET", path, "").await;
        assert_eq!(answer.status, status);
        let version = &answer.document["versions"][0];
        assert_eq!(
            (&version["id"], &version["status"]),
            (&json!("v2"), &json!("CURRENT"))
        );
        let href = format!("http://{}/v2/", freezer.address);
        assert_eq!(version["links"][0]["href"], href);
    }
}

/// Checks that each request is refused with this status, in Freezer's form.
async fn refused(freezer: &Freezer, requests: &[(&str, &str, &str, u16)]) {
    let revision = freezer.icebox.revision();
    for &(method, path, body, status) in requests {
        let answer = freezer.send_as("", method, path, body.to_owned()).await;
        let shown = format!("{method} {path} {body}: {answer:?}");
        assert_eq!(answer.status, status, "{shown}");
        let keys: Vec<_> = answer.document.as_object().expect(&shown).keys().collect();
        assert_eq!(keys, ["title", "description"], "{shown}");
        assert_ne!(answer.document["description"], "", "{shown}");
    }
    assert_eq!(freezer.icebox.revision(), revision);
}

#[tokio::test]
async fn a_body_that_is_none_is_refused() {
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let wrong = r#"{"description": 7, "job_actions": {}, "job_schedule": []}"#;
    let bodies = ["", "{", "[]", "7", "null", "\u{feff}{}", &deep, wrong];
    let freezer = Freezer::start().await;
    for path in [
        JOBS,
        BACKUPS,
        SESSIONS,
        "/v2/demo/clients/",
        "/v2/demo/actions/",
    ] {
        refused(&freezer, &bodies.map(|body| ("POST", path, body, 400))).await;
    }
}

#[tokio::test]
async fn what_is_wrong_is_refused_in_freezers_shape_and_changes_nothing() {
    let freezer = Freezer::start().await;
    let id = freezer.create(JOBS, job("nightly")).await;
    let one = format!("{JOBS}{id}");
    let unknown = format!("{JOBS}{}", "0".repeat(32));
    let foreign = format!("/v2/other/jobs/{id}");
    let no_day = r#"{"job_schedule": {"schedule_start_date": "2026-02-31T00:00:00"}}"#;
    let requests = [
        ("POST", JOBS, r#"{"description": "no actions"}"#, 400),
        (
            "POST",
            BACKUPS,
            r#"{"backup_name": "without the rest"}"#,
            400,
        ),
        ("POST", BACKUPS, r#"{"backup_metadata": null}"#, 400),
        ("POST", "/v2/demo/clients/", r#"{"hostname": "no id"}"#, 400),
        ("POST", "/v2/no%20project/jobs/", "{}", 400),
        ("POST", "/v2/%ff/jobs/", "{}", 400),
        ("PATCH", &one, no_day, 400),
        ("PATCH", &one, r#"{"project_id": "other"}"#, 400),
        (
            "PATCH",
            &one,
            r#"{"job_id": "00000000000000000000000000000000"}"#,
            400,
        ),
        (
            "PATCH",
            &one,
            r#"{"job_schedule": {"status": "unheard of"}}"#,
            400,
        ),
        ("PATCH", &unknown, r#"{"description": "d"}"#, 404),
        ("GET", &unknown, "", 404),
        ("GET", "/v2/demo/jobs/no-id", "", 400),
        ("DELETE", &unknown, "", 404),
        ("DELETE", &foreign, "", 404),
        ("PATCH", &foreign, r#"{"description": "stolen"}"#, 404),
        ("PUT", JOBS, "", 405),
        ("PATCH", "/v2/demo/clients/node1", "{}", 405),
        ("GET", "/v1/demo/jobs", "", 404),
        ("GET", "/v2/demo/unheard", "", 404),
    ];
    refused(&freezer, &requests).await;
}

#[tokio::test]
async fn events_and_actions_that_are_none_are_refused() {
    let freezer = Freezer::start().await;
    let id = freezer.create(JOBS, job("nightly")).await;
    let session = freezer
        .create(SESSIONS, json!({"description": "weekly"}))
        .await;
    let event = format!("{JOBS}{id}/event");
    let action = format!("{SESSIONS}{session}/action");
    let unknown_member = format!("{SESSIONS}{session}/jobs/{}", "0".repeat(32));
    let no_member = format!("{SESSIONS}{session}/jobs/{id}");
    let start = format!(r#"{{"start": {{"job_id": "{id}", "current_tag": 0}}}}"#);
    let requests = [
        ("POST", &*event, r#"{"explode": null}"#, 400),
        ("POST", &event, r#"{"start": null, "stop": null}"#, 400),
        ("POST", &event, r#"{"stop": null}"#, 409),
        ("POST", &action, r#"{"start": {"job_id": 7}}"#, 400),
        ("POST", &action, r#"{"pause": {}}"#, 400),
        ("POST", &action, &start, 400),
        ("PUT", &unknown_member, "", 404),
        ("DELETE", &no_member, "", 404),
    ];
    refused(&freezer, &requests).await;
}

#[tokio::test]
async fn lists_that_cannot_be_are_refused() {
    let freezer = Freezer::start().await;
    let requests = [
        ("GET", "/v2/demo/jobs?limit=-1", "", 400),
        ("GET", "/v2/demo/jobs?limit=9223372036854775808", "", 400),
        ("GET", "/v2/demo/jobs?offset=-1", "", 400),
        ("GET", "/v2/demo/jobs?offset=ten", "", 400),
        ("GET", "/v2/demo/jobs?all_projects=perhaps", "", 400),
        (
            "GET",
            "/v2/demo/jobs?marker=00000000000000000000000000000000",
            "",
            400,
        ),
        ("GET", JOBS, r#"{"match": {"client_id": "node1"}}"#, 400),
        ("GET", JOBS, r#"{"matches": []}"#, 400),
        ("GET", JOBS, r#"{"match": [{"_all": "node1"}]}"#, 400),
        ("GET", JOBS, r#"{"time_after": 7}"#, 400),
        ("GET", BACKUPS, r#"{"time_after": "noon"}"#, 400),
        ("GET", BACKUPS, "[", 400),
    ];
    refused(&freezer, &requests).await;
}

#[tokio::test]
async fn every_bad_field_is_named_by_its_key_in_the_document() {
    let freezer = Freezer::start().await;
    let mut bad = job(&"x".repeat(65));
    bad["job_actions"][0]["max_retries"] = json!(-1);
    bad["job_schedule"]["schedule_interval"] = json!("now and then");
    let refused = freezer.send("POST", JOBS, bad).await;
    let said = refused.document["description"].as_str().unwrap().to_owned();
    for field in [
        "description",
        "job_actions[0].max_retries",
        "job_schedule.schedule_interval",
    ] {
        assert!(said.contains(field), "{said}");
    }
    assert!(!said.contains("job.description"), "{said}");
}

#[tokio::test]
async fn a_body_over_the_limit_is_told_and_the_next_one_is_taken() {
    let limits = || {
        let mut limits = Limits::default();
        limits.request_bytes = 128 << 10;
        limits
    };
    let freezer = Freezer::start_for(Access::default(), limits()).await;
    for bytes in [200 << 10, 8 << 20] {
        let body = format!("{{\"description\": \"{}\"}}", "x".repeat(bytes));
        let refused = freezer.send_as("", "POST", JOBS, body).await;
        assert_eq!(refused.status, 413, "{refused:?}");
        assert_eq!(refused.document["title"], "Payload Too Large");
    }
    freezer.create(JOBS, job("nightly")).await;
}

#[tokio::test]
async fn a_patch_changes_what_it_names_and_nothing_else() {
    let freezer = Freezer::start().await;
    let mut whole = job("nightly");
    whole["job_actions"][0]["mandatory"] = json!(true);
    whole["job_schedule"]["schedule_start_date"] = json!("2026-11-27T00:00:00");
    let id = freezer.create(JOBS, whole).await;
    let one = format!("{JOBS}{id}");
    let before = freezer.get(&one).await;
    assert_eq!(before["job_actions"][0]["mandatory"], true);
    let patch =
        json!({"job_schedule": {"status": "running", "current_pid": 77}, "user_id": "somebody"});
    let patched = freezer.send("PATCH", &one, patch).await;
    assert_eq!(patched.status, 200, "{patched:?}");
    assert_eq!(patched.document["job_id"], *id);
    assert!(patched.document["version"].as_u64() > Some(1));
    let mut expected = before.clone();
    expected["job_schedule"]["status"] = json!("running");
    expected["job_schedule"]["current_pid"] = json!(77);
    assert_eq!(freezer.get(&one).await, expected);
    // A document that is written back as it was read changes nothing.
    let version = patched.document["version"].clone();
    let same = freezer.send("PATCH", &one, expected.clone()).await;
    assert_eq!(same.status, 200, "{same:?}");
    assert_eq!(freezer.get(&one).await, expected);
    let renamed = freezer
        .send("PATCH", &one, json!({"description": "weekly"}))
        .await;
    assert!(renamed.document["version"].as_u64() > version.as_u64());
    let cleared = json!({"job_schedule": {"status": "", "current_pid": null}});
    assert_eq!(freezer.send("PATCH", &one, cleared).await.status, 200);
    let mut expected = before;
    expected["description"] = json!("weekly");
    assert_eq!(freezer.get(&one).await, expected);
}

#[tokio::test]
async fn a_patch_of_a_backup_merges_its_metadata() {
    let freezer = Freezer::start().await;
    let id = freezer.create(BACKUPS, backup("etc")).await;
    let one = format!("{BACKUPS}{id}");
    let patch = json!({"status": "error", "backup_metadata": {"backup_name": "etc", "size": 7, "hostname": "node2"}});
    let patched = freezer.send("PATCH", &one, patch).await;
    assert_eq!(patched.status, 200, "{patched:?}");
    assert_eq!(patched.document, freezer.get(&one).await);
    let metadata = &patched.document["backup_metadata"];
    assert_eq!(patched.document["status"], "error");
    assert_eq!(
        (&metadata["size"], &metadata["volume"]),
        (&json!(7), &json!("v"))
    );
    assert_eq!(
        (&metadata["hostname"], &metadata["container"]),
        (&json!("node2"), &json!("c"))
    );
    // A scheduler sends bare metadata for a backup that it has recorded before it was made.
    let creating = json!({"backup_name": "vol", "container": "c", "status": "creating", "mode": "cindernative"});
    let early = freezer.create(BACKUPS, creating).await;
    let mut made = self::backup("vol");
    made["status"] = json!("available");
    made["backup_id"] = json!(early);
    let made = freezer
        .send("PATCH", &format!("{BACKUPS}{early}"), made)
        .await;
    assert_eq!(made.status, 200, "{made:?}");
    assert_eq!(made.document["backup_metadata"]["hostname"], "node1");
    let renamed = json!({"backup_metadata": {"backup_name": "another"}});
    assert_eq!(freezer.send("PATCH", &one, renamed).await.status, 400);
}

#[tokio::test]
async fn a_duplicate_is_refused_and_a_deleted_id_is_free_again() {
    let freezer = Freezer::start().await;
    for (path, mut document, key) in [
        (JOBS, job("nightly"), "job_id"),
        (BACKUPS, backup("etc"), "backup_id"),
        (SESSIONS, json!({"description": "weekly"}), "session_id"),
        (
            "/v2/demo/actions/",
            json!({"freezer_action": {"action": "backup", "mode": "fs", "backup_name": "etc", "container": "c", "path_to_backup": "/etc"}}),
            "action_id",
        ),
        (
            "/v2/demo/clients/",
            json!({"client_id": "node1", "hostname": "node1"}),
            "client_id",
        ),
    ] {
        let id = if key == "client_id" {
            "node1".into()
        } else {
            "5".repeat(32)
        };
        document[key] = json!(id);
        assert_eq!(freezer.create(path, document.clone()).await, id);
        let again = freezer.send("POST", path, document.clone()).await;
        assert_eq!(again.status, 409, "{again:?}");
        let one = format!("{path}{id}");
        assert_eq!(freezer.send("DELETE", &one, Value::Null).await.status, 204);
        assert_eq!(freezer.send("GET", &one, Value::Null).await.status, 404);
        assert_eq!(freezer.send("DELETE", &one, Value::Null).await.status, 404);
        assert_eq!(freezer.create(path, document).await, id);
    }
}

#[tokio::test]
async fn a_post_to_an_id_replaces_or_creates() {
    let freezer = Freezer::start().await;
    let one = format!("{JOBS}{}", "7".repeat(32));
    for (description, status) in [("nightly", "scheduled"), ("weekly", "")] {
        let mut document = job(description);
        document["job_schedule"]["status"] = json!(status);
        let answer = freezer.send("POST", &one, document).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(answer.document["job_id"], "7".repeat(32));
        assert!(answer.document["version"].is_u64());
        let stored = freezer.get(&one).await;
        assert_eq!(stored["description"], description);
        assert_eq!(
            stored["job_schedule"]["status"]
                .as_str()
                .unwrap_or_default(),
            status
        );
    }
    assert_eq!(freezer.listed(JOBS, "job_id").await.len(), 1);
}

#[tokio::test]
async fn events_are_asked_for_once() {
    let freezer = Freezer::start().await;
    let id = freezer.create(JOBS, job("nightly")).await;
    let event = format!("{JOBS}{id}/event");
    let ask = async |event_name: &str| {
        let answer = freezer
            .send("POST", &event, json!({event_name: null}))
            .await;
        (answer.status, answer.document["result"].clone())
    };
    assert_eq!(ask("start").await, (202, json!("success")));
    assert_eq!(ask("start").await, (202, json!("start already requested")));
    let running = json!({"job_schedule": {"status": "running", "event": ""}});
    let one = format!("{JOBS}{id}");
    assert_eq!(freezer.send("PATCH", &one, running).await.status, 200);
    assert_eq!(ask("abort").await, (202, json!("success")));
    assert_eq!(ask("abort").await, (202, json!("abort already requested")));
    assert_eq!(ask("stop").await, (202, json!("success")));
    let stored = freezer.icebox.jobs().get(PROJECT, &id).await.unwrap();
    assert_eq!(
        stored.job_schedule,
        Some(JobSchedule {
            schedule_interval: "5 minutes".into(),
            event: "stop".into(),
            status: "running".into(),
            ..JobSchedule::default()
        })
    );
}

#[tokio::test]
async fn an_unnamed_job_is_named_after_its_first_action_or_its_id() {
    let freezer = Freezer::start().await;
    let mut unnamed = job("");
    unnamed.as_object_mut().unwrap().remove("description");
    let id = freezer.create(JOBS, unnamed.clone()).await;
    assert_eq!(
        freezer.get(&format!("{JOBS}{id}")).await["description"],
        "etc"
    );
    unnamed["job_actions"] = json!([{"freezer_action": {"action": "exec"}}]);
    let id = freezer.create(JOBS, unnamed).await;
    assert_eq!(
        freezer.get(&format!("{JOBS}{id}")).await["description"],
        *id
    );
}

#[tokio::test]
async fn clients_are_registered_once_and_shown_as_freezer_shows_them() {
    let freezer = Freezer::start().await;
    let client = json!({"client_id": "node1", "hostname": "n", "uuid": "u", "supported_actions": ["backup"]});
    let register = || freezer.send("POST", "/v2/demo/clients/", client.clone());
    let registered = register().await;
    let expected = json!({"client_id": "node1"});
    assert_eq!(
        registered,
        Answer {
            status: 201,
            document: expected
        }
    );
    assert_eq!(register().await.status, 409);
    let mut whole = client.clone();
    whole["is_central"] = json!(false);
    let shown = json!({"project_id": "demo", "user_id": "", "client": whole});
    assert_eq!(freezer.get("/v2/demo/clients/node1").await, shown);
    let listed = freezer.get("/v2/demo/clients/").await;
    assert_eq!(listed, json!({"clients": [shown]}));
}

#[tokio::test]
async fn members_of_a_session_join_start_and_end() {
    let freezer = Freezer::start().await;
    let session = json!({
        "description": "weekly", "hold_off": 60, "schedule": {"schedule_interval": "7 days"}, "jobs": [], "status": "active",
    });
    let id = freezer.create(SESSIONS, session).await;
    let mut jobs = Vec::new();
    for n in 0..16 {
        jobs.push(freezer.create(JOBS, job(&format!("job {n:02}"))).await);
    }
    let paths: Vec<_> = jobs
        .iter()
        .map(|job| format!("{SESSIONS}{id}/jobs/{job}"))
        .collect();
    let joins = paths
        .iter()
        .map(|path| freezer.send("PUT", path, Value::Null));
    for joined in futures_util::future::join_all(joins).await {
        assert_eq!(joined.status, 204, "{joined:?}");
    }
    let stored = freezer.get(&format!("{SESSIONS}{id}")).await;
    assert_eq!(stored["jobs"].as_object().unwrap().len(), 16);
    let action = format!("{SESSIONS}{id}/action");
    let start = json!({"start": {"job_id": jobs[0], "current_tag": "0"}});
    let started = freezer.send("POST", &action, start).await;
    let expected = json!({"result": "success", "session_tag": 1});
    assert_eq!(
        started,
        Answer {
            status: 202,
            document: expected
        }
    );
    let high = json!({"start": {"job_id": jobs[1], "current_tag": 9}});
    assert_eq!(freezer.send("POST", &action, high).await.status, 400);
    let end = json!({"end": {"job_id": jobs[0], "current_tag": 1, "result": "success"}});
    assert_eq!(freezer.send("POST", &action, end).await.status, 202);
    assert_eq!(
        freezer.send("DELETE", &paths[0], Value::Null).await.status,
        204
    );
    let left = freezer.get(&format!("{SESSIONS}{id}")).await;
    assert_eq!(left["jobs"].as_object().unwrap().len(), 15);
}

#[tokio::test]
async fn an_action_that_is_deleted_is_taken_out_of_the_jobs_that_use_it() {
    let freezer = Freezer::start().await;
    let backup = job("nightly")["job_actions"][0].clone();
    let id = freezer.create("/v2/demo/actions/", backup).await;
    let one = format!("/v2/demo/actions/{id}");
    let mut uses_it = job("nightly");
    let own = uses_it["job_actions"][0].clone();
    uses_it["job_actions"] = json!([{"action_id": id}, own]);
    let mut has_no_other = job("weekly");
    has_no_other["job_actions"] = json!([{"action_id": id}]);
    let uses_it = format!("{JOBS}{}", freezer.create(JOBS, uses_it).await);
    let has_no_other = format!("{JOBS}{}", freezer.create(JOBS, has_no_other).await);
    // A change of the action changes the jobs, too.
    let changed = json!({"max_retries": 7});
    let changed = freezer.send("PATCH", &one, changed).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    let expanded = freezer.get(&uses_it).await;
    assert_eq!(expanded["job_actions"][0]["max_retries"], 7);
    assert_eq!(
        expanded["job_actions"][0]["freezer_action"]["backup_name"],
        "etc"
    );
    let refused = freezer.send("DELETE", &one, Value::Null).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    assert_eq!(freezer.get(&uses_it).await, expanded);
    assert_eq!(
        freezer
            .send("DELETE", &has_no_other, Value::Null)
            .await
            .status,
        204
    );
    assert_eq!(freezer.send("DELETE", &one, Value::Null).await.status, 204);
    let left = freezer.get(&uses_it).await;
    assert_eq!(left["job_actions"], json!([own]));
}
