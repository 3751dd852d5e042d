//! What each role may call. An RPC without a row is refused, and fails a test.

use Shape::{Call, Page, Stream};

use super::Role::{self, Admin, Agent, Member, Reader};

/// Who may call an RPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// Everybody who can connect.
    Everybody,
    /// Callers with one of these roles. Their projects and client limit what they may touch.
    Roles(&'static [Role]),
}

/// The form of an RPC's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One message, no larger than a record.
    Call,
    /// One message that is a page of a list.
    Page,
    /// A stream, which may last as long as its caller likes. Reflection takes one, too.
    Stream,
}

/// What the server knows about an RPC.
#[derive(Debug)]
pub(crate) struct Rpc {
    /// Its path, by which it is called.
    pub(crate) path: &'static str,
    /// Who may call it.
    pub(crate) row: Row,
    pub(crate) shape: Shape,
}

const fn rpc_of(path: &'static str, row: Row, shape: Shape) -> Rpc {
    Rpc { path, row, shape }
}

const READ: Row = Row::Roles(&[Admin, Member, Reader, Agent]);
const WRITE: Row = Row::Roles(&[Admin, Member]);
/// Calls that a client makes, too, to report.
const REPORT: Row = Row::Roles(&[Admin, Member, Agent]);
/// Calls that show whole projects.
const AUDIT: Row = Row::Roles(&[Admin, Member, Reader]);
const ADMINISTER: Row = Row::Roles(&[Admin]);

/// Each RPC by its path.
#[rustfmt::skip]
pub(crate) const POLICY: &[Rpc] = &[
    rpc_of("/freezer.v2.ActionService/CreateAction", WRITE, Call),
    rpc_of("/freezer.v2.ActionService/GetAction", AUDIT, Call),
    rpc_of("/freezer.v2.ActionService/ListActions", AUDIT, Page),
    rpc_of("/freezer.v2.ActionService/UpdateAction", WRITE, Call),
    rpc_of("/freezer.v2.ActionService/DeleteAction", WRITE, Call),
    rpc_of("/freezer.v2.AuditService/ListChanges", AUDIT, Page),
    rpc_of("/freezer.v2.BackupService/CreateBackup", REPORT, Call),
    rpc_of("/freezer.v2.BackupService/GetBackup", READ, Call),
    rpc_of("/freezer.v2.BackupService/ListBackups", READ, Page),
    rpc_of("/freezer.v2.BackupService/UpdateBackup", REPORT, Call),
    rpc_of("/freezer.v2.BackupService/DeleteBackup", WRITE, Call),
    rpc_of("/freezer.v2.BackupService/WatchBackups", READ, Stream),
    rpc_of("/freezer.v2.ClientService/RegisterClient", REPORT, Call),
    rpc_of("/freezer.v2.ClientService/GetClient", READ, Call),
    rpc_of("/freezer.v2.ClientService/ListClients", READ, Page),
    rpc_of("/freezer.v2.ClientService/UpdateClient", REPORT, Call),
    rpc_of("/freezer.v2.ClientService/DeleteClient", WRITE, Call),
    rpc_of("/freezer.v2.ClientService/WatchClients", READ, Stream),
    rpc_of("/freezer.v2.JobService/CreateJob", WRITE, Call),
    rpc_of("/freezer.v2.JobService/GetJob", READ, Call),
    rpc_of("/freezer.v2.JobService/ListJobs", READ, Page),
    rpc_of("/freezer.v2.JobService/UpdateJob", REPORT, Call),
    rpc_of("/freezer.v2.JobService/DeleteJob", WRITE, Call),
    rpc_of("/freezer.v2.JobService/StartJob", WRITE, Call),
    rpc_of("/freezer.v2.JobService/StopJob", WRITE, Call),
    rpc_of("/freezer.v2.JobService/AbortJob", WRITE, Call),
    rpc_of("/freezer.v2.JobService/WatchJobs", READ, Stream),
    rpc_of("/freezer.v2.MaintenanceService/DownloadSnapshot", ADMINISTER, Stream),
    rpc_of("/freezer.v2.MaintenanceService/GetStatus", ADMINISTER, Call),
    rpc_of("/freezer.v2.MaintenanceService/ResolveId", AUDIT, Call),
    rpc_of("/freezer.v2.SessionService/CreateSession", WRITE, Call),
    rpc_of("/freezer.v2.SessionService/GetSession", AUDIT, Call),
    rpc_of("/freezer.v2.SessionService/ListSessions", AUDIT, Page),
    rpc_of("/freezer.v2.SessionService/UpdateSession", WRITE, Call),
    rpc_of("/freezer.v2.SessionService/DeleteSession", WRITE, Call),
    rpc_of("/freezer.v2.SessionService/AddJob", WRITE, Call),
    rpc_of("/freezer.v2.SessionService/RemoveJob", WRITE, Call),
    rpc_of("/freezer.v2.SessionService/StartSession", REPORT, Call),
    rpc_of("/freezer.v2.SessionService/EndSession", REPORT, Call),
    rpc_of("/freezer.v2.SessionService/WatchSessions", AUDIT, Stream),
    // A probe has no token, and learns nothing but whether the server lives.
    rpc_of("/grpc.health.v1.Health/Check", Row::Everybody, Call),
    rpc_of("/grpc.health.v1.Health/Watch", Row::Everybody, Stream),
    rpc_of("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", READ, Stream),
    rpc_of("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", READ, Stream),
];

/// The RPC with that path, if it is served.
pub(crate) fn rpc(path: &str) -> Option<&'static Rpc> {
    POLICY.iter().find(|rpc| rpc.path == path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;
    use crate::proto::DESCRIPTOR_SET;

    #[test]
    fn every_rpc_has_one_row_and_every_row_an_rpc() {
        let sets = [
            DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let mut served = BTreeSet::new();
        for set in sets {
            for file in FileDescriptorSet::decode(set).unwrap().file {
                for service in &file.service {
                    for method in &service.method {
                        let (package, service) = (file.package(), service.name());
                        let path = format!("/{package}.{service}/{}", method.name());
                        let is_stream = method.server_streaming() || method.client_streaming();
                        let shape = match method.name() {
                            _ if is_stream => Stream,
                            name if name.starts_with("List") => Page,
                            _ => Call,
                        };
                        served.insert((path, format!("{shape:?}")));
                    }
                }
            }
        }
        let rows: BTreeSet<(String, String)> = POLICY
            .iter()
            .map(|rpc| (rpc.path.into(), format!("{:?}", rpc.shape)))
            .collect();
        assert_eq!(served, rows);
        assert_eq!(rows.len(), POLICY.len());
        assert!(rpc("/freezer.v2.JobService/Unheard").is_none());
    }
}
