//! Who may do what, by trying it: every RPC in the table of roles, with every role and credential, on the caller's project and on
//! others. Each call must return exactly its code, and a refused call must have changed nothing.

mod credentials;
#[cfg(feature = "http")]
mod freezer;
mod house;

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status, transport::Endpoint};

use crate::{
    Access, Icebox, Options, Tokens,
    identity::{POLICY, Role, Row, Rpc},
    proto::{self, Job},
};

use house::{CLIENT, FOREIGN, House, OWN, ROLES, Stored, code, job, message, name, tokens};

/// The code with which an RPC answers a caller that may call it.
fn answer(path: &str) -> Code {
    match path.rsplit('/').next().unwrap() {
        // The job has never run.
        "StopJob" | "AbortJob" => Code::FailedPrecondition,
        _ => Code::Ok,
    }
}

fn is_of_a_project(path: &str) -> bool {
    let services = ["Action", "Audit", "Backup", "Client", "Job", "Session"];
    let services = services.map(|name| format!("/freezer.v2.{name}Service/"));
    services.iter().any(|service| path.starts_with(service)) || path.ends_with("ResolveId")
}

#[tokio::test]
async fn every_rpc_answers_every_role_and_credential_what_the_table_says() {
    let house = House::new().await;
    let own = house.stored(OWN, CLIENT).await;
    let mut foreign = BTreeMap::new();
    for project in &FOREIGN[..3] {
        foreign.insert(*project, house.stored(project, CLIENT).await);
    }
    let mut cells = 0;
    let mut expect = async |path, about: (&str, &Stored), authorizations: &[&str], expected| {
        let before = house.icebox.revision();
        let (project, stored) = about;
        let sent = message(path, project, CLIENT, stored);
        let answered = house.call(path, sent, authorizations).await;
        let what = format!("{path} in {project} with {authorizations:?}: {answered:?}");
        assert_eq!(code(&answered), expected, "{what}");
        if expected != Code::Ok {
            assert_eq!(house.icebox.revision(), before, "{what}");
        }
        cells += 1;
    };
    for Rpc { path, row, .. } in POLICY {
        let Row::Roles(roles) = row else {
            for authorizations in [&[][..], &["Bearer nobody's"]] {
                expect(path, (OWN, &own), authorizations, answer(path)).await;
            }
            continue;
        };
        for authorizations in [
            &[][..],
            &[""],
            &["Bearer "],
            &["Bearer nobody's"],
            &["Bearer membe"],
            &["Bearer member "],
            &["Bearer expired"],
            &["Basic member"],
            &["member"],
            &["Bearer member", "Bearer member"],
        ] {
            expect(path, (OWN, &own), authorizations, Code::Unauthenticated).await;
        }
        for role in ROLES {
            let bearer = format!("bearer {}", name(role));
            let bearer = &[&*bearer][..];
            if !roles.contains(&role) {
                expect(path, (OWN, &own), bearer, Code::PermissionDenied).await;
                continue;
            }
            // Fresh resources each time, since some calls delete them.
            let mine = house.stored(OWN, CLIENT).await;
            expect(path, (OWN, &mine), bearer, answer(path)).await;
            if !is_of_a_project(path) {
                continue;
            }
            for project in FOREIGN {
                let stored = foreign.get(project).unwrap_or(&own);
                let is_list = path.contains("/List") || path.contains("/Watch");
                let expected = match (role, project) {
                    (Role::Admin, "-") if is_list => Code::Ok,
                    // The request names no project.
                    (_, "-") if !is_list => Code::InvalidArgument,
                    (Role::Admin, _) => continue,
                    _ => Code::PermissionDenied,
                };
                expect(path, (project, stored), bearer, expected).await;
            }
        }
    }
    assert!(cells > 300, "{cells}");
}

