//! Promise: the members of a session share its schedule and its runs. However many start, end, join and leave at the same time,
//! nothing is lost.

use std::{collections::BTreeMap, sync::Arc};

use crate::harness::{self, PROJECT, Server, bad_fields, job, reason_of};
use icebox::proto::{
    AddJobRequest, CreateSessionRequest, DeleteSessionRequest, EndSessionRequest,
    GetSessionRequest, JobSchedule, ListSessionsRequest, RemoveJobRequest, Session,
    StartSessionRequest, StartSessionResponse, UpdateSessionRequest,
    session_service_client::SessionServiceClient,
};
use tonic::{Code, Status, transport::Channel};

const NOBODY: &str = "00000000000000000000000000000000";

fn sessions(server: &Server) -> SessionServiceClient<Channel> {
    SessionServiceClient::new(server.channel.clone())
}

async fn create_session(server: &Server, session: Session) -> Result<Session, Status> {
    let request = CreateSessionRequest {
        project_id: PROJECT.into(),
        session: Some(session),
    };
    let created = sessions(server).create_session(request).await?;
    Ok(created.into_inner().decoded().expect("the session"))
}

async fn get_session(server: &Server, id: &str) -> Session {
    let request = GetSessionRequest {
        project_id: PROJECT.into(),
        session_id: id.into(),
    };
    let session = sessions(server)
        .get_session(request)
        .await
        .expect("a session");
    session.into_inner().decoded().expect("a session")
}

async fn add(server: &Server, session: &str, job: &str) -> Result<Session, Status> {
    let request = AddJobRequest {
        project_id: PROJECT.into(),
        session_id: session.into(),
        job_id: job.into(),
    };
    let added = sessions(server).add_job(request).await?;
    Ok(added.into_inner().session.expect("the session"))
}

async fn remove(server: &Server, session: &str, job: &str) -> Result<Session, Status> {
    let request = RemoveJobRequest {
        project_id: PROJECT.into(),
        session_id: session.into(),
        job_id: job.into(),
    };
    let removed = sessions(server).remove_job(request).await?;
    Ok(removed.into_inner().session.expect("the session"))
}

async fn start(
    server: &Server,
    session: &str,
    job: &str,
    current_tag: i64,
) -> Result<StartSessionResponse, Status> {
    let request = StartSessionRequest {
        project_id: PROJECT.into(),
        session_id: session.into(),
        job_id: job.into(),
        current_tag,
    };
    Ok(sessions(server).start_session(request).await?.into_inner())
}

async fn end(
    server: &Server,
    session: &str,
    job: &str,
    current_tag: i64,
    result: &str,
) -> Result<String, Status> {
    let request = EndSessionRequest {
        project_id: PROJECT.into(),
        session_id: session.into(),
        job_id: job.into(),
        current_tag,
        result: result.into(),
    };
    let ended = sessions(server).end_session(request).await?;
    Ok(ended.into_inner().result)
}

fn session(description: &str) -> Session {
    Session {
        description: description.into(),
        schedule: Some(JobSchedule {
            schedule_interval: "1 days".into(),
            ..JobSchedule::default()
        }),
        ..Session::default()
    }
}

