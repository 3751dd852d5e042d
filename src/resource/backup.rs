//! The rules for backups.

use prost::{DecodeError, Message};

use super::{
    Filter, Kind, Names, Resource, ResourceId, Stamps, User, Violations,
    identity::identity,
    labels::{self, Selector},
    limits::{CONTAINER_BYTES_MAX, NAME_BYTES_MAX},
    rules, wants,
};
use crate::proto::{Backup, BackupFilter, BackupMetadata};

/// Freezer API v2: the statuses of a backup. An empty status means available.
const STATUSES: &[&str] = &["creating", "available", "error", "deleting", "deleted"];

/// Freezer API v2: the statuses of a backup that does not exist, or not yet. Its container and its host need not be known.
const STATUSES_OF_NONE: &[&str] = &["creating", "error", "deleting"];

/// What an empty status means.
const STATUS_WHEN_EMPTY: &str = "available";

/// Adds everything that is wrong with `backup`, at `path` in its request.
///
/// The backup is checked as it will be stored: if the request names the project, the caller has put that into `backup`.
pub(super) fn check_backup(backup: &Backup, path: &str, violations: &mut Violations) {
    rules::id(
        format_args!("{path}.backup_id"),
        &backup.backup_id,
        violations,
    );
    // A missing or contradictory project has been reported already.
    if !backup.project_id.is_empty() {
        rules::project_id(
            format_args!("{path}.project_id"),
            &backup.project_id,
            violations,
        );
    }
    rules::text(format_args!("{path}.user_id"), &backup.user_id, violations);
    rules::text(
        format_args!("{path}.user_name"),
        &backup.user_name,
        violations,
    );
    rules::client_id(
        format_args!("{path}.client_id"),
        &backup.client_id,
        violations,
    );
    rules::id(format_args!("{path}.job_id"), &backup.job_id, violations);
    rules::text(
        format_args!("{path}.backup_uuid"),
        &backup.backup_uuid,
        violations,
    );
    rules::word(
        format_args!("{path}.status"),
        &backup.status,
        STATUSES,
        violations,
    );
    labels::check(&backup.labels, format_args!("{path}.labels"), violations);
    match &backup.backup_metadata {
        Some(metadata) => {
            let path = format_args!("{path}.backup_metadata");
            check_places(backup, metadata, path, violations);
            check_metadata(metadata, path, violations);
        }
        None => violations.add(format!("{path}.backup_metadata"), "is required"),
    }
    let extra = backup
        .backup_metadata
        .as_ref()
        .and_then(|metadata| metadata.extra.as_ref());
    if rules::extra_levels_fit(extra) {
        rules::record_size(
            format_args!("{path}"),
            prost::Message::encoded_len(backup),
            violations,
        );
    }
}

/// Freezer API v2: `backup_name` is required. An available backup also needs `container` and `hostname`.
fn check_places(
    backup: &Backup,
    metadata: &BackupMetadata,
    path: rules::Path<'_>,
    violations: &mut Violations,
) {
    let is_none = STATUSES_OF_NONE.contains(&backup.status.as_str());
    for (field, name, bytes_max, is_required) in [
        ("backup_name", &metadata.backup_name, NAME_BYTES_MAX, true),
        (
            "container",
            &metadata.container,
            CONTAINER_BYTES_MAX,
            !is_none,
        ),
        ("hostname", &metadata.hostname, NAME_BYTES_MAX, !is_none),
    ] {
        if is_required || !name.is_empty() {
            rules::required_name(format_args!("{path}.{field}"), name, bytes_max, violations);
        }
    }
}

/// Freezer API v2: unlike a job's, a backup's mode, action and storage may be any text.
fn check_metadata(metadata: &BackupMetadata, path: rules::Path<'_>, violations: &mut Violations) {
    rules::time_s(
        format_args!("{path}.time_stamp"),
        metadata.time_stamp,
        violations,
    );
    for (field, level) in [
        ("curr_backup_level", Some(metadata.curr_backup_level)),
        ("max_level", metadata.max_level),
        ("always_level", metadata.always_level),
    ] {
        rules::not_negative(
            format_args!("{path}.{field}"),
            level.unwrap_or_default(),
            violations,
        );
    }
    rules::in_range(
        format_args!("{path}.ssh_port"),
        metadata.ssh_port,
        0..=65535,
        violations,
    );
    for (field, text) in [
        ("mode", &metadata.mode),
        ("action", &metadata.action),
        ("storage", &metadata.storage),
        ("backup_media", &metadata.backup_media),
        ("path_to_backup", &metadata.path_to_backup),
        ("fs_real_path", &metadata.fs_real_path),
        ("vol_snap_path", &metadata.vol_snap_path),
        ("compression", &metadata.compression),
        ("container_segments", &metadata.container_segments),
        ("client_os", &metadata.client_os),
        ("client_version", &metadata.client_version),
        ("os_auth_version", &metadata.os_auth_version),
        ("proxy", &metadata.proxy),
        ("log_file", &metadata.log_file),
        ("ssh_host", &metadata.ssh_host),
        ("ssh_username", &metadata.ssh_username),
        ("ssh_key", &metadata.ssh_key),
        ("consistency_checksum", &metadata.consistency_checksum),
        ("engine_name", &metadata.engine_name),
    ] {
        rules::text(format_args!("{path}.{field}"), text, violations);
    }
    rules::extra(
        format_args!("{path}.extra"),
        metadata.extra.as_ref(),
        violations,
    );
}