/// Checks that an agent gets only its own client's resources, whatever it asks for.
fn shows_only(mine: &Stored, path: &str, answered: Result<Bytes, Status>) {
    match path.rsplit('/').next().unwrap() {
        "CreateBackup" | "RegisterClient" => {
            assert_eq!(code(&answered), Code::PermissionDenied, "{path}");
        }
        "ListClients" => {
            let list = proto::ListClientsResponse::decode(answered.unwrap()).unwrap();
            let list = list.decoded().unwrap();
            assert!(list.len() == 1 && list[0].client_id == CLIENT);
        }
        "WatchClients" => {
            let said = proto::WatchClientsResponse::decode(answered.unwrap()).unwrap();
            let said = said.decoded().unwrap();
            let is_mine =
                matches!(&said, Some(proto::WatchEvent::Put(it)) if it.client_id == CLIENT);
            assert!(is_mine, "{said:?}");
        }
        "ListBackups" => {
            let list = proto::ListBackupsResponse::decode(answered.unwrap()).unwrap();
            assert_eq!(list.decoded().unwrap(), std::slice::from_ref(&mine.0));
        }
        "ListJobs" => {
            let list = proto::ListJobsResponse::decode(answered.unwrap()).unwrap();
            assert_eq!(list.decoded().unwrap(), std::slice::from_ref(&mine.1));
        }
        "WatchBackups" => {
            let said = proto::WatchBackupsResponse::decode(answered.unwrap()).unwrap();
            let mine = proto::WatchEvent::Put(mine.0.clone());
            assert_eq!(said.decoded().unwrap(), Some(mine));
        }
        "WatchJobs" => {
            let said = proto::WatchJobsResponse::decode(answered.unwrap()).unwrap();
            let mine = proto::WatchEvent::Put(mine.1.clone());
            assert_eq!(said.decoded().unwrap(), Some(mine));
        }
        _ => assert_eq!(code(&answered), Code::NotFound, "{path}"),
    }
}

