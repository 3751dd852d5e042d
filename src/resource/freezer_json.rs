//! Freezer's JSON documents, read leniently and written as Freezer writes them.
//!
//! A field's name in `proto/` is its key in Freezer's JSON, so that the descriptors say all there is
//! to know about a resource, and a new one needs no code here beyond its two public functions.
//!
//! **Reading** takes what agents and schedulers really send:
//! - `null` is "unset" everywhere, and so is `""` for a number or a bool;
//! - an integer may be written as `14`, `14.0` or `"14"`, a bool as `true` or `"True"`;
//! - what does not fit its field, and every key without a field, is kept verbatim in the message's
//!   `extra`, if it has one. A document's own key `extra` is such a key like any other
//!   (`extra.extra`), since the field `extra` never shows in a document;
//! - in a message without `extra`, a value that does not fit is refused, and a key without a field is
//!   left out and told as a note;
//! - `create_time`, `update_time` and `revision` are the server's to set, and ignored.
//!
//! **Writing** gives the set fields and what is in `extra`, side by side, and the keys of
//! [`ALWAYS_WRITTEN`].
//!
//! Whether a resource makes sense is not asked here: the server validates what it is sent.

use jiff::Timestamp;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value as Field,
};
use prost_types::{ListValue, Struct, value::Kind as StructKind};
use serde_json::{Map, Number, Value};

use super::{Violations, limits};
use crate::proto::{self, Backup, BackupMetadata, Job};

/// Set by the server alone: ignored on reading, and part of [`Form::Full`] only.
const OUTPUT_ONLY: [&str; 3] = ["create_time", "update_time", "revision"];

/// What Freezer keeps in its documents for itself.
const BOOKKEEPING: &str = "_version";

/// The field that takes the keys and values that have no other place.
const EXTRA: &str = "extra";

/// How deep a value in `extra` may nest, so that every protobuf reader's limit of 100 messages takes
/// it: a level of JSON is up to three of protobuf. What a record may have is less, and the server's
/// to say.
const EXTRA_NESTING_MAX: usize = 24;

const STRUCT: &str = "google.protobuf.Struct";
const TIMESTAMP: &str = "google.protobuf.Timestamp";

/// How Freezer writes a key that has no value.
#[derive(Clone, Copy)]
enum Unset {
    EmptyString,
    Zero,
    EmptyList,
}

/// The keys that are written though unset, because Freezer does: clients look them up unasked.
///
/// A backup's metadata has the keys that the agent always sends; a job's schedule has its event; and
/// a job has its actions, which is also what a job is recognised by.
const ALWAYS_WRITTEN: [(&str, Unset, &[&str]); 4] = [
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

/// The keys beside bare metadata that belong to the backup itself: an agent posts its metadata
/// together with `job_id` and `status` in one object.
const BESIDE_METADATA: [&str; 8] = [
    "backup_id",
    "backup_uuid",
    "client_id",
    "job_id",
    "project_id",
    "status",
    "user_id",
    "user_name",
];

/// What one Freezer document describes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Document {
    /// A backup.
    Backup(Backup),
    /// A job.
    Job(Job),
}

/// A document as read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Read {
    /// What it describes.
    pub document: Document,
    /// What was left out or changed in reading it, a sentence each, starting with the key's path.
    pub notes: Vec<String>,
}

/// Which fields are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// What Freezer knows.
    Document,
    /// That, and `create_time`, `update_time` (RFC 3339, in UTC) and `revision`.
    Full,
}

/// Reads a document of any kind: a job by its `job_actions` or `job_schedule`, a backup by its
/// `backup_metadata`, a backup's bare metadata by its `backup_name`.
///
/// # Errors
/// If it is none of these, or has values that fit neither their field nor an `extra`.
pub(crate) fn read_document(value: &Value) -> Result<Read, Violations> {
    let object = object(value)?;
    if object.contains_key("job_actions") || object.contains_key("job_schedule") {
        let (job, notes) = read_job(value)?;
        Ok(Read {
            document: Document::Job(job),
            notes,
        })
    } else if has_metadata(object) || object.contains_key("backup_name") {
        let (backup, notes) = read_backup(value)?;
        Ok(Read {
            document: Document::Backup(backup),
            notes,
        })
    } else {
        Err(Violations::one(
            "the document",
            "must be a backup (with backup_metadata), a backup's metadata (with backup_name), a job \
             (with job_actions or job_schedule), {\"backups\": […]} or {\"jobs\": […]}",
        ))
    }
}

