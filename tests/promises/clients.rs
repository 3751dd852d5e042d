//! Promise: clients are stored like jobs and backups. A client may register as often as it likes, and is asked only for what it
//! supports.

use crate::harness::{self, PROJECT, Server, bad_fields, job};
use icebox::proto::{
    Client, ClientFilter, FreezerAction, GetClientRequest, ListClientsRequest,
    RegisterClientRequest, RegisterClientResponse, UpdateClientRequest, WatchClientsRequest,
    WatchEvent, client_service_client::ClientServiceClient,
};
use prost_types::FieldMask;
use tonic::{Code, Status, transport::Channel};

fn clients(server: &Server) -> ClientServiceClient<Channel> {
    ClientServiceClient::new(server.channel.clone())
}

fn client(client_id: &str) -> Client {
    Client {
        client_id: client_id.into(),
        project_id: PROJECT.into(),
        hostname: "node1".into(),
        ..Client::default()
    }
}

async fn register(server: &Server, client: Client) -> Result<RegisterClientResponse, Status> {
    let request = RegisterClientRequest {
        project_id: String::new(),
        client: Some(client),
    };
    let registered = clients(server).register_client(request).await?;
    Ok(registered.into_inner())
}

#[tokio::test]
async fn a_client_registers_as_often_as_it_likes() {
    let server = Server::start().await;
    let first = register(&server, client("node1")).await.unwrap();
    assert!(first.is_new);
    let stored = first.client.unwrap();
    assert!(stored.last_seen_time.is_some() && stored.revision == 1);
    let again = register(&server, client("node1")).await.unwrap();
    assert_eq!(
        (again.is_new, again.client.unwrap()),
        (false, stored.clone())
    );
    // What it says about itself is updated; what people have said about it stays.
    let described = Client {
        description: "the first".into(),
        ..client("node1")
    };
    let request = UpdateClientRequest {
        client: Some(described),
        update_mask: Some(FieldMask {
            paths: vec!["description".into()],
        }),
        ..UpdateClientRequest::default()
    };
    clients(&server).update_client(request).await.unwrap();
    let newer = Client {
        supported_modes: vec!["fs".into()],
        hostname: "node1.example.org".into(),
        ..client("node1")
    };
    let newer = register(&server, newer).await.unwrap().client.unwrap();
    assert_eq!(
        (&*newer.description, &*newer.hostname, newer.revision),
        ("the first", "node1.example.org", 3)
    );
    let get = |client_id: &str| GetClientRequest {
        project_id: PROJECT.into(),
        client_id: client_id.into(),
    };
    let got = clients(&server).get_client(get("node1")).await.unwrap();
    assert_eq!(got.into_inner().decoded().unwrap(), newer);
    let missing = clients(&server).get_client(get("node3")).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    assert!(missing.message().contains("client_id node3"), "{missing:?}");
}

#[tokio::test]
async fn clients_are_listed_and_watched_by_their_ids() {
    let server = Server::start().await;
    register(&server, client("node1")).await.unwrap();
    register(&server, client("demo_node2")).await.unwrap();
    // Sorted and paged by id.
    let list = async |marker: &str, filter| {
        let request = ListClientsRequest {
            project_id: PROJECT.into(),
            limit: 1,
            marker: marker.into(),
            filter,
            ..ListClientsRequest::default()
        };
        let page = clients(&server).list_clients(request).await.unwrap();
        let page = page.into_inner().decoded().unwrap();
        page.into_iter().map(|client| client.client_id).next()
    };
    assert_eq!(list("", None).await.as_deref(), Some("demo_node2"));
    assert_eq!(list("demo_node2", None).await.as_deref(), Some("node1"));
    assert_eq!(list("node1", None).await, None);
    let filter = ClientFilter {
        hostname: "node1".into(),
        client_id_prefix: "n".into(),
        ..ClientFilter::default()
    };
    assert_eq!(list("", Some(filter)).await.as_deref(), Some("node1"));
    // A deleted client is reported by its id.
    let request = WatchClientsRequest {
        project_id: PROJECT.into(),
        after_revision: server.icebox.revision(),
        ..WatchClientsRequest::default()
    };
    let watch = clients(&server).watch_clients(request).await.unwrap();
    let mut watch = watch.into_inner();
    let synced = watch.message().await.unwrap().unwrap();
    assert_eq!(synced.decoded().unwrap(), Some(WatchEvent::Synced));
    server
        .icebox
        .clients()
        .delete(PROJECT, "node1")
        .await
        .unwrap();
    let gone = watch.message().await.unwrap().unwrap();
    let removed = WatchEvent::Removed("node1".into());
    assert_eq!(gone.decoded().unwrap(), Some(removed));
}

#[tokio::test]
async fn a_bad_client_is_refused_by_every_bad_field() {
    let server = Server::start().await;
    let bad = Client {
        hostname: String::new(),
        supported_actions: vec!["backup".into(), "bakup".into()],
        supported_modes: vec!["fs".into(); 65],
        ..client("no client!")
    };
    let status = register(&server, bad).await.unwrap_err();
    assert_eq!(
        bad_fields(&status),
        [
            "client.client_id",
            "client.hostname",
            "client.supported_actions[1]",
            "client.supported_modes"
        ]
    );
    assert_eq!(server.icebox.revision(), 0);
}

#[tokio::test]
async fn a_job_asks_a_client_only_for_what_it_supports() {
    let server = Server::start().await;
    let supports = Client {
        supported_actions: vec!["backup".into()],
        supported_modes: vec!["fs".into(), "nova".into()],
        supported_storages: vec!["local".into()],
        ..client("node1")
    };
    register(&server, supports).await.unwrap();
    let asks = |mode: &str, storage: &str| {
        let mut job = job("asks");
        job.client_id = "node1".into();
        let action = job.job_actions[0].freezer_action.as_mut().unwrap();
        (action.mode, action.storage) = (mode.into(), storage.into());
        job
    };
    let stored = server.create_job(asks("fs", "")).await.unwrap();
    let status = server.create_job(asks("mysql", "swift")).await.unwrap_err();
    assert_eq!(
        bad_fields(&status),
        [
            "job.job_actions[0].freezer_action.mode",
            "job.job_actions[0].freezer_action.storage"
        ]
    );
    assert!(status.message().contains("supports fs, nova"), "{status:?}");
    // The job's defaults count, too. A client that is not registered accepts anything.
    let mut defaults = asks("", "");
    defaults.action_defaults = Some(FreezerAction {
        mode: "mysql".into(),
        ..FreezerAction::default()
    });
    let status = server.create_job(defaults.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    defaults.client_id = "node2".into();
    let elsewhere = server.create_job(defaults).await.unwrap();
    let mut given = harness::job_update(&elsewhere.job_id);
    given.client_id = "node1".into();
    let status = server.update_job(given, &["client_id"]).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    // What was asked for before goes on, whatever the client says now.
    let less = Client {
        supported_modes: vec!["nova".into()],
        ..client("node1")
    };
    register(&server, less).await.unwrap();
    server.start_job(PROJECT, &stored.job_id).await.unwrap();
}
