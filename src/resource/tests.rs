//! What must hold for all kinds of resources.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, Value};

use super::{Chosen, Filter, Names, Resource};
use crate::proto::{
    self, Action, Backup, BackupMetadata, Client, FreezerAction, Job, JobSchedule, Session,
    SessionJob,
};

/// Filters that each ask for one thing: values that a sample may have, and others.
fn filters<F: prost::Name + Default>(texts: &[&str]) -> Vec<F> {
    let descriptor = proto::descriptor_of::<F>();
    let mut filters = vec![F::default()];
    for field in descriptor.fields() {
        for value in values(&field, texts) {
            let mut filter = DynamicMessage::new(descriptor.clone());
            filter.set_field(&field, value);
            filters.push(proto::from_dynamic(&filter).expect("a filter"));
        }
    }
    filters
}

fn values(field: &FieldDescriptor, texts: &[&str]) -> Vec<Value> {
    match field.kind() {
        Kind::String if field.name() == "label_selector" => ["env=prod", "env!=prod", "tier"]
            .iter()
            .map(|text| Value::String((*text).into()))
            .collect(),
        Kind::String => texts
            .iter()
            .map(|text| Value::String((*text).into()))
            .collect(),
        Kind::Bool => vec![Value::Bool(true), Value::Bool(false)],
        Kind::Int32 => vec![Value::I32(7), Value::I32(8)],
        Kind::Int64 => vec![Value::I64(7), Value::I64(8)],
        kind => panic!("no values of {kind:?} are known here"),
    }
}

/// Checks that a filter decides the same for a resource's facets as for the resource, because a watch knows only the facets of what
/// was replaced. Also checks that its names and the rest of it are the whole filter: a list reads only records with these names, and
/// compares them with the rest.
fn facets_and_names_are_enough_for_filters<R: Resource + std::fmt::Debug>(
    samples: &[R],
    texts: &[&str],
) where
    R::Filter: prost::Name,
{
    let mut said = [0, 0];
    for sample in samples {
        for filter in filters::<R::Filter>(texts) {
            let chosen = Chosen::<R>::by(filter.clone());
            let whole = chosen.matches(&sample.encode_to_vec()).unwrap();
            let facets = chosen.matches(&sample.facets().encode_to_vec()).unwrap();
            assert_eq!(whole, facets, "{filter:?} of {sample:?}");
            let is_in_range = match filter.names() {
                Names::Exactly(name) => sample.name() == name,
                Names::StartingWith(prefix) => sample.name().starts_with(prefix),
            };
            let rest = Chosen::<R>::by(filter.beyond_names());
            let rest = rest.matches(&sample.encode_to_vec()).unwrap();
            assert_eq!(whole, is_in_range && rest, "{filter:?} of {sample:?}");
            said[usize::from(whole)] += 1;
        }
    }
    assert!(said[0] > 0 && said[1] > samples.len(), "{said:?}");
}

const ID: &str = "0ae284d514eb47dd84154748b5056749";

fn labels() -> std::collections::BTreeMap<String, String> {
    [("env".to_owned(), "prod".to_owned())].into()
}

#[test]
fn facets_and_names_are_enough_for_filters_of_backups_and_jobs() {
    let backup = Backup {
        client_id: "text".into(),
        job_id: ID.into(),
        status: "error".into(),
        labels: labels(),
        backup_metadata: Some(BackupMetadata {
            backup_name: "text".into(),
            container: "text".into(),
            hostname: "text".into(),
            storage: "text".into(),
            mode: "text".into(),
            time_stamp: 7,
            curr_backup_level: 7,
            ..BackupMetadata::default()
        }),
        ..Backup::default()
    };
    let texts = ["text", "other", ID, "error", "available"];
    facets_and_names_are_enough_for_filters(&[backup, Backup::default()], &texts);
    let job = Job {
        client_id: "text".into(),
        description: "text".into(),
        session_id: ID.into(),
        labels: labels(),
        job_schedule: Some(JobSchedule {
            status: "running".into(),
            result: "fail".into(),
            event: "stop".into(),
            ..JobSchedule::default()
        }),
        ..Job::default()
    };
    let texts = ["text", "other", ID, "running", "fail", "stop"];
    facets_and_names_are_enough_for_filters(&[job, Job::default()], &texts);
}

#[test]
fn facets_and_names_are_enough_for_filters_of_the_others() {
    let client = Client {
        client_id: "text".into(),
        hostname: "text".into(),
        is_central: true,
        labels: labels(),
        ..Client::default()
    };
    facets_and_names_are_enough_for_filters(&[client, Client::default()], &["text", "other"]);
    let action = Action {
        freezer_action: Some(FreezerAction {
            action: "backup".into(),
            mode: "fs".into(),
            backup_name: "text".into(),
            ..FreezerAction::default()
        }),
        ..Action::default()
    };
    let texts = ["text", "other", "backup", "fs"];
    facets_and_names_are_enough_for_filters(&[action, Action::default()], &texts);
    let session = Session {
        description: "text".into(),
        status: "running".into(),
        result: "fail".into(),
        jobs: [(ID.to_owned(), SessionJob::default())].into(),
        ..Session::default()
    };
    let texts = ["text", "other", ID, "running", "fail"];
    facets_and_names_are_enough_for_filters(&[session, Session::default()], &texts);
}
