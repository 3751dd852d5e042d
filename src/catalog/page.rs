//! Pages: bounded range scans that start right after the last-seen item.

use std::{
    fmt,
    ops::{Bound, ControlFlow, Range},
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

/// The most items in a page.
pub(crate) const PAGE_ITEMS_MAX: usize = 1000;
/// The most bytes in a page, so that a client with gRPC's default limit of 4 MiB can read it.
const PAGE_BYTES_MAX: usize = 3 << 20;
/// The most items that one blocking step looks at. A step takes some tens of milliseconds; then the scan notices if its caller has
/// gone.
const STEP_ITEMS_MAX: usize = 10_000;
/// How many records a page looks at as a whole before it looks at extracts: if it is not full then, most records do not match its
/// filter. In the catalog's own tests, which have few records, a page looks at extracts as well.
const WHOLE_ITEMS_MAX: usize = if cfg!(test) { 2 } else { 256 };
/// The most bytes that a page adds to a record: a field's tag, the record's length, and its revision.
const ITEM_OVERHEAD_BYTES: usize = 6 + 11;

/// Which page of which list to read.
#[derive(Clone, Debug)]
pub(crate) struct Query<R: Resource> {
    /// The projects whose resources are listed.
    pub scope: Scope,
    /// The most items in the page: 1 to [`PAGE_ITEMS_MAX`].
    pub limit: usize,
    /// Where the page starts.
    pub after: After,
    /// The filter for the items.
    pub filter: R::Filter,
    /// A further choice among the items.
    pub only: Option<Only>,
    /// The number of items to leave out at the start.
    pub skip: usize,
    /// Whether the items have their secret fields.
    pub with_secrets: bool,
}

/// Chooses among encoded resources. Their secret fields are not part of what it sees.
#[derive(Clone)]
pub(crate) struct Only(pub(crate) Arc<Choose>);

/// Tells whether an encoded resource is chosen.
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

/// The state of a scan for one page.
struct Scan<R: Resource> {
    query: Query<R>,
    /// The range that is still to be scanned.
    range: keys::Range,
    records: Splice<R>,
    /// The place of the last item that was looked at. Empty at the start.
    place: Vec<u8>,
    /// The place of the last item in the page. Empty at the start.
    last: Vec<u8>,
    end: End,
}

/// Whether a scan goes on.
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
    /// If the marker or the token does not belong to this list, or the store cannot be read.
    pub(crate) async fn list<R: Resource>(&self, query: Query<R>) -> Result<Page<R>, Error> {
        // Read first: the page must show everything committed before this revision, and may show later commits.
        let revision = self.store.revision();
        let seen = self.seen.clone();
        let may_be_empty = matches!(query.after, After::Token(_));
        // Items that pass a filter may be far apart. Such a page may have to look at very many items.
        let reach = if takes_what_comes(&query) {
            Reach::Page
        } else {
            Reach::Far
        };
        let id = self.store.id();
        let first =
            move |view: &Reading<'_>| Scan::start(view, id, &seen, query.clone())?.step(view);
        let mut scan = self.store.read(reach, first).await?;
        // Who walks by token can go on from an empty page.
        while scan.end == End::NotYet && scan.records.count() == 0 && !may_be_empty {
            scan = self.store.read_far(move |view| scan.step(view)).await?;
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
        let filter = compared::<R>(&self.query);
        let has_extracts = filter.is_some() && self.query.only.is_none();
        let range = self.range.clone();
        let mut step = Step {
            view,
            filter,
            items_max: if has_extracts {
                WHOLE_ITEMS_MAX
            } else {
                STEP_ITEMS_MAX
            },
            looked_at: 0,
            is_full: false,
            scan: &mut self,
        };
        let mut scanned = view.scan_framed(range, framed::<R>, |found| step.look(&found))?;
        if has_extracts && scanned.is_break() && !step.is_full {
            step.items_max = STEP_ITEMS_MAX;
            let rest = step.scan.rest();
            scanned =
                view.scan_extracts(rest, extract::<R>, |found| step.look_at_extract(&found))?;
        }
        if step.is_full {
            self.end = End::PageFull;
        } else if scanned.is_continue() {
            self.end = End::ListDone;
        } else {
            self.range = self.rest();
        }
        Ok(self)
    }

    /// What of the range is still to be scanned.
    fn rest(&self) -> keys::Range {
        let (start, end) = self.range.clone();
        if self.place.is_empty() {
            (start, end)
        } else {
            (Bound::Excluded(keys::record_at::<R>(&self.place)), end)
        }
    }
}

/// One blocking step of a scan.
struct Step<'a, R: Resource> {
    scan: &'a mut Scan<R>,
    view: &'a Reading<'a>,
    filter: Option<Chosen<R>>,
    /// The most items to look at.
    items_max: usize,
    looked_at: usize,
    is_full: bool,
}

