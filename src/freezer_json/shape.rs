//! What the descriptors say about the messages, by tag of the field: looked up once instead of for each record.

use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use super::{Form, STRUCT, TIMESTAMP, extra_field, is_output_only};
use crate::proto::{self, Action, Backup, Client, Job, Session};

/// How a message is written.
#[derive(Debug)]
pub(super) struct Shape {
    /// The fields by their tags, which are below [`TAGS_MAX`].
    fields: Vec<Option<Field>>,
    tags: HashMap<String, u32>,
}

/// All tags are below this, so that a set of them fits into one word.
pub(super) const TAGS_MAX: u32 = 64;

/// How a field is written.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) tag: u32,
    pub(super) name: String,
    pub(super) is_list: bool,
    pub(super) is_output_only: bool,
    pub(super) value: Value,
    /// What is written if the field is not set, and in which forms.
    unset: Option<(&'static str, &'static [Form])>,
}

/// How its value is written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value {
    Bool,
    Signed,
    Unsigned,
    Double,
    Text,
    Timestamp,
    /// Any JSON value.
    Any,
    /// Keys that have no other place. They are written beside the fields.
    Extra,
    Message(&'static Shape),
    /// A map from strings to strings.
    TextMap,
    /// A map from strings to messages.
    MessageMap(&'static Shape),
}

/// Every form. The second constant is only the form of Freezer's API.
const ALL: &[Form] = &[Form::Document, Form::Full, Form::Api];
const API: &[Form] = &[Form::Api];

/// The keys that are written even if they are not set: Freezer writes them, and clients expect them.
///
/// A backup's metadata has the keys that the agent always sends, a job's schedule has its event, and a job has its actions, by
/// which a job is recognised. Over HTTP, times that have not happened are -1.
#[rustfmt::skip]
pub(super) const ALWAYS_WRITTEN: &[(&str, &str, &[Form], &[&str])] = &[
    ("freezer.v2.BackupMetadata", r#""""#, ALL, &[
        "backup_name", "container", "hostname", "max_level", "always_level", "mode", "action", "storage", "backup_media",
        "path_to_backup", "fs_real_path", "vol_snap_path", "compression", "container_segments", "client_os", "client_version",
        "os_auth_version", "dry_run", "proxy", "log_file", "ssh_host", "ssh_port", "ssh_username", "ssh_key",
    ]),
    ("freezer.v2.BackupMetadata", "0", ALL, &["time_stamp", "curr_backup_level"]),
    ("freezer.v2.JobSchedule", r#""""#, ALL, &["event"]),
    ("freezer.v2.JobSchedule", "-1", API, &["time_created", "time_started", "time_ended"]),
    ("freezer.v2.Job", "[]", ALL, &["job_actions"]),
    ("freezer.v2.Job", r#"{"event":"","time_created":-1,"time_started":-1,"time_ended":-1}"#, API, &["job_schedule"]),
    ("freezer.v2.Session", "0", API, &["session_tag"]),
    ("freezer.v2.Session", r#""""#, API, &["status", "result"]),
    ("freezer.v2.Session", "-1", API, &["time_start", "time_end"]),
    ("freezer.v2.Session", "{}", API, &["schedule", "jobs"]),
    ("freezer.v2.SessionJob", "-1", API, &["time_started", "time_ended"]),
    ("freezer.v2.Client", r#""""#, API, &["user_id"]),
    ("freezer.v2.Client", "false", API, &["is_central"]),
];

/// The shapes of the resources and of the messages in them. They live as long as the process.
static SHAPES: LazyLock<HashMap<String, &'static Shape>> = LazyLock::new(|| {
    let mut shapes = HashMap::new();
    for resource in [
        proto::descriptor_of::<Action>(),
        proto::descriptor_of::<Backup>(),
        proto::descriptor_of::<Client>(),
        proto::descriptor_of::<Job>(),
        proto::descriptor_of::<Session>(),
    ] {
        shape(&resource, &mut shapes);
    }
    shapes
});

/// The shape of a resource.
pub(super) fn shape_of<M: prost::Name>() -> &'static Shape {
    SHAPES
        .get(&M::full_name())
        .expect("the shapes are those of the resources")
}

impl Shape {
    /// The field with that tag.
    pub(super) fn field(&self, tag: u32) -> Option<&Field> {
        self.fields.get(usize::try_from(tag).ok()?)?.as_ref()
    }

    /// The field with that name. The field `extra` has no key of its own.
    pub(super) fn named(&self, name: &str) -> Option<&Field> {
        let field = self.field(*self.tags.get(name)?)?;
        (!matches!(field.value, Value::Extra)).then_some(field)
    }

    /// The fields that are written even if they are not set, each with the text for that.
    pub(super) fn written_unset(&self, form: Form) -> impl Iterator<Item = (&Field, &'static str)> {
        let fields = self.fields.iter().flatten();
        fields.filter_map(move |field| {
            let (unset, forms) = field.unset?;
            forms.contains(&form).then_some((field, unset))
        })
    }
}

fn shape(
    message: &MessageDescriptor,
    shapes: &mut HashMap<String, &'static Shape>,
) -> &'static Shape {
    if let Some(known) = shapes.get(message.full_name()) {
        return known;
    }
    let mut shape_of_message = Shape {
        fields: Vec::new(),
        tags: HashMap::new(),
    };
    let fields: BTreeMap<u32, FieldDescriptor> = message
        .fields()
        .map(|field| (field.number(), field))
        .collect();
    for (tag, descriptor) in fields {
        assert!(tag < TAGS_MAX, "{}", descriptor.full_name());
        let index = usize::try_from(tag).expect("it is small");
        shape_of_message.fields.resize_with(index + 1, || None);
        let name = descriptor.name().to_owned();
        shape_of_message.tags.insert(name, tag);
        shape_of_message.fields[index] = Some(field(message, &descriptor, shapes));
    }
    // This leaks about a dozen shapes, each made once.
    let shape: &'static Shape = Box::leak(Box::new(shape_of_message));
    shapes.insert(message.full_name().to_owned(), shape);
    shape
}

