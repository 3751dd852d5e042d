//! Promise: stored actions are in the jobs that name them as they are now. They change in the same commit, and leave no job without
//! an action.

use crate::harness::{PROJECT, Server, bad_fields, job, reason_of};
use icebox::proto::{
    Action, CreateActionRequest, DeleteActionRequest, FreezerAction, Job, JobAction,
    ListActionsRequest, UpdateActionRequest, action_service_client::ActionServiceClient,
};
use tonic::{Code, Status, transport::Channel};

const NOBODY: &str = "00000000000000000000000000000000";

fn actions(server: &Server) -> ActionServiceClient<Channel> {
    ActionServiceClient::new(server.channel.clone())
}

fn action(backup_name: &str) -> Action {
    Action {
        project_id: PROJECT.into(),
        freezer_action: Some(FreezerAction {
            action: "backup".into(),
            backup_name: backup_name.into(),
            ..FreezerAction::default()
        }),
        ..Action::default()
    }
}

async fn create_action(server: &Server, action: Action) -> Result<Action, Status> {
    let request = CreateActionRequest {
        project_id: String::new(),
        action: Some(action),
    };
    let created = actions(server).create_action(request).await?;
    Ok(created.into_inner().decoded().expect("the action"))
}

/// A job that names stored actions.
fn job_of(description: &str, action_ids: &[&str]) -> Job {
    let actions = action_ids.iter().map(|id| JobAction {
        action_id: (*id).into(),
        ..JobAction::default()
    });
    Job {
        job_actions: actions.collect(),
        ..job(description)
    }
}

/// The names of a job's actions.
fn names(job: &Job) -> Vec<String> {
    let actions = job.job_actions.iter();
    let actions = actions.filter_map(|action| action.freezer_action.clone());
    actions.map(|action| action.backup_name).collect()
}

#[tokio::test]
async fn a_stored_action_is_in_the_jobs_that_name_it_as_it_is_now() {
    let server = Server::start().await;
    let etc = create_action(&server, action("etc")).await.unwrap();
    let var = create_action(&server, action("var")).await.unwrap();
    let both = job_of("both", &[&etc.action_id, &var.action_id]);
    let both = server.create_job(both).await.unwrap();
    assert_eq!(names(&both), ["etc", "var"]);
    let only = server
        .create_job(job_of("only", &[&etc.action_id]))
        .await
        .unwrap();
    // A changed action changes in all of these jobs, in one commit.
    let mut changed = action("etc2");
    changed.action_id.clone_from(&etc.action_id);
    changed.max_retries = Some(7);
    let request = UpdateActionRequest {
        action: Some(changed),
        ..UpdateActionRequest::default()
    };
    let changed = actions(&server).update_action(request).await.unwrap();
    let changed = changed.into_inner().action.unwrap();
    for (id, expected) in [
        (&both.job_id, &["etc2", "var"][..]),
        (&only.job_id, &["etc2"]),
    ] {
        let job = server.get_job(PROJECT, id).await.unwrap();
        assert_eq!(names(&job), expected);
        assert_eq!(job.job_actions[0].max_retries, Some(7));
        assert_eq!(job.revision, changed.revision);
    }
    // Reports of agents do not touch it, and naming it again changes nothing.
    server.start_job(PROJECT, &both.job_id).await.unwrap();
    let list = ListActionsRequest {
        project_id: PROJECT.into(),
        ..ListActionsRequest::default()
    };
    let listed = actions(&server).list_actions(list).await.unwrap();
    let listed = listed.into_inner().decoded().unwrap();
    assert_eq!(listed, [changed.clone(), var.clone()]);
    // A job whose action differs from the stored one is refused, and nothing is stored.
    let before = server.icebox.revision();
    let mut other = job_of("other", &[&etc.action_id]);
    other.job_actions[0].freezer_action = action("elsewhere").freezer_action;
    let status = server.create_job(other).await.unwrap_err();
    assert_eq!(bad_fields(&status), ["job.job_actions[0].freezer_action"]);
    let unknown = server
        .create_job(job_of("unknown", &[NOBODY]))
        .await
        .unwrap_err();
    assert_eq!(bad_fields(&unknown), ["job.job_actions[0].action_id"]);
    assert_eq!(server.icebox.revision(), before);
}

