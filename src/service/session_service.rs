//! `freezer.v2.SessionService`: jobs that run together.

use tonic::{Request, Response, Status};

use super::resources::{Served, resource_service};
use crate::proto::{
    AddJobRequest, AddJobResponse, CreateSessionRequest, CreateSessionResponse,
    DeleteSessionRequest, DeleteSessionResponse, EndSessionRequest, EndSessionResponse,
    GetSessionRequest, GetSessionResponse, ListSessionsRequest, ListSessionsResponse,
    RemoveJobRequest, RemoveJobResponse, Session, StartSessionRequest, StartSessionResponse,
    UpdateSessionRequest, UpdateSessionResponse, WatchSessionsRequest,
    session_service_server::SessionService,
};

/// The service.
pub(crate) type Sessions = Served<Session>;

resource_service! {
    SessionService of Session(session, session_id):
    create create_session(CreateSessionRequest) -> CreateSessionResponse;
    get get_session(GetSessionRequest) -> GetSessionResponse;
    list list_sessions(ListSessionsRequest) -> ListSessionsResponse;
    update update_session(UpdateSessionRequest) -> UpdateSessionResponse;
    delete delete_session(DeleteSessionRequest) -> DeleteSessionResponse;
    watch watch_sessions(WatchSessionsRequest) -> WatchSessionsStream;
    own {
        async fn add_job(
            &self,
            request: Request<AddJobRequest>,
        ) -> Result<Response<AddJobResponse>, Status> {
            let behalf = super::behalf_of(&request);
            let AddJobRequest {
                project_id,
                session_id,
                job_id,
            } = request.into_inner();
            let calls = self.calls(&behalf);
            let session = calls.add_job(&project_id, &session_id, &job_id).await?;
            Ok(Response::new(AddJobResponse {
                session: Some(session),
            }))
        }

        async fn remove_job(
            &self,
            request: Request<RemoveJobRequest>,
        ) -> Result<Response<RemoveJobResponse>, Status> {
            let behalf = super::behalf_of(&request);
            let RemoveJobRequest {
                project_id,
                session_id,
                job_id,
            } = request.into_inner();
            let calls = self.calls(&behalf);
            let session = calls.remove_job(&project_id, &session_id, &job_id).await?;
            Ok(Response::new(RemoveJobResponse {
                session: Some(session),
            }))
        }

        async fn start_session(
            &self,
            request: Request<StartSessionRequest>,
        ) -> Result<Response<StartSessionResponse>, Status> {
            let behalf = super::behalf_of(&request);
            let StartSessionRequest {
                project_id,
                session_id,
                job_id,
                current_tag,
            } = request.into_inner();
            let calls = self.calls(&behalf);
            let start = calls.start(&project_id, &session_id, &job_id, current_tag);
            let answered = start.await?;
            Ok(Response::new(StartSessionResponse {
                result: answered.result.into(),
                session_tag: answered.session_tag,
            }))
        }

        async fn end_session(
            &self,
            request: Request<EndSessionRequest>,
        ) -> Result<Response<EndSessionResponse>, Status> {
            let behalf = super::behalf_of(&request);
            let EndSessionRequest {
                project_id,
                session_id,
                job_id,
                current_tag,
                result,
            } = request.into_inner();
            let calls = self.calls(&behalf);
            let end = calls.end(&project_id, &session_id, &job_id, current_tag, &result);
            let answered = end.await?;
            Ok(Response::new(EndSessionResponse {
                result: answered.result.into(),
                session_tag: answered.session_tag,
            }))
        }
    }
}
