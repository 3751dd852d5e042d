//! A server on a free port over a store of its own, and what every test asks it for.

pub(crate) mod child;
pub(crate) mod frames;
pub(crate) mod freezer;

use icebox::{
    Icebox, Options,
    proto::{
        AbortJobRequest, Backup, BackupFilter, BackupMetadata, CreateBackupRequest,
        CreateJobRequest, DeleteBackupRequest, DeleteJobRequest, FreezerAction, GetBackupRequest,
        GetJobRequest, Job, JobAction, JobFilter, ListBackupsRequest, ListJobsRequest,
        StartJobRequest, StopJobRequest, UpdateBackupRequest, UpdateJobRequest,
        backup_service_client::BackupServiceClient, job_service_client::JobServiceClient,
    },
};
use prost_types::FieldMask;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

/// The project that tests work in.
pub(crate) const PROJECT: &str = "demo";
/// Another project, which must not be touched.
pub(crate) const OTHER_PROJECT: &str = "other";

/// A running server. It ends with the test's runtime, and its store is removed with it.
pub(crate) struct Server {
    pub(crate) channel: Channel,
    pub(crate) icebox: Icebox,
    _store: TempDir,
}

/// A new store, and the directory that it is removed with.
async fn opened() -> (Icebox, TempDir) {
    let store = tempfile::tempdir().expect("a temporary directory");
    let options = Options {
        cache_bytes: 8 << 20,
        ..Options::default()
    };
    let icebox = Icebox::open(store.path().join("store"), options).await;
    (icebox.expect("a store"), store)
}

impl Server {
    pub(crate) async fn start() -> Server {
        let (icebox, store) = opened().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        // It runs as long as the test does.
        drop(icebox.serve(listener));
        let channel = Channel::from_shared(format!("http://{address}"))
            .expect("a URI")
            .connect()
            .await
            .expect("the server listens");
        Server {
            channel,
            icebox,
            _store: store,
        }
    }

    /// Ends it, and waits until it has.
    pub(crate) async fn close(self) {
        self.icebox.close().await.expect("it closes");
    }

    pub(crate) fn backups(&self) -> BackupServiceClient<Channel> {
        BackupServiceClient::new(self.channel.clone())
    }

    pub(crate) fn jobs(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel.clone())
    }

    /// The catalog's revision. If it is the same before and after, nothing has changed.
    pub(crate) async fn revision(&self) -> u64 {
        let request = ListJobsRequest {
            project_id: PROJECT.into(),
            ..ListJobsRequest::default()
        };
        self.jobs()
            .list_jobs(request)
            .await
            .expect("a list")
            .into_inner()
            .revision
    }

    pub(crate) async fn create_backup(&self, backup: Backup) -> Result<Backup, Status> {
        let request = CreateBackupRequest {
            project_id: String::new(),
            backup: Some(backup),
        };
        Ok(self
            .backups()
            .create_backup(request)
            .await?
            .into_inner()
            .decoded()
            .expect("the backup"))
    }

    pub(crate) async fn get_backup(&self, project: &str, id: &str) -> Result<Backup, Status> {
        let request = GetBackupRequest {
            project_id: project.into(),
            backup_id: id.into(),
        };
        Ok(self
            .backups()
            .get_backup(request)
            .await?
            .into_inner()
            .decoded()
            .expect("the backup"))
    }

    pub(crate) async fn update_backup(
        &self,
        backup: Backup,
        mask: &[&str],
    ) -> Result<Backup, Status> {
        self.update_backup_at(None, backup, mask).await
    }

    pub(crate) async fn update_backup_at(
        &self,
        expected_revision: Option<u64>,
        backup: Backup,
        mask: &[&str],
    ) -> Result<Backup, Status> {
        let request = UpdateBackupRequest {
            project_id: String::new(),
            backup: Some(backup),
            update_mask: Some(mask_of(mask)),
            expected_revision,
        };
        Ok(self
            .backups()
            .update_backup(request)
            .await?
            .into_inner()
            .backup
            .expect("the backup"))
    }

    pub(crate) async fn delete_backup(&self, project: &str, id: &str) -> Result<(), Status> {
        let request = DeleteBackupRequest {
            project_id: project.into(),
            backup_id: id.into(),
            expected_revision: None,
        };
        self.backups().delete_backup(request).await.map(drop)
    }

    /// The names of the project's backups that match, in the list's order.
    pub(crate) async fn backup_names(&self, filter: BackupFilter) -> Vec<String> {
        let request = ListBackupsRequest {
            project_id: PROJECT.into(),
            filter: Some(filter),
            ..ListBackupsRequest::default()
        };
        let page = self
            .backups()
            .list_backups(request)
            .await
            .expect("a list")
            .into_inner();
        let backups = page.decoded().expect("backups");
        backups
            .into_iter()
            .map(|backup| metadata_of(&backup).backup_name.clone())
            .collect()
    }

    pub(crate) async fn create_job(&self, job: Job) -> Result<Job, Status> {
        let request = CreateJobRequest {
            project_id: String::new(),
            job: Some(job),
        };
        Ok(self
            .jobs()
            .create_job(request)
            .await?
            .into_inner()
            .decoded()
            .expect("the job"))
    }

    pub(crate) async fn get_job(&self, project: &str, id: &str) -> Result<Job, Status> {
        let request = GetJobRequest {
            project_id: project.into(),
            job_id: id.into(),
        };
        Ok(self
            .jobs()
            .get_job(request)
            .await?
            .into_inner()
            .decoded()
            .expect("the job"))
    }

    pub(crate) async fn update_job(&self, job: Job, mask: &[&str]) -> Result<Job, Status> {
        self.update_job_at(None, job, mask).await
    }

    pub(crate) async fn update_job_at(
        &self,
        expected_revision: Option<u64>,
        job: Job,
        mask: &[&str],
    ) -> Result<Job, Status> {
        let request = UpdateJobRequest {
            project_id: String::new(),
            job: Some(job),
            update_mask: Some(mask_of(mask)),
            expected_revision,
        };
        Ok(self
            .jobs()
            .update_job(request)
            .await?
            .into_inner()
            .job
            .expect("the job"))
    }

    pub(crate) async fn delete_job(&self, project: &str, id: &str) -> Result<(), Status> {
        let request = DeleteJobRequest {
            project_id: project.into(),
            job_id: id.into(),
            expected_revision: None,
        };
        self.jobs().delete_job(request).await.map(drop)
    }

    pub(crate) async fn start_job(&self, project: &str, id: &str) -> Result<Job, Status> {
        let request = StartJobRequest {
            project_id: project.into(),
            job_id: id.into(),
        };
        Ok(self
            .jobs()
            .start_job(request)
            .await?
            .into_inner()
            .job
            .expect("the job"))
    }

    pub(crate) async fn stop_job(&self, project: &str, id: &str) -> Result<Job, Status> {
        let request = StopJobRequest {
            project_id: project.into(),
            job_id: id.into(),
        };
        Ok(self
            .jobs()
            .stop_job(request)
            .await?
            .into_inner()
            .job
            .expect("the job"))
    }

    pub(crate) async fn abort_job(&self, project: &str, id: &str) -> Result<Job, Status> {
        let request = AbortJobRequest {
            project_id: project.into(),
            job_id: id.into(),
        };
        Ok(self
            .jobs()
            .abort_job(request)
            .await?
            .into_inner()
            .job
            .expect("the job"))
    }

    /// The descriptions of the project's jobs that match, in the list's order.
    pub(crate) async fn job_names(&self, filter: JobFilter) -> Vec<String> {
        let request = ListJobsRequest {
            project_id: PROJECT.into(),
            filter: Some(filter),
            ..ListJobsRequest::default()
        };
        let page = self
            .jobs()
            .list_jobs(request)
            .await
            .expect("a list")
            .into_inner();
        page.decoded()
            .expect("jobs")
            .into_iter()
            .map(|job| job.description)
            .collect()
    }
}

