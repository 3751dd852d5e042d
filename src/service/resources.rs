//! What the services of all kinds of resources share.

use std::marker::PhantomData;

use super::Watches;
use crate::{
    calls::{Behalf, Calls},
    catalog::Catalog,
    resource::Resource,
};

/// The service for one kind of resource.
#[derive(Clone, Debug)]
pub(crate) struct Served<R> {
    catalog: Catalog,
    pub(super) watches: Watches,
    resource: PhantomData<fn() -> R>,
}

impl<R: Resource> Served<R> {
    /// The service for the resources in `catalog`.
    #[must_use]
    pub(crate) fn new(catalog: Catalog, watches: Watches) -> Self {
        Served {
            catalog,
            watches,
            resource: PhantomData,
        }
    }

    pub(super) fn calls<'a>(&'a self, behalf: &'a Behalf) -> Calls<'a, R> {
        Calls::on_behalf(behalf, &self.catalog)
    }
}

/// Implements the service for a kind of resource. It takes the fields that hold the resource and its id, the shared methods by name
/// with their messages, and the methods that only this service has.
macro_rules! resource_service {
    (
        $service:ident of $resource:ident($field:ident, $id:ident):
        $(create $create:ident($create_request:ident) -> $create_response:ident;)?
        get $get:ident($get_request:ident) -> $get_response:ident;
        list $list:ident($list_request:ident) -> $list_response:ident;
        update $update:ident($update_request:ident) -> $update_response:ident;
        $(delete $delete:ident($delete_request:ident) -> $delete_response:ident;)?
        $(watch $watch:ident($watch_request:ident) -> $watch_stream:ident;)?
        own { $($own:tt)* }
    ) => {
        #[tonic::async_trait]
        impl $service for $crate::service::resources::Served<$resource> {
            $(
                async fn $create(
                    &self,
                    request: Request<$create_request>,
                ) -> Result<Response<$create_response>, Status> {
                    let behalf = $crate::service::behalf_of(&request);
                    let $create_request { project_id, $field } = request.into_inner();
                    let calls = self.calls(&behalf);
                    let (stored, is_new) = calls.create_encoded(&project_id, $field).await?;
                    Ok($crate::service::created(stored, is_new))
                }
            )?

            async fn $get(
                &self,
                request: Request<$get_request>,
            ) -> Result<Response<$get_response>, Status> {
                let behalf = $crate::service::behalf_of(&request);
                let $get_request { project_id, $id } = request.into_inner();
                let calls = self.calls(&behalf);
                Ok(Response::new(calls.get_encoded(&project_id, &$id).await?))
            }

            async fn $list(
                &self,
                request: Request<$list_request>,
            ) -> Result<Response<$list_response>, Status> {
                let behalf = $crate::service::behalf_of(&request);
                let $list_request {
                    project_id,
                    limit,
                    marker,
                    page_token,
                    filter,
                } = request.into_inner();
                let calls = self.calls(&behalf);
                let list = calls.list(project_id).limit(limit).filter(filter);
                let page = list.after(marker).page_token(page_token).encoded().await?;
                Ok($crate::service::page(page))
            }

            async fn $update(
                &self,
                request: Request<$update_request>,
            ) -> Result<Response<$update_response>, Status> {
                let behalf = $crate::service::behalf_of(&request);
                let $update_request {
                    project_id,
                    $field,
                    update_mask,
                    expected_revision,
                } = request.into_inner();
                let calls = self.calls(&behalf);
                let update = calls.update(project_id, $field).mask(update_mask);
                let updated = update.expecting(expected_revision).await?;
                Ok(Response::new($update_response {
                    $field: Some(updated),
                }))
            }

            $(
                async fn $delete(
                    &self,
                    request: Request<$delete_request>,
                ) -> Result<Response<$delete_response>, Status> {
                    let behalf = $crate::service::behalf_of(&request);
                    let $delete_request {
                        project_id,
                        $id,
                        expected_revision,
                    } = request.into_inner();
                    let delete = self.calls(&behalf).delete(project_id, $id);
                    delete.expecting(expected_revision).await?;
                    Ok(Response::new($delete_response {}))
                }
            )?

            $(
                type $watch_stream = $crate::service::WatchStream<$resource>;

                async fn $watch(
                    &self,
                    request: Request<$watch_request>,
                ) -> Result<Response<Self::$watch_stream>, Status> {
                    let behalf = $crate::service::behalf_of(&request);
                    let $watch_request {
                        project_id,
                        after_revision,
                        filter,
                    } = request.into_inner();
                    let calls = self.calls(&behalf);
                    let watch = calls.watch(project_id).after(after_revision).filter(filter);
                    let watch = watch.bookmark_interval(self.watches.bookmark_interval);
                    Ok(Response::new(self.watches.stream(watch.await?)))
                }
            )?

            $($own)*
        }
    };
}

pub(super) use resource_service;
