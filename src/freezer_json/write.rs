//! Writing Freezer's documents.

use std::collections::BTreeMap;

use jiff::Timestamp;
use prost_reflect::{DynamicMessage, MessageDescriptor, ReflectMessage, Value as Field};
use prost_types::{Struct, value::Kind as StructKind};
use serde_json::{Map, Value};

use super::{Form, STRUCT, TIMESTAMP, extra_field, is_output_only};
use crate::proto::{self, Backup, Client, Job};

/// How Freezer writes a key that has no value.
#[derive(Clone, Copy)]
pub(super) enum Unset {
    EmptyString,
    Zero,
    EmptyList,
}

/// The keys that are written though unset, because Freezer does: clients look them up unasked.
///
/// A backup's metadata has the keys that the agent always sends; a job's schedule has its event; and
/// a job has its actions, which is also what a job is recognised by.
pub(super) const ALWAYS_WRITTEN: [(&str, Unset, &[&str]); 4] = [
    (
        "freezer.v2.BackupMetadata",
        Unset::EmptyString,
        &[
            "backup_name",
            "container",
            "hostname",
            "max_level",
            "always_level",
            "mode",
            "action",
            "storage",
            "backup_media",
            "path_to_backup",
            "fs_real_path",
            "vol_snap_path",
            "compression",
            "container_segments",
            "client_os",
            "client_version",
            "os_auth_version",
            "dry_run",
            "proxy",
            "log_file",
            "ssh_host",
            "ssh_port",
            "ssh_username",
            "ssh_key",
        ],
    ),
    (
        "freezer.v2.BackupMetadata",
        Unset::Zero,
        &["time_stamp", "curr_backup_level"],
    ),
    ("freezer.v2.JobSchedule", Unset::EmptyString, &["event"]),
    ("freezer.v2.Job", Unset::EmptyList, &["job_actions"]),
];

/// The document of a resource whose fields it has.
#[must_use]
pub(crate) fn write_resource<M: prost::Name>(resource: &M, form: Form) -> Value {
    Value::Object(write_message(&proto::to_dynamic(resource), form))
}

/// The client's document, as Freezer gives it: who owns it stands beside it.
#[must_use]
pub(crate) fn write_client(client: &Client, form: Form) -> Value {
    let mut inner = write_message(&proto::to_dynamic(client), form);
    let mut outer = Map::new();
    for key in ["project_id", "user_id"] {
        outer.extend(inner.remove(key).map(|value| (key.to_owned(), value)));
    }
    outer.insert("client".into(), Value::Object(inner));
    Value::Object(outer)
}

/// The backup's document.
#[must_use]
pub(crate) fn write_backup(backup: &Backup, form: Form) -> Value {
    write_resource(backup, form)
}

/// The job's document.
#[must_use]
pub(crate) fn write_job(job: &Job, form: Form) -> Value {
    write_resource(job, form)
}

fn write_message(message: &DynamicMessage, form: Form) -> Map<String, Value> {
    let descriptor = message.descriptor();
    let extra_field = extra_field(&descriptor);
    let extra = extra_field
        .as_ref()
        .filter(|field| message.has_field(field))
        .map_or_else(Map::new, |field| {
            message
                .get_field(field)
                .as_message()
                .map_or_else(Map::new, write_struct_message)
        });

    let mut object = Map::new();
    for field in descriptor.fields() {
        if Some(&field) == extra_field.as_ref()
            || (form == Form::Document && is_output_only(&field))
        {
            continue;
        }
        let name = field.name();
        if message.has_field(&field) {
            object.insert(
                name.to_owned(),
                write_field(&message.get_field(&field), form),
            );
        } else if !extra.contains_key(name)
            && let Some(unset) = written_unset(&descriptor, name)
        {
            object.insert(name.to_owned(), unset);
        }
    }
    for (key, value) in extra {
        object.entry(key).or_insert(value);
    }
    object
}

fn written_unset(descriptor: &MessageDescriptor, name: &str) -> Option<Value> {
    let (_, unset, _) = ALWAYS_WRITTEN
        .iter()
        .find(|(message, _, keys)| *message == descriptor.full_name() && keys.contains(&name))?;
    Some(match unset {
        Unset::EmptyString => "".into(),
        Unset::Zero => 0.into(),
        Unset::EmptyList => Value::Array(Vec::new()),
    })
}

fn write_field(value: &Field, form: Form) -> Value {
    match value {
        Field::Bool(value) => (*value).into(),
        Field::I32(value) => (*value).into(),
        Field::I64(value) => (*value).into(),
        Field::U32(value) => (*value).into(),
        Field::U64(value) => (*value).into(),
        Field::F64(value) => (*value).into(),
        Field::String(text) => text.clone().into(),
        Field::List(elements) => elements
            .iter()
            .map(|element| write_field(element, form))
            .collect(),
        Field::Message(message) => match message.descriptor().full_name() {
            TIMESTAMP => write_timestamp(message),
            STRUCT => Value::Object(write_struct_message(message)),
            _ => Value::Object(write_message(message, form)),
        },
        Field::Map(entries) => {
            let entries = entries.iter();
            let entries = entries.filter_map(|(key, value)| Some((key.as_str()?, value)));
            // The same map is the same document.
            let sorted: BTreeMap<_, _> = entries.collect();
            let write = |(key, value): (&str, &Field)| (key.to_owned(), write_field(value, form));
            Value::Object(sorted.into_iter().map(write).collect())
        }
        // No resource has fields of other kinds.
        Field::F32(_) | Field::Bytes(_) | Field::EnumNumber(_) => Value::Null,
    }
}

fn write_timestamp(message: &DynamicMessage) -> Value {
    message
        .transcode_to::<prost_types::Timestamp>()
        .ok()
        .and_then(|time| Timestamp::new(time.seconds, time.nanos).ok())
        .map_or(Value::Null, |time| time.to_string().into())
}

fn write_struct_message(message: &DynamicMessage) -> Map<String, Value> {
    message
        .transcode_to::<Struct>()
        .map_or_else(|_| Map::new(), |value| write_struct(&value))
}

fn write_struct(value: &Struct) -> Map<String, Value> {
    value
        .fields
        .iter()
        .map(|(key, value)| (key.clone(), write_struct_value(value)))
        .collect()
}

fn write_struct_value(value: &prost_types::Value) -> Value {
    match &value.kind {
        None | Some(StructKind::NullValue(_)) => Value::Null,
        Some(StructKind::BoolValue(value)) => (*value).into(),
        Some(StructKind::NumberValue(value)) => write_number(*value),
        Some(StructKind::StringValue(text)) => text.clone().into(),
        Some(StructKind::ListValue(list)) => list.values.iter().map(write_struct_value).collect(),
        Some(StructKind::StructValue(value)) => Value::Object(write_struct(value)),
    }
}

/// A double as people write it: `1`, not `1.0`. Beyond 2^53 a double no longer tells neighbouring
/// integers apart, and does not claim to; -0 is no integer.
#[allow(clippy::cast_possible_truncation, reason = "whole, and within 2^53")]
fn write_number(value: f64) -> Value {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0
        && value.abs() <= EXACT_MAX
        && !(value == 0.0 && value.is_sign_negative())
    {
        Value::from(value as i64)
    } else {
        Value::from(value)
    }
}
