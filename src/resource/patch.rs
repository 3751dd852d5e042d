//! Updates: which fields an update mask names, and how they get into a stored resource.
//!
//! Descriptors drive this, so that every resource has the same rules (AIP-134, AIP-161). An empty mask takes every field that is
//! set in the message. `*` takes all fields, and clears those that are not set. A path takes one field; a message or a list is
//! taken as a whole.

use std::{borrow::Cow, collections::HashMap, marker::PhantomData};

use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value,
};
use prost_types::FieldMask;

use super::{Resource, Violations, rules};
use crate::proto;

/// The most paths in one mask: no resource has more fields.
const PATHS_MAX: usize = 256;
const STRUCT: &str = "google.protobuf.Struct";
const STRUCT_FIELDS: &str = "fields";

/// An update whose paths all name fields that exist and may change.
#[derive(Clone, Debug)]
pub(crate) struct Patch<R> {
    source: DynamicMessage,
    edits: Vec<Path>,
    /// Immutable fields that the message sets although the mask does not name them.
    unchanged: Vec<Path>,
    resource: PhantomData<fn() -> R>,
}

/// The path to a field, or to a key of a `Struct`.
#[derive(Clone, Debug, PartialEq)]
struct Path {
    fields: Vec<FieldDescriptor>,
    /// The key, if the last field is a `Struct`.
    key: Option<MapKey>,
}

impl<R: Resource> Patch<R> {
    /// The update that takes the fields in `mask` from `resource`.
    ///
    /// # Errors
    /// A violation for each path that names no field, or one that cannot be updated.
    pub(crate) fn new(resource: &R, mask: Option<&FieldMask>) -> Result<Patch<R>, Violations> {
        let source = proto::to_dynamic(resource);
        let descriptor = source.descriptor();
        let paths = mask.map_or(&[][..], |mask| &mask.paths);
        let mut violations = Violations::new();
        let mut patch = Patch {
            source,
            edits: Vec::new(),
            unchanged: Vec::new(),
            resource: PhantomData,
        };
        match paths {
            [] => {
                let mut set = Vec::new();
                collect_set(&patch.source, &mut Vec::new(), &mut set);
                patch.take(set);
            }
            [all] if all == "*" => {
                patch.take(
                    descriptor
                        .fields()
                        .flat_map(|field| with_immutables_apart::<R>(field))
                        .collect(),
                );
            }
            _ if paths.len() > PATHS_MAX => {
                violations.add(
                    "update_mask.paths",
                    format!("must be at most {PATHS_MAX} paths"),
                );
            }
            _ => {
                for (n, path) in paths.iter().enumerate() {
                    match named::<R>(&descriptor, path) {
                        Ok(named) if R::MERGED.contains(&named.to_string().as_str()) => {
                            patch.take(patch.set_within(&named));
                        }
                        Ok(named) => patch.edits.push(named),
                        Err(reason) => violations.add(format!("update_mask.paths[{n}]"), reason),
                    }
                }
            }
        }
        violations.or(patch)
    }

    /// Makes the update fail if one of these fields, which cannot be changed, differs from what is stored.
    ///
    /// # Errors
    /// A violation for each path that names no field.
    pub(crate) fn keep(&mut self, paths: &[String]) -> Result<(), Violations> {
        let descriptor = self.source.descriptor();
        let mut violations = Violations::new();
        for path in paths {
            match resolve(&descriptor, path) {
                Ok(kept) => self.unchanged.push(kept),
                Err(reason) => violations.add(path, reason),
            }
        }
        violations.or(())
    }

    /// Takes paths that the mask did not name one by one. Fields that the server sets are left out.
    fn take(&mut self, paths: Vec<Path>) {
        for path in paths {
            let name = path.to_string();
            if R::IMMUTABLE.contains(&name.as_str()) {
                self.unchanged.push(path);
            } else if !R::OUTPUT_ONLY.contains(&name.as_str()) {
                self.edits.push(path);
            }
        }
    }

    /// The paths of the fields that are set within the message at a path.
    fn set_within(&self, path: &Path) -> Vec<Path> {
        let mut set = Vec::new();
        if let Some(Value::Message(message)) = path.get(&self.source) {
            collect_set(message, &mut path.fields.clone(), &mut set);
        }
        set
    }

