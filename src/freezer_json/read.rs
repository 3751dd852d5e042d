//! Reading Freezer's documents.

use std::{borrow::Cow, collections::HashMap};

use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value as Field,
};
use prost_types::{ListValue, Struct, value::Kind as StructKind};
use serde_json::{Map, Number, Value};

use super::{Document, EXTRA, Read, STRUCT, extra_field, is_output_only};
use crate::{
    proto::{self, Backup, Client, Job, Session},
    resource::{Violations, limits},
};

/// Keys that Freezer adds to its documents for itself: in one message, or in each.
const BOOKKEEPING: [(Option<&str>, &str); 2] = [
    (None, "_version"),
    // The project of the job.
    (Some("freezer.v2.JobAction"), "project_id"),
];

/// How deep a value in `extra` may nest, so that every protobuf reader's limit of 100 messages allows it: one level of JSON takes
/// up to three messages. The server allows less in a record, and checks that itself.
pub(super) const EXTRA_NESTING_MAX: usize = 24;

/// The keys that belong to the backup itself although they stand beside bare metadata: an agent posts its metadata together with
/// `job_id` and `status` in one object.
pub(super) const BESIDE_METADATA: [&str; 8] = [
    "backup_id",
    "backup_uuid",
    "client_id",
    "job_id",
    "project_id",
    "status",
    "user_id",
    "user_name",
];

/// Reads a document of any kind. A job has `job_actions` or `job_schedule`, a backup has `backup_metadata`, a backup's bare
/// metadata has `backup_name`, and so on.
///
/// # Errors
/// If the kind is not known, or values fit neither their field nor an `extra`.
pub(crate) fn read_document(value: &Value) -> Result<Read, Violations> {
    let object = object(value)?;
    // `null` counts as missing.
    let has = |key| object.get(key).is_some_and(|value| !value.is_null());
    if has("job_actions") || has("job_schedule") {
        let (job, notes) = read_job(value)?;
        Ok(Read {
            document: Document::Job(job),
            notes,
        })
    } else if has("backup_metadata") || object.contains_key("backup_name") {
        let (backup, notes) = read_backup(value)?;
        Ok(Read {
            document: Document::Backup(backup),
            notes,
        })
    } else if has("freezer_action") {
        let (action, notes) = read_resource(value)?;
        Ok(Read {
            document: Document::Action(action),
            notes,
        })
    } else if has("client") || has("supported_actions") {
        let (client, notes) = read_client(value)?;
        Ok(Read {
            document: Document::Client(client),
            notes,
        })
    } else if has("schedule") || has("hold_off") {
        let (session, notes) = read_session(value)?;
        Ok(Read {
            document: Document::Session(session),
            notes,
        })
    } else {
        Err(Violations::one(
            "the document",
            "must be a backup (with backup_metadata), a backup's metadata (with backup_name), a job \
             (with job_actions or job_schedule), an action (with freezer_action), a session (with schedule or hold_off), a \
             client (with client or supported_actions), or a list such as {\"backups\": […]} or {\"jobs\": […]}",
        ))
    }
}

/// Reads a resource of a kind whose documents have the same keys as its fields.
///
/// # Errors
/// If it is not an object, or has values that fit neither their field nor an `extra`.
pub(super) fn read_resource<M: prost::Name + Default>(
    value: &Value,
) -> Result<(M, Vec<String>), Violations> {
    let mut reading = Reading::default();
    let message = reading.message(&proto::descriptor_of::<M>(), object(value)?, "");
    reading.finish(&message)
}

/// Reads a client, either by itself, or in the key `client` with its owner beside it, as Freezer returns it.
///
/// # Errors
/// If it is not an object, or has values that fit neither their field nor an `extra`.
pub(super) fn read_client(value: &Value) -> Result<(Client, Vec<String>), Violations> {
    let outer = object(value)?;
    let Some(inner) = outer.get("client").and_then(Value::as_object) else {
        return read_resource(value);
    };
    let mut whole = inner.clone();
    for (key, value) in outer.iter().filter(|(key, _)| *key != "client") {
        whole.entry(key).or_insert_with(|| value.clone());
    }
    read_resource(&Value::Object(whole))
}

/// Reads a session. In Freezer a session that has never run is `active`, and has an empty list of jobs.
///
/// # Errors
/// If it is not an object, or has values that fit neither their field nor an `extra`.
pub(super) fn read_session(value: &Value) -> Result<(Session, Vec<String>), Violations> {
    let mut members = object(value)?.clone();
    if members
        .get("status")
        .is_some_and(|status| status == "active")
    {
        members.remove("status");
    }
    if members.get("jobs").is_some_and(is_nothing) {
        members.remove("jobs");
    }
    read_resource(&Value::Object(members))
}

/// Reads a job. A job without a description is named after its first action's backup, or else after its id.
///
/// # Errors
/// If it is not an object, or has values that fit neither their field nor an `extra`.
pub(super) fn read_job(value: &Value) -> Result<(Job, Vec<String>), Violations> {
    let (mut job, notes): (Job, _) = read_resource(value)?;
    if job.description.is_empty() {
        job.description = name_of_unnamed(&job);
    }
    Ok((job, notes))
}

/// Reads a document that changes a resource. Returns the fields and their paths for an update mask: one path for each key, down to
/// the leaves, so that everything that the document does not name stays as it is. `null` clears a field.
///
/// # Errors
/// If it is not an object, or has values that fit neither their field nor an `extra`.
pub(crate) fn read_changes<M: prost::Name + Default>(
    value: &Value,
) -> Result<(M, Vec<String>), Violations> {
    let mut reading = Reading {
        changed: Some(Vec::new()),
        ..Reading::default()
    };
    let message = reading.message(&proto::descriptor_of::<M>(), object(value)?, "");
    let changed = reading.changed.take().unwrap_or_default();
    let (message, _notes) = reading.finish(&message)?;
    Ok((message, changed))
}