/// A backup that breaks no rule.
pub(crate) fn backup(name: &str) -> Backup {
    Backup {
        project_id: PROJECT.into(),
        backup_metadata: Some(BackupMetadata {
            backup_name: name.into(),
            container: "/srv/backups".into(),
            hostname: "node1".into(),
            ..BackupMetadata::default()
        }),
        ..Backup::default()
    }
}

/// The same backup after `change`.
pub(crate) fn backup_with(
    name: &str,
    change: impl FnOnce(&mut Backup, &mut BackupMetadata),
) -> Backup {
    let mut backup = backup(name);
    let mut metadata = backup.backup_metadata.take().expect("it has metadata");
    change(&mut backup, &mut metadata);
    backup.backup_metadata = Some(metadata);
    backup
}

/// An update of the backup with that id.
pub(crate) fn backup_update(id: &str, metadata: BackupMetadata) -> Backup {
    Backup {
        project_id: PROJECT.into(),
        backup_id: id.into(),
        backup_metadata: Some(metadata),
        ..Backup::default()
    }
}

pub(crate) fn metadata_of(backup: &Backup) -> &BackupMetadata {
    backup
        .backup_metadata
        .as_ref()
        .expect("a backup has metadata")
}

/// A job that breaks no rule.
pub(crate) fn job(description: &str) -> Job {
    let action = FreezerAction {
        action: "backup".into(),
        ..FreezerAction::default()
    };
    Job {
        project_id: PROJECT.into(),
        description: description.into(),
        job_actions: vec![JobAction {
            freezer_action: Some(action),
            ..JobAction::default()
        }],
        ..Job::default()
    }
}

/// An update of the job with that id.
pub(crate) fn job_update(id: &str) -> Job {
    Job {
        project_id: PROJECT.into(),
        job_id: id.into(),
        ..Job::default()
    }
}

pub(crate) fn mask_of(paths: &[&str]) -> FieldMask {
    FieldMask {
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
    }
}

/// The reason in the `ErrorInfo` of a status. Its domain must be ours.
pub(crate) fn reason_of(status: &Status) -> String {
    let info = status.get_details_error_info().expect("an ErrorInfo");
    assert_eq!(info.domain, "icebox");
    info.reason
}

/// The fields that the `BadRequest` of a status names, in order.
pub(crate) fn bad_fields(status: &Status) -> Vec<String> {
    let request = status.get_details_bad_request();
    let violations = request
        .map(|request| request.field_violations)
        .unwrap_or_default();
    violations
        .into_iter()
        .map(|violation| violation.field)
        .collect()
}

/// Whether this is a `UUIDv7`, written as Freezer writes ids.
pub(crate) fn is_new_id(id: &str) -> bool {
    id.len() == 32
        && id
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        && id.as_bytes()[12] == b'7'
}

/// Checks that `refused` names exactly these fields as bad, in this order.
pub(crate) fn assert_invalid(what: &str, refused: Result<impl Sized, Status>, fields: &[&str]) {
    let Err(status) = refused else {
        panic!("{what}: accepted")
    };
    assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status:?}");
    assert_eq!(bad_fields(&status), fields, "{what}: {status}");
    assert_eq!(reason_of(&status), "INVALID_FIELDS", "{what}");
}
