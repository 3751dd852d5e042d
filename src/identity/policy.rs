//! What each role may call. An RPC without a row is refused, and fails a test.

use super::Role::{self, Admin, Agent, Member, Reader};

/// Who may call an RPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// Whoever can connect.
    Everybody,
    /// Who has one of these roles. What they may concern is a matter of their projects and client.
    Roles(&'static [Role]),
}

const READ: Row = Row::Roles(&[Admin, Member, Reader, Agent]);
const WRITE: Row = Row::Roles(&[Admin, Member]);
/// What a client reports as well.
const REPORT: Row = Row::Roles(&[Admin, Member, Agent]);
/// What concerns whole projects.
const AUDIT: Row = Row::Roles(&[Admin, Member, Reader]);
const ADMINISTER: Row = Row::Roles(&[Admin]);

/// Each RPC by its path.
#[rustfmt::skip]
pub(crate) const POLICY: &[(&str, Row)] = &[
    ("/freezer.v2.AuditService/ListChanges", AUDIT),
    ("/freezer.v2.BackupService/CreateBackup", REPORT),
    ("/freezer.v2.BackupService/GetBackup", READ),
    ("/freezer.v2.BackupService/ListBackups", READ),
    ("/freezer.v2.BackupService/UpdateBackup", REPORT),
    ("/freezer.v2.BackupService/DeleteBackup", WRITE),
    ("/freezer.v2.BackupService/WatchBackups", READ),
    ("/freezer.v2.JobService/CreateJob", WRITE),
    ("/freezer.v2.JobService/GetJob", READ),
    ("/freezer.v2.JobService/ListJobs", READ),
    ("/freezer.v2.JobService/UpdateJob", REPORT),
    ("/freezer.v2.JobService/DeleteJob", WRITE),
    ("/freezer.v2.JobService/StartJob", WRITE),
    ("/freezer.v2.JobService/StopJob", WRITE),
    ("/freezer.v2.JobService/AbortJob", WRITE),
    ("/freezer.v2.JobService/WatchJobs", READ),
    ("/freezer.v2.MaintenanceService/DownloadSnapshot", ADMINISTER),
    ("/freezer.v2.MaintenanceService/GetStatus", ADMINISTER),
    ("/freezer.v2.MaintenanceService/ResolveId", AUDIT),
    // What asks whether a server lives has no token, and learns nothing else.
    ("/grpc.health.v1.Health/Check", Row::Everybody),
    ("/grpc.health.v1.Health/Watch", Row::Everybody),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", READ),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", READ),
];

/// What is answered by a stream, which may go on for as long as its caller likes. Reflection takes one, too.
const STREAMS: &[&str] = &[
    "/freezer.v2.BackupService/WatchBackups",
    "/freezer.v2.JobService/WatchJobs",
    "/freezer.v2.MaintenanceService/DownloadSnapshot",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Whether an RPC with that path is answered by a page of a list.
pub(crate) fn is_list(path: &str) -> bool {
    let method = path.rsplit('/').next();
    method.is_some_and(|method| method.starts_with("List"))
}

/// Whether an RPC with that path is answered by a stream.
pub(crate) fn is_stream(path: &str) -> bool {
    STREAMS.contains(&path)
}

/// The path of an RPC that is served, if it is one.
pub(crate) fn known_path(path: &str) -> Option<&'static str> {
    let found = POLICY.iter().find(|(known, _)| *known == path);
    found.map(|(known, _)| *known)
}

/// Who may call the RPC with that path.
pub(crate) fn row(path: &str) -> Option<Row> {
    let found = POLICY.iter().find(|(known, _)| *known == path);
    found.map(|(_, row)| *row)
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
        let mut streams = BTreeSet::new();
        for set in sets {
            for file in FileDescriptorSet::decode(set).unwrap().file {
                for service in &file.service {
                    for method in &service.method {
                        let (package, service) = (file.package(), service.name());
                        let path = format!("/{package}.{service}/{}", method.name());
                        if method.server_streaming() || method.client_streaming() {
                            streams.insert(path.clone());
                        }
                        served.insert(path);
                    }
                }
            }
        }
        let rows: BTreeSet<String> = POLICY.iter().map(|(path, _)| (*path).into()).collect();
        assert_eq!(served, rows);
        assert_eq!(rows.len(), POLICY.len());
        let known: BTreeSet<String> = STREAMS.iter().map(|&path| path.into()).collect();
        assert_eq!(streams, known);
        assert_eq!(row("/freezer.v2.JobService/Unheard"), None);
    }
}
