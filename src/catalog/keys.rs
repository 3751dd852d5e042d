//! The keys, all of them:
//!
//! | key | value | why |
//! |---|---|---|
//! | `r` kind project `00` name `00` id | the encoded resource | lists are range scans in (name, id) order |
//! | `i` kind id project | name | finds a resource by its id, and a marker's place |
//! | `s` kind project `00` name `00` id | the resource's secret fields | lists do not hold them; they sort as the records do |
//! | `u` kind id project `00` user's kind user's id | nothing | finds the resources that refer to this one |
//! | `u` kind id project `00` user's kind | nothing | written whenever a reference to this one begins or ends: a transaction that
//! has read all of them expects this key |
//! | `a` | the last change's author, and what it replaced | in the journal each change has one: for audit and watches |
//!
//! `kind` is the resource's tag, one byte; `id` its 16 bytes, which sort as their hex digits do. Project and
//! name hold no `00`, so that a name sorts before its own extensions. The id stands before the project in
//! the locator, so that ids, which grow with time, keep new locators together at one end.

use std::ops::Bound;

use uuid::Uuid;

use crate::resource::{Names, ProjectId, Resource, ResourceId};

const RECORD: u8 = b'r';
const LOCATOR: u8 = b'i';
const SECRET: u8 = b's';
/// The key of the note that each commit leaves: its author, and what it replaced.
pub(super) const NOTE: [u8; 1] = [b'a'];
const USER: u8 = b'u';
const SEPARATOR: u8 = 0;
const ID_BYTES: usize = 16;

/// Which projects a request covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// One project's resources.
    Project(ProjectId),
    /// All projects' resources, sorted by project first.
    AllProjects,
}

/// The bounds of a range of keys.
pub(super) type Range = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// The key of a resource's record.
pub(super) fn record<R: Resource>(project: &str, name: &str, id: &ResourceId) -> Vec<u8> {
    let mut key = vec![RECORD, R::KIND.tag];
    key.extend_from_slice(project.as_bytes());
    key.push(SEPARATOR);
    key.extend_from_slice(name.as_bytes());
    key.push(SEPARATOR);
    key.extend_from_slice(id.as_bytes());
    key
}

/// The key of the secret fields of the resource with this record.
pub(super) fn secret_of(record: &[u8]) -> Vec<u8> {
    [&[SECRET], &record[1.min(record.len())..]].concat()
}

/// The prefix of all secret fields of a kind.
pub(super) fn secrets_of_kind<R: Resource>() -> [u8; 2] {
    [SECRET, R::KIND.tag]
}

/// The key of a resource's locator, which holds its name.
pub(super) fn locator<R: Resource>(project: &str, id: &ResourceId) -> Vec<u8> {
    let mut key = locators_of_id::<R>(id);
    key.extend_from_slice(project.as_bytes());
    key
}

/// The prefix of the keys of those resources of kind `R` that refer to another resource. That one is given by its tag and the bytes
/// of its id.
pub(super) fn users_of<R: Resource>((tag, id): (u8, [u8; ID_BYTES]), project: &str) -> Vec<u8> {
    let separated = [SEPARATOR, R::KIND.tag];
    [&[USER, tag], &id[..], project.as_bytes(), &separated].concat()
}

/// The key that says that a resource refers to another one.
pub(super) fn user<R: Resource>(
    of: (u8, [u8; ID_BYTES]),
    project: &str,
    id: &ResourceId,
) -> Vec<u8> {
    let mut key = users_of::<R>(of, project);
    key.extend_from_slice(id.as_bytes());
    key
}

/// The prefix of all keys that say that a resource of some kind is referred to.
pub(super) fn users_of_kind<R: Resource>() -> [u8; 2] {
    [USER, R::KIND.tag]
}

/// A reference from one resource to another.
pub(super) struct User<'a> {
    /// The tag and the id of the resource that is referred to.
    pub(super) of: (u8, [u8; ID_BYTES]),
    pub(super) project: &'a str,
    /// The id of the resource that refers to it. Empty in the key that stands for all of them.
    pub(super) id: &'a [u8],
}

/// The reference in a key, if the key is one.
pub(super) fn parse_user(key: &[u8]) -> Option<User<'_>> {
    let (&[_, tag], rest) = key.split_first_chunk()?;
    let (&of, rest) = rest.split_first_chunk()?;
    let end = rest.iter().position(|&byte| byte == SEPARATOR)?;
    let (project, rest) = rest.split_at(end);
    // The tag of the resource that refers follows the separator.
    let id = rest.get(2..)?;
    Some(User {
        of: (tag, of),
        project: std::str::from_utf8(project).ok()?,
        id,
    })
}

