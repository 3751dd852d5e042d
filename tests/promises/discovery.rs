//! Promise: a client can find out from the server alone that it is well, and what it serves.

use std::collections::BTreeSet;

use crate::harness::Server;
use prost::Message;
use prost_types::FileDescriptorProto;
use tokio_stream::StreamExt;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

const SERVICES: [&str; 10] = [
    "freezer.v2.ActionService",
    "freezer.v2.AuditService",
    "freezer.v2.BackupService",
    "freezer.v2.ClientService",
    "freezer.v2.JobService",
    "freezer.v2.MaintenanceService",
    "freezer.v2.SessionService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

#[tokio::test]
async fn the_server_and_each_service_say_that_they_serve() {
    let server = Server::start().await;
    let mut health = HealthClient::new(server.channel.clone());
    for service in ["", "freezer.v2.BackupService", "freezer.v2.JobService"] {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let status = health.check(request).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service:?}");
    }
    let unknown = HealthCheckRequest {
        service: "freezer.v2.Nothing".into(),
    };
    assert_eq!(
        health.check(unknown).await.unwrap_err().code(),
        tonic::Code::NotFound
    );
}

/// The two versions of the protocol have the same messages in two packages.
macro_rules! reflection_tests {
    ($version:ident) => {
        mod $version {
            use super::*;
            use tonic_reflection::pb::$version::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                server_reflection_request::MessageRequest,
                server_reflection_response::MessageResponse,
            };

            async fn ask(server: &Server, request: MessageRequest) -> MessageResponse {
                let request = ServerReflectionRequest {
                    host: String::new(),
                    message_request: Some(request),
                };
                let requests = tokio_stream::once(request);
                let mut client = ServerReflectionClient::new(server.channel.clone());
                let mut replies = client
                    .server_reflection_info(requests)
                    .await
                    .unwrap()
                    .into_inner();
                replies
                    .next()
                    .await
                    .unwrap()
                    .unwrap()
                    .message_response
                    .unwrap()
            }

            async fn files_with(server: &Server, symbol: &str) -> Vec<FileDescriptorProto> {
                let request = MessageRequest::FileContainingSymbol(symbol.into());
                let MessageResponse::FileDescriptorResponse(found) = ask(server, request).await
                else {
                    panic!("no file with {symbol}");
                };
                let files = found.file_descriptor_proto;
                files
                    .iter()
                    .map(|file| FileDescriptorProto::decode(file.as_slice()).unwrap())
                    .collect()
            }

            #[tokio::test]
            async fn reflection_lists_exactly_what_is_served() {
                let server = Server::start().await;
                let request = MessageRequest::ListServices(String::new());
                let MessageResponse::ListServicesResponse(list) = ask(&server, request).await
                else {
                    panic!("no list");
                };
                let listed: BTreeSet<_> = list
                    .service
                    .into_iter()
                    .map(|service| service.name)
                    .collect();
                assert_eq!(listed, SERVICES.map(str::to_owned).into());
            }

            #[tokio::test]
            async fn reflection_brings_the_comments() {
                let server = Server::start().await;
                let files = files_with(&server, "freezer.v2.Job").await;
                let file = files
                    .iter()
                    .find(|file| file.name() == "freezer/v2/job.proto")
                    .unwrap();
                let comments = file.source_code_info.as_ref().unwrap();
                let mut comments = comments
                    .location
                    .iter()
                    .map(|location| location.leading_comments());
                assert!(comments.any(|comment| comment.contains("A set of actions")));
            }

            #[tokio::test]
            async fn reflection_knows_the_details_of_errors() {
                let server = Server::start().await;
                for symbol in ["google.rpc.BadRequest", "google.rpc.ErrorInfo"] {
                    let files = files_with(&server, symbol).await;
                    assert!(
                        files.iter().any(|file| file.package() == "google.rpc"),
                        "{symbol}"
                    );
                }
            }
        }
    };
}

reflection_tests!(v1);
reflection_tests!(v1alpha);
