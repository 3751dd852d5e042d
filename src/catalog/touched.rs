//! The resources that a commit touched, read from its writes.

use bytes::Bytes;

use super::keys::{self, Parsed};
use crate::{resource::Kind, store::Write};

/// What a commit did to one resource.
#[derive(Clone, Debug)]
pub(super) struct Touched<'a> {
    /// The kind's tag.
    pub(super) tag: u8,
    pub(super) project: &'a str,
    /// The bytes of its id.
    pub(super) id: &'a [u8],
    /// Its name. After a delete, this is the last name that it had.
    pub(super) name: &'a str,
    pub(super) deed: Deed,
    /// The key and the value of its record. `None` if it was deleted.
    pub(super) record: Option<(&'a Bytes, &'a Bytes)>,
    /// Its secret fields, if it has any. They are written again with each change of the record.
    pub(super) secret: Option<&'a Bytes>,
}

impl Touched<'_> {
    /// The id of a resource of this kind as text.
    pub(super) fn id_of(&self, kind: Kind) -> String {
        if kind.is_named_by_id {
            self.name.to_owned()
        } else {
            keys::id_of_bytes(self.id)
        }
    }
}

/// The kinds of change to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Created,
    Updated,
    Deleted,
}

/// What a commit did to the resources for which `is_wanted` (by kind and project), in order.
pub(super) fn touched(writes: &[Write], is_wanted: impl Fn(u8, &str) -> bool) -> Vec<Touched<'_>> {
    let mut all: Vec<Touched<'_>> = Vec::new();
    for Write { key, value } in writes {
        let Some(parsed) = keys::parse(key) else {
            continue;
        };
        let Parsed {
            tag, project, id, ..
        } = parsed;
        if !is_wanted(tag, project) {
            continue;
        }
        let is_it = |it: &Touched<'_>| (it.tag, it.project, it.id) == (tag, project, id);
        // Most commits touch one resource, and the writes of one resource stand together.
        let at = all.iter().rposition(is_it).unwrap_or_else(|| {
            all.push(Touched {
                tag,
                project,
                id,
                name: "",
                deed: Deed::Updated,
                record: None,
                secret: None,
            });
            all.len() - 1
        });
        let it = &mut all[at];
        match (parsed.part, value) {
            // A rename puts the locator and the new record, and deletes the old record.
            (keys::Part::Locator, Some(_)) if it.record.is_none() && it.name.is_empty() => {
                it.deed = Deed::Created;
            }
            (keys::Part::Locator, None) => it.deed = Deed::Deleted,
            (keys::Part::Secret, value) => it.secret = value.as_ref(),
            (keys::Part::Record { name }, Some(value)) => {
                it.name = name;
                it.record = Some((key, value));
            }
            (keys::Part::Record { name }, None) if it.record.is_none() => it.name = name,
            (keys::Part::Record { .. }, None) | (keys::Part::Locator, Some(_)) => {}
        }
    }
    all
}
