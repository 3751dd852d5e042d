//! The kinds of resources, with the calls that commands make to a server.

use prost_types::FieldMask;
use tonic::{Status, Streaming};

use super::{Channel, output::Row, paging::Place};
use crate::{
    calls::Created,
    freezer_json::Documented,
    proto::{
        Action, Backup, Client, CreateActionRequest, CreateBackupRequest, CreateJobRequest,
        CreateSessionRequest, DeleteActionRequest, DeleteBackupRequest, DeleteClientRequest,
        DeleteJobRequest, DeleteSessionRequest, GetActionRequest, GetBackupRequest,
        GetClientRequest, GetJobRequest, GetSessionRequest, Job, ListActionsRequest,
        ListBackupsRequest, ListClientsRequest, ListJobsRequest, ListSessionsRequest, Page,
        RegisterClientRequest, RegisterClientResponse, Session, Single, UpdateActionRequest,
        UpdateBackupRequest, UpdateClientRequest, UpdateJobRequest, UpdateSessionRequest,
        WatchBackupsRequest, WatchClientsRequest, WatchJobsRequest, WatchSessionsRequest, Watched,
        action_service_client::ActionServiceClient, backup_service_client::BackupServiceClient,
        client_service_client::ClientServiceClient, job_service_client::JobServiceClient,
        session_service_client::SessionServiceClient,
    },
    resource::Resource,
    service::UNCHANGED_METADATA,
};

/// A kind of resource that commands can ask a server for.
pub(super) trait Remote: Row + Documented {
    async fn page(
        channel: &Channel,
        project_id: &str,
        place: Place,
        filter: &Self::Filter,
    ) -> Result<Page<Self>, Status>;
    async fn get(channel: &Channel, project_id: &str, id: String) -> Result<Single<Self>, Status>;
    /// Stores a resource in the project that it names.
    async fn create(channel: &Channel, resource: Self) -> Result<Created<Self>, Status>;
    /// Changes these fields of the resource that has this id.
    async fn update(
        channel: &Channel,
        project_id: &str,
        resource: Self,
        paths: Vec<String>,
        expected_revision: Option<u64>,
    ) -> Result<Self, Status>;
    async fn delete(
        channel: &Channel,
        project_id: &str,
        id: String,
        expected_revision: Option<u64>,
    ) -> Result<(), Status>;
}

/// A kind that can be watched.
pub(super) trait Watchable: Remote {
    async fn watch(
        channel: &Channel,
        project_id: &str,
        after_revision: u64,
        filter: &Self::Filter,
    ) -> Result<Streaming<Watched<Self>>, Status>;
}

/// The resource in the server's answer.
pub(super) fn decoded<R: Resource>(answer: &Single<R>) -> Result<R, Status> {
    answer
        .decoded()
        .map_err(|error| Status::data_loss(format!("the server's answer cannot be read: {error}")))
}

/// The answer to a call that stores a resource.
trait Storing<R> {
    /// The resource as it is stored.
    fn stored(self) -> Result<R, Status>;
}

impl<R: Resource> Storing<R> for Single<R> {
    fn stored(self) -> Result<R, Status> {
        decoded(&self)
    }
}

impl Storing<Client> for RegisterClientResponse {
    fn stored(self) -> Result<Client, Status> {
        Ok(self.client.unwrap_or_default())
    }
}