/// Reads a backup, or the bare metadata of one.
///
/// # Errors
/// If it is not an object, or has values that fit neither their field nor an `extra`.
pub(super) fn read_backup(value: &Value) -> Result<(Backup, Vec<String>), Violations> {
    read_resource(&with_metadata_apart(value))
}

/// A backup's document whose metadata is apart from the backup itself. Bare metadata is turned into that form.
pub(crate) fn with_metadata_apart(document: &Value) -> Cow<'_, Value> {
    let bare = document
        .as_object()
        .filter(|members| members.contains_key("backup_name") && !has_metadata(members));
    let Some(members) = bare else {
        return Cow::Borrowed(document);
    };
    let is_beside = |(key, _): &(String, Value)| BESIDE_METADATA.contains(&key.as_str());
    let (mut beside, metadata): (Map<_, _>, Map<_, _>) =
        members.clone().into_iter().partition(is_beside);
    beside.insert("backup_metadata".into(), Value::Object(metadata));
    Cow::Owned(Value::Object(beside))
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

/// A backup's name may be longer than a description. The sender never chose it as a description, so that it is cut instead of
/// refused.
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

/// How a value fits its field.
enum Fit {
    Value(Field),
    Unset,
    /// It does not fit: the field takes this instead.
    No(&'static str),
}

impl Fit {
    fn from(value: Option<Field>, expected: &'static str) -> Fit {
        value.map_or(Fit::No(expected), Fit::Value)
    }
}

/// What was found while a document was read.
#[derive(Default)]
pub(super) struct Reading {
    violations: Violations,
    notes: Vec<String>,
    /// The paths of what was found, if they are wanted. Elements of lists have none, because lists change as a whole.
    changed: Option<Vec<String>>,
}

impl Reading {
    fn change(&mut self, path: &str) {
        if let Some(changed) = &mut self.changed {
            changed.push(path.to_owned());
        }
    }

    /// Reads something that changes as a whole, so that no paths within it are collected.
    fn whole<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let changed = self.changed.take();
        let read = read(self);
        self.changed = changed;
        read
    }

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

    /// Reads the members of an object as a message. `path` is the message's place in the document.
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
            let within = path;
            let path = below(within, key);
            let field = descriptor
                .get_field_by_name(key)
                .filter(|field| Some(field) != extra_field.as_ref());
            let misfit = match &field {
                Some(field) if is_output_only(field) => continue,
                Some(field) => match self.value(field, value, &path) {
                    Fit::Value(value) => {
                        // A message adds the paths of its own fields.
                        if field.is_list() || value.as_message().is_none() {
                            self.change(&path);
                        }
                        message.set_field(field, value);
                        continue;
                    }
                    Fit::Unset => {
                        self.change(&path);
                        continue;
                    }
                    Fit::No(expected) => {
                        self.change(&path);
                        Some(expected)
                    }
                },
                None => None,
            };
            match misfit {
                _ if extra_field.is_some() => {
                    self.change(&below(&below(within, EXTRA), key));
                    extra.fields.insert(
                        key.clone(),
                        self.struct_value(value, &path, 1, field.is_none()),
                    );
                }
                Some(expected) => self.violations.add(path, format!("must be {expected}")),
                // Dropping an empty value loses nothing.
                None if is_nothing(value) || is_bookkeeping(descriptor, key) => {}
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
            return self.map(&field.kind(), value, path);
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
            match self.whole(|reading| reading.single(&field.kind(), element, &path)) {
                Fit::Value(element) => list.push(element),
                // A list has no place for a missing element.
                Fit::Unset => self.violations.add(path, "must not be empty"),
                Fit::No(expected) => self.violations.add(path, format!("must be {expected}")),
            }
        }
        Fit::Value(Field::List(list))
    }

    /// Reads an object as a map with values of this kind.
    fn map(&mut self, entry: &Kind, value: &Value, path: &str) -> Fit {
        let (Some(members), Kind::Message(entry)) = (value.as_object(), entry) else {
            return Fit::No("an object");
        };
        let kind = entry.map_entry_value_field().kind();
        let mut map = HashMap::new();
        for (key, value) in members {
            let path = format!("{path}.{key}");
            match self.whole(|reading| reading.single(&kind, value, &path)) {
                Fit::Value(value) => {
                    map.insert(MapKey::String(key.clone()), value);
                }
                Fit::Unset => {}
                Fit::No(expected) => self.violations.add(path, format!("must be {expected}")),
            }
        }
        Fit::Value(Field::Map(map))
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

    /// The value as `extra` holds it, at this level of nesting. A value that did not fit its field keeps its type, so that it does
    /// not fit when it is read again, either.
    pub(super) fn struct_value(
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

/// The path of a key in a message.
fn below(message: &str, key: &str) -> String {
    if message.is_empty() {
        key.to_owned()
    } else {
        format!("{message}.{key}")
    }
}

fn is_bookkeeping(message: &MessageDescriptor, key: &str) -> bool {
    let is_of = |of: Option<&str>| of.is_none_or(|of| of == message.full_name());
    BOOKKEEPING.iter().any(|&(of, own)| own == key && is_of(of))
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(elements) => elements.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(value) => Some(*value),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// A whole number of at most 64 bits. It may be written as text.
pub(crate) fn whole_number(value: &Value) -> Option<i64> {
    integer(value)?.try_into().ok()
}

fn integer(value: &Value) -> Option<i128> {
    match value {
        Value::Number(number) => integer_of(number).or_else(|| whole(number.as_f64()?)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// The number if it has at most 64 bits and is written without a point or an exponent.
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
