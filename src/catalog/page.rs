//! Pages: a bounded range scan that starts right after the last-seen item.

use std::{
    collections::HashMap,
    fmt,
    ops::{Bound, ControlFlow},
    sync::Arc,
};

use bytes::Bytes;
use uuid::Uuid;

use super::{Catalog, Error, Scope, keys, secret, seen::Seen, token};
use crate::{
    proto::{Page, Splice},
    resource::{Chosen, Filter, Resource, ResourceId, Violations},
    store::{Found, Reach, Read, Reading},
};

/// Items in a page, at the most.
pub(crate) const PAGE_ITEMS_MAX: usize = 1000;
/// Bytes in a page, at the most, so that a client with gRPC's default limit of 4 MiB can read it.
const PAGE_BYTES_MAX: usize = 3 << 20;
/// Items that one blocking step looks at: some tens of milliseconds, after which a caller that has gone is noticed.
const STEP_ITEMS_MAX: usize = 10_000;
/// Steps of a page whose caller can go on from an empty one.
const STEPS_MAX: usize = 1;
/// A tag and the longest length of a record in a page, and the record's revision.
const ITEM_OVERHEAD_BYTES: usize = 6 + 11;

/// Which page of which list.
#[derive(Clone, Debug)]
pub(crate) struct Query<R: Resource> {
    /// Whose resources.
    pub scope: Scope,
    /// Items in the page: 1 to [`PAGE_ITEMS_MAX`].
    pub limit: usize,
    /// Where it starts.
    pub after: After,
    /// What is in it.
    pub filter: R::Filter,
    /// What else must be so of what is in it.
    pub only: Option<Only>,
    /// So many of the first of these are left out.
    pub skip: usize,
    /// Whether what only some may see is in it, too.
    pub with_secrets: bool,
}

/// Chooses among encoded resources, but for what only some may see of them.
#[derive(Clone)]
pub(crate) struct Only(pub(crate) Arc<Choose>);

/// Whether an encoded resource is chosen.
pub(crate) type Choose = dyn Fn(&[u8]) -> Result<bool, prost::DecodeError> + Send + Sync;

impl fmt::Debug for Only {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Only")
    }
}

/// Where a page starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// At the beginning.
    Nothing,
    /// Right after the resource with this id.
    Marker(ResourceId),
    /// Where an earlier page ended.
    Token(String),
}

/// A page in the making.
struct Scan<R: Resource> {
    query: Query<R>,
    /// The bounds of what is still to be looked at.
    range: keys::Range,
    records: Splice<R>,
    /// The place of the last item looked at. Empty before the first.
    place: Vec<u8>,
    /// The place of the last item in the page. Empty before the first.
    last: Vec<u8>,
    end: End,
}

/// How a scan stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    PageFull,
    ListDone,
}

impl Catalog {
    /// One page of a list.
    ///
    /// # Errors
    /// If the marker or the token is not of this list, or the store cannot be read.
    pub(crate) async fn list<R: Resource>(&self, query: Query<R>) -> Result<Page<R>, Error> {
        // Read first: what is written while the page is read may be in it, what was before must be.
        let revision = self.store.revision();
        let seen = self.seen.clone();
        let may_be_empty = matches!(query.after, After::Token(_));
        // What a filter lets through may lie far apart: such a page may look at very many items.
        let reach = if takes_what_comes(&query) {
            Reach::Page
        } else {
            Reach::Far
        };
        let id = self.store.id();
        let first =
            move |view: &Reading<'_>| Scan::start(view, id, &seen, query.clone())?.step(view);
        let mut scan = self.store.read(reach, first).await?;
        let mut steps = 1;
        while scan.end == End::NotYet
            && (steps < STEPS_MAX || (scan.records.count() == 0 && !may_be_empty))
        {
            scan = self.store.read_far(move |view| scan.step(view)).await?;
            steps += 1;
        }
        if !scan.last.is_empty() {
            self.seen
                .put(keys::locator_at::<R>(&scan.last), scan.last.into());
        }
        let next_page_token = if scan.end == End::ListDone || scan.place.is_empty() {
            String::new()
        } else {
            let Query { scope, filter, .. } = &scan.query;
            token::write::<R>(self.store.id(), scope, filter, &scan.place)
        };
        Ok(scan.records.into_page(next_page_token, revision))
    }
}

impl<R: Resource> Scan<R> {
    fn start(view: &Reading<'_>, store: Uuid, seen: &Seen, query: Query<R>) -> Result<Self, Error> {
        let place = match &query.after {
            After::Nothing => None,
            After::Marker(id) => Some(place_of_marker::<R>(view, seen, &query.scope, id)?),
            After::Token(text) => Some(token::read::<R>(store, &query.scope, &query.filter, text)?),
        };
        let range = keys::records::<R>(&query.scope, query.filter.names(), place.as_deref());
        Ok(Scan {
            query,
            range,
            records: Splice::default(),
            place: Vec::new(),
            last: Vec::new(),
            end: End::NotYet,
        })
    }

