//! Promise: lists are in the order of (name, id). A walk over their pages sees every item that exists all the time exactly once,
//! whatever is written meanwhile.

#![allow(clippy::unwrap_used, reason = "in a test, it asserts")]

mod model;

use crate::harness::{OTHER_PROJECT, PROJECT, Server, backup_with, bad_fields, job, job_update};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use icebox::proto::{
    BackupFilter, Job, JobFilter, ListBackupsRequest, ListJobsRequest, ListJobsResponse,
};
use tonic::{Code, Status};

/// More turns than any walk here takes: a server that leads a walk around in circles fails the test.
fn turns() -> impl Iterator<Item = usize> {
    (0..).inspect(|turn| assert!(*turn < 20_000, "the walk does not end"))
}

async fn list(server: &Server, request: ListJobsRequest) -> Result<ListJobsResponse, Status> {
    Ok(server.jobs().list_jobs(request).await?.into_inner())
}

fn in_project(limit: i32) -> ListJobsRequest {
    ListJobsRequest {
        project_id: PROJECT.into(),
        limit,
        ..ListJobsRequest::default()
    }
}

fn keys(page: &ListJobsResponse) -> Vec<(String, String)> {
    page.decoded()
        .unwrap()
        .into_iter()
        .map(|job| (job.description, job.job_id))
        .collect()
}

/// Creates jobs with these descriptions. Returns their ids in the same order.
async fn created(server: &Server, names: &[&str]) -> Vec<String> {
    let mut ids = Vec::new();
    for name in names {
        ids.push(server.create_job(job(name)).await.unwrap().job_id);
    }
    ids
}

#[tokio::test]
async fn a_marker_survives_inserts_before_it() {
    let server = Server::start().await;
    let ids = created(&server, &["b", "c", "d"]).await;
    created(&server, &["a", "a", "bb"]).await;
    let page = list(
        &server,
        ListJobsRequest {
            marker: ids[1].clone(),
            ..in_project(10)
        },
    )
    .await
    .unwrap();
    assert_eq!(keys(&page), [("d".to_owned(), ids[2].clone())]);
}

#[tokio::test]
async fn a_token_outlives_the_item_that_it_stands_after() {
    let server = Server::start().await;
    let ids = created(&server, &["a", "b", "c"]).await;
    let token = list(&server, in_project(2)).await.unwrap().next_page_token;
    let next = || ListJobsRequest {
        page_token: token.clone(),
        ..in_project(10)
    };
    let renamed = Job {
        description: "z".into(),
        ..job_update(&ids[1])
    };
    server.update_job(renamed, &["description"]).await.unwrap();
    let names = |page: ListJobsResponse| {
        keys(&page)
            .into_iter()
            .map(|(name, _)| name)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(list(&server, next()).await.unwrap()), ["c", "z"]);
    server.delete_job(PROJECT, &ids[1]).await.unwrap();
    assert_eq!(names(list(&server, next()).await.unwrap()), ["c"]);
}

#[tokio::test]
async fn a_marker_that_is_unknown_foreign_or_gone_is_refused() {
    let server = Server::start().await;
    let ids = created(&server, &["a", "b"]).await;
    let foreign = server
        .create_job(Job {
            project_id: OTHER_PROJECT.into(),
            ..job("a")
        })
        .await
        .unwrap()
        .job_id;
    server.delete_job(PROJECT, &ids[0]).await.unwrap();
    for marker in [ids[0].clone(), foreign, "f".repeat(32)] {
        let refused = list(
            &server,
            ListJobsRequest {
                marker,
                ..in_project(1)
            },
        )
        .await
        .unwrap_err();
        assert_eq!(
            (refused.code(), bad_fields(&refused)),
            (Code::InvalidArgument, vec!["marker".to_owned()])
        );
    }
}