impl Resource for Backup {
    const KIND: Kind = Kind {
        tag: b'b',
        field: "backup",
        id_field: "backup_id",
        is_named_by_id: false,
    };
    const OUTPUT_ONLY: &'static [&'static str] = &[
        "user_id",
        "user_name",
        "create_time",
        "update_time",
        "revision",
    ];
    const IMMUTABLE: &'static [&'static str] = &[
        "backup_id",
        "project_id",
        "client_id",
        "job_id",
        "backup_uuid",
        "backup_metadata.backup_name",
    ];
    // Freezer's PATCH merges metadata.
    const MERGED: &'static [&'static str] = &["backup_metadata"];
    const CLIENT_TAG: Option<u32> = Some(5);
    const LABELS_TAG: Option<u32> = Some(13);
    type Filter = BackupFilter;

    identity!(backup_id);

    fn name(&self) -> &str {
        self.backup_metadata
            .as_ref()
            .map_or("", |metadata| &metadata.backup_name)
    }

    fn client_id(&self) -> &str {
        &self.client_id
    }

    fn set_client_id(&mut self, client_id: &str) {
        client_id.clone_into(&mut self.client_id);
    }

    fn set_user(&mut self, user: &User, stored: Option<&Self>) {
        // The user who stored it stays: no update changes that.
        if stored.is_none() {
            user.id.clone_into(&mut self.user_id);
            user.name.clone_into(&mut self.user_name);
        }
    }

    fn facets(&self) -> Self {
        let metadata = self.backup_metadata.as_ref();
        Backup {
            labels: self.labels.clone(),
            client_id: self.client_id.clone(),
            job_id: self.job_id.clone(),
            status: self.status.clone(),
            backup_metadata: metadata.map(|metadata| BackupMetadata {
                backup_name: metadata.backup_name.clone(),
                container: metadata.container.clone(),
                hostname: metadata.hostname.clone(),
                time_stamp: metadata.time_stamp,
                curr_backup_level: metadata.curr_backup_level,
                mode: metadata.mode.clone(),
                storage: metadata.storage.clone(),
                ..BackupMetadata::default()
            }),
            ..Backup::default()
        }
    }

    fn check(&self, violations: &mut Violations) {
        check_backup(self, Self::KIND.field, violations);
    }
}

/// The fields that a filter tests. They are decoded without the rest of a [`Backup`]; the tags are the `.proto`'s.
#[derive(Clone, PartialEq, prost::Message)]
struct BackupFacets {
    #[prost(string, tag = "5")]
    client_id: String,
    #[prost(string, tag = "6")]
    job_id: String,
    #[prost(string, tag = "8")]
    status: String,
    #[prost(message, optional, tag = "9")]
    backup_metadata: Option<BackupMetadataFacets>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct BackupMetadataFacets {
    #[prost(string, tag = "1")]
    backup_name: String,
    #[prost(string, tag = "2")]
    container: String,
    #[prost(string, tag = "3")]
    hostname: String,
    #[prost(int64, tag = "4")]
    time_stamp: i64,
    #[prost(int32, tag = "5")]
    curr_backup_level: i32,
    #[prost(string, tag = "8")]
    mode: String,
    #[prost(string, tag = "10")]
    storage: String,
}

impl Filter for BackupFilter {
    fn check(&self, violations: &mut Violations) {
        Selector::check(&self.label_selector, violations);
        rules::word(
            format_args!("filter.status"),
            &self.status,
            STATUSES,
            violations,
        );
    }

    fn label_selector(&self) -> &str {
        &self.label_selector
    }

    fn client_id(&mut self) -> Option<&mut String> {
        Some(&mut self.client_id)
    }

