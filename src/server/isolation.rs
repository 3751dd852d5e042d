//! Who may do what, tried out: every RPC of the table of roles, with every role and credential, on one's own project and on
//! others', each with the code that it must answer; and what was refused has changed nothing.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::AsciiMetadataValue,
    transport::{Channel, Endpoint},
};

use crate::{
    Access, Icebox, Options, Tokens,
    identity::{POLICY, Role, Row, sha256_hex},
    proto::{self, Backup, BackupMetadata, Job, JobAction},
};

/// Messages as they are on the wire.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

const OWN: &str = "demo";
/// Foreign ones: another, one that the own one starts, one that starts it, one that is not allowed to be, and all of them.
const FOREIGN: [&str; 4] = ["other", "demo2", "dem", "-"];
const CLIENT: &str = "node1";
const ROLES: [Role; 4] = [Role::Admin, Role::Member, Role::Reader, Role::Agent];

fn name(role: Role) -> String {
    format!("{role:?}").to_lowercase()
}

fn tokens() -> Tokens {
    let entry = |token: &str, role: Role, expires: &str| {
        let hash = sha256_hex(token);
        let projects = match role {
            Role::Admin => String::new(),
            _ => format!("projects = [\"{OWN}\"]\n"),
        };
        let client = match role {
            Role::Agent => format!("client_id = \"{CLIENT}\"\n"),
            _ => String::new(),
        };
        let role = name(role);
        format!(
            "[[token]]\nsha256 = \"{hash}\"\nuser_id = \"the-{role}\"\nuser_name = \"The {role}\"\nrole = \"{role}\"\n\
             {projects}{client}{expires}\n"
        )
    };
    let valid = ROLES.map(|role| entry(&name(role), role, "expires = 2999-01-01T00:00:00Z"));
    let expired = entry("expired", Role::Admin, "expires = 2001-01-01T00:00:00Z");
    Tokens::parse(&(valid.concat() + &expired)).unwrap()
}

/// A server, and who asks it.
struct House {
    icebox: Icebox,
    channel: Channel,
    _dir: tempfile::TempDir,
}

impl House {
    async fn new() -> House {
        let dir = tempfile::tempdir().unwrap();
        let icebox = Icebox::open(dir.path().join("icebox.db"), Options::default()).await;
        let icebox = icebox.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(icebox.serve_those(listener, Access::with_tokens(tokens())));
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        House {
            icebox,
            channel: endpoint.connect().await.unwrap(),
            _dir: dir,
        }
    }

    /// What becomes of a call: the first message of the answer, or what it was refused with.
    async fn call(
        &self,
        path: &'static str,
        message: Vec<u8>,
        authorizations: &[&str],
    ) -> Result<Bytes, Status> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.unwrap();
        let mut request = Request::new(message);
        for authorization in authorizations {
            let value = AsciiMetadataValue::try_from(*authorization).unwrap();
            request.metadata_mut().append("authorization", value);
        }
        let path = http::uri::PathAndQuery::from_static(path);
        let answer = grpc.server_streaming(request, path, Raw).await?;
        let first = answer.into_inner().message().await?;
        Ok(first.unwrap_or_default())
    }

    /// A backup and a job of a client in a project.
    async fn stored(&self, project: &str, client: &str) -> (Backup, Job) {
        let backup = self.icebox.backups().create(project, backup(client)).await;
        let job = self.icebox.jobs().create(project, job(client)).await;
        (backup.unwrap().resource, job.unwrap().resource)
    }
}

fn backup(client: &str) -> Backup {
    Backup {
        client_id: client.into(),
        user_id: "whoever".into(),
        user_name: "Who Ever".into(),
        backup_metadata: Some(BackupMetadata {
            backup_name: "b".into(),
            container: "c".into(),
            hostname: "h".into(),
            ..BackupMetadata::default()
        }),
        ..Backup::default()
    }
}

fn job(client: &str) -> Job {
    Job {
        client_id: client.into(),
        user_id: "whoever".into(),
        description: "d".into(),
        job_actions: vec![JobAction {
            user_id: "whoever".into(),
            freezer_action: Some(proto::FreezerAction {
                action: "backup".into(),
                ..proto::FreezerAction::default()
            }),
            ..JobAction::default()
        }],
        ..Job::default()
    }
}

/// The message of a call to an RPC about a project, in which it is about this backup or job.
#[expect(clippy::too_many_lines, reason = "a table of messages")]
fn message(path: &str, project: &str, client: &str, (b, j): &(Backup, Job)) -> Vec<u8> {
    let project_id = || project.to_owned();
    let (backup_id, job_id) = (|| b.backup_id.clone(), || j.job_id.clone());
    match path.rsplit('/').next().unwrap() {
        "CreateBackup" => proto::CreateBackupRequest {
            project_id: project_id(),
            backup: Some(backup(client)),
        }
        .encode_to_vec(),
        "GetBackup" => proto::GetBackupRequest {
            project_id: project_id(),
            backup_id: backup_id(),
        }
        .encode_to_vec(),
        "ListBackups" => proto::ListBackupsRequest {
            project_id: project_id(),
            ..Default::default()
        }
        .encode_to_vec(),
        "UpdateBackup" => proto::UpdateBackupRequest {
            project_id: project_id(),
            backup: Some(Backup {
                backup_id: backup_id(),
                status: "error".into(),
                ..Backup::default()
            }),
            ..Default::default()
        }
        .encode_to_vec(),
        "DeleteBackup" => proto::DeleteBackupRequest {
            project_id: project_id(),
            backup_id: backup_id(),
            ..Default::default()
        }
        .encode_to_vec(),
        "CreateJob" => proto::CreateJobRequest {
            project_id: project_id(),
            job: Some(job(client)),
        }
        .encode_to_vec(),
        "GetJob" | "StartJob" | "StopJob" | "AbortJob" => proto::GetJobRequest {
            project_id: project_id(),
            job_id: job_id(),
        }
        .encode_to_vec(),
        "ListJobs" => proto::ListJobsRequest {
            project_id: project_id(),
            ..Default::default()
        }
        .encode_to_vec(),
        "UpdateJob" => proto::UpdateJobRequest {
            project_id: project_id(),
            job: Some(Job {
                job_id: job_id(),
                description: "e".into(),
                ..Job::default()
            }),
            ..Default::default()
        }
        .encode_to_vec(),
        "DeleteJob" => proto::DeleteJobRequest {
            project_id: project_id(),
            job_id: job_id(),
            ..Default::default()
        }
        .encode_to_vec(),
        "ListChanges" => proto::ListChangesRequest {
            project_id: project_id(),
            ..Default::default()
        }
        .encode_to_vec(),
        "ResolveId" => proto::ResolveIdRequest {
            project_id: project_id(),
            kind: "job".into(),
            id_prefix: job_id()[..8].to_owned(),
        }
        .encode_to_vec(),
        // `list_services`, which is all that it asks for.
        "ServerReflectionInfo" => vec![7 << 3 | 2, 0],
        _ => Vec::new(),
    }
}