#[tokio::test]
async fn a_token_of_another_request_or_that_was_tampered_with_is_refused() {
    let server = Server::start().await;
    created(&server, &["a", "b", "c"]).await;
    let token = list(&server, in_project(1)).await.unwrap().next_page_token;
    let with = |page_token: &str| ListJobsRequest {
        page_token: page_token.into(),
        ..in_project(1)
    };
    let filter = Some(JobFilter {
        client_id: "c1".into(),
        ..JobFilter::default()
    });
    let mut refused = vec![
        ListJobsRequest {
            project_id: OTHER_PROJECT.into(),
            ..with(&token)
        },
        ListJobsRequest {
            project_id: "-".into(),
            ..with(&token)
        },
        ListJobsRequest {
            filter,
            ..with(&token)
        },
        with("not base64!"),
        with("AA"),
        with(&token.repeat(100)),
    ];
    let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
    refused.extend(
        (0..bytes.len())
            .map(|end| with(&URL_SAFE_NO_PAD.encode(&bytes[..end])))
            .skip(1),
    );
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        refused.push(with(&URL_SAFE_NO_PAD.encode(flipped)));
    }
    for request in refused {
        let status = list(&server, request.clone())
            .await
            .expect_err(&request.page_token);
        assert_eq!(status.code(), Code::InvalidArgument, "{request:?}");
        assert_eq!(bad_fields(&status), ["page_token"], "{request:?}");
    }
    let of_jobs = ListBackupsRequest {
        project_id: PROJECT.into(),
        page_token: token,
        ..ListBackupsRequest::default()
    };
    let status = server.backups().list_backups(of_jobs).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let both = ListJobsRequest {
        marker: "f".repeat(32),
        ..with("AA")
    };
    assert_eq!(
        bad_fields(&list(&server, both).await.unwrap_err()),
        ["marker", "page_token"]
    );
}

#[tokio::test]
async fn a_page_has_100_items_unless_told_otherwise_and_never_more_than_1000() {
    let server = Server::start().await;
    let creates = (0..1001).map(|n| {
        let server = &server;
        async move { server.create_job(job(&format!("{n:04}"))).await.unwrap() }
    });
    futures_util::future::join_all(creates).await;
    for (limit, items) in [
        (0, 100),
        (1, 1),
        (1000, 1000),
        (1001, 1000),
        (i32::MAX, 1000),
    ] {
        let page = list(&server, in_project(limit)).await.unwrap();
        assert_eq!(
            (page.count(), page.next_page_token.is_empty()),
            (items, false),
            "limit {limit}"
        );
    }
    for limit in [-1, i32::MIN] {
        assert_eq!(
            bad_fields(&list(&server, in_project(limit)).await.unwrap_err()),
            ["limit"]
        );
    }
}

