//! What the client sends. It costs as little as it can, because it runs on the cores of the servers: creates are encoded before they
//! are measured, and their answers, like those of etcd, are not decoded.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use http::uri::PathAndQuery;
use icebox::proto::{CreateBackupRequest, GetBackupRequest, ListBackupsRequest};
use prost::Message;
use tonic::transport::Channel;

use super::{servers::Kind, shared::backup, wire::Raw};

#[derive(Clone, PartialEq, Message)]
struct EtcdPut {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct EtcdRange {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

async fn send(channel: Channel, path: &'static str, message: Bytes) {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.expect("it is connected");
    let path = PathAndQuery::from_static(path);
    let answer = client.unary(tonic::Request::new(message), path, Raw);
    answer.await.expect("an answer");
}

pub(crate) fn list(marker: &str) -> ListBackupsRequest {
    ListBackupsRequest {
        project_id: "bench".into(),
        limit: 100,
        marker: marker.into(),
        ..ListBackupsRequest::default()
    }
}

pub(crate) fn get(n: u64) -> GetBackupRequest {
    GetBackupRequest {
        project_id: "bench".into(),
        backup_id: format!("{n:032x}"),
    }
}

/// etcd's `Range` of one key.
pub(crate) async fn etcd_get(channel: Channel, n: u64) {
    let range = EtcdRange { key: etcd_key(n) };
    let range = range.encode_to_vec().into();
    send(channel, "/etcdserverpb.KV/Range", range).await;
}

fn etcd_key(n: u64) -> Vec<u8> {
    format!("backup/{n:032x}").into_bytes()
}

/// A create of the backup with this number, encoded. In etcd it is a `Put` of the same bytes.
pub(crate) fn create_request(kind: Kind, n: u64) -> Bytes {
    let message = match kind {
        Kind::Freezer => CreateBackupRequest {
            project_id: String::new(),
            backup: Some(backup(n)),
        }
        .encode_to_vec(),
        Kind::Etcd => EtcdPut {
            key: etcd_key(n),
            value: backup(n).encode_to_vec(),
        }
        .encode_to_vec(),
    };
    message.into()
}

pub(crate) async fn create(channel: Channel, kind: Kind, request: Bytes) {
    let path = match kind {
        Kind::Freezer => "/freezer.v2.BackupService/CreateBackup",
        Kind::Etcd => "/etcdserverpb.KV/Put",
    };
    send(channel, path, request).await;
}

/// Creates of backups that do not exist yet, most of them encoded ahead.
pub(crate) struct Creates {
    kind: Kind,
    ahead: Vec<Bytes>,
    taken: AtomicUsize,
}

impl Creates {
    pub(crate) fn encoded(kind: Kind, ahead: usize) -> Creates {
        Creates {
            kind,
            ahead: (0..ahead).map(|_| create_request(kind, next())).collect(),
            taken: AtomicUsize::new(0),
        }
    }

    pub(crate) fn take(&self) -> Bytes {
        let n = self.taken.fetch_add(1, Ordering::Relaxed);
        let ahead = self.ahead.get(n).cloned();
        ahead.unwrap_or_else(|| create_request(self.kind, next()))
    }
}

/// The number of a backup that nobody has created.
fn next() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1 << 32);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