/// The id of the resource that refers to another one.
pub(super) fn id_of_user(key: &[u8]) -> Option<ResourceId> {
    let id = key.get(key.len().checked_sub(ID_BYTES)?..)?;
    ResourceId::parse("id", &id_of_bytes(id)).ok()
}

/// The key of the record that a locator leads to.
pub(super) fn record_of(tag: u8, project: &str, name: &[u8], id: &[u8]) -> Vec<u8> {
    let separator = &[SEPARATOR][..];
    [
        &[RECORD, tag],
        project.as_bytes(),
        separator,
        name,
        separator,
        id,
    ]
    .concat()
}

/// The key of the locator with these parts.
pub(super) fn locator_of(tag: u8, project: &str, id: &[u8]) -> Vec<u8> {
    [&[LOCATOR, tag], id, project.as_bytes()].concat()
}

/// The prefix of the locators of one id in all projects.
pub(super) fn locators_of_id<R: Resource>(id: &ResourceId) -> Vec<u8> {
    let mut key = vec![LOCATOR, R::KIND.tag];
    key.extend_from_slice(id.as_bytes());
    key
}

/// A range that holds the locators of ids that start with these hex digits. It holds a few more if their number is odd.
pub(super) fn locators_of_prefix<R: Resource>(prefix: &str) -> Range {
    let mut start = locators_of_kind::<R>().to_vec();
    let digits = prefix.as_bytes().chunks_exact(2);
    start.extend(
        digits.filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()),
    );
    starting_with(start)
}

/// The id in a locator.
pub(super) fn id_of_locator(key: &[u8]) -> Option<String> {
    Some(id_of_bytes(key.get(2..2 + ID_BYTES)?))
}

/// The hex digits of an id.
pub(super) fn id_of_bytes(bytes: &[u8]) -> String {
    let id = Uuid::from_slice(bytes).unwrap_or_default();
    id.simple().to_string()
}

/// The parts of a resource's key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parsed<'a> {
    /// The kind's tag.
    pub(super) tag: u8,
    pub(super) project: &'a str,
    /// The bytes of the resource's id.
    pub(super) id: &'a [u8],
    pub(super) part: Part<'a>,
}

/// Which part of a resource a key holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part<'a> {
    /// The locator that leads to the record.
    Locator,
    /// The secret fields.
    Secret,
    Record {
        name: &'a str,
    },
}

/// The parts of a key, if it is a resource's.
pub(super) fn parse(key: &[u8]) -> Option<Parsed<'_>> {
    let (&[first, tag], rest) = key.split_first_chunk()?;
    if first == LOCATOR {
        return Some(Parsed {
            tag,
            project: project_of_locator(key)?,
            id: rest.get(..ID_BYTES)?,
            part: Part::Locator,
        });
    }
    let (place, id) = rest.split_at_checked(rest.len().checked_sub(ID_BYTES)?)?;
    let mut parts = place.split(|&byte| byte == SEPARATOR);
    let mut text = || std::str::from_utf8(parts.next()?).ok();
    let (project, name) = (text()?, text()?);
    let part = match first {
        RECORD => Part::Record { name },
        SECRET => Part::Secret,
        _ => return None,
    };
    Some(Parsed {
        tag,
        project,
        id,
        part,
    })
}

/// The prefix of all records of a kind.
pub(super) fn records_of_kind<R: Resource>() -> [u8; 2] {
    [RECORD, R::KIND.tag]
}

/// The prefix of all locators of a kind.
pub(super) fn locators_of_kind<R: Resource>() -> [u8; 2] {
    [LOCATOR, R::KIND.tag]
}

/// The project that a locator names.
pub(super) fn project_of_locator(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.get(2 + ID_BYTES..)?).ok()
}

/// The part of a record's key that gives its place in the order of its kind.
pub(super) fn place(key: &[u8]) -> &[u8] {
    &key[2.min(key.len())..]
}

/// The key of the locator of the record at a place.
pub(super) fn locator_at<R: Resource>(place: &[u8]) -> Vec<u8> {
    let project = place
        .split(|&byte| byte == SEPARATOR)
        .next()
        .unwrap_or_default();
    let id = &place[place.len().saturating_sub(ID_BYTES)..];
    [&[LOCATOR, R::KIND.tag], id, project].concat()
}

/// The key of the record at a place.
pub(super) fn record_at<R: Resource>(place: &[u8]) -> Vec<u8> {
    [&[RECORD, R::KIND.tag], place].concat()
}

