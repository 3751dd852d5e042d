//! `freezer.v2.JobService`: the registry of jobs.

use tonic::{Request, Response, Status};

use super::{WatchStream, Watches, behalf_of, created};
use crate::{
    calls::{Behalf, Calls, Created},
    catalog::Catalog,
    proto::{
        AbortJobRequest, AbortJobResponse, CreateJobRequest, CreateJobResponse, DeleteJobRequest,
        DeleteJobResponse, GetJobRequest, GetJobResponse, Job, ListJobsRequest, ListJobsResponse,
        StartJobRequest, StartJobResponse, StopJobRequest, StopJobResponse, UpdateJobRequest,
        UpdateJobResponse, WatchJobsRequest, job_service_server::JobService,
    },
};

/// The service, over a catalog.
#[derive(Clone, Debug)]
pub(crate) struct Jobs {
    catalog: Catalog,
    watches: Watches,
}

impl Jobs {
    /// The jobs in `catalog`.
    #[must_use]
    pub(crate) fn new(catalog: Catalog, watches: Watches) -> Self {
        Jobs { catalog, watches }
    }

    fn calls<'a>(&'a self, behalf: &'a Behalf) -> Calls<'a, Job> {
        Calls::on_behalf(behalf, &self.catalog)
    }
}

#[tonic::async_trait]
impl JobService for Jobs {
    async fn create_job(
        &self,
        request: Request<CreateJobRequest>,
    ) -> Result<Response<CreateJobResponse>, Status> {
        let behalf = behalf_of(&request);
        let CreateJobRequest { project_id, job } = request.into_inner();
        let Created { resource, is_new } = self.calls(&behalf).create(&project_id, job).await?;
        let response = CreateJobResponse {
            job: Some(resource),
        };
        Ok(created(response, is_new))
    }

    async fn get_job(
        &self,
        request: Request<GetJobRequest>,
    ) -> Result<Response<GetJobResponse>, Status> {
        let behalf = behalf_of(&request);
        let GetJobRequest { project_id, job_id } = request.into_inner();
        let job = self
            .calls(&behalf)
            .get_encoded(&project_id, &job_id)
            .await?;
        Ok(Response::new(job))
    }

    async fn list_jobs(
        &self,
        request: Request<ListJobsRequest>,
    ) -> Result<Response<ListJobsResponse>, Status> {
        let behalf = behalf_of(&request);
        let ListJobsRequest {
            project_id,
            limit,
            marker,
            page_token,
            filter,
        } = request.into_inner();
        let list = self
            .calls(&behalf)
            .list(project_id)
            .limit(limit)
            .filter(filter);
        let page = list.after(marker).page_token(page_token).encoded().await?;
        Ok(super::page(page))
    }

    async fn update_job(
        &self,
        request: Request<UpdateJobRequest>,
    ) -> Result<Response<UpdateJobResponse>, Status> {
        let behalf = behalf_of(&request);
        let UpdateJobRequest {
            project_id,
            job,
            update_mask,
            expected_revision,
        } = request.into_inner();
        let update = self
            .calls(&behalf)
            .update(project_id, job)
            .mask(update_mask);
        let job = update.expecting(expected_revision).await?;
        Ok(Response::new(UpdateJobResponse { job: Some(job) }))
    }

    async fn delete_job(
        &self,
        request: Request<DeleteJobRequest>,
    ) -> Result<Response<DeleteJobResponse>, Status> {
        let behalf = behalf_of(&request);
        let DeleteJobRequest {
            project_id,
            job_id,
            expected_revision,
        } = request.into_inner();
        let delete = self.calls(&behalf).delete(project_id, job_id);
        delete.expecting(expected_revision).await?;
        Ok(Response::new(DeleteJobResponse {}))
    }

    async fn start_job(
        &self,
        request: Request<StartJobRequest>,
    ) -> Result<Response<StartJobResponse>, Status> {
        let behalf = behalf_of(&request);
        let StartJobRequest { project_id, job_id } = request.into_inner();
        let job = self.calls(&behalf).start(&project_id, &job_id).await?;
        Ok(Response::new(StartJobResponse { job: Some(job) }))
    }

    async fn stop_job(
        &self,
        request: Request<StopJobRequest>,
    ) -> Result<Response<StopJobResponse>, Status> {
        let behalf = behalf_of(&request);
        let StopJobRequest { project_id, job_id } = request.into_inner();
        let job = self.calls(&behalf).stop(&project_id, &job_id).await?;
        Ok(Response::new(StopJobResponse { job: Some(job) }))
    }

    async fn abort_job(
        &self,
        request: Request<AbortJobRequest>,
    ) -> Result<Response<AbortJobResponse>, Status> {
        let behalf = behalf_of(&request);
        let AbortJobRequest { project_id, job_id } = request.into_inner();
        let job = self.calls(&behalf).abort(&project_id, &job_id).await?;
        Ok(Response::new(AbortJobResponse { job: Some(job) }))
    }

    type WatchJobsStream = WatchStream<Job>;

    async fn watch_jobs(
        &self,
        request: Request<WatchJobsRequest>,
    ) -> Result<Response<Self::WatchJobsStream>, Status> {
        let behalf = behalf_of(&request);
        let WatchJobsRequest {
            project_id,
            after_revision,
            filter,
        } = request.into_inner();
        let watch = self
            .calls(&behalf)
            .watch(project_id)
            .after(after_revision)
            .filter(filter)
            .bookmark_interval(self.watches.bookmark_interval);
        Ok(Response::new(self.watches.stream(watch.await?)))
    }
}