/// What an RPC answers whoever may call it.
fn answer(path: &str) -> Code {
    match path.rsplit('/').next().unwrap() {
        "WatchBackups" | "WatchJobs" => Code::Unimplemented,
        // The job has never run.
        "StopJob" | "AbortJob" => Code::FailedPrecondition,
        _ => Code::Ok,
    }
}

fn is_of_a_project(path: &str) -> bool {
    !matches!(answer(path), Code::Unimplemented)
        && (path.contains("BackupService")
            || path.contains("JobService")
            || path.contains("AuditService")
            || path.ends_with("ResolveId"))
}

fn code(result: &Result<Bytes, Status>) -> Code {
    result.as_ref().map_or_else(Status::code, |_| Code::Ok)
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
    let mut expect =
        async |path, about: (&str, &(Backup, Job)), authorizations: &[&str], expected| {
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
    for (path, row) in POLICY {
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
            // A fresh one, since what was deleted is gone.
            let mine = house.stored(OWN, CLIENT).await;
            expect(path, (OWN, &mine), bearer, answer(path)).await;
            if !is_of_a_project(path) {
                continue;
            }
            for project in FOREIGN {
                let stored = foreign.get(project).unwrap_or(&own);
                let is_list = path.contains("/List");
                let expected = match (role, project) {
                    (Role::Admin, "-") if is_list => Code::Ok,
                    // It names no project.
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

#[tokio::test]
async fn an_agent_sees_and_reports_on_its_own_client_only() {
    let house = House::new().await;
    let mine = house.stored(OWN, CLIENT).await;
    let others = house.stored(OWN, "node2").await;
    let agent = &["Bearer agent"][..];
    let before = house.icebox.revision();
    for (path, row) in POLICY {
        let Row::Roles(roles) = row else { continue };
        if !roles.contains(&Role::Agent) || !is_of_a_project(path) {
            continue;
        }
        let sent = message(path, OWN, "node2", &others);
        let answered = house.call(path, sent, agent).await;
        match path.rsplit('/').next().unwrap() {
            "CreateBackup" => assert_eq!(code(&answered), Code::PermissionDenied, "{path}"),
            "ListBackups" => {
                let list = proto::ListBackupsResponse::decode(answered.unwrap()).unwrap();
                assert_eq!(list.decoded().unwrap(), std::slice::from_ref(&mine.0));
            }
            "ListJobs" => {
                let list = proto::ListJobsResponse::decode(answered.unwrap()).unwrap();
                assert_eq!(list.decoded().unwrap(), std::slice::from_ref(&mine.1));
            }
            _ => assert_eq!(code(&answered), Code::NotFound, "{path}"),
        }
    }
    // Nor does it give its own to others, or ask for theirs.
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
    // What it records is its client's, though it does not say so.
    let path = "/freezer.v2.BackupService/CreateBackup";
    let answered = house.call(path, message(path, OWN, "", &mine), agent).await;
    let created = proto::CreateBackupResponse::decode(answered.unwrap()).unwrap();
    assert_eq!(created.backup.unwrap().client_id, CLIENT);
}

#[tokio::test]
async fn who_stores_something_is_named_in_it_whatever_the_request_says() {
    let house = House::new().await;
    let stored = house.stored(OWN, CLIENT).await;
    let path = "/freezer.v2.BackupService/CreateBackup";
    for (role, user, user_name) in [
        ("member", "the-member", "The member"),
        ("agent", "the-agent", "The agent"),
        // Who imports what others have made.
        ("admin", "whoever", "Who Ever"),
    ] {
        let bearer = format!("Bearer {role}");
        let sent = message(path, OWN, CLIENT, &stored);
        let answered = house.call(path, sent, &[&bearer]).await;
        let created = proto::CreateBackupResponse::decode(answered.unwrap()).unwrap();
        let created = created.backup.unwrap();
        assert_eq!((&*created.user_id, &*created.user_name), (user, user_name));
    }
    let path = "/freezer.v2.JobService/CreateJob";
    let member = &["Bearer member"][..];
    let answered = house
        .call(path, message(path, OWN, CLIENT, &stored), member)
        .await;
    let created = proto::CreateJobResponse::decode(answered.unwrap()).unwrap();
    let created = created.job.unwrap();
    assert_eq!(created.user_id, "the-member");
    assert_eq!(created.job_actions[0].user_id, "the-member");
    // In an update only what is new in it.
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
