//! `freezer.v2.SessionService`: jobs that run together.

use tonic::{Request, Response, Status};

use super::{WatchStream, Watches, behalf_of, created};
use crate::{
    calls::{Behalf, Calls, Created},
    catalog::Catalog,
    proto::{
        AddJobRequest, AddJobResponse, CreateSessionRequest, CreateSessionResponse,
        DeleteSessionRequest, DeleteSessionResponse, EndSessionRequest, EndSessionResponse,
        GetSessionRequest, GetSessionResponse, ListSessionsRequest, ListSessionsResponse,
        RemoveJobRequest, RemoveJobResponse, Session, StartSessionRequest, StartSessionResponse,
        UpdateSessionRequest, UpdateSessionResponse, WatchSessionsRequest,
        session_service_server::SessionService,
    },
};

/// The service, over a catalog.
#[derive(Clone, Debug)]
pub(crate) struct Sessions {
    catalog: Catalog,
    watches: Watches,
}

impl Sessions {
    /// The sessions in `catalog`.
    #[must_use]
    pub(crate) fn new(catalog: Catalog, watches: Watches) -> Self {
        Sessions { catalog, watches }
    }

    fn calls<'a>(&'a self, behalf: &'a Behalf) -> Calls<'a, Session> {
        Calls::on_behalf(behalf, &self.catalog)
    }
}

#[tonic::async_trait]
impl SessionService for Sessions {
    async fn create_session(
        &self,
        request: Request<CreateSessionRequest>,
    ) -> Result<Response<CreateSessionResponse>, Status> {
        let behalf = behalf_of(&request);
        let CreateSessionRequest {
            project_id,
            session,
        } = request.into_inner();
        let Created { resource, is_new } = self.calls(&behalf).create(&project_id, session).await?;
        let response = CreateSessionResponse {
            session: Some(resource),
        };
        Ok(created(response, is_new))
    }

    async fn get_session(
        &self,
        request: Request<GetSessionRequest>,
    ) -> Result<Response<GetSessionResponse>, Status> {
        let behalf = behalf_of(&request);
        let GetSessionRequest {
            project_id,
            session_id,
        } = request.into_inner();
        let session = self
            .calls(&behalf)
            .get_encoded(&project_id, &session_id)
            .await?;
        Ok(Response::new(session))
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let behalf = behalf_of(&request);
        let ListSessionsRequest {
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

    async fn update_session(
        &self,
        request: Request<UpdateSessionRequest>,
    ) -> Result<Response<UpdateSessionResponse>, Status> {
        let behalf = behalf_of(&request);
        let UpdateSessionRequest {
            project_id,
            session,
            update_mask,
            expected_revision,
        } = request.into_inner();
        let update = self
            .calls(&behalf)
            .update(project_id, session)
            .mask(update_mask);
        let session = update.expecting(expected_revision).await?;
        Ok(Response::new(UpdateSessionResponse {
            session: Some(session),
        }))
    }

    async fn delete_session(
        &self,
        request: Request<DeleteSessionRequest>,
    ) -> Result<Response<DeleteSessionResponse>, Status> {
        let behalf = behalf_of(&request);
        let DeleteSessionRequest {
            project_id,
            session_id,
            expected_revision,
        } = request.into_inner();
        let delete = self.calls(&behalf).delete(project_id, session_id);
        delete.expecting(expected_revision).await?;
        Ok(Response::new(DeleteSessionResponse {}))
    }

    async fn add_job(
        &self,
        request: Request<AddJobRequest>,
    ) -> Result<Response<AddJobResponse>, Status> {
        let behalf = behalf_of(&request);
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
        let behalf = behalf_of(&request);
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
        let behalf = behalf_of(&request);
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
        let behalf = behalf_of(&request);
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

    type WatchSessionsStream = WatchStream<Session>;

    async fn watch_sessions(
        &self,
        request: Request<WatchSessionsRequest>,
    ) -> Result<Response<Self::WatchSessionsStream>, Status> {
        let behalf = behalf_of(&request);
        let WatchSessionsRequest {
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