/// Implements the calls by the names of a service's methods and requests. Registering a client never tells whether it was
/// unchanged.
macro_rules! remote {
    (
        $resource:ident, $field:ident, $id:ident, $client:ident,
        $list:ident($list_request:ident), $get:ident($get_request:ident),
        $create:ident($create_request:ident), $update:ident($update_request:ident),
        $delete:ident($delete_request:ident)
    ) => {
        impl Remote for $resource {
            async fn page(
                channel: &Channel,
                project_id: &str,
                place: Place,
                filter: &Self::Filter,
            ) -> Result<Page<Self>, Status> {
                let request = $list_request {
                    project_id: project_id.into(),
                    limit: place.limit,
                    marker: place.marker,
                    page_token: place.page_token,
                    filter: Some(filter.clone()),
                };
                let page = $client::new(channel.clone()).$list(request).await?;
                Ok(page.into_inner())
            }

            async fn get(
                channel: &Channel,
                project_id: &str,
                id: String,
            ) -> Result<Single<Self>, Status> {
                let request = $get_request {
                    project_id: project_id.into(),
                    $id: id,
                };
                let mut client = $client::new(channel.clone());
                let answer = client.$get(request).await?;
                Ok(answer.into_inner())
            }

            async fn create(channel: &Channel, resource: Self) -> Result<Created<Self>, Status> {
                let request = $create_request {
                    project_id: String::new(),
                    $field: Some(resource),
                };
                let mut client = $client::new(channel.clone());
                let answer = client.$create(request).await?;
                let is_new = !answer.metadata().contains_key(UNCHANGED_METADATA);
                let resource = answer.into_inner().stored()?;
                Ok(Created { resource, is_new })
            }

            async fn update(
                channel: &Channel,
                project_id: &str,
                resource: Self,
                paths: Vec<String>,
                expected_revision: Option<u64>,
            ) -> Result<Self, Status> {
                let request = $update_request {
                    project_id: project_id.into(),
                    $field: Some(resource),
                    update_mask: Some(FieldMask { paths }),
                    expected_revision,
                };
                let mut client = $client::new(channel.clone());
                let answer = client.$update(request).await?;
                Ok(answer.into_inner().$field.unwrap_or_default())
            }

            async fn delete(
                channel: &Channel,
                project_id: &str,
                id: String,
                expected_revision: Option<u64>,
            ) -> Result<(), Status> {
                let mut request = $delete_request::default();
                request.project_id = project_id.into();
                request.$id = id;
                request.expected_revision = expected_revision;
                let mut client = $client::new(channel.clone());
                client.$delete(request).await?;
                Ok(())
            }
        }
    };
    (watch $resource:ident, $client:ident, $watch:ident($watch_request:ident)) => {
        impl Watchable for $resource {
            async fn watch(
                channel: &Channel,
                project_id: &str,
                after_revision: u64,
                filter: &Self::Filter,
            ) -> Result<Streaming<Watched<Self>>, Status> {
                let request = $watch_request {
                    project_id: project_id.into(),
                    after_revision,
                    filter: Some(filter.clone()),
                };
                let watch = $client::new(channel.clone()).$watch(request).await?;
                Ok(watch.into_inner())
            }
        }
    };
}

remote!(
    Backup,
    backup,
    backup_id,
    BackupServiceClient,
    list_backups(ListBackupsRequest),
    get_backup(GetBackupRequest),
    create_backup(CreateBackupRequest),
    update_backup(UpdateBackupRequest),
    delete_backup(DeleteBackupRequest)
);
remote!(watch Backup, BackupServiceClient, watch_backups(WatchBackupsRequest));
remote!(
    Job,
    job,
    job_id,
    JobServiceClient,
    list_jobs(ListJobsRequest),
    get_job(GetJobRequest),
    create_job(CreateJobRequest),
    update_job(UpdateJobRequest),
    delete_job(DeleteJobRequest)
);
remote!(watch Job, JobServiceClient, watch_jobs(WatchJobsRequest));
remote!(
    Client,
    client,
    client_id,
    ClientServiceClient,
    list_clients(ListClientsRequest),
    get_client(GetClientRequest),
    register_client(RegisterClientRequest),
    update_client(UpdateClientRequest),
    delete_client(DeleteClientRequest)
);
remote!(watch Client, ClientServiceClient, watch_clients(WatchClientsRequest));
remote!(
    Action,
    action,
    action_id,
    ActionServiceClient,
    list_actions(ListActionsRequest),
    get_action(GetActionRequest),
    create_action(CreateActionRequest),
    update_action(UpdateActionRequest),
    delete_action(DeleteActionRequest)
);
remote!(
    Session,
    session,
    session_id,
    SessionServiceClient,
    list_sessions(ListSessionsRequest),
    get_session(GetSessionRequest),
    create_session(CreateSessionRequest),
    update_session(UpdateSessionRequest),
    delete_session(DeleteSessionRequest)
);
remote!(watch Session, SessionServiceClient, watch_sessions(WatchSessionsRequest));