/// The range of the records of a scope with these names. It starts after a place, if one is given.
pub(super) fn records<R: Resource>(scope: &Scope, names: Names<'_>, after: Option<&[u8]>) -> Range {
    let mut prefix = vec![RECORD, R::KIND.tag];
    // Names are in order only within one project, so that they narrow the range only there.
    if let Scope::Project(project) = scope {
        prefix.extend_from_slice(project.as_str().as_bytes());
        prefix.push(SEPARATOR);
        match names {
            Names::StartingWith(start) => prefix.extend_from_slice(start.as_bytes()),
            Names::Exactly(name) => {
                prefix.extend_from_slice(name.as_bytes());
                prefix.push(SEPARATOR);
            }
        }
    }
    let (start, end) = starting_with(prefix);
    match after.map(record_at::<R>) {
        Some(after) if matches!(&start, Bound::Included(start) if after >= *start) => {
            (Bound::Excluded(after), end)
        }
        _ => (start, end),
    }
}

/// The range of all keys that start with a prefix.
pub(super) fn starting_with(prefix: Vec<u8>) -> Range {
    let mut end = prefix.clone();
    while end.last() == Some(&u8::MAX) {
        end.pop();
    }
    match end.last_mut() {
        Some(last) => {
            *last += 1;
            (Bound::Included(prefix), Bound::Excluded(end))
        }
        None => (Bound::Included(prefix), Bound::Unbounded),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Action, Job};
    use proptest::prelude::*;

    fn id(digit: char) -> ResourceId {
        ResourceId::parse("id", &digit.to_string().repeat(32)).unwrap()
    }

    proptest! {
        #[test]
        fn records_sort_by_project_then_name_then_id(
            a in ("[a-c]{1,3}", "[ -~é€]{1,4}", "[0-9a-f]"),
            b in ("[a-c]{1,3}", "[ -~é€]{1,4}", "[0-9a-f]"),
        ) {
            let key = |(project, name, digit): &(String, String, String)| {
                record::<Job>(project, name, &id(digit.chars().next().unwrap()))
            };
            prop_assert_eq!(key(&a).cmp(&key(&b)), a.cmp(&b));
        }

        #[test]
        fn a_range_holds_just_its_names(name in "[a-b]{1,3}", wanted in "[a-b]{1,3}", exactly: bool) {
            let scope = Scope::Project(ProjectId::parse("project_id", "p").unwrap());
            let names = if exactly { Names::Exactly(&wanted) } else { Names::StartingWith(&wanted) };
            let (start, end) = records::<Job>(&scope, names, None);
            let key = record::<Job>("p", &name, &id('f'));
            let inside = std::ops::RangeBounds::contains(&(start, end), &key);
            prop_assert_eq!(inside, if exactly { name == wanted } else { name.starts_with(&wanted) });
        }
    }

    #[test]
    fn a_project_does_not_hold_those_that_it_is_a_prefix_of() {
        let scope = Scope::Project(ProjectId::parse("project_id", "p").unwrap());
        let range = records::<Job>(&scope, Names::StartingWith(""), None);
        assert!(std::ops::RangeBounds::contains(
            &range,
            &record::<Job>("p", "n", &id('0'))
        ));
        assert!(!std::ops::RangeBounds::contains(
            &range,
            &record::<Job>("p2", "n", &id('0'))
        ));
    }

    #[test]
    fn a_place_leads_to_its_locator() {
        let record = record::<Job>("p", "name", &id('7'));
        assert_eq!(
            locator_at::<Job>(place(&record)),
            locator::<Job>("p", &id('7'))
        );
    }

    #[test]
    fn a_reference_names_both_ends() {
        let of = (Action::KIND.tag, *id('a').as_bytes());
        let (key, all) = (user::<Job>(of, "p", &id('7')), users_of::<Job>(of, "p"));
        assert!(key.starts_with(&all) && all.starts_with(&users_of_kind::<Action>()));
        assert!(!key.starts_with(&users_of::<Job>(of, "p2")));
        let others = (Action::KIND.tag, *id('b').as_bytes());
        assert!(!key.starts_with(&users_of::<Job>(others, "p")));
        assert_eq!(id_of_user(&key), Some(id('7')));
        for (key, user_id) in [(&key, &id('7').as_bytes()[..]), (&all, &[])] {
            let user = parse_user(key).unwrap();
            assert_eq!((user.of, user.project, user.id), (of, "p", user_id));
        }
        assert!(parse_user(&all[..all.len() - 2]).is_none());
        let job = record_of(Job::KIND.tag, "p", b"name", id('7').as_bytes());
        assert_eq!(job, record::<Job>("p", "name", &id('7')));
        let found_by = locator_of(Job::KIND.tag, "p", id('7').as_bytes());
        assert_eq!(found_by, locator::<Job>("p", &id('7')));
    }

    #[test]
    fn a_prefix_of_highest_bytes_has_an_open_end() {
        assert_eq!(
            starting_with(vec![0xff]),
            (Bound::Included(vec![0xff]), Bound::Unbounded)
        );
        assert_eq!(
            starting_with(vec![1, 0xff]),
            (Bound::Included(vec![1, 0xff]), Bound::Excluded(vec![2]))
        );
    }
}