    /// The stored resource with the update applied. Its rules are not checked yet.
    ///
    /// # Errors
    /// A violation for each immutable field that the update would change.
    pub(crate) fn apply(&self, stored: &R) -> Result<R, Violations> {
        let mut target = proto::to_dynamic(stored);
        let mut violations = Violations::new();
        for path in &self.unchanged {
            if path
                .get(&self.source)
                .is_some_and(|value| path.get(&target) != Some(value))
            {
                violations.add(
                    format!("{}.{path}", R::KIND.field),
                    "cannot be changed after it was created",
                );
            }
        }
        for path in &self.edits {
            path.set(&mut target, path.get(&self.source).cloned());
        }
        violations.or(())?;
        Ok(proto::from_dynamic(&target).expect("the message has the fields of R and no others"))
    }
}

/// Collects every set field below `message`: message by message, and `Struct` key by key.
fn collect_set(message: &DynamicMessage, way: &mut Vec<FieldDescriptor>, set: &mut Vec<Path>) {
    for (field, value) in message.fields() {
        way.push(field.clone());
        match (value, is_struct(&field)) {
            (Value::Message(inner), true) => {
                let keys = struct_map(inner).into_iter().flat_map(HashMap::keys);
                set.extend(keys.cloned().map(|key| Path {
                    fields: way.clone(),
                    key: Some(key),
                }));
            }
            (Value::Message(inner), false)
                if inner.descriptor().package_name() != "google.protobuf" =>
            {
                collect_set(inner, way, set);
            }
            _ => set.push(Path {
                fields: way.clone(),
                key: None,
            }),
        }
        way.pop();
    }
}

/// A top-level field. If a field within it is immutable, the fields within it.
fn with_immutables_apart<R: Resource>(field: FieldDescriptor) -> Vec<Path> {
    let prefix = format!("{}.", field.name());
    let apart = R::IMMUTABLE.iter().any(|path| path.starts_with(&prefix));
    match field.kind() {
        Kind::Message(inner) if apart => inner
            .fields()
            .map(|inner| Path {
                fields: vec![field.clone(), inner],
                key: None,
            })
            .collect(),
        _ => vec![Path {
            fields: vec![field],
            key: None,
        }],
    }
}

/// The field that a path in a mask names, if an update may change it.
fn named<R: Resource>(descriptor: &MessageDescriptor, path: &str) -> Result<Path, String> {
    let resolved = resolve(descriptor, path)?;
    let name = resolved.to_string();
    let within = |list: &[&str]| {
        list.iter().any(|field| {
            name == *field
                || name
                    .strip_prefix(field)
                    .is_some_and(|rest| rest.starts_with('.'))
        })
    };
    if within(R::OUTPUT_ONLY) {
        return Err(format!(
            "{name} is set by the server: leave it out of the mask"
        ));
    }
    if within(R::IMMUTABLE) {
        return Err(format!("{name} cannot be changed after it was created"));
    }
    Ok(resolved)
}

fn resolve(descriptor: &MessageDescriptor, path: &str) -> Result<Path, String> {
    if path == "*" {
        return Err("\"*\" must be the only path".into());
    }
    let mut fields = Vec::new();
    let mut message = Some(descriptor.clone());
    let mut rest = Some(path);
    while let Some(segments) = rest {
        let (segment, after) = segments
            .split_once('.')
            .map_or((segments, None), |(s, after)| (s, Some(after)));
        let Some(inner) = message else {
            let whole = Path { fields, key: None };
            return Err(format!(
                "{whole} has no fields to name: it is taken as a whole"
            ));
        };
        let field = inner
            .get_field_by_name(segment)
            .ok_or_else(|| no_such_field(&inner, segment))?;
        message = match field.kind() {
            Kind::Message(next) if !field.is_list() => Some(next),
            _ => None,
        };
        let is_struct = is_struct(&field);
        fields.push(field);
        // What follows a `Struct` is one of its keys, whatever characters it has.
        if let (true, Some(key)) = (is_struct, after) {
            return Ok(Path {
                fields,
                key: Some(MapKey::String(key.to_owned())),
            });
        }
        rest = after;
    }
    Ok(Path { fields, key: None })
}

fn no_such_field(message: &MessageDescriptor, segment: &str) -> String {
    let fields: Vec<_> = message.fields().collect();
    let hint = rules::did_you_mean(segment, fields.iter().map(FieldDescriptor::name));
    format!(
        "names no field: {} has no {}{hint}",
        message.name(),
        rules::quoted(segment)
    )
}

fn is_struct(field: &FieldDescriptor) -> bool {
    matches!(field.kind(), Kind::Message(message) if message.full_name() == STRUCT)
}

/// The keys of a `Struct` and their values.
fn struct_map(message: &DynamicMessage) -> Option<&HashMap<MapKey, Value>> {
    let fields = message.descriptor().get_field_by_name(STRUCT_FIELDS)?;
    set_in(message, &fields)?.as_map()
}