#[tokio::test]
async fn every_project_is_listed_by_project_first() {
    let server = Server::start().await;
    let mut expected = Vec::new();
    for project in ["p", "p-1", "p0"] {
        for name in ["a", "b"] {
            let id = server
                .create_job(Job {
                    project_id: project.into(),
                    ..job(name)
                })
                .await
                .unwrap()
                .job_id;
            expected.push((project.to_owned(), name.to_owned(), id));
        }
    }
    let all = |marker: &str, page_token: &str, limit| ListJobsRequest {
        project_id: "-".into(),
        marker: marker.into(),
        page_token: page_token.into(),
        limit,
        filter: None,
    };
    let place = |job: Job| (job.project_id, job.description, job.job_id);
    let (mut by_token, mut by_marker) = (Vec::new(), Vec::new());
    let mut token = String::new();
    for _ in turns() {
        let page = list(&server, all("", &token, 1)).await.unwrap();
        by_token.extend(page.decoded().unwrap().into_iter().map(place));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    for _ in turns() {
        let marker = by_marker
            .last()
            .map_or(String::new(), |(_, _, id): &(_, _, String)| id.clone());
        let page = list(&server, all(&marker, "", 4)).await.unwrap();
        by_marker.extend(page.decoded().unwrap().into_iter().map(place));
        if page.next_page_token.is_empty() {
            break;
        }
    }
    assert_eq!(by_token, expected);
    assert_eq!(by_marker, expected);
}

#[tokio::test]
async fn a_page_ends_before_3_mib_and_the_walk_goes_on() {
    let server = Server::start().await;
    let creates = (0..80).map(|n| {
        let server = &server;
        async move {
            let large = backup_with(&format!("{n:02}"), |_, metadata| {
                for text in [
                    &mut metadata.mode,
                    &mut metadata.action,
                    &mut metadata.storage,
                    &mut metadata.backup_media,
                    &mut metadata.path_to_backup,
                    &mut metadata.fs_real_path,
                    &mut metadata.vol_snap_path,
                    &mut metadata.compression,
                    &mut metadata.container_segments,
                    &mut metadata.client_os,
                    &mut metadata.client_version,
                    &mut metadata.proxy,
                    &mut metadata.log_file,
                    &mut metadata.ssh_key,
                ] {
                    *text = "x".repeat(4096);
                }
            });
            server.create_backup(large).await.unwrap();
        }
    });
    futures_util::future::join_all(creates).await;
    let (mut names, mut page_token, mut pages) = (Vec::new(), String::new(), 0);
    for _ in turns() {
        // The client has gRPC's default limit of 4 MiB.
        let request = ListBackupsRequest {
            project_id: PROJECT.into(),
            limit: 1000,
            page_token,
            ..ListBackupsRequest::default()
        };
        let page = server
            .backups()
            .list_backups(request)
            .await
            .unwrap()
            .into_inner();
        assert!(prost::Message::encoded_len(&page) <= (3 << 20) + 1024);
        names.extend(
            page.decoded()
                .unwrap()
                .into_iter()
                .map(|b| b.backup_metadata.unwrap().backup_name),
        );
        pages += 1;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(
        names,
        (0..80).map(|n| format!("{n:02}")).collect::<Vec<_>>()
    );
    assert!(pages > 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::too_many_lines, reason = "one walk, told to its end")]
async fn a_filtered_walk_finds_the_few_that_match_and_by_marker_no_page_is_empty_before_the_end() {
    let server = Server::start().await;
    // More than one page may look at.
    let backups = 10_500;
    let creates = (0..backups).map(|n| {
        let server = &server;
        async move {
            let mode = if n % 5000 == 4999 { "mysql" } else { "fs" };
            let backup = backup_with(&format!("{n:06}"), |_, metadata| {
                metadata.mode = mode.into();
            });
            server.create_backup(backup).await.unwrap();
        }
    });
    futures_util::StreamExt::for_each_concurrent(
        futures_util::stream::iter(creates),
        200,
        |create| create,
    )
    .await;
    let filter = Some(BackupFilter {
        mode: "mysql".into(),
        ..BackupFilter::default()
    });
    let request = |marker: &str, page_token: &str| ListBackupsRequest {
        project_id: PROJECT.into(),
        limit: 1,
        marker: marker.into(),
        page_token: page_token.into(),
        filter: filter.clone(),
    };
    let (mut by_marker, mut marker) = (Vec::new(), String::new());
    for _ in turns() {
        let page = server
            .backups()
            .list_backups(request(&marker, ""))
            .await
            .unwrap()
            .into_inner();
        let found = page.decoded().unwrap();
        assert!(
            !found.is_empty() || page.next_page_token.is_empty(),
            "empty before the end"
        );
        let Some(last) = found.last() else { break };
        marker.clone_from(&last.backup_id);
        by_marker.extend(
            found
                .into_iter()
                .map(|b| b.backup_metadata.unwrap().backup_name),
        );
    }
    let (mut by_token, mut token) = (Vec::new(), String::new());
    for _ in turns() {
        let page = server
            .backups()
            .list_backups(request("", &token))
            .await
            .unwrap()
            .into_inner();
        by_token.extend(
            page.decoded()
                .unwrap()
                .into_iter()
                .map(|b| b.backup_metadata.unwrap().backup_name),
        );
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(by_marker, ["004999", "009999"]);
    assert_eq!(by_token, by_marker);
}

#[tokio::test]
async fn a_walk_by_marker_goes_on_where_it_saw_an_item_that_was_renamed_since() {
    let server = Server::start().await;
    let mut ids = Vec::new();
    for n in 0..6 {
        ids.push(
            server
                .create_job(job(&format!("j{n}")))
                .await
                .unwrap()
                .job_id,
        );
    }
    let first = list(&server, in_project(3)).await.unwrap();
    assert_eq!(keys(&first).last().unwrap().1, ids[2]);
    let renamed = Job {
        description: "zzz".into(),
        ..job_update(&ids[2])
    };
    server.update_job(renamed, &["description"]).await.unwrap();
    let mut seen = Vec::new();
    let mut marker = ids[2].clone();
    for _ in turns() {
        let request = ListJobsRequest {
            marker,
            ..in_project(3)
        };
        let page = keys(&list(&server, request).await.unwrap());
        let Some((_, last)) = page.last().cloned() else {
            break;
        };
        seen.extend(page.into_iter().map(|(name, _)| name));
        marker = last;
    }
    assert_eq!(seen, ["j3", "j4", "j5", "zzz"]);
}

#[tokio::test]
async fn a_marker_that_was_deleted_is_told_the_way_out() {
    let server = Server::start().await;
    let id = server.create_job(job("j")).await.unwrap().job_id;
    list(&server, in_project(1)).await.unwrap();
    server.delete_job(PROJECT, &id).await.unwrap();
    let request = ListJobsRequest {
        marker: id,
        ..in_project(1)
    };
    let status = list(&server, request).await.unwrap_err();
    assert_eq!(bad_fields(&status), ["marker"]);
    assert!(status.message().contains("page_token"), "{status:?}");
}
