//! `freezer.v2.ClientService`: the registry of clients.

use tonic::{Request, Response, Status};

use super::resources::{Served, resource_service};
use crate::proto::{
    Client, DeleteClientRequest, DeleteClientResponse, GetClientRequest, GetClientResponse,
    ListClientsRequest, ListClientsResponse, RegisterClientRequest, RegisterClientResponse,
    UpdateClientRequest, UpdateClientResponse, WatchClientsRequest,
    client_service_server::ClientService,
};

/// The service.
pub(crate) type Clients = Served<Client>;

resource_service! {
    ClientService of Client(client, client_id):
    get get_client(GetClientRequest) -> GetClientResponse;
    list list_clients(ListClientsRequest) -> ListClientsResponse;
    update update_client(UpdateClientRequest) -> UpdateClientResponse;
    delete delete_client(DeleteClientRequest) -> DeleteClientResponse;
    watch watch_clients(WatchClientsRequest) -> WatchClientsStream;
    own {
        async fn register_client(
            &self,
            request: Request<RegisterClientRequest>,
        ) -> Result<Response<RegisterClientResponse>, Status> {
            let behalf = super::behalf_of(&request);
            let RegisterClientRequest { project_id, client } = request.into_inner();
            let registered = self.calls(&behalf).register(&project_id, client).await?;
            Ok(Response::new(RegisterClientResponse {
                client: Some(registered.resource),
                is_new: registered.is_new,
            }))
        }
    }
}
