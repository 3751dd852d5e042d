//! `freezer.v2.ClientService`: the registry of clients.

use tonic::{Request, Response, Status};

use super::{WatchStream, Watches, behalf_of};
use crate::{
    calls::{Behalf, Calls},
    catalog::Catalog,
    proto::{
        Client, DeleteClientRequest, DeleteClientResponse, GetClientRequest, GetClientResponse,
        ListClientsRequest, ListClientsResponse, RegisterClientRequest, RegisterClientResponse,
        UpdateClientRequest, UpdateClientResponse, WatchClientsRequest,
        client_service_server::ClientService,
    },
};

/// The service, over a catalog.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    catalog: Catalog,
    watches: Watches,
}

impl Clients {
    /// The clients in `catalog`.
    #[must_use]
    pub(crate) fn new(catalog: Catalog, watches: Watches) -> Self {
        Clients { catalog, watches }
    }

    fn calls<'a>(&'a self, behalf: &'a Behalf) -> Calls<'a, Client> {
        Calls::on_behalf(behalf, &self.catalog)
    }
}

#[tonic::async_trait]
impl ClientService for Clients {
    async fn register_client(
        &self,
        request: Request<RegisterClientRequest>,
    ) -> Result<Response<RegisterClientResponse>, Status> {
        let behalf = behalf_of(&request);
        let RegisterClientRequest { project_id, client } = request.into_inner();
        let registered = self.calls(&behalf).register(&project_id, client).await?;
        Ok(Response::new(RegisterClientResponse {
            client: Some(registered.resource),
            is_new: registered.is_new,
        }))
    }

    async fn get_client(
        &self,
        request: Request<GetClientRequest>,
    ) -> Result<Response<GetClientResponse>, Status> {
        let behalf = behalf_of(&request);
        let GetClientRequest {
            project_id,
            client_id,
        } = request.into_inner();
        let client = self
            .calls(&behalf)
            .get_encoded(&project_id, &client_id)
            .await?;
        Ok(Response::new(client))
    }

    async fn list_clients(
        &self,
        request: Request<ListClientsRequest>,
    ) -> Result<Response<ListClientsResponse>, Status> {
        let behalf = behalf_of(&request);
        let ListClientsRequest {
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

    async fn update_client(
        &self,
        request: Request<UpdateClientRequest>,
    ) -> Result<Response<UpdateClientResponse>, Status> {
        let behalf = behalf_of(&request);
        let UpdateClientRequest {
            project_id,
            client,
            update_mask,
            expected_revision,
        } = request.into_inner();
        let update = self
            .calls(&behalf)
            .update(project_id, client)
            .mask(update_mask);
        let client = update.expecting(expected_revision).await?;
        Ok(Response::new(UpdateClientResponse {
            client: Some(client),
        }))
    }

    async fn delete_client(
        &self,
        request: Request<DeleteClientRequest>,
    ) -> Result<Response<DeleteClientResponse>, Status> {
        let behalf = behalf_of(&request);
        let DeleteClientRequest {
            project_id,
            client_id,
            expected_revision,
        } = request.into_inner();
        let delete = self.calls(&behalf).delete(project_id, client_id);
        delete.expecting(expected_revision).await?;
        Ok(Response::new(DeleteClientResponse {}))
    }

    type WatchClientsStream = WatchStream<Client>;

    async fn watch_clients(
        &self,
        request: Request<WatchClientsRequest>,
    ) -> Result<Response<Self::WatchClientsStream>, Status> {
        let behalf = behalf_of(&request);
        let WatchClientsRequest {
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
