//! A server with resources in two projects, and a caller of each role.

#[path = "../../../tests/wire/mod.rs"]
mod wire;

use bytes::Bytes;
use prost::Message;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    Access, Icebox, Options, Tokens,
    identity::{Role, sha256_hex},
    proto::{self, Action, Backup, BackupMetadata, Client, Job, JobAction, Session},
};

pub(super) const OWN: &str = "demo";
/// Foreign projects: another one, one that begins with the own name, one with which the own name begins, an invalid name, and all
/// projects.
pub(super) const FOREIGN: [&str; 4] = ["other", "demo2", "dem", "-"];
pub(super) const CLIENT: &str = "node1";
pub(super) const ROLES: [Role; 4] = [Role::Admin, Role::Member, Role::Reader, Role::Agent];

pub(super) fn name(role: Role) -> String {
    format!("{role:?}").to_lowercase()
}

pub(super) fn tokens() -> Tokens {
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

/// The server and its callers.
pub(super) struct House {
    pub(super) icebox: Icebox,
    pub(super) channel: Channel,
    pub(super) _dir: tempfile::TempDir,
}

impl House {
    pub(super) async fn new() -> House {
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

    /// The result of a call: the first message of the answer, or the refusal.
    pub(super) async fn call(
        &self,
        path: &'static str,
        message: Vec<u8>,
        authorizations: &[&str],
    ) -> Result<Bytes, Status> {
        let path = http::uri::PathAndQuery::from_static(path);
        wire::call(&self.channel, path, message.into(), authorizations).await
    }

    /// A backup and a job of a client in a project.
    pub(super) async fn stored(&self, project: &str, client: &str) -> Stored {
        let backup = self.icebox.backups().create(project, backup(client)).await;
        let job = self.icebox.jobs().create(project, job(client)).await;
        let (backup, job) = (backup.unwrap().resource, job.unwrap().resource);
        let registered = self.icebox.clients().register(project, agent(client)).await;
        registered.unwrap();
        let action = self.icebox.actions().create(project, action()).await;
        let session = self.icebox.sessions().create(project, session()).await;
        let session = session.unwrap().resource;
        let joined = self.icebox.sessions();
        let joined = joined.add_job(project, &session.session_id, &job.job_id);
        let session = joined.await.unwrap();
        let job = self.icebox.jobs().get(project, &job.job_id).await.unwrap();
        (backup, job, action.unwrap().resource, session)
    }
}

/// A backup, a job, a stored action, and the session that the job is in.
pub(super) type Stored = (Backup, Job, Action, Session);

pub(super) fn agent(client: &str) -> Client {
    Client {
        client_id: client.into(),
        hostname: "h".into(),
        ..Client::default()
    }
}

fn action() -> Action {
    Action {
        freezer_action: Some(proto::FreezerAction {
            action: "backup".into(),
            ..proto::FreezerAction::default()
        }),
        ..Action::default()
    }
}

fn session() -> Session {
    Session {
        description: "s".into(),
        ..Session::default()
    }
}

pub(super) fn backup(client: &str) -> Backup {
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

pub(super) fn job(client: &str) -> Job {
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

/// The request message for an RPC about a project and these stored resources.
#[expect(clippy::too_many_lines, reason = "a table of messages")]
pub(super) fn message(path: &str, project: &str, client: &str, (b, j, a, s): &Stored) -> Vec<u8> {
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
        "WatchBackups" | "WatchJobs" | "WatchClients" | "WatchSessions" => {
            proto::WatchJobsRequest {
                project_id: project_id(),
                ..Default::default()
            }
            .encode_to_vec()
        }
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
        "ListJobs" | "ListClients" | "ListActions" | "ListSessions" => proto::ListJobsRequest {
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
        "CreateAction" => proto::CreateActionRequest {
            project_id: project_id(),
            action: Some(action()),
        }
        .encode_to_vec(),
        "GetAction" => proto::GetActionRequest {
            project_id: project_id(),
            action_id: a.action_id.clone(),
        }
        .encode_to_vec(),
        "UpdateAction" => proto::UpdateActionRequest {
            project_id: project_id(),
            action: Some(Action {
                action_id: a.action_id.clone(),
                max_retries: Some(1),
                ..Action::default()
            }),
            ..Default::default()
        }
        .encode_to_vec(),
        "DeleteAction" => proto::DeleteActionRequest {
            project_id: project_id(),
            action_id: a.action_id.clone(),
            ..Default::default()
        }
        .encode_to_vec(),
        "CreateSession" => proto::CreateSessionRequest {
            project_id: project_id(),
            session: Some(session()),
        }
        .encode_to_vec(),
        "GetSession" => proto::GetSessionRequest {
            project_id: project_id(),
            session_id: s.session_id.clone(),
        }
        .encode_to_vec(),
        "UpdateSession" => proto::UpdateSessionRequest {
            project_id: project_id(),
            session: Some(Session {
                session_id: s.session_id.clone(),
                hold_off: Some(1),
                ..Session::default()
            }),
            ..Default::default()
        }
        .encode_to_vec(),
        "DeleteSession" => proto::DeleteSessionRequest {
            project_id: project_id(),
            session_id: s.session_id.clone(),
            ..Default::default()
        }
        .encode_to_vec(),
        "RegisterClient" => proto::RegisterClientRequest {
            project_id: project_id(),
            client: Some(agent(client)),
        }
        .encode_to_vec(),
        "GetClient" | "DeleteClient" => proto::GetClientRequest {
            project_id: project_id(),
            client_id: client.into(),
        }
        .encode_to_vec(),
        "UpdateClient" => proto::UpdateClientRequest {
            project_id: project_id(),
            client: Some(Client {
                description: "d".into(),
                ..agent(client)
            }),
            ..Default::default()
        }
        .encode_to_vec(),
        "AddJob" | "RemoveJob" | "StartSession" => proto::AddJobRequest {
            project_id: project_id(),
            session_id: s.session_id.clone(),
            job_id: job_id(),
        }
        .encode_to_vec(),
        "EndSession" => proto::EndSessionRequest {
            project_id: project_id(),
            session_id: s.session_id.clone(),
            job_id: job_id(),
            current_tag: 0,
            result: "success".into(),
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
        // `list_services`, the only field of the request.
        "ServerReflectionInfo" => vec![7 << 3 | 2, 0],
        _ => Vec::new(),
    }
}

pub(super) fn code(result: &Result<Bytes, Status>) -> Code {
    result.as_ref().map_or_else(Status::code, |_| Code::Ok)
}
