//! `freezer.v2.ActionService`: stored actions.

use tonic::{Request, Response, Status};

use super::resources::{Served, resource_service};
use crate::proto::{
    Action, CreateActionRequest, CreateActionResponse, DeleteActionRequest, DeleteActionResponse,
    GetActionRequest, GetActionResponse, ListActionsRequest, ListActionsResponse,
    UpdateActionRequest, UpdateActionResponse, action_service_server::ActionService,
};

/// The service.
pub(crate) type Actions = Served<Action>;

resource_service! {
    ActionService of Action(action, action_id):
    create create_action(CreateActionRequest) -> CreateActionResponse;
    get get_action(GetActionRequest) -> GetActionResponse;
    list list_actions(ListActionsRequest) -> ListActionsResponse;
    update update_action(UpdateActionRequest) -> UpdateActionResponse;
    own {
        async fn delete_action(
            &self,
            request: Request<DeleteActionRequest>,
        ) -> Result<Response<DeleteActionResponse>, Status> {
            let behalf = super::behalf_of(&request);
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
}