/// The value of a field, if it is set. It is borrowed, so that no message is copied just to look at it.
fn set_in<'a>(message: &'a DynamicMessage, field: &FieldDescriptor) -> Option<&'a Value> {
    match message.get_field(field) {
        Cow::Borrowed(value) if message.has_field(field) => Some(value),
        _ => None,
    }
}

impl Path {
    fn last(&self) -> &FieldDescriptor {
        self.fields.last().expect("a path names at least one field")
    }

    /// The value, if it is set.
    fn get<'a>(&self, root: &'a DynamicMessage) -> Option<&'a Value> {
        let (last, way) = self.fields.split_last()?;
        let mut message = root;
        for field in way {
            message = set_in(message, field)?.as_message()?;
        }
        let value = set_in(message, last)?;
        match &self.key {
            None => Some(value),
            Some(key) => struct_map(value.as_message()?)?.get(key),
        }
    }

    /// Sets or clears the value. Messages on the way are made only if there is a value to set.
    fn set(&self, root: &mut DynamicMessage, value: Option<Value>) {
        let way = if self.key.is_some() {
            &self.fields[..]
        } else {
            &self.fields[..self.fields.len() - 1]
        };
        let mut message = root;
        for field in way {
            if value.is_none() && !message.has_field(field) {
                return;
            }
            message = message
                .get_field_mut(field)
                .as_message_mut()
                .expect("resolved as a message");
        }
        match (&self.key, value) {
            (None, Some(value)) => message.set_field(self.last(), value),
            (None, None) => message.clear_field(self.last()),
            (Some(key), value) => {
                let fields = message
                    .get_field_by_name_mut(STRUCT_FIELDS)
                    .and_then(Value::as_map_mut);
                let fields = fields.expect("a Struct has its map");
                match value {
                    Some(value) => fields.insert(key.clone(), value),
                    None => fields.remove(key),
                };
            }
        }
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, field) in self.fields.iter().enumerate() {
            write!(f, "{}{}", if n == 0 { "" } else { "." }, field.name())?;
        }
        let key = self.key.as_ref().and_then(MapKey::as_str);
        key.map_or(Ok(()), |key| write!(f, ".{key}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Backup, BackupMetadata, Job, JobSchedule};
    use prost_types::{Struct, value};

    fn job() -> Job {
        Job {
            job_id: "0ae284d514eb47dd84154748b5056749".into(),
            project_id: "demo".into(),
            user_id: "u1".into(),
            description: "nightly".into(),
            session_tag: 3,
            job_schedule: Some(JobSchedule {
                schedule_interval: "1 days".into(),
                status: "running".into(),
                ..JobSchedule::default()
            }),
            revision: 7,
            ..Job::default()
        }
    }

    fn backup(extra: &[(&str, &str)]) -> Backup {
        let string = |text: &str| prost_types::Value {
            kind: Some(value::Kind::StringValue(text.into())),
        };
        let fields = extra
            .iter()
            .map(|&(key, text)| (key.to_owned(), string(text)))
            .collect();
        Backup {
            backup_metadata: Some(BackupMetadata {
                backup_name: "etc".into(),
                extra: Some(Struct { fields }),
                ..BackupMetadata::default()
            }),
            ..Backup::default()
        }
    }

    fn mask(paths: &[&str]) -> FieldMask {
        FieldMask {
            paths: paths.iter().map(|&path| path.into()).collect(),
        }
    }

    fn patched<R: Resource>(stored: &R, source: &R, paths: &[&str]) -> Result<R, Violations> {
        Patch::new(source, Some(&mask(paths)))?.apply(stored)
    }

    #[test]
    fn an_empty_mask_takes_every_field_that_is_set_down_to_the_leaves() {
        let source = Job {
            revision: 99,
            user_id: "forged".into(),
            session_tag: 4,
            job_schedule: Some(JobSchedule {
                status: "completed".into(),
                ..JobSchedule::default()
            }),
            ..Job::default()
        };
        let mut expected = job();
        expected.session_tag = 4;
        expected.job_schedule.as_mut().unwrap().status = "completed".into();
        assert_eq!(patched(&job(), &source, &[]).unwrap(), expected);
        assert_eq!(
            Patch::new(&source, None).unwrap().apply(&job()).unwrap(),
            expected
        );
    }

    #[test]
    fn a_star_takes_all_and_clears_what_is_not_set() {
        let source = Job {
            description: "weekly".into(),
            ..Job::default()
        };
        let expected = Job {
            description: "weekly".into(),
            session_tag: 0,
            job_schedule: None,
            ..job()
        };
        assert_eq!(patched(&job(), &source, &["*"]).unwrap(), expected);
    }

    #[test]
    fn a_path_takes_one_field_and_a_message_as_a_whole() {
        let source = Job {
            description: "ignored".into(),
            job_schedule: Some(JobSchedule {
                status: "completed".into(),
                ..JobSchedule::default()
            }),
            ..Job::default()
        };
        let one = patched(&job(), &source, &["job_schedule.status"]).unwrap();
        let mut expected = job();
        expected.job_schedule.as_mut().unwrap().status = "completed".into();
        assert_eq!(one, expected);
        let whole = patched(&job(), &source, &["job_schedule", "session_tag"]).unwrap();
        assert_eq!(
            whole,
            Job {
                job_schedule: source.job_schedule.clone(),
                session_tag: 0,
                ..job()
            }
        );
        let cleared = patched(&job(), &Job::default(), &["job_schedule.status"]).unwrap();
        assert_eq!(cleared.job_schedule.unwrap().status, "");
        let without = Job {
            job_schedule: None,
            ..job()
        };
        assert_eq!(
            patched(&without, &Job::default(), &["job_schedule.status"]).unwrap(),
            without
        );
    }

    #[test]
    fn metadata_is_merged_and_so_are_the_keys_of_extra() {
        let stored = backup(&[("a", "1"), ("b", "2")]);
        let mut source = backup(&[("b", "3"), ("c.d", "4")]);
        source.backup_metadata.as_mut().unwrap().backup_name.clear();
        source.backup_metadata.as_mut().unwrap().hostname = "node1".into();
        let mut expected = backup(&[("a", "1"), ("b", "3"), ("c.d", "4")]);
        expected.backup_metadata.as_mut().unwrap().hostname = "node1".into();
        assert_eq!(patched(&stored, &source, &[]).unwrap(), expected);
        assert_eq!(
            patched(&stored, &source, &["backup_metadata"]).unwrap(),
            expected
        );
        let keys = ["backup_metadata.extra.a", "backup_metadata.extra.c.d"];
        assert_eq!(
            patched(&stored, &source, &keys).unwrap(),
            backup(&[("b", "2"), ("c.d", "4")])
        );
    }

    #[test]
    fn the_time_grows_with_the_keys_and_not_with_their_square() {
        let with_keys = |count: usize| {
            let keys: Vec<_> = (0..count).map(|n| format!("key{n:06}")).collect();
            let extra: Vec<_> = keys.iter().map(|key| (key.as_str(), "1")).collect();
            let (stored, source) = (backup(&extra), backup(&extra));
            let start = std::time::Instant::now();
            patched(&stored, &source, &[]).unwrap();
            start.elapsed()
        };
        with_keys(500);
        let (few, many) = (with_keys(500), with_keys(8_000));
        // 16 times as many paths. If each were compared with each, it would take 256 times as long.
        assert!(many < few * 100, "{few:?} and {many:?}");
    }

    #[test]
    fn an_immutable_field_may_be_repeated_but_not_changed() {
        let same = backup(&[]);
        assert_eq!(patched(&same, &same, &["*"]).unwrap(), same);
        let mut renamed = same.clone();
        renamed.backup_metadata.as_mut().unwrap().backup_name = "var".into();
        for paths in [&[][..], &["*"], &["backup_metadata"]] {
            let refused = patched(&same, &renamed, paths).unwrap_err().to_string();
            assert_eq!(
                refused,
                "backup.backup_metadata.backup_name cannot be changed after it was created",
                "{paths:?}"
            );
        }
    }

    #[test]
    fn paths_that_cannot_be_updated_are_all_told() {
        let paths = [
            "descripton",
            "revision",
            "job_id",
            "job_actions.freezer_action",
            "job_schedule.status.x",
            "*",
            "",
            "description",
        ];
        let refused = Patch::new(&job(), Some(&mask(&paths))).unwrap_err();
        let fields: Vec<_> = refused
            .iter()
            .map(|violation| violation.field.as_str())
            .collect();
        let expected: Vec<_> = (0..7).map(|n| format!("update_mask.paths[{n}]")).collect();
        assert_eq!(fields, expected);
        assert!(
            refused
                .to_string()
                .contains("did you mean \"description\"?"),
            "{refused}"
        );
        assert!(Patch::new(&job(), Some(&mask(&vec!["description"; PATHS_MAX + 1]))).is_err());
    }
}