#[tokio::test]
async fn members_take_the_sessions_schedule_and_give_it_back() {
    let server = Server::start().await;
    let nightly = create_session(&server, session("nightly")).await.unwrap();
    let id = &nightly.session_id;
    let mut running = job("db");
    running.job_schedule = Some(JobSchedule {
        schedule_interval: "7 days".into(),
        status: "running".into(),
        ..JobSchedule::default()
    });
    let job = server.create_job(running).await.unwrap();
    let joined = add(&server, id, &job.job_id).await.unwrap();
    assert_eq!(joined.jobs[&job.job_id].status, "running");
    let member = server.get_job(PROJECT, &job.job_id).await.unwrap();
    let schedule = member.job_schedule.clone().unwrap();
    assert_eq!(
        (
            &*member.session_id,
            &*member.session_name,
            &*schedule.schedule_interval,
            &*schedule.status
        ),
        (&**id, "nightly", "1 days", "running")
    );
    // A repeated call changes nothing.
    let before = server.icebox.revision();
    assert_eq!(add(&server, id, &job.job_id).await.unwrap(), joined);
    assert_eq!(server.icebox.revision(), before);
    // In one session only.
    let other = create_session(&server, session("other")).await.unwrap();
    let status = add(&server, &other.session_id, &job.job_id)
        .await
        .unwrap_err();
    assert_eq!(reason_of(&status), "JOB_IN_ANOTHER_SESSION");
    // Every member gets a new schedule, in one commit.
    let request = UpdateSessionRequest {
        project_id: PROJECT.into(),
        session: Some(Session {
            session_id: id.clone(),
            schedule: Some(JobSchedule {
                schedule_interval: "2 days".into(),
                ..JobSchedule::default()
            }),
            ..Session::default()
        }),
        ..UpdateSessionRequest::default()
    };
    let updated = sessions(&server).update_session(request).await.unwrap();
    let updated = updated.into_inner().session.unwrap();
    let member = server.get_job(PROJECT, &job.job_id).await.unwrap();
    let interval = member.job_schedule.clone().unwrap().schedule_interval;
    assert_eq!((&*interval, member.revision), ("2 days", updated.revision));
}

#[tokio::test]
async fn members_leave_one_by_one_or_with_their_session() {
    let server = Server::start().await;
    let nightly = create_session(&server, session("nightly")).await.unwrap();
    let other = create_session(&server, session("other")).await.unwrap();
    let id = &nightly.session_id;
    let job = server.create_job(job("db")).await.unwrap();
    add(&server, id, &job.job_id).await.unwrap();
    // A job that leaves is asked to end its schedule.
    let left = remove(&server, id, &job.job_id).await.unwrap();
    assert!(left.jobs.is_empty());
    let member = server.get_job(PROJECT, &job.job_id).await.unwrap();
    assert_eq!(
        (&*member.session_id, &*member.job_schedule.unwrap().event),
        ("", "stop")
    );
    let status = remove(&server, id, &job.job_id).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    // The same happens to the members of a deleted session. A deleted job leaves its session.
    add(&server, id, &job.job_id).await.unwrap();
    let second = server.create_job(harness::job("second")).await.unwrap();
    add(&server, id, &second.job_id).await.unwrap();
    server.delete_job(PROJECT, &second.job_id).await.unwrap();
    assert_eq!(get_session(&server, id).await.jobs.len(), 1);
    let request = DeleteSessionRequest {
        project_id: PROJECT.into(),
        session_id: id.clone(),
        ..DeleteSessionRequest::default()
    };
    sessions(&server).delete_session(request).await.unwrap();
    let member = server.get_job(PROJECT, &job.job_id).await.unwrap();
    assert_eq!(member.session_id, "");
    let list = ListSessionsRequest {
        project_id: PROJECT.into(),
        ..ListSessionsRequest::default()
    };
    let listed = sessions(&server).list_sessions(list).await.unwrap();
    assert_eq!(listed.into_inner().decoded().unwrap(), [other]);
}

