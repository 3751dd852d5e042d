//! `freezer.v2.JobService`: the registry of jobs.

use tonic::{Request, Response, Status};

use super::resources::{Served, resource_service};
use crate::proto::{
    AbortJobRequest, AbortJobResponse, CreateJobRequest, CreateJobResponse, DeleteJobRequest,
    DeleteJobResponse, GetJobRequest, GetJobResponse, Job, ListJobsRequest, ListJobsResponse,
    StartJobRequest, StartJobResponse, StopJobRequest, StopJobResponse, UpdateJobRequest,
    UpdateJobResponse, WatchJobsRequest, job_service_server::JobService,
};

/// The service.
pub(crate) type Jobs = Served<Job>;

resource_service! {
    JobService of Job(job, job_id):
    create create_job(CreateJobRequest) -> CreateJobResponse;
    get get_job(GetJobRequest) -> GetJobResponse;
    list list_jobs(ListJobsRequest) -> ListJobsResponse;
    update update_job(UpdateJobRequest) -> UpdateJobResponse;
    delete delete_job(DeleteJobRequest) -> DeleteJobResponse;
    watch watch_jobs(WatchJobsRequest) -> WatchJobsStream;
    own {
        async fn start_job(
            &self,
            request: Request<StartJobRequest>,
        ) -> Result<Response<StartJobResponse>, Status> {
            let behalf = super::behalf_of(&request);
            let StartJobRequest { project_id, job_id } = request.into_inner();
            let job = self.calls(&behalf).start(&project_id, &job_id).await?;
            Ok(Response::new(StartJobResponse { job: Some(job) }))
        }

        async fn stop_job(
            &self,
            request: Request<StopJobRequest>,
        ) -> Result<Response<StopJobResponse>, Status> {
            let behalf = super::behalf_of(&request);
            let StopJobRequest { project_id, job_id } = request.into_inner();
            let job = self.calls(&behalf).stop(&project_id, &job_id).await?;
            Ok(Response::new(StopJobResponse { job: Some(job) }))
        }

        async fn abort_job(
            &self,
            request: Request<AbortJobRequest>,
        ) -> Result<Response<AbortJobResponse>, Status> {
            let behalf = super::behalf_of(&request);
            let AbortJobRequest { project_id, job_id } = request.into_inner();
            let job = self.calls(&behalf).abort(&project_id, &job_id).await?;
            Ok(Response::new(AbortJobResponse { job: Some(job) }))
        }
    }
}