#[tokio::test]
async fn an_agent_sees_and_reports_on_its_own_client_only() {
    let house = House::new().await;
    let mine = house.stored(OWN, CLIENT).await;
    let others = house.stored(OWN, "node2").await;
    let agent = &["Bearer agent"][..];
    let before = house.icebox.revision();
    for Rpc { path, row, .. } in POLICY {
        let Row::Roles(roles) = row else { continue };
        if !roles.contains(&Role::Agent) || !is_of_a_project(path) {
            continue;
        }
        let sent = message(path, OWN, "node2", &others);
        let answered = house.call(path, sent, agent).await;
        shows_only(&mine, path, answered);
    }
    // An agent can neither give its resources to others, nor ask for theirs.
    let given = proto::UpdateJobRequest {
        project_id: OWN.into(),
        job: Some(Job {
            job_id: mine.1.job_id.clone(),
            client_id: "node2".into(),
            ..Job::default()
        }),
        ..Default::default()
    };
    let path = "/freezer.v2.JobService/UpdateJob";
    let answered = house.call(path, given.encode_to_vec(), agent).await;
    assert_eq!(code(&answered), Code::PermissionDenied);
    let asked = proto::ListJobsRequest {
        project_id: OWN.into(),
        filter: Some(proto::JobFilter {
            client_id: "node2".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let path = "/freezer.v2.JobService/ListJobs";
    let answered = house.call(path, asked.encode_to_vec(), agent).await;
    assert_eq!(code(&answered), Code::PermissionDenied);
    assert_eq!(house.icebox.revision(), before);
    // What an agent records belongs to its client, even if the request does not say so.
    let path = "/freezer.v2.BackupService/CreateBackup";
    let answered = house.call(path, message(path, OWN, "", &mine), agent).await;
    let created = proto::CreateBackupResponse::decode(answered.unwrap()).unwrap();
    assert_eq!(created.decoded().unwrap().client_id, CLIENT);
}

#[tokio::test]
async fn who_stores_something_is_named_in_it_whatever_the_request_says() {
    let house = House::new().await;
    let stored = house.stored(OWN, CLIENT).await;
    let path = "/freezer.v2.BackupService/CreateBackup";
    for (role, user, user_name) in [
        ("member", "the-member", "The member"),
        ("agent", "the-agent", "The agent"),
        // An admin imports what others have made.
        ("admin", "whoever", "Who Ever"),
    ] {
        let bearer = format!("Bearer {role}");
        let sent = message(path, OWN, CLIENT, &stored);
        let answered = house.call(path, sent, &[&bearer]).await;
        let created = proto::CreateBackupResponse::decode(answered.unwrap()).unwrap();
        let created = created.decoded().unwrap();
        assert_eq!((&*created.user_id, &*created.user_name), (user, user_name));
    }
    let path = "/freezer.v2.JobService/CreateJob";
    let member = &["Bearer member"][..];
    let answered = house
        .call(path, message(path, OWN, CLIENT, &stored), member)
        .await;
    let created = proto::CreateJobResponse::decode(answered.unwrap()).unwrap();
    let created = created.decoded().unwrap();
    assert_eq!(created.user_id, "the-member");
    assert_eq!(created.job_actions[0].user_id, "the-member");
    // In an update, only new actions get the user.
    let mut actions = stored.1.job_actions.clone();
    let mut new = job(CLIENT).job_actions.remove(0);
    new.max_retries = Some(7);
    actions.push(new);
    actions[0].user_id = "somebody".into();
    let update = proto::UpdateJobRequest {
        project_id: OWN.into(),
        job: Some(Job {
            job_id: stored.1.job_id.clone(),
            job_actions: actions,
            ..Job::default()
        }),
        ..Default::default()
    };
    let path = "/freezer.v2.JobService/UpdateJob";
    let answered = house.call(path, update.encode_to_vec(), member).await;
    let updated = proto::UpdateJobResponse::decode(answered.unwrap()).unwrap();
    let users: Vec<_> = updated.job.unwrap().job_actions;
    let users: Vec<&str> = users.iter().map(|action| &*action.user_id).collect();
    assert_eq!(users, ["whoever", "the-member"]);
}

#[tokio::test]
async fn tokens_are_replaced_while_calls_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let icebox = Icebox::open(dir.path().join("icebox.db"), Options::default()).await;
    let icebox = icebox.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let access = Access::with_tokens(Tokens::default());
    drop(icebox.serve_those(listener, access.clone()));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let house = House {
        icebox,
        channel: endpoint.connect().await.unwrap(),
        _dir: dir,
    };
    let path = "/freezer.v2.MaintenanceService/GetStatus";
    let admin = &["Bearer admin"][..];
    assert_eq!(
        code(&house.call(path, Vec::new(), admin).await),
        Code::Unauthenticated
    );
    access.replace_tokens(tokens());
    assert_eq!(code(&house.call(path, Vec::new(), admin).await), Code::Ok);
    access.replace_tokens(Tokens::default());
    assert_eq!(
        code(&house.call(path, Vec::new(), admin).await),
        Code::Unauthenticated
    );
}

#[tokio::test]
async fn an_agent_is_heard_of_whatever_it_calls() {
    let house = House::new().await;
    let clients = house.icebox.clients();
    let created = clients.create(OWN, house::agent(CLIENT)).await.unwrap();
    assert_eq!(created.resource.last_seen_time, None);
    let stored = house.stored(OWN, "node2").await;
    let path = "/freezer.v2.JobService/ListJobs";
    let sent = message(path, OWN, CLIENT, &stored);
    for bearer in ["Bearer member", "Bearer agent"] {
        let answered = house.call(path, sent.clone(), &[bearer]).await;
        assert_eq!(code(&answered), Code::Ok);
    }
    let noted = async {
        while clients
            .get(OWN, CLIENT)
            .await
            .unwrap()
            .last_seen_time
            .is_none()
        {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let noted = tokio::time::timeout(std::time::Duration::from_secs(20), noted);
    noted.await.expect("it is noted");
    // Not noted again within a minute.
    let revision = house.icebox.revision();
    for _ in 0..3 {
        let answered = house.call(path, sent.clone(), &["Bearer agent"]).await;
        assert_eq!(code(&answered), Code::Ok);
    }
    assert_eq!(house.icebox.revision(), revision);
}