/// Reads a job. One without a description is named after its first action's backup, else its id.
///
/// # Errors
/// If it is no object, or has values that fit neither their field nor an `extra`.
pub(crate) fn read_job(value: &Value) -> Result<(Job, Vec<String>), Violations> {
    let (mut job, notes) = read_job_fields(value)?;
    if job.description.is_empty() {
        job.description = name_of_unnamed(&job);
    }
    Ok((job, notes))
}

/// Reads just the fields of a job that an update changes.
///
/// # Errors
/// If it is no object, or has values that fit neither their field nor an `extra`.
pub(crate) fn read_job_fields(value: &Value) -> Result<(Job, Vec<String>), Violations> {
    let mut reading = Reading::default();
    let message = reading.message(&proto::descriptor_of::<Job>(), object(value)?, "");
    reading.finish(&message)
}

/// Reads a backup, or the bare metadata of one.
///
/// # Errors
/// If it is no object, or has values that fit neither their field nor an `extra`.
pub(crate) fn read_backup(value: &Value) -> Result<(Backup, Vec<String>), Violations> {
    let object = object(value)?;
    let mut reading = Reading::default();
    let descriptor = proto::descriptor_of::<Backup>();
    let message = if has_metadata(object) || !object.contains_key("backup_name") {
        reading.message(&descriptor, object, "")
    } else {
        let (beside, metadata): (Vec<_>, Vec<_>) = object
            .iter()
            .partition(|(key, _)| BESIDE_METADATA.contains(&key.as_str()));
        let mut backup = reading.message(&descriptor, beside, "");
        let metadata = reading.message(&proto::descriptor_of::<BackupMetadata>(), metadata, "");
        backup.set_field_by_name("backup_metadata", Field::Message(metadata));
        backup
    };
    reading.finish(&message)
}

/// The backup's document.
#[must_use]
pub(crate) fn write_backup(backup: &Backup, form: Form) -> Value {
    Value::Object(write_message(&proto::to_dynamic(backup), form))
}

/// The job's document.
#[must_use]
pub(crate) fn write_job(job: &Job, form: Form) -> Value {
    Value::Object(write_message(&proto::to_dynamic(job), form))
}

fn object(value: &Value) -> Result<&Map<String, Value>, Violations> {
    value
        .as_object()
        .ok_or_else(|| Violations::one("the document", "must be a JSON object"))
}

fn has_metadata(object: &Map<String, Value>) -> bool {
    object
        .get("backup_metadata")
        .is_some_and(|metadata| !metadata.is_null())
}

/// A backup's name may be longer than a description may be, and is not what the sender was asked to
/// keep short: it is cut.
fn name_of_unnamed(job: &Job) -> String {
    let backup_name = job
        .job_actions
        .first()
        .and_then(|action| action.freezer_action.as_ref())
        .map_or("", |action| action.backup_name.as_str());
    let name = if backup_name.is_empty() {
        &job.job_id
    } else {
        backup_name
    };
    let mut len = name.len().min(limits::DESCRIPTION_BYTES_MAX);
    while !name.is_char_boundary(len) {
        len -= 1;
    }
    name[..len].to_owned()
}

/// What a value is to its field.
enum Fit {
    Value(Field),
    Unset,
    /// It is not what the field takes, which is this.
    No(&'static str),
}

impl Fit {
    fn from(value: Option<Field>, expected: &'static str) -> Fit {
        value.map_or(Fit::No(expected), Fit::Value)
    }
}

/// What was found on the way through a document.
#[derive(Default)]
struct Reading {
    violations: Violations,
    notes: Vec<String>,
}

impl Reading {
    fn finish<M: prost::Name + Default>(
        self,
        message: &DynamicMessage,
    ) -> Result<(M, Vec<String>), Violations> {
        let notes = self.violations.or(self.notes)?;
        let message = proto::from_dynamic(message).map_err(|error| {
            Violations::one("the document", format!("cannot be a message: {error}"))
        })?;
        Ok((message, notes))
    }