#[tokio::test]
async fn a_run_begins_once_and_ends_when_all_members_have() {
    let server = Server::start().await;
    let stored = Session {
        hold_off: Some(0),
        ..session("nightly")
    };
    let nightly = create_session(&server, stored).await.unwrap();
    let id = &nightly.session_id;
    let mut jobs = Vec::new();
    for name in ["a", "b"] {
        let job = server.create_job(job(name)).await.unwrap().job_id;
        add(&server, id, &job).await.unwrap();
        jobs.push(job);
    }
    let answer = |result: &str, session_tag| StartSessionResponse {
        result: result.into(),
        session_tag,
    };
    let (a, b) = (&jobs[0], &jobs[1]);
    assert_eq!(
        start(&server, id, a, 0).await.unwrap(),
        answer("success", 1)
    );
    let status = start(&server, id, b, 2).await.unwrap_err();
    assert_eq!(bad_fields(&status), ["current_tag"]);
    let status = start(&server, id, NOBODY, 0).await.unwrap_err();
    assert_eq!(bad_fields(&status), ["job_id"]);
    // The second one joins within the same second, and the first one gets `hold-off`.
    let hold_off = UpdateSessionRequest {
        project_id: PROJECT.into(),
        session: Some(Session {
            session_id: id.clone(),
            hold_off: Some(3600),
            ..Session::default()
        }),
        ..UpdateSessionRequest::default()
    };
    sessions(&server).update_session(hold_off).await.unwrap();
    assert_eq!(
        start(&server, id, a, 1).await.unwrap(),
        answer("hold-off", 1)
    );
    assert_eq!(
        start(&server, id, b, 0).await.unwrap(),
        answer("success", 1)
    );
    assert_eq!(get_session(&server, id).await.status, "running");
    assert_eq!(
        end(&server, id, a, 0, "success").await.unwrap(),
        "out-of-sync"
    );
    assert_eq!(end(&server, id, a, 1, "success").await.unwrap(), "success");
    assert_eq!(get_session(&server, id).await.status, "running");
    let status = end(&server, id, b, 1, "well").await.unwrap_err();
    assert_eq!(bad_fields(&status), ["result"]);
    assert_eq!(end(&server, id, b, 1, "fail").await.unwrap(), "success");
    let ended = get_session(&server, id).await;
    assert_eq!((&*ended.status, &*ended.result), ("completed", "fail"));
    assert!(ended.time_end >= ended.time_start && ended.time_start > 0);
}

/// Agents that start, end, join and leave at the same time.
async fn crowd(agents: usize) {
    let server = Arc::new(Server::start().await);
    let stored = Session {
        hold_off: Some(3600),
        ..session("crowd")
    };
    let id = create_session(&server, stored)
        .await
        .expect("it is done")
        .session_id;
    let mut jobs = Vec::new();
    for n in 0..agents {
        jobs.push(
            server
                .create_job(job(&format!("job {n}")))
                .await
                .expect("it is done")
                .job_id,
        );
    }
    // All join at the same time, and a quarter leave again.
    let mut tasks = Vec::new();
    for (n, job) in jobs.iter().cloned().enumerate() {
        let (server, id) = (server.clone(), id.clone());
        tasks.push(tokio::spawn(async move {
            add(&server, &id, &job).await.expect("it is done");
            if n % 4 == 3 {
                remove(&server, &id, &job).await.expect("it is done");
                return None;
            }
            let started = start(&server, &id, &job, 0).await.expect("it is done");
            assert_eq!((&*started.result, started.session_tag), ("success", 1));
            let result = if n == 1 { "fail" } else { "success" };
            // It was given the tag of the run.
            let ended = end(&server, &id, &job, started.session_tag, result).await;
            assert_eq!(ended.expect("it is done"), "success");
            Some((job, result.to_owned()))
        }));
    }
    let mut expected = BTreeMap::new();
    for task in tasks {
        expected.extend(task.await.expect("it is done"));
    }
    let session = get_session(&server, &id).await;
    let members: BTreeMap<_, _> = session
        .jobs
        .iter()
        .map(|(id, job)| (id.clone(), job.result.clone()))
        .collect();
    assert_eq!(members, expected);
    assert_eq!(session.session_tag, 1);
    assert!(session.jobs.values().all(|job| job.status == "completed"));
    for job in &jobs {
        let stored = server.get_job(PROJECT, job).await.expect("it is done");
        let is_member = expected.contains_key(job);
        assert_eq!(stored.session_id == id, is_member);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_agents_at_once_lose_nothing() {
    crowd(16).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_agents_at_once_lose_nothing() {
    crowd(64).await;
}
