//! `freezer.v2.ActionService`: stored actions.

use tonic::{Request, Response, Status};

use super::{behalf_of, created};
use crate::{
    calls::{Behalf, Calls, Created},
    catalog::Catalog,
    proto::{
        Action, CreateActionRequest, CreateActionResponse, DeleteActionRequest,
        DeleteActionResponse, GetActionRequest, GetActionResponse, ListActionsRequest,
        ListActionsResponse, UpdateActionRequest, UpdateActionResponse,
        action_service_server::ActionService,
    },
};

/// The service, over a catalog.
#[derive(Clone, Debug)]
pub(crate) struct Actions {
    catalog: Catalog,
}

impl Actions {
    /// The actions in `catalog`.
    #[must_use]
    pub(crate) fn new(catalog: Catalog) -> Self {
        Actions { catalog }
    }

    fn calls<'a>(&'a self, behalf: &'a Behalf) -> Calls<'a, Action> {
        Calls::on_behalf(behalf, &self.catalog)
    }
}

#[tonic::async_trait]
impl ActionService for Actions {
    async fn create_action(
        &self,
        request: Request<CreateActionRequest>,
    ) -> Result<Response<CreateActionResponse>, Status> {
        let behalf = behalf_of(&request);
        let CreateActionRequest { project_id, action } = request.into_inner();
        let Created { resource, is_new } = self.calls(&behalf).create(&project_id, action).await?;
        let response = CreateActionResponse {
            action: Some(resource),
        };
        Ok(created(response, is_new))
    }

    async fn get_action(
        &self,
        request: Request<GetActionRequest>,
    ) -> Result<Response<GetActionResponse>, Status> {
        let behalf = behalf_of(&request);
        let GetActionRequest {
            project_id,
            action_id,
        } = request.into_inner();
        let action = self
            .calls(&behalf)
            .get_encoded(&project_id, &action_id)
            .await?;
        Ok(Response::new(action))
    }

    async fn list_actions(
        &self,
        request: Request<ListActionsRequest>,
    ) -> Result<Response<ListActionsResponse>, Status> {
        let behalf = behalf_of(&request);
        let ListActionsRequest {
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

    async fn update_action(
        &self,
        request: Request<UpdateActionRequest>,
    ) -> Result<Response<UpdateActionResponse>, Status> {
        let behalf = behalf_of(&request);
        let UpdateActionRequest {
            project_id,
            action,
            update_mask,
            expected_revision,
        } = request.into_inner();
        let update = self
            .calls(&behalf)
            .update(project_id, action)
            .mask(update_mask);
        let action = update.expecting(expected_revision).await?;
        Ok(Response::new(UpdateActionResponse {
            action: Some(action),
        }))
    }

    async fn delete_action(
        &self,
        request: Request<DeleteActionRequest>,
    ) -> Result<Response<DeleteActionResponse>, Status> {
        let behalf = behalf_of(&request);
        let DeleteActionRequest {
            project_id,
            action_id,
            expected_revision,
            detach,
        } = request.into_inner();
        let calls = self.calls(&behalf);
        let delete = calls
            .delete(project_id, action_id)
            .expecting(expected_revision);
        if detach {
            calls.detach_and_delete(delete).await?;
        } else {
            delete.await?;
        }
        Ok(Response::new(DeleteActionResponse {}))
    }
}