    /// A message of these members. `path` is its own place in the document.
    fn message<'a>(
        &mut self,
        descriptor: &MessageDescriptor,
        members: impl IntoIterator<Item = (&'a String, &'a Value)>,
        path: &str,
    ) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        let extra_field = extra_field(descriptor);
        let mut extra = Struct::default();
        for (key, value) in members {
            let path = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            let field = descriptor
                .get_field_by_name(key)
                .filter(|field| Some(field) != extra_field.as_ref());
            let misfit = match &field {
                Some(field) if is_output_only(field) => continue,
                Some(field) => match self.value(field, value, &path) {
                    Fit::Value(value) => {
                        message.set_field(field, value);
                        continue;
                    }
                    Fit::Unset => continue,
                    Fit::No(expected) => Some(expected),
                },
                None => None,
            };
            match misfit {
                _ if extra_field.is_some() => {
                    extra.fields.insert(
                        key.clone(),
                        self.struct_value(value, &path, 1, field.is_none()),
                    );
                }
                Some(expected) => self.violations.add(path, format!("must be {expected}")),
                None if key == BOOKKEEPING => {}
                None => self
                    .notes
                    .push(format!("{path} was left out: Icebox has no such field")),
            }
        }
        if let Some(field) = extra_field.filter(|_| !extra.fields.is_empty()) {
            self.set_struct(&mut message, &field, &extra);
        }
        message
    }

    fn set_struct(
        &mut self,
        message: &mut DynamicMessage,
        field: &FieldDescriptor,
        value: &Struct,
    ) {
        if let Kind::Message(descriptor) = field.kind() {
            let mut dynamic = DynamicMessage::new(descriptor);
            match dynamic.transcode_from(value) {
                Ok(()) => message.set_field(field, Field::Message(dynamic)),
                Err(error) => self
                    .violations
                    .add(field.name(), format!("cannot be a message: {error}")),
            }
        }
    }

    fn value(&mut self, field: &FieldDescriptor, value: &Value, path: &str) -> Fit {
        if value.is_null() {
            return Fit::Unset;
        }
        if field.is_map() {
            return Fit::No("absent");
        }
        if !field.is_list() {
            return self.single(&field.kind(), value, path);
        }
        let Some(elements) = value.as_array() else {
            return Fit::No("a list");
        };
        let mut list = Vec::with_capacity(elements.len().min(limits::JOB_ACTIONS_MAX));
        for (n, element) in elements.iter().enumerate() {
            let path = format!("{path}[{n}]");
            match self.single(&field.kind(), element, &path) {
                Fit::Value(element) => list.push(element),
                // A list has no place for an element that is not there.
                Fit::Unset => self.violations.add(path, "must not be empty"),
                Fit::No(expected) => self.violations.add(path, format!("must be {expected}")),
            }
        }
        Fit::Value(Field::List(list))
    }

    fn single(&mut self, kind: &Kind, value: &Value, path: &str) -> Fit {
        let unset = value.as_str() == Some("");
        match kind {
            Kind::String => Fit::from(
                value.as_str().map(|text| Field::String(text.into())),
                "a string",
            ),
            Kind::Message(descriptor) if descriptor.full_name() != STRUCT => {
                match value.as_object() {
                    Some(members) => {
                        Fit::Value(Field::Message(self.message(descriptor, members, path)))
                    }
                    None => Fit::No("an object"),
                }
            }
            _ if unset => Fit::Unset,
            Kind::Bool => Fit::from(boolean(value).map(Field::Bool), "true or false"),
            Kind::Int32 => Fit::from(
                integer(value)
                    .and_then(|n| n.try_into().ok())
                    .map(Field::I32),
                "a whole number of at most 32 bits",
            ),
            Kind::Int64 => Fit::from(
                integer(value)
                    .and_then(|n| n.try_into().ok())
                    .map(Field::I64),
                "a whole number of at most 64 bits",
            ),
            Kind::Uint32 => Fit::from(
                integer(value)
                    .and_then(|n| n.try_into().ok())
                    .map(Field::U32),
                "a whole number from 0 of at most 32 bits",
            ),
            Kind::Uint64 => Fit::from(
                integer(value)
                    .and_then(|n| n.try_into().ok())
                    .map(Field::U64),
                "a whole number from 0 of at most 64 bits",
            ),
            Kind::Double => Fit::from(value.as_f64().map(Field::F64), "a number"),
            // No resource has fields of other kinds that a document may set.
            _ => Fit::No("absent"),
        }
    }

    /// The value as `extra` holds it, at this level of nesting. What has a field of another kind keeps its own, so that it
    /// does not fit the field when it is read again.
    fn struct_value(
        &mut self,
        value: &Value,
        path: &str,
        level: usize,
        has_no_field: bool,
    ) -> prost_types::Value {
        let kind = match value {
            Value::Null => StructKind::NullValue(0),
            Value::Bool(value) => StructKind::BoolValue(*value),
            Value::Number(number) => {
                let value = number.as_f64().unwrap_or_default();
                // `extra` is a google.protobuf.Struct, whose numbers are doubles.
                let is_rounded =
                    integer_of(number).is_some_and(|exact| whole(value) != Some(exact));
                let done = if has_no_field {
                    "is kept as text"
                } else {
                    "was rounded"
                };
                if is_rounded {
                    self.notes.push(format!("{path} {done}: it is beyond 2^53"));
                }
                if is_rounded && has_no_field {
                    StructKind::StringValue(number.to_string())
                } else {
                    StructKind::NumberValue(value)
                }
            }
            Value::String(text) => StructKind::StringValue(text.clone()),
            Value::Array(_) | Value::Object(_) if level > EXTRA_NESTING_MAX => {
                self.violations.add(
                    path,
                    format!("must not nest deeper than {EXTRA_NESTING_MAX} levels"),
                );
                StructKind::NullValue(0)
            }
            Value::Array(elements) => {
                let values = elements
                    .iter()
                    .map(|value| self.struct_value(value, path, level + 1, true));
                StructKind::ListValue(ListValue {
                    values: values.collect(),
                })
            }
            Value::Object(members) => {
                let fields = members.iter().map(|(key, value)| {
                    (key.clone(), self.struct_value(value, path, level + 1, true))
                });
                StructKind::StructValue(Struct {
                    fields: fields.collect(),
                })
            }
        };
        prost_types::Value { kind: Some(kind) }
    }
}