#[tokio::test]
async fn a_job_is_checked_with_the_actions_that_it_names() {
    let server = Server::start().await;
    let mut large = action("large");
    let options = large.freezer_action.as_mut().unwrap();
    options.path_to_backup = "/".repeat(4000);
    let large = create_action(&server, large).await.unwrap();
    let before = server.icebox.revision();
    // 16 of these are almost a record's 64 KiB, and 17 are more.
    let named = |count| job_of("large", &vec![&large.action_id[..]; count]);
    let status = server.create_job(named(17)).await.unwrap_err();
    assert_eq!(bad_fields(&status), ["job"]);
    assert_eq!(server.icebox.revision(), before);
    server.create_job(named(16)).await.unwrap();
}

#[tokio::test]
async fn an_action_that_is_used_stays_unless_it_is_taken_out() {
    let server = Server::start().await;
    let etc = create_action(&server, action("etc")).await.unwrap();
    let var = create_action(&server, action("var")).await.unwrap();
    let both = job_of("both", &[&etc.action_id, &var.action_id]);
    let both = server.create_job(both).await.unwrap();
    let only = server
        .create_job(job_of("only", &[&etc.action_id]))
        .await
        .unwrap();
    let before = server.icebox.revision();
    let delete = async |id: &str, detach| {
        let request = DeleteActionRequest {
            project_id: PROJECT.into(),
            action_id: id.into(),
            detach,
            ..DeleteActionRequest::default()
        };
        actions(&server).delete_action(request).await.map(drop)
    };
    let status = delete(&var.action_id, false).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(reason_of(&status), "ACTION_IN_USE");
    assert!(status.message().contains(&both.job_id), "{status:?}");
    let status = delete(&etc.action_id, true).await.unwrap_err();
    assert_eq!(reason_of(&status), "ACTION_IS_ALL_THAT_JOBS_HAVE");
    assert!(status.message().contains(&only.job_id), "{status:?}");
    assert_eq!(server.icebox.revision(), before);
    delete(&var.action_id, true).await.unwrap();
    let both = server.get_job(PROJECT, &both.job_id).await.unwrap();
    assert_eq!(names(&both), ["etc"]);
    // Once nobody uses it, it can be deleted.
    for job in [&both, &only] {
        server.delete_job(PROJECT, &job.job_id).await.unwrap();
    }
    delete(&etc.action_id, false).await.unwrap();
}

#[tokio::test]
async fn an_action_serves_so_many_jobs_and_no_more() {
    let server = Server::start().await;
    let stored = create_action(&server, action("etc")).await.unwrap();
    for n in 0..100 {
        let job = job_of(&format!("job {n}"), &[&stored.action_id]);
        server.create_job(job).await.unwrap();
    }
    let more = server
        .create_job(job_of("more", &[&stored.action_id]))
        .await;
    let status = more.unwrap_err();
    assert_eq!(bad_fields(&status), ["job.job_actions[0].action_id"]);
    let mut changed = action("etc2");
    changed.action_id.clone_from(&stored.action_id);
    let request = UpdateActionRequest {
        action: Some(changed),
        ..UpdateActionRequest::default()
    };
    let before = server.icebox.revision();
    actions(&server).update_action(request).await.unwrap();
    assert_eq!(server.icebox.revision(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_names_an_action_while_it_changes_has_it_as_it_is_in_the_end() {
    let server = std::sync::Arc::new(Server::start().await);
    for round in 0..100 {
        let stored = create_action(&server, action("before")).await.unwrap();
        let create = |n| {
            let (server, id) = (server.clone(), stored.action_id.clone());
            tokio::spawn(async move {
                let job = job_of(&format!("job {round} {n}"), &[&id]);
                server.create_job(job).await.map(|job| job.job_id)
            })
        };
        let creating: Vec<_> = (0..8).map(create).collect();
        let mut changed = action("after");
        changed.action_id.clone_from(&stored.action_id);
        let request = UpdateActionRequest {
            action: Some(changed),
            ..UpdateActionRequest::default()
        };
        // A call that loses every race against so many others says so, and may be repeated.
        while let Err(status) = actions(&server).update_action(request.clone()).await {
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        }
        for created in creating {
            let id = created.await.unwrap().unwrap();
            let job = server.get_job(PROJECT, &id).await.unwrap();
            assert_eq!(names(&job), ["after"], "in round {round}");
        }
    }
}