impl<R: Resource> Step<'_, R> {
    /// Looks at the next record.
    fn look(&mut self, found: &Found<'_>) -> Result<ControlFlow<()>, Error> {
        if self.begin().is_break() {
            return Ok(ControlFlow::Break(()));
        }
        self.take(found)
    }

    /// Looks at the next record, of which only an extract is at hand.
    fn look_at_extract(&mut self, found: &Found<'_>) -> Result<ControlFlow<()>, Error> {
        if self.begin().is_break() {
            return Ok(ControlFlow::Break(()));
        }
        // If it matches, it may have changed since it was extracted, or be gone.
        if self.matches(found)?
            && let Some(record) = self.view.get_scanned(found.key)?
        {
            return self.take(&record.found());
        }
        replace(&mut self.scan.place, keys::place(found.key));
        Ok(ControlFlow::Continue(()))
    }

    /// Whether the step looks at another item.
    fn begin(&mut self) -> ControlFlow<()> {
        if self.looked_at == self.items_max {
            return ControlFlow::Break(());
        }
        self.looked_at += 1;
        // The page is full only when there is an item that no longer fits.
        self.is_full = self.scan.records.count() == self.scan.query.limit;
        if self.is_full {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn matches(&self, found: &Found<'_>) -> Result<bool, Error> {
        let filter = self.filter.as_ref();
        let matches = filter.map_or(Ok(true), |filter| filter.matches(found.value));
        let matches = match &self.scan.query.only {
            Some(Only(choose)) if matches == Ok(true) => choose(found.value),
            _ => matches,
        };
        matches.map_err(|_| Error::undecodable(found.key))
    }

    /// Adds a record to the page if it is wanted and fits.
    fn take(&mut self, found: &Found<'_>) -> Result<ControlFlow<()>, Error> {
        let here = keys::place(found.key);
        let is_wanted = self.matches(found)?;
        let Scan {
            query,
            records,
            place,
            last,
            ..
        } = &mut *self.scan;
        if !is_wanted {
            // The item is not one of those that the caller wants.
        } else if query.skip > 0 {
            query.skip -= 1;
        } else {
            let open = (found.key, found.value);
            let whole = secret::whole_in_view::<R>(self.view, open, query.with_secrets)?;
            let record = whole.as_deref().unwrap_or(found.value);
            if records.bytes() + record.len() + ITEM_OVERHEAD_BYTES > PAGE_BYTES_MAX {
                self.is_full = true;
                return Ok(ControlFlow::Break(()));
            }
            match found.framed.filter(|_| whole.is_none()) {
                Some(framed) => records.push_framed(framed.within, framed.start..framed.end),
                None => records.push(record, found.revision),
            }
            replace(last, here);
        }
        replace(place, here);
        Ok(ControlFlow::Continue(()))
    }
}

/// Whether the page is simply the first records of the query's range.
pub(super) fn takes_what_comes<R: Resource>(query: &Query<R>) -> bool {
    compared(query).is_none() && query.only.is_none() && query.skip == 0
}

/// The filter for records, if the range alone does not decide.
fn compared<R: Resource>(Query { scope, filter, .. }: &Query<R>) -> Option<Chosen<R>> {
    let filter = match scope {
        Scope::Project(_) => filter.beyond_names(),
        Scope::AllProjects => filter.clone(),
    };
    Chosen::of(filter)
}

/// Appends a record in the form that it has in a page.
fn framed<R: Resource>(record: &[u8], revision: u64, to: &mut Vec<u8>) -> Range<usize> {
    let start = to.len() + Splice::<R>::frame(record, revision, to);
    start..start + record.len()
}

/// Appends what filters test of a record.
fn extract<R: Resource>(record: &[u8], _: u64, to: &mut Vec<u8>) -> Range<usize> {
    let start = to.len();
    match R::decode(record) {
        Ok(resource) => to.extend_from_slice(&resource.facets().encode_to_vec()),
        // Who filters it will find that it cannot be read.
        Err(_) => to.extend_from_slice(record),
    }
    start..to.len()
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
    // The item may have been renamed since: the walk goes on from where it saw the item.
    if let Some(place) = seen.get(&locator) {
        return Ok(place.to_vec());
    }
    let project = keys::project_of_locator(&locator).ok_or_else(|| Error::undecodable(&locator))?;
    let name = std::str::from_utf8(&name).map_err(|_| Error::undecodable(id.as_bytes()))?;
    Ok(keys::place(&keys::record::<R>(project, name, id)).to_vec())
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::{
        catalog::tests::{Tested, job, project_id, resource_id},
        proto::{Job, JobFilter},
        store::{Batch, Outcome},
    };

    const PROJECT: &str = "a";

    /// Stores jobs as they are, without checking them.
    async fn put(catalog: &Catalog, jobs: impl Iterator<Item = Job>) {
        let batch = jobs.fold(Batch::default(), |batch, job| {
            let (name, id) = (&job.description, resource_id(&job.job_id));
            batch
                .put(keys::record::<Job>(PROJECT, name, &id), job.encode_to_vec())
                .put(keys::locator::<Job>(PROJECT, &id), name.clone())
        });
        let outcome = catalog.store.commit(batch).await.unwrap();
        assert!(matches!(outcome, Outcome::Committed(_)));
    }

    /// The n-th job by name, of a client.
    fn nth(n: usize, client_id: &str) -> Job {
        Job {
            job_id: format!("{n:032x}"),
            ..job(PROJECT, 0, &format!("{n:06}"), client_id)
        }
    }

    fn query(limit: usize, client_id: &str) -> Query<Job> {
        Query {
            scope: Scope::Project(project_id(PROJECT)),
            limit,
            after: After::Nothing,
            filter: JobFilter {
                client_id: client_id.into(),
                ..JobFilter::default()
            },
            only: None,
            skip: 0,
            with_secrets: false,
        }
    }

    async fn page(catalog: &Catalog, query: Query<Job>) -> (Vec<String>, String) {
        let page: Page<Job> = catalog.list(query).await.unwrap();
        let jobs = page.decoded().unwrap().into_iter();
        let names = jobs.map(|job| job.description).collect();
        (names, page.next_page_token)
    }

    #[tokio::test]
    async fn a_page_looks_at_so_many_items_and_says_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Tested::open(&dir).catalog;
        let last = STEP_ITEMS_MAX + 50;
        let client = |n| if n == 0 || n == last { "web" } else { "" };
        for first in (0..=last).step_by(1000) {
            let jobs = (first..=last).take(1000);
            put(&catalog, jobs.map(|n| nth(n, client(n)))).await;
        }
        let (names, token) = page(&catalog, query(1, "web")).await;
        assert_eq!(names, ["000000"]);
        let after = |token| Query {
            after: After::Token(token),
            ..query(1, "web")
        };
        // Whoever has a token can go on from an empty page.
        let (names, token) = page(&catalog, after(token)).await;
        assert!(names.is_empty() && !token.is_empty());
        let (names, token) = page(&catalog, after(token)).await;
        assert_eq!((&names[..], &*token), (&[format!("{last:06}")][..], ""));
        let marked = Query {
            after: After::Marker(resource_id(&nth(0, "").job_id)),
            ..query(1, "web")
        };
        let (names, _) = page(&catalog, marked).await;
        assert_eq!(names, [format!("{last:06}")]);
    }

    #[tokio::test]
    async fn what_chooses_sees_whole_records_that_the_filter_lets_through() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Tested::open(&dir).catalog;
        let jobs = (0..20).map(|n| {
            let mut job = nth(n, if n % 2 == 0 { "web" } else { "db" });
            job.job_actions[0].max_retries = i32::try_from(n % 3).ok();
            job
        });
        put(&catalog, jobs).await;
        let choose = |record: &[u8]| Ok(Job::decode(record)?.job_actions[0].max_retries == Some(0));
        let expected = [("web", &[0, 6, 12, 18][..]), ("db", &[3, 9, 15])];
        for (client_id, expected) in expected {
            let chosen = Query {
                only: Some(Only(Arc::new(choose))),
                ..query(100, client_id)
            };
            let (names, _) = page(&catalog, chosen).await;
            let expected: Vec<_> = expected.iter().map(|n| format!("{n:06}")).collect();
            assert_eq!(names, expected);
        }
    }

    #[tokio::test]
    async fn a_page_has_no_more_bytes_than_a_client_takes() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Tested::open(&dir).catalog;
        // With three of these, the page would have a few bytes less than the most, were it not for the most that is added to each.
        let record_bytes = PAGE_BYTES_MAX / 3 - 5;
        let large = |n, path_bytes| {
            let mut job = nth(n, "");
            let action = job.job_actions[0].freezer_action.as_mut().unwrap();
            action.path_to_backup = "p".repeat(path_bytes);
            job
        };
        let overhead = large(0, record_bytes).encoded_len() - record_bytes;
        put(&catalog, (0..3).map(|n| large(n, record_bytes - overhead))).await;
        let (names, token) = page(&catalog, query(100, "")).await;
        assert_eq!(names, ["000000", "000001"]);
        let rest = Query {
            after: After::Token(token),
            ..query(100, "")
        };
        let (names, token) = page(&catalog, rest).await;
        assert_eq!((&names[..], &*token), (&["000002".to_owned()][..], ""));
    }

    #[test]
    fn only_a_page_that_leaves_nothing_out_is_what_comes() {
        assert!(takes_what_comes(&query(1, "")));
        assert!(!takes_what_comes(&query(1, "web")));
        assert!(!takes_what_comes(&Query {
            skip: 1,
            ..query(1, "")
        }));
        assert!(!takes_what_comes(&Query {
            only: Some(Only(Arc::new(|_| Ok(true)))),
            ..query(1, "")
        }));
    }

    #[tokio::test]
    async fn a_walk_by_marker_goes_on_where_it_was_though_the_item_was_renamed() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Tested::open(&dir).catalog;
        put(&catalog, (0..4).map(|n| nth(n, ""))).await;
        let (names, _) = page(&catalog, query(2, "")).await;
        assert_eq!(names, ["000000", "000001"]);
        let id = resource_id(&nth(1, "").job_id);
        let rename = |job: &Job| {
            Ok(Job {
                description: "z".into(),
                ..job.clone()
            })
        };
        let renamed = catalog.update(None, project_id(PROJECT), id.clone(), None, rename);
        renamed.await.unwrap();
        let marked = Query {
            after: After::Marker(id),
            ..query(2, "")
        };
        let (names, _) = page(&catalog, marked).await;
        assert_eq!(names, ["000002", "000003"]);
    }
}