fn extra_field(descriptor: &MessageDescriptor) -> Option<FieldDescriptor> {
    descriptor.get_field_by_name(EXTRA).filter(
        |field| matches!(field.kind(), Kind::Message(kind) if kind.full_name() == STRUCT && !field.is_list()),
    )
}

fn is_output_only(field: &FieldDescriptor) -> bool {
    OUTPUT_ONLY.contains(&field.name())
}

fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(value) => Some(*value),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

fn integer(value: &Value) -> Option<i128> {
    match value {
        Value::Number(number) => integer_of(number).or_else(|| whole(number.as_f64()?)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// The number if it is written without a point or an exponent, and of at most 64 bits.
fn integer_of(number: &Number) -> Option<i128> {
    number
        .as_i64()
        .map(i128::from)
        .or_else(|| number.as_u64().map(i128::from))
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "whole, and far inside i128"
)]
fn whole(value: f64) -> Option<i128> {
    (value.fract() == 0.0 && value.abs() < 1e30).then_some(value as i128)
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
        // No resource has fields of other kinds.
        Field::F32(_) | Field::Bytes(_) | Field::EnumNumber(_) | Field::Map(_) => Value::Null,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::proto::{FreezerAction, JobAction, JobSchedule};

    const BACKUPS_LIST: &str = include_str!("../../tests/data/backups-list.json");
    const JOBS_LIST: &str = include_str!("../../tests/data/jobs-list.json");
    const JOB_CREATE: &str = include_str!("../../tests/data/job-create.json");

    fn parse(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    fn write(document: &Document) -> Value {
        match document {
            Document::Backup(backup) => write_backup(backup, Form::Document),
            Document::Job(job) => write_job(job, Form::Document),
        }
    }

    fn metadata(value: &Value) -> (BackupMetadata, Vec<String>) {
        let (backup, notes) = read_backup(&json!({ "backup_metadata": value })).unwrap();
        (backup.backup_metadata.unwrap(), notes)
    }

    fn fields(violations: &Violations) -> Vec<&str> {
        violations
            .iter()
            .map(|violation| violation.field.as_str())
            .collect()
    }

    #[test]
    fn the_published_backups_come_back_with_the_same_keys_and_values() {
        let list = parse(BACKUPS_LIST);
        for sample in list["backups"].as_array().unwrap() {
            let read = read_document(sample).unwrap();
            assert_eq!(read.notes, Vec::<String>::new());
            assert_eq!(write(&read.document), *sample);
        }
    }

    #[test]
    fn the_published_jobs_come_back_with_the_same_keys_and_values() {
        for sample in [parse(JOBS_LIST)["jobs"][0].clone(), parse(JOB_CREATE)] {
            let read = read_document(&sample).unwrap();
            assert_eq!(read.notes, Vec::<String>::new());
            assert_eq!(write(&read.document), sample);
        }
    }

    #[test]
    fn every_key_that_is_always_written_is_a_field() {
        for (message, _, keys) in ALWAYS_WRITTEN {
            let descriptor = proto::descriptor_of::<Backup>()
                .parent_pool()
                .get_message_by_name(message);
            for key in keys {
                assert!(
                    descriptor
                        .as_ref()
                        .unwrap()
                        .get_field_by_name(key)
                        .is_some(),
                    "{message}.{key}"
                );
            }
        }
    }

    #[test]
    fn loose_numbers_and_bools_are_understood() {
        let (read, _) = metadata(&json!({
            "max_level": "14", "always_level": 7.0, "curr_backup_level": "", "ssh_port": null,
            "time_stamp": -1, "dry_run": "True", "mode": null,
        }));
        let expected = BackupMetadata {
            max_level: Some(14),
            always_level: Some(7),
            time_stamp: -1,
            dry_run: Some(true),
            ..BackupMetadata::default()
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn zero_is_not_unset_where_that_can_be_told() {
        let (read, _) = metadata(&json!({ "max_level": 0, "dry_run": false }));
        assert_eq!((read.max_level, read.dry_run), (Some(0), Some(false)));
        let (read, _) = metadata(&json!({ "max_level": "", "dry_run": "" }));
        assert_eq!((read.max_level, read.dry_run), (None, None));
    }

    #[test]
    fn what_does_not_fit_is_kept_in_extra_and_comes_back() {
        let document = json!({
            "max_level": "many", "dry_run": 1, "mode": 5, "ssh_port": 3_000_000_000_u64,
            "engine": {"levels": [1, 2.5, null]}, "extra": {"a": 1},
        });
        let (read, notes) = metadata(&document);
        assert_eq!(notes, Vec::<String>::new());
        assert_eq!(read.max_level, None);
        let written = write_backup(
            &Backup {
                backup_metadata: Some(read),
                ..Backup::default()
            },
            Form::Document,
        );
        for (key, value) in document.as_object().unwrap() {
            assert_eq!(written["backup_metadata"][key], *value, "{key}");
        }
    }

    #[test]
    fn an_integer_that_extra_cannot_hold_is_told() {
        let (_, notes) =
            metadata(&json!({ "inode": 9_007_199_254_740_993_u64, "size": 1e300, "n": 4 }));
        assert_eq!(
            notes,
            ["backup_metadata.inode is kept as text: it is beyond 2^53"]
        );
    }

    #[test]
    fn without_an_extra_every_misfit_is_refused_at_once() {
        let refused = read_document(&json!({
            "description": 5,
            "job_schedule": {"event": true, "time_started": "soon"},
            "job_actions": [{"max_retries": []}, "backup", null],
        }));
        assert_eq!(
            fields(&refused.unwrap_err()),
            [
                "description",
                "job_schedule.event",
                "job_schedule.time_started",
                "job_actions[0].max_retries",
                "job_actions[1]",
                "job_actions[2]",
            ]
        );
    }

    #[test]
    fn keys_without_a_place_are_left_out_and_told() {
        let (job, notes) = read_job(&json!({
            "description": "nightly", "_version": 3, "revision": 7, "create_time": 5,
            "job_actions": [{"project_id": "p"}], "colour": "red",
        }))
        .unwrap();
        assert_eq!(job.revision, 0);
        assert_eq!(
            notes,
            [
                "job_actions[0].project_id was left out: Icebox has no such field",
                "colour was left out: Icebox has no such field",
            ]
        );
    }

    #[test]
    fn bare_metadata_is_a_backup() {
        let (backup, notes) = read_backup(&json!({
            "backup_name": "db", "hostname": "node1", "job_id": "j", "status": "available",
            "project_id": "p", "volume": "v1",
        }))
        .unwrap();
        assert_eq!(notes, Vec::<String>::new());
        assert_eq!(
            (backup.job_id.as_str(), backup.status.as_str()),
            ("j", "available")
        );
        assert_eq!(backup.project_id, "p");
        let metadata = backup.backup_metadata.unwrap();
        assert_eq!(metadata.backup_name, "db");
        assert_eq!(
            metadata.extra.unwrap().fields.keys().collect::<Vec<_>>(),
            ["volume"]
        );
    }

    #[test]
    fn an_unnamed_job_takes_its_first_actions_name_or_its_id() {
        let name = |value| read_job(&value).unwrap().0.description;
        let action = |name: &str| json!([{"freezer_action": {"backup_name": name}}]);
        assert_eq!(
            name(json!({"job_id": "j1", "job_actions": action("db")})),
            "db"
        );
        assert_eq!(
            name(json!({"job_id": "j1", "job_actions": action("")})),
            "j1"
        );
        assert_eq!(name(json!({"job_id": "j1", "description": null})), "j1");
        assert_eq!(
            name(json!({"description": "own", "job_actions": action("db")})),
            "own"
        );
        assert_eq!(
            name(json!({"job_actions": action(&"é".repeat(40))})),
            "é".repeat(32)
        );
    }

    #[test]
    fn other_shapes_are_refused_with_what_is_expected() {
        for value in [
            json!({}),
            json!({"backup_id": "1"}),
            json!({"backup_metadata": null}),
        ] {
            let refused = read_document(&value).unwrap_err().to_string();
            assert!(refused.contains("backup_metadata"), "{refused}");
        }
        for value in [json!(null), json!([]), json!("backup"), json!(1)] {
            assert_eq!(
                read_document(&value).unwrap_err().to_string(),
                "the document must be a JSON object"
            );
        }
    }

    #[test]
    fn nesting_ends_before_protobuf_ends_it() {
        let nested = |levels| (0..levels).fold(json!(1), |value, _| json!({ "a": value }));
        let document =
            |levels| json!({"job_actions": [{"freezer_action": {"options": nested(levels)}}]});
        let (job, _) = read_job(&document(EXTRA_NESTING_MAX)).unwrap();
        assert_eq!(write_job(&job, Form::Document), document(EXTRA_NESTING_MAX));
        let refused = read_job(&document(EXTRA_NESTING_MAX + 1)).unwrap_err();
        assert_eq!(fields(&refused), ["job_actions[0].freezer_action.options"]);
    }

    #[test]
    fn the_full_form_adds_when_and_at_which_revision() {
        let job = Job {
            create_time: Some(prost_types::Timestamp {
                seconds: 1_486_660_214,
                nanos: 500_000_000,
            }),
            revision: 12,
            ..Job::default()
        };
        let written = write_job(&job, Form::Full);
        assert_eq!(
            written,
            json!({"job_actions": [], "create_time": "2017-02-09T17:10:14.5Z", "revision": 12})
        );
        assert_eq!(write_job(&job, Form::Document), json!({"job_actions": []}));
    }

    #[test]
    fn a_times_nonsense_does_not_stop_the_writing() {
        let broken = Some(prost_types::Timestamp {
            seconds: i64::MAX,
            nanos: -7,
        });
        let backup = Backup {
            create_time: broken,
            ..Backup::default()
        };
        assert_eq!(
            write_backup(&backup, Form::Full)["create_time"],
            Value::Null
        );
    }

    fn field_value(field: &FieldDescriptor) -> BoxedStrategy<Field> {
        let single = match field.kind() {
            Kind::Bool => any::<bool>().prop_map(Field::Bool).boxed(),
            Kind::Int32 => any::<i32>().prop_map(Field::I32).boxed(),
            Kind::Int64 => any::<i64>().prop_map(Field::I64).boxed(),
            Kind::String => ".{0,12}".prop_map(Field::String).boxed(),
            Kind::Message(descriptor) if descriptor.full_name() == STRUCT => sane_extra(descriptor),
            Kind::Message(descriptor) => any_message(&descriptor).prop_map(Field::Message).boxed(),
            kind => panic!("no values for {kind:?}"),
        };
        if field.is_list() {
            prop::collection::vec(single, 0..4)
                .prop_map(Field::List)
                .boxed()
        } else {
            single
        }
    }

    /// Every field of the message, set or not, save those that the server alone sets.
    fn any_message(descriptor: &MessageDescriptor) -> BoxedStrategy<DynamicMessage> {
        let fields: Vec<_> = descriptor
            .fields()
            .filter(|field| !is_output_only(field))
            .collect();
        let values: Vec<_> = fields
            .iter()
            .map(|field| prop::option::of(field_value(field)))
            .collect();
        let descriptor = descriptor.clone();
        values
            .prop_map(move |values| {
                let mut message = DynamicMessage::new(descriptor.clone());
                for (field, value) in fields.iter().zip(values) {
                    if let Some(value) = value {
                        message.set_field(field, value);
                    }
                }
                message
            })
            .boxed()
    }

    /// Keys that are no fields (`extra` itself among them), and any values.
    fn sane_extra(descriptor: MessageDescriptor) -> BoxedStrategy<Field> {
        prop::collection::btree_map(
            "x_[a-z]{0,4}|extra",
            any_json(prop::num::f64::NORMAL.boxed()),
            1..4,
        )
        .prop_map(move |members| {
            let mut reading = Reading::default();
            let fields = members
                .into_iter()
                .map(|(key, value)| (key, reading.struct_value(&value, "", 1, true)))
                .collect();
            let mut dynamic = DynamicMessage::new(descriptor.clone());
            dynamic.transcode_from(&Struct { fields }).unwrap();
            Field::Message(dynamic)
        })
        .boxed()
    }

    fn any_json(numbers: BoxedStrategy<f64>) -> BoxedStrategy<Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            Just(json!("")),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-3..99_i64).prop_map(Value::from),
            (-3..99_i64).prop_map(|n| n.to_string().into()),
            numbers.prop_map(Value::from),
            "[tT]rue|false|.{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::btree_map(any_key(), inner, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
        .boxed()
    }

    /// Mostly keys that mean something somewhere.
    fn any_key() -> BoxedStrategy<String> {
        let known: Vec<String> = [
            proto::descriptor_of::<Backup>(),
            proto::descriptor_of::<BackupMetadata>(),
            proto::descriptor_of::<Job>(),
            proto::descriptor_of::<JobSchedule>(),
            proto::descriptor_of::<JobAction>(),
            proto::descriptor_of::<FreezerAction>(),
        ]
        .iter()
        .flat_map(|descriptor| {
            descriptor
                .fields()
                .map(|field| field.name().to_owned())
                .collect::<Vec<_>>()
        })
        .collect();
        prop_oneof![
            4 => prop::sample::select(known),
            2 => "backup_metadata|job_actions|backup_name|freezer_action".prop_map(|key| key),
            1 => ".{0,3}|_version".prop_map(|key| key),
        ]
        .boxed()
    }

    /// Documents near enough to real ones that most are recognised and many are read.
    fn any_document() -> BoxedStrategy<Value> {
        let members =
            || prop::collection::btree_map(any_key(), any_json(any::<f64>().boxed()), 0..8);
        let object = |members: std::collections::BTreeMap<String, Value>| {
            Value::Object(members.into_iter().collect::<Map<_, _>>())
        };
        prop_oneof![
            any_json(any::<f64>().boxed()),
            members().prop_map(object),
            members().prop_map(move |members| json!({ "backup_metadata": object(members) })),
            members().prop_map(move |mut members| {
                members.insert("backup_name".into(), "db".into());
                members.retain(|key, _| !BESIDE_METADATA.contains(&key.as_str()));
                object(members)
            }),
            members().prop_map(
                move |members| json!({ "job_actions": [{ "freezer_action": object(members) }] })
            ),
        ]
        .boxed()
    }

    proptest! {
        #[test]
        fn a_written_backup_reads_back_the_same(message in any_message(&proto::descriptor_of::<Backup>())) {
            let backup: Backup = proto::from_dynamic(&message).unwrap();
            let (read, notes) = read_backup(&write_backup(&backup, Form::Full)).unwrap();
            prop_assert_eq!(read, backup);
            prop_assert!(notes.is_empty());
        }

        #[test]
        fn a_written_job_reads_back_the_same(message in any_message(&proto::descriptor_of::<Job>())) {
            let mut job: Job = proto::from_dynamic(&message).unwrap();
            if job.description.is_empty() {
                job.description = "an unnamed job is given a name".into();
            }
            let text = write_job(&job, Form::Document).to_string();
            let (read, notes) = read_job(&parse(&text)).unwrap();
            prop_assert_eq!(read, job);
            prop_assert!(notes.is_empty());
        }

        #[test]
        fn any_json_is_read_or_refused_and_what_was_read_is_stable(value in any_document()) {
            if let Ok(first) = read_document(&value) {
                let written = write(&first.document);
                let second = read_document(&written).unwrap();
                prop_assert_eq!(&second.document, &first.document);
                prop_assert_eq!(second.notes, Vec::<String>::new());
                prop_assert_eq!(write(&second.document), written);
            }
        }
    }
}
