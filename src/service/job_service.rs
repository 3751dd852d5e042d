//! `freezer.v2.JobService`: the registry of jobs.

use tokio_stream::Empty;
use tonic::{Request, Response, Status};

use super::{created, list::ListRequest, one, update};
use crate::{
    catalog::{Catalog, Error},
    proto::{
        AbortJobRequest, AbortJobResponse, CreateJobRequest, CreateJobResponse, DeleteJobRequest,
        DeleteJobResponse, GetJobRequest, GetJobResponse, Job, ListJobsRequest, ListJobsResponse,
        StartJobRequest, StartJobResponse, StopJobRequest, StopJobResponse, UpdateJobRequest,
        UpdateJobResponse, WatchJobsRequest, WatchJobsResponse, job_service_server::JobService,
    },
    resource::{Event, Resource, Valid},
};

/// The service, over a catalog.
#[derive(Clone, Debug)]
pub struct Jobs {
    catalog: Catalog,
}

impl Jobs {
    /// The jobs in `catalog`.
    #[must_use]
    pub fn new(catalog: Catalog) -> Self {
        Jobs { catalog }
    }

    /// Asks the job's client for something.
    async fn ask(&self, event: Event, project_id: &str, job_id: &str) -> Result<Job, Error> {
        let (project, id) = one::<Job>(project_id, job_id)?;
        let change = move |stored: &Job| {
            let changed = event.apply(stored).map_err(|message| Error::Precondition {
                kind: Job::KIND,
                id: id.to_string(),
                reason: event.refusal(),
                message,
            })?;
            Ok(Valid::changed(changed)?)
        };
        self.catalog.update(project, id, None, change).await
    }
}

#[tonic::async_trait]
impl JobService for Jobs {
    async fn create_job(
        &self,
        request: Request<CreateJobRequest>,
    ) -> Result<Response<CreateJobResponse>, Status> {
        let CreateJobRequest { project_id, job } = request.into_inner();
        let job = Valid::new(&project_id, job)?;
        let (job, is_new) = self.catalog.create(job).await?;
        Ok(created(CreateJobResponse { job: Some(job) }, is_new))
    }

    async fn get_job(
        &self,
        request: Request<GetJobRequest>,
    ) -> Result<Response<GetJobResponse>, Status> {
        let GetJobRequest { project_id, job_id } = request.into_inner();
        let (project, id) = one::<Job>(&project_id, &job_id)?;
        Ok(Response::new(self.catalog.get(project, id).await?))
    }

    async fn list_jobs(
        &self,
        request: Request<ListJobsRequest>,
    ) -> Result<Response<ListJobsResponse>, Status> {
        let ListJobsRequest {
            project_id,
            limit,
            marker,
            page_token,
            filter,
        } = request.into_inner();
        let list = ListRequest {
            project_id,
            limit,
            marker,
            page_token,
            filter,
        };
        Ok(Response::new(self.catalog.list(list.query()?).await?))
    }

    async fn update_job(
        &self,
        request: Request<UpdateJobRequest>,
    ) -> Result<Response<UpdateJobResponse>, Status> {
        let UpdateJobRequest {
            project_id,
            job,
            update_mask,
            expected_revision,
        } = request.into_inner();
        let (project, id, patch) = update(&project_id, job.as_ref(), update_mask.as_ref())?;
        let change = move |stored: &Job| Ok(Valid::changed(patch.apply(stored)?)?);
        let job = self
            .catalog
            .update(project, id, expected_revision, change)
            .await?;
        Ok(Response::new(UpdateJobResponse { job: Some(job) }))
    }

    async fn delete_job(
        &self,
        request: Request<DeleteJobRequest>,
    ) -> Result<Response<DeleteJobResponse>, Status> {
        let DeleteJobRequest {
            project_id,
            job_id,
            expected_revision,
        } = request.into_inner();
        let (project, id) = one::<Job>(&project_id, &job_id)?;
        self.catalog
            .delete::<Job>(project, id, expected_revision)
            .await?;
        Ok(Response::new(DeleteJobResponse {}))
    }

    async fn start_job(
        &self,
        request: Request<StartJobRequest>,
    ) -> Result<Response<StartJobResponse>, Status> {
        let StartJobRequest { project_id, job_id } = request.into_inner();
        let job = self.ask(Event::Start, &project_id, &job_id).await?;
        Ok(Response::new(StartJobResponse { job: Some(job) }))
    }

    async fn stop_job(
        &self,
        request: Request<StopJobRequest>,
    ) -> Result<Response<StopJobResponse>, Status> {
        let StopJobRequest { project_id, job_id } = request.into_inner();
        let job = self.ask(Event::Stop, &project_id, &job_id).await?;
        Ok(Response::new(StopJobResponse { job: Some(job) }))
    }

    async fn abort_job(
        &self,
        request: Request<AbortJobRequest>,
    ) -> Result<Response<AbortJobResponse>, Status> {
        let AbortJobRequest { project_id, job_id } = request.into_inner();
        let job = self.ask(Event::Abort, &project_id, &job_id).await?;
        Ok(Response::new(AbortJobResponse { job: Some(job) }))
    }

    type WatchJobsStream = Empty<Result<WatchJobsResponse, Status>>;

    async fn watch_jobs(
        &self,
        _request: Request<WatchJobsRequest>,
    ) -> Result<Response<Self::WatchJobsStream>, Status> {
        Err(Status::unimplemented(
            "this version of Icebox has no watches: list instead",
        ))
    }
}