    fn step(mut self, view: &Reading<'_>) -> Result<Self, Error> {
        let Scan {
            query,
            range,
            records,
            place,
            last,
            ..
        } = &mut self;
        let filter = compared::<R>(query);
        let secrets = if query.with_secrets {
            secrets::<R>(view, query, range)?
        } else {
            HashMap::new()
        };
        let mut looked_at = 0;
        let mut is_full = false;
        let scanned = view.scan_framed(range.clone(), framed::<R>, |found| {
            if looked_at == STEP_ITEMS_MAX {
                return Ok::<_, Error>(ControlFlow::Break(()));
            }
            looked_at += 1;
            // The page is full only when there is something that it has no room for.
            if records.count() == query.limit {
                is_full = true;
                return Ok(ControlFlow::Break(()));
            }
            let matches = filter
                .as_ref()
                .map_or(Ok(true), |filter| filter.matches(found.value));
            let matches = match &query.only {
                Some(Only(choose)) if matches == Ok(true) => choose(found.value),
                _ => matches,
            };
            let here = keys::place(found.key);
            if !matches.map_err(|_| Error::undecodable(found.key))? {
                // It is none of them.
            } else if query.skip > 0 {
                query.skip -= 1;
            } else {
                if records.bytes() + found.value.len() + ITEM_OVERHEAD_BYTES > PAGE_BYTES_MAX {
                    is_full = true;
                    return Ok(ControlFlow::Break(()));
                }
                match (secrets.get(here), found.framed) {
                    (Some(secret), _) => {
                        records.push(&secret::whole(found.value, secret), found.revision);
                    }
                    (None, Some(framed)) => {
                        records.push_framed(framed.within, framed.start..framed.end);
                    }
                    (None, None) => records.push(found.value, found.revision),
                }
                replace(last, here);
            }
            replace(place, here);
            Ok(ControlFlow::Continue(()))
        })?;
        if is_full {
            self.end = End::PageFull;
        } else if scanned.is_continue() {
            self.end = End::ListDone;
        } else if !self.place.is_empty() {
            self.range.0 = Bound::Excluded(keys::record_at::<R>(&self.place));
        }
        Ok(self)
    }
}

/// What only some may see of the records that a step looks at, by their places.
fn secrets<R: Resource>(
    view: &Reading<'_>,
    query: &Query<R>,
    range: &keys::Range,
) -> Result<HashMap<Vec<u8>, Bytes>, Error> {
    let mut secrets = HashMap::new();
    if view.count(keys::secrets_of_kind::<R>()) == 0 {
        return Ok(secrets);
    }
    // Each is one of a record, so that those of the first records are among as many first secrets.
    let most = if takes_what_comes(query) {
        query.limit
    } else {
        STEP_ITEMS_MAX
    };
    let _all = view.scan::<Error>(keys::secrets_of(range), |found| {
        let place = keys::place(found.key).to_vec();
        secrets.insert(place, Bytes::copy_from_slice(found.value));
        Ok(if secrets.len() < most {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        })
    })?;
    Ok(secrets)
}

/// Whether the first records of a query's range are its page, whatever they are.
fn takes_what_comes<R: Resource>(query: &Query<R>) -> bool {
    compared(query).is_none() && query.only.is_none() && query.skip == 0
}

/// What records have to be compared with, beyond what their range says of them.
fn compared<R: Resource>(Query { scope, filter, .. }: &Query<R>) -> Option<Chosen<R>> {
    let filter = match scope {
        Scope::Project(_) => filter.beyond_names(),
        Scope::AllProjects => filter.clone(),
    };
    Chosen::of(filter)
}

/// A record as it stands in a page.
fn framed<R: Resource>(record: &[u8], revision: u64, to: &mut Vec<u8>) -> usize {
    let start = to.len();
    start + Splice::<R>::frame(record, revision, to)
}

fn replace(place: &mut Vec<u8>, by: &[u8]) {
    place.clear();
    place.extend_from_slice(by);
}

/// The place of the resource with the marker's id.
fn place_of_marker<R: Resource>(
    view: &Reading<'_>,
    seen: &Seen,
    scope: &Scope,
    id: &ResourceId,
) -> Result<Vec<u8>, Error> {
    let refuse = |reason: String| Error::Invalid(Violations::one("marker", reason));
    let unknown = || {
        refuse(format!(
            "is not the {} of a {} in this list, or no longer: {id}; page_token goes on where an item was deleted",
            R::KIND.id_field,
            R::KIND.field
        ))
    };
    let (locator, name) = match scope {
        Scope::Project(project) => {
            let locator = keys::locator::<R>(project.as_str(), id);
            let name = view.get(&locator)?.ok_or_else(unknown)?;
            (locator, name.value)
        }
        Scope::AllProjects => {
            let all = keys::starting_with(keys::locators_of_id::<R>(id));
            let mut found = None;
            view.for_each(all, |Found { key, value, .. }| {
                if found.is_some() {
                    return Err(refuse("is in more than one project: use page_token".into()));
                }
                found = Some((key.to_vec(), Bytes::copy_from_slice(value)));
                Ok(())
            })?;
            found.ok_or_else(unknown)?
        }
    };
    // It may have been renamed since: the walk goes on where it saw it.
    if let Some(place) = seen.get(&locator) {
        return Ok(place.to_vec());
    }
    let project = keys::project_of_locator(&locator).ok_or_else(|| Error::undecodable(&locator))?;
    let name = std::str::from_utf8(&name).map_err(|_| Error::undecodable(id.as_bytes()))?;
    Ok(keys::place(&keys::record::<R>(project, name, id)).to_vec())
}
