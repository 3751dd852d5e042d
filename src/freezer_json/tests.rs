//! Reading and writing documents, and that one undoes the other.

use proptest::prelude::*;
use serde_json::json;

use prost_reflect::{DynamicMessage, Value as Field};
use prost_types::Struct;
use serde_json::{Map, Value};

use super::{
    read::{BESIDE_METADATA, EXTRA_NESTING_MAX, Reading, read_backup, read_job, read_session},
    shape::ALWAYS_WRITTEN,
    *,
};
use crate::{
    proto::{self, BackupMetadata, FreezerAction, JobAction, JobSchedule},
    resource::Violations,
};

const BACKUPS_LIST: &str = include_str!("../../tests/data/backups-list.json");
const JOBS_LIST: &str = include_str!("../../tests/data/jobs-list.json");
const JOB_CREATE: &str = include_str!("../../tests/data/job-create.json");

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn write(document: &Document) -> Value {
    match document {
        Document::Backup(backup) => backup.to_document(Form::Document),
        Document::Job(job) => job.to_document(Form::Document),
        Document::Client(client) => client.to_document(Form::Document),
        Document::Action(action) => action.to_document(Form::Document),
        Document::Session(session) => session.to_document(Form::Document),
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
    for (message, _, _, keys) in ALWAYS_WRITTEN {
        let descriptor = proto::descriptor_of::<Backup>()
            .parent_pool()
            .get_message_by_name(message);
        for key in *keys {
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
    let written = Backup {
        backup_metadata: Some(read),
        ..Backup::default()
    }
    .to_document(Form::Document);
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
fn a_session_that_has_never_run_is_active_in_freezer() {
    let document = json!({"schedule": {}, "status": "active", "jobs": [], "last_start": ""});
    let (session, notes) = read_session(&document).unwrap();
    assert_eq!((session.status.as_str(), notes.len()), ("", 0));
    let running = json!({"schedule": {}, "status": "running", "last_start": "today"});
    let (session, notes) = read_session(&running).unwrap();
    assert_eq!((session.status.as_str(), notes.len()), ("running", 1));
}

#[test]
fn keys_without_a_place_are_left_out_and_told() {
    let (job, notes) = read_job(&json!({
        "description": "nightly", "_version": 3, "revision": 7, "create_time": 5,
        "job_actions": [{"project_id": "p", "shape": "round"}], "colour": "red",
    }))
    .unwrap();
    assert_eq!(job.revision, 0);
    assert_eq!(
        notes,
        [
            "job_actions[0].shape was left out: Icebox has no such field",
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
fn a_document_changes_the_keys_that_it_has_down_to_the_leaves() {
    let (job, changed): (Job, _) = read_changes(&json!({
        "session_id": "", "session_tag": null, "revision": 9, "colour": "red",
        "job_schedule": {"status": "running", "event": "", "current_pid": 7, "time_ended": null},
        "job_actions": [{"freezer_action": {"action": "backup", "volume": "v"}}],
        "action_defaults": {"max_level": "many", "mode": "fs", "volume": "v"},
        "labels": {"tier": "gold"}, "user_credentials": {},
    }))
    .unwrap();
    assert_eq!(
        changed,
        [
            "session_id",
            "session_tag",
            "job_schedule.status",
            "job_schedule.event",
            "job_schedule.current_pid",
            "job_schedule.time_ended",
            "job_actions",
            "action_defaults.max_level",
            "action_defaults.extra.max_level",
            "action_defaults.mode",
            "action_defaults.extra.volume",
            "labels",
        ]
    );
    assert_eq!(job.job_schedule.unwrap().current_pid, 7);
}

#[test]
fn other_shapes_are_refused_with_what_is_expected() {
    for value in [
        json!({}),
        json!({"backup_id": "1"}),
        json!({"backup_metadata": null}),
        json!({"freezer_action": null}),
        json!({"job_actions": null}),
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
    assert_eq!(job.to_document(Form::Document), document(EXTRA_NESTING_MAX));
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
    let written = job.to_document(Form::Full);
    assert_eq!(
        written,
        json!({"job_actions": [], "create_time": "2017-02-09T17:10:14.5Z", "revision": 12})
    );
    assert_eq!(job.to_document(Form::Document), json!({"job_actions": []}));
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
    assert_eq!(backup.to_document(Form::Full)["create_time"], Value::Null);
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

/// A message with every field set or not, except those that only the server sets.
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

/// Keys that are not fields (`extra` itself among them), with any values.
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

/// Mostly keys that have a meaning somewhere.
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

/// Documents so near to real ones that most are recognised and many can be read.
fn any_document() -> BoxedStrategy<Value> {
    let members = || prop::collection::btree_map(any_key(), any_json(any::<f64>().boxed()), 0..8);
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
        let (read, notes) = read_backup(&backup.to_document(Form::Full)).unwrap();
        prop_assert_eq!(read, backup);
        prop_assert!(notes.is_empty());
    }

    #[test]
    fn a_written_job_reads_back_the_same(message in any_message(&proto::descriptor_of::<Job>())) {
        let mut job: Job = proto::from_dynamic(&message).unwrap();
        if job.description.is_empty() {
            job.description = "an unnamed job is given a name".into();
        }
        let text = job.to_document(Form::Document).to_string();
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

fn changed_by_its_own_document<R: crate::resource::Resource>(resource: &R) -> R {
    let mut text = Vec::new();
    let written = Writer::of_fields::<R>(Form::Api).write(&resource.encode_to_vec(), &mut text);
    written.unwrap();
    let mut document = serde_json::from_slice::<Value>(&text).unwrap();
    document
        .as_object_mut()
        .unwrap()
        .retain(|key, _| !R::OUTPUT_ONLY.contains(&key.as_str()));
    let (read, mut paths): (R, _) = read_changes(&document).unwrap();
    paths.retain(|path| !R::IMMUTABLE.contains(&path.as_str()));
    let mask = prost_types::FieldMask { paths };
    let patch = crate::resource::Patch::new(&read, Some(&mask)).unwrap();
    patch.apply(resource).unwrap()
}

proptest! {
    #[test]
    fn a_job_that_is_sent_back_as_it_was_read_stays_as_it_was(message in any_message(&proto::descriptor_of::<Job>())) {
        let mut job: Job = proto::from_dynamic(&message).unwrap();
        // Times that have not happened are -1 over HTTP.
        let schedule = job.job_schedule.get_or_insert_default();
        for time in [&mut schedule.time_created, &mut schedule.time_started, &mut schedule.time_ended] {
            if *time == 0 {
                *time = -1;
            }
        }
        prop_assert_eq!(changed_by_its_own_document(&job), job);
    }

    #[test]
    fn a_backup_that_is_sent_back_as_it_was_read_stays_as_it_was(message in any_message(&proto::descriptor_of::<Backup>())) {
        let mut backup: Backup = proto::from_dynamic(&message).unwrap();
        backup.backup_metadata.get_or_insert_default();
        prop_assert_eq!(changed_by_its_own_document(&backup), backup);
    }
}