    fn names(&self) -> Names<'_> {
        if self.backup_name.is_empty() {
            Names::StartingWith(&self.backup_name_prefix)
        } else {
            Names::Exactly(&self.backup_name)
        }
    }

    fn beyond_names(&self) -> Self {
        let mut beyond = self.clone();
        if beyond.backup_name.is_empty() {
            beyond.backup_name_prefix.clear();
        } else {
            beyond.backup_name.clear();
        }
        beyond
    }

    fn matches(&self, record: &[u8]) -> Result<bool, DecodeError> {
        let backup = BackupFacets::decode(record)?;
        let metadata = backup.backup_metadata.unwrap_or_default();
        let status = if backup.status.is_empty() {
            STATUS_WHEN_EMPTY
        } else {
            &backup.status
        };
        Ok(wants(&self.client_id, &backup.client_id)
            && wants(&self.job_id, &backup.job_id)
            && wants(&self.status, status)
            && wants(&self.backup_name, &metadata.backup_name)
            && metadata.backup_name.starts_with(&self.backup_name_prefix)
            && wants(&self.hostname, &metadata.hostname)
            && wants(&self.container, &metadata.container)
            && wants(&self.storage, &metadata.storage)
            && wants(&self.mode, &metadata.mode)
            && self
                .time_after
                .is_none_or(|time| metadata.time_stamp >= time)
            && self
                .time_before
                .is_none_or(|time| metadata.time_stamp < time)
            && self
                .curr_backup_level
                .is_none_or(|level| metadata.curr_backup_level == level))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost_reflect::{Kind, ReflectMessage, Value};
    use prost_types::Struct;

    use super::*;
    use crate::proto::{from_dynamic, to_dynamic};

    fn good() -> Backup {
        Backup {
            project_id: "demo".into(),
            backup_metadata: Some(BackupMetadata {
                backup_name: "nightly".into(),
                container: "/srv/backups".into(),
                hostname: "node1".into(),
                ..BackupMetadata::default()
            }),
            ..Backup::default()
        }
    }

    /// What is wrong with a good backup after `change`.
    fn said(change: impl FnOnce(&mut Backup, &mut BackupMetadata)) -> Vec<String> {
        let mut backup = good();
        let mut metadata = backup.backup_metadata.take().unwrap();
        change(&mut backup, &mut metadata);
        backup.backup_metadata = Some(metadata);
        let mut violations = Violations::new();
        check_backup(&backup, "backup", &mut violations);
        violations
            .iter()
            .map(|v| format!("{} {}", v.field, v.description))
            .collect()
    }

    #[test]
    fn a_backup_needs_its_name_container_and_hostname() {
        assert_eq!(said(|_, _| ()), Vec::<String>::new());
        let fields: Vec<_> = said(|_, metadata| *metadata = BackupMetadata::default());
        assert_eq!(
            fields,
            [
                "backup.backup_metadata.backup_name is required: 1 to 255 bytes",
                "backup.backup_metadata.container is required: 1 to 1024 bytes",
                "backup.backup_metadata.hostname is required: 1 to 255 bytes",
            ]
        );
        let mut violations = Violations::new();
        check_backup(
            &Backup {
                backup_metadata: None,
                ..good()
            },
            "backup",
            &mut violations,
        );
        assert_eq!(violations.to_string(), "backup.backup_metadata is required");
    }

    #[test]
    fn names_are_held_to_their_sizes() {
        for (bytes, wrong) in [(1, 0), (255, 0), (256, 2), (1024, 2), (1025, 3)] {
            let said = said(|_, metadata| {
                metadata.backup_name = "n".repeat(bytes);
                metadata.hostname = "h".repeat(bytes);
                metadata.container = "c".repeat(bytes);
            });
            assert_eq!(said.len(), wrong, "{bytes} bytes: {said:?}");
        }
    }

    #[test]
    fn a_status_is_one_of_freezers() {
        for status in ["", "creating", "available", "error", "deleting", "deleted"] {
            assert!(
                said(|backup, _| backup.status = status.into()).is_empty(),
                "{status}"
            );
        }
        assert_eq!(
            said(|backup, _| backup.status = "avaliable".into()),
            [
                "backup.status must be one of creating, available, error, deleting or deleted, not \"avaliable\"; \
                 did you mean \"available\"?"
            ]
        );
    }

    #[test]
    fn words_that_freezer_leaves_open_are_open() {
        assert!(
            said(|_, metadata| {
                metadata.mode = "zfs".into();
                metadata.action = "archive".into();
                metadata.storage = "tape".into();
                metadata.path_to_backup = "/a\nb".into();
            })
            .is_empty()
        );
    }

    #[test]
    fn a_backup_that_there_is_not_yet_need_not_be_anywhere() {
        for (status, missing) in [("creating", 0), ("error", 0), ("", 2), ("deleted", 2)] {
            let said = said(|backup, metadata| {
                backup.status = status.into();
                metadata.container.clear();
                metadata.hostname.clear();
            });
            assert_eq!(said.len(), missing, "{status}: {said:?}");
        }
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let said = said(|backup, metadata| {
            backup.backup_id = "X".into();
            backup.job_id = "Y".into();
            backup.client_id = "a b".into();
            backup.user_name = "\0".into();
            metadata.time_stamp = -2;
            metadata.curr_backup_level = -1;
            metadata.max_level = Some(-1);
            metadata.always_level = Some(-1);
            metadata.ssh_port = 65536;
            metadata.ssh_key = "x".repeat(4097);
            metadata.extra = Some(Struct {
                fields: [("k".into(), prost_types::Value { kind: None })].into(),
            });
        });
        let fields: Vec<_> = said
            .iter()
            .map(|line| line.split(' ').next().unwrap())
            .collect();
        assert_eq!(
            fields,
            [
                "backup.backup_id",
                "backup.user_name",
                "backup.client_id",
                "backup.job_id",
                "backup.backup_metadata.time_stamp",
                "backup.backup_metadata.curr_backup_level",
                "backup.backup_metadata.max_level",
                "backup.backup_metadata.always_level",
                "backup.backup_metadata.ssh_port",
                "backup.backup_metadata.ssh_key",
                "backup.backup_metadata.extra[\"k\"]",
            ]
        );
    }

    #[test]
    fn a_time_may_be_not_known() {
        assert!(said(|_, metadata| metadata.time_stamp = -1).is_empty());
        assert!(said(|_, metadata| metadata.time_stamp = 253_402_300_799).is_empty());
        assert_eq!(
            said(|_, metadata| metadata.time_stamp = 253_402_300_800).len(),
            1
        );
    }

    #[test]
    fn a_whole_backup_has_at_most_64_kib() {
        let said = said(|backup, metadata| {
            let text = "x".repeat(4096);
            for field in [
                &mut backup.user_id,
                &mut backup.user_name,
                &mut backup.backup_uuid,
                &mut metadata.mode,
                &mut metadata.action,
                &mut metadata.storage,
                &mut metadata.backup_media,
                &mut metadata.path_to_backup,
                &mut metadata.fs_real_path,
                &mut metadata.vol_snap_path,
                &mut metadata.compression,
                &mut metadata.container_segments,
                &mut metadata.client_os,
                &mut metadata.client_version,
                &mut metadata.os_auth_version,
                &mut metadata.proxy,
            ] {
                field.clone_from(&text);
            }
        });
        assert_eq!(said.len(), 1);
        assert!(
            said[0].starts_with("backup must be at most 65536 bytes encoded, not 65"),
            "{said:?}"
        );
    }

    /// A field that is added to the proto and forgotten here would be stored unchecked.
    #[test]
    fn no_string_field_is_forgotten() {
        for of_metadata in [false, true] {
            let dynamic = if of_metadata {
                to_dynamic(good().backup_metadata.as_ref().unwrap())
            } else {
                to_dynamic(&good())
            };
            for field in dynamic
                .descriptor()
                .fields()
                .filter(|field| field.kind() == Kind::String)
            {
                let mut bad = dynamic.clone();
                bad.set_field(&field, Value::String("\0".into()));
                let backup = if of_metadata {
                    Backup {
                        backup_metadata: Some(from_dynamic(&bad).unwrap()),
                        ..good()
                    }
                } else {
                    from_dynamic(&bad).unwrap()
                };
                let mut violations = Violations::new();
                check_backup(&backup, "backup", &mut violations);
                let path = if of_metadata {
                    "backup.backup_metadata"
                } else {
                    "backup"
                };
                let told: Vec<_> = violations.iter().map(|v| v.field.clone()).collect();
                assert_eq!(told, [format!("{path}.{}", field.name())]);
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_check_panic(bytes: Vec<u8>, text: String, number: i64) {
            let mut violations = Violations::new();
            if let Ok(backup) = <Backup as prost::Message>::decode(bytes.as_slice()) {
                check_backup(&backup, "backup", &mut violations);
            }
            let mut backup = good();
            backup.status.clone_from(&text);
            let metadata = backup.backup_metadata.as_mut().unwrap();
            metadata.container = text;
            metadata.time_stamp = number;
            check_backup(&backup, "backup", &mut violations);
        }
    }
}