fn field(
    message: &MessageDescriptor,
    descriptor: &FieldDescriptor,
    shapes: &mut HashMap<String, &'static Shape>,
) -> Field {
    let name = descriptor.name();
    let mut always = ALWAYS_WRITTEN.iter();
    let unset = always
        .find(|(of, _, _, keys)| *of == message.full_name() && keys.contains(&name))
        .map(|&(_, unset, forms, _)| (unset, forms));
    Field {
        tag: descriptor.number(),
        name: name.to_owned(),
        is_list: descriptor.is_list(),
        is_output_only: is_output_only(descriptor),
        value: if extra_field(message).as_ref() == Some(descriptor) {
            Value::Extra
        } else {
            value(descriptor, shapes)
        },
        unset,
    }
}

fn value(descriptor: &FieldDescriptor, shapes: &mut HashMap<String, &'static Shape>) -> Value {
    match descriptor.kind() {
        Kind::Message(entry) if descriptor.is_map() => match entry.map_entry_value_field().kind() {
            Kind::Message(message) => Value::MessageMap(shape(&message, shapes)),
            Kind::String => Value::TextMap,
            kind => panic!("{}: no map of {kind:?}", descriptor.full_name()),
        },
        Kind::Bool => Value::Bool,
        Kind::Int32 | Kind::Int64 => Value::Signed,
        Kind::Uint32 | Kind::Uint64 => Value::Unsigned,
        Kind::Double => Value::Double,
        Kind::String => Value::Text,
        Kind::Message(message) if message.full_name() == TIMESTAMP => Value::Timestamp,
        Kind::Message(message) if message.full_name() == STRUCT => Value::Any,
        Kind::Message(message) => Value::Message(shape(&message, shapes)),
        kind => panic!("{}: no field of {kind:?}", descriptor.full_name()),
    }
}
