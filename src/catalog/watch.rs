//! Watches: first what is stored, then every change to it, in order and without a gap.
//!
//! The journal keeps what each commit replaced. So the journal alone tells which resources match a filter or no longer match it,
//! and a watch does not have to remember what it has sent. A watch that is resumed after a revision sends exactly what the first
//! one would have sent.

use std::{
    collections::VecDeque,
    ops::{Bound, ControlFlow},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    Catalog, Error, Scope,
    bells::{Listening, Next, Topic},
    keys,
    plan::Note,
    secret,
    touched::{Deed, Touched, touched},
};
use crate::{
    proto::Watched,
    resource::{Chosen, Filter, Resource},
    store::{self, Group, Pulled, Reach, Reading, Write},
};

/// The most bytes of stored resources that a watch has ready: a watch that nobody reads holds this much. Changes may take more,
/// because the watches of the same resources share them, and because an older group of commits has to be read again for its rest.
const READY_STATE_BYTES_MAX: usize = 8 << 10;
const READY_CHANGES_BYTES_MAX: usize = 32 << 10;
/// The most records that one step looks at. A step takes some tens of milliseconds.
const STEP_ITEMS_MAX: usize = 10_000;
/// How often a watch reports its revision if nothing else happens. Its reader then knows that the watch is alive, and has a recent
/// revision to resume after, which the history still holds.
pub(crate) const BOOKMARK_INTERVAL: Duration = Duration::from_secs(15);

/// What to watch.
#[derive(Clone, Debug)]
pub(crate) struct WatchQuery<R: Resource> {
    /// The projects whose resources are watched.
    pub(crate) scope: Scope,
    /// The filter for the resources.
    pub(crate) filter: R::Filter,
    /// The last revision that the reader has seen. After 0, what is stored comes first.
    pub(crate) after_revision: u64,
    /// Whether the resources have their secret fields.
    pub(crate) with_secrets: bool,
    /// How often the watch reports its revision.
    pub(crate) bookmark_interval: Duration,
}

/// A running watch. Its reader pulls events; a slow reader delays nobody.
#[derive(Debug)]
pub(crate) struct Watch<R: Resource> {
    catalog: Catalog,
    query: WatchQuery<R>,
    /// The filter for records, if the range alone does not decide.
    chosen: Option<Arc<Chosen<R>>>,
    /// The range of stored resources that is still to be sent, if any.
    state: Option<keys::Range>,
    changes: store::Changes,
    bell: Listening,
    /// The store's revision when the watch began. When the watch gets there, it says that it is in sync.
    head: u64,
    has_caught_up: bool,
    bookmark_at: Instant,
    ready: VecDeque<Watched<R>>,
    ready_bytes: usize,
}

impl Catalog {
    /// Starts the task that rings the bells, unless it runs already.
    fn ring_bells(&self) {
        self.bells.ring_for(|after| self.store.changes(after));
    }

    /// Begins a watch.
    ///
    /// # Errors
    /// [`Error::Ahead`] if the store has not reached the revision to resume after.
    pub(crate) fn watch<R: Resource>(&self, query: WatchQuery<R>) -> Result<Watch<R>, Error> {
        let head = self.revision();
        let after = query.after_revision;
        if after > head {
            return Err(Error::Ahead { after, head });
        }
        // What is committed while the state is read is sent after it.
        let (state, after) = match after {
            0 => {
                let all = keys::records::<R>(&query.scope, query.filter.names(), None);
                (Some(all), head)
            }
            after => (None, after),
        };
        Ok(Watch {
            chosen: Chosen::of(query.filter.clone()).map(Arc::new),
            catalog: self.clone(),
            state,
            bell: self.bells.listen(topic(&query), head),
            changes: self.store.changes(after),
            head,
            has_caught_up: false,
            bookmark_at: Instant::now() + query.bookmark_interval,
            query,
            ready: VecDeque::new(),
            ready_bytes: 0,
        })
    }
}

/// The topic that a query watches.
fn topic<R: Resource>(query: &WatchQuery<R>) -> Topic {
    let mut filter = query.filter.clone();
    let client_id = filter.client_id().map(std::mem::take);
    Topic {
        tag: R::KIND.tag,
        project: match &query.scope {
            Scope::Project(project) => Some(project.as_str().to_owned()),
            Scope::AllProjects => None,
        },
        client_id: client_id.filter(|client_id| !client_id.is_empty()),
    }
}

impl<R: Resource> Watch<R> {
    /// Waits for the next event. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Error::Compacted`] if the next changes are no longer kept: read everything, and go on from there. [`Error::Store`] if the
    /// store is closing, or cannot be read.
    pub(crate) async fn next(&mut self) -> Result<Watched<R>, Error> {
        loop {
            if let Some(next) = self.ready.pop_front() {
                return Ok(next);
            }
            self.ready_bytes = 0;
            if self.state.is_some() {
                self.read_state().await?;
                continue;
            }
            self.catalog.ring_bells();
            let next = self.bell.next(self.changes.after());
            let (Next::Read(after) | Next::Wait(after)) = next else {
                return Err(store::Error::Closed.into());
            };
            if after != self.changes.after() {
                self.changes.go_to(after);
            }
            if !self.has_caught_up && after >= self.head {
                self.has_caught_up = true;
                self.bookmark();
            } else if self.bookmark_at <= Instant::now() {
                self.bookmark();
            } else if next == Next::Read(after) {
                match self.changes.next().await? {
                    Pulled::Group(group) => self.take(&group)?,
                    Pulled::Compacted { oldest } => return Err(Error::Compacted { oldest }),
                }
            } else {
                tokio::select! {
                    () = self.bell.rung() => {}
                    () = tokio::time::sleep_until(self.bookmark_at) => {}
                }
            }
        }
    }

    fn bookmark(&mut self) {
        self.bookmark_at = Instant::now() + self.query.bookmark_interval;
        self.ready.push_back(Watched::synced(self.changes.after()));
    }

    /// Makes the next part of the stored resources ready.
    async fn read_state(&mut self) -> Result<(), Error> {
        let range = self.state.clone().expect("there is more to read");
        let (chosen, with_secrets) = (self.chosen.clone(), self.query.with_secrets);
        let until = self.head;
        let store = self.catalog.store.clone();
        // Resources that pass a filter may be far apart.
        let reach = if self.chosen.is_some() {
            Reach::Far
        } else {
            Reach::Page
        };
        let read = store.read(reach, move |view| {
            step(view, chosen.as_deref(), with_secrets, &range, until)
        });
        let (ready, rest) = read.await?;
        self.ready = ready;
        self.state = rest;
        Ok(())
    }

    /// Makes a group's events ready, as many as there is room for.
    fn take(&mut self, group: &Group) -> Result<(), Error> {
        for change in &group.changes {
            if self.ready_bytes >= READY_CHANGES_BYTES_MAX {
                self.changes.go_to(change.revision - 1);
                return Ok(());
            }
            self.take_change(change.revision, &change.writes)?;
        }
        Ok(())
    }

    fn take_change(&mut self, revision: u64, writes: &[Write]) -> Result<(), Error> {
        let scope = &self.query.scope;
        let is_watched = |tag, project: &str| {
            let is_of_scope = match scope {
                Scope::AllProjects => true,
                Scope::Project(wanted) => wanted.as_str() == project,
            };
            tag == R::KIND.tag && is_of_scope
        };
        let first = self.ready.len();
        for touched in touched(writes, is_watched) {
            // The same commit may have more events. A watch that is resumed after this one must see those.
            let seen = revision - 1;
            if let Some(said) = self.said(&touched, seen, revision, writes)? {
                self.ready_bytes += prost::Message::encoded_len(&said);
                self.ready.push_back(said);
            }
        }
        if let Some(last) = self.ready.range_mut(first..).last() {
            last.revision = revision;
        }
        Ok(())
    }

    /// The event that a change means for a watch of matching resources, if it means any.
    fn said(
        &self,
        touched: &Touched<'_>,
        seen: u64,
        revision: u64,
        writes: &[Write],
    ) -> Result<Option<Watched<R>>, Error> {
        if let Some((key, value)) = touched.record
            && self.matches(key, value)?
        {
            let record = match touched.secret {
                Some(secret) if self.query.with_secrets => secret::whole(value, secret).into(),
                _ if self.changes.is_shared() => value.clone(),
                _ => Bytes::copy_from_slice(value),
            };
            return Ok(Some(Watched::put(seen, record, revision)));
        }
        let Touched {
            tag, project, id, ..
        } = *touched;
        let locator = keys::locator_of(tag, project, id);
        let has_matched = touched.deed != Deed::Created
            && match Note::of(writes).replaced(&locator) {
                Some(facets) => self.matches(&locator, facets)?,
                // The commit was written by a version that kept no facets.
                None => true,
            };
        Ok(has_matched.then(|| Watched::removed(seen, touched.id_of(R::KIND))))
    }

    fn matches(&self, key: &[u8], value: &[u8]) -> Result<bool, Error> {
        matches(self.chosen.as_deref(), key, value)
    }
}

fn matches<R: Resource>(
    chosen: Option<&Chosen<R>>,
    key: &[u8],
    value: &[u8],
) -> Result<bool, Error> {
    let matches = chosen.map_or(Ok(true), |chosen| chosen.matches(value));
    matches.map_err(|_| Error::undecodable(key))
}

/// Reads stored resources of a range as long as there is room. Returns them with the rest of the range. What was written after
/// `until` is left to the change that wrote it.
fn step<R: Resource>(
    view: &Reading<'_>,
    chosen: Option<&Chosen<R>>,
    with_secrets: bool,
    range: &keys::Range,
    until: u64,
) -> Result<(VecDeque<Watched<R>>, Option<keys::Range>), Error> {
    use crate::store::Read;
    let (mut ready, mut bytes, mut looked_at) = (VecDeque::new(), 0, 0);
    let mut last = None;
    let end = range.1.clone();
    let scanned = view.scan(range.clone(), |found| {
        if found.revision <= until && matches(chosen, found.key, found.value)? {
            let whole = secret::whole_in_view::<R>(view, (found.key, found.value), with_secrets)?;
            let record = whole.unwrap_or_else(|| found.value.to_vec());
            bytes += record.len();
            ready.push_back(Watched::put(0, record.into(), found.revision));
        }
        looked_at += 1;
        if bytes < READY_STATE_BYTES_MAX && looked_at < STEP_ITEMS_MAX {
            return Ok::<_, Error>(ControlFlow::Continue(()));
        }
        last = Some(found.key.to_vec());
        Ok(ControlFlow::Break(()))
    })?;
    let rest = last.filter(|_| scanned.is_break());
    Ok((ready, rest.map(|last| (Bound::Excluded(last), end))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        catalog::{
            bells::tests::committed,
            tests::{job, project_id},
            verify::tests::{PROJECT, action, catalog, create, id, using},
        },
        proto::{Action, Job, JobFilter, WatchEvent},
    };

    const LONG: Duration = Duration::from_secs(20);

    fn query(prefix: &str, after_revision: u64, with_secrets: bool) -> WatchQuery<Job> {
        WatchQuery {
            scope: Scope::Project(project_id(PROJECT)),
            filter: JobFilter {
                description_prefix: prefix.into(),
                ..JobFilter::default()
            },
            after_revision,
            with_secrets,
            bookmark_interval: Duration::from_secs(1000),
        }
    }

    /// The next event that is about a job, with its revision.
    async fn next(watch: &mut Watch<Job>) -> (u64, WatchEvent<Job>) {
        loop {
            let said = tokio::time::timeout(LONG, watch.next()).await.unwrap();
            let said = said.unwrap();
            match said.decoded().unwrap().unwrap() {
                WatchEvent::Synced => {}
                event => return (said.revision, event),
            }
        }
    }

    fn put(event: WatchEvent<Job>) -> Job {
        match event {
            WatchEvent::Put(job) => job,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_watch_goes_on_after_any_revision_that_was_reached() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = catalog(&dir).await;
        let head = catalog.revision();
        assert!(catalog.watch(query("", head, false)).is_ok());
        let ahead = catalog.watch(query("", head + 1, false)).unwrap_err();
        assert!(matches!(ahead, Error::Ahead { .. }), "{ahead}");
    }

    #[tokio::test]
    async fn secret_fields_are_shown_only_if_they_are_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = catalog(&dir).await;
        let mut watches = Vec::new();
        for with_secrets in [false, true] {
            // What is stored already, and what will be.
            for after_revision in [0, catalog.revision()] {
                let watch = catalog.watch(query("uses", after_revision, with_secrets));
                watches.push((watch.unwrap(), with_secrets, after_revision));
            }
        }
        catalog
            .delete::<Job>(None, project_id(PROJECT), id(2), None)
            .await
            .unwrap();
        create(&catalog, using()).await;
        for (watch, with_secrets, after_revision) in &mut watches {
            if *after_revision > 0 {
                let (_, removed) = next(watch).await;
                assert_eq!(removed, WatchEvent::Removed(id(2).to_string()));
            }
            let job = loop {
                if let (_, WatchEvent::Put(job)) = next(watch).await {
                    break job;
                }
            };
            assert_eq!(job.user_credentials.is_some(), *with_secrets);
        }
    }

    #[tokio::test]
    async fn whoever_resumes_within_a_commit_sees_all_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = catalog(&dir).await;
        let another = Job {
            job_id: id(4).to_string(),
            ..using()
        };
        create(&catalog, another).await;
        let before = catalog.revision();
        let update = |_: &Action| Ok(action("var"));
        let updated = catalog.update(None, project_id(PROJECT), id(1), None, update);
        updated.await.unwrap();
        let mut after_revision = before;
        for _ in 0..2 {
            let mut watch = catalog.watch(query("", after_revision, false)).unwrap();
            let (first, one) = next(&mut watch).await;
            let (second, other) = next(&mut watch).await;
            assert_eq!((first, second), (before, before + 1));
            let ids = [put(one).job_id, put(other).job_id];
            assert_eq!(ids, [id(2).to_string(), id(4).to_string()]);
            after_revision = first;
        }
    }

    #[tokio::test]
    async fn what_never_matched_is_not_said_to_be_gone() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = catalog(&dir).await;
        let mut watch = catalog
            .watch(query("x", catalog.revision(), false))
            .unwrap();
        create(&catalog, job(PROJECT, 4, "name", "")).await;
        create(&catalog, job(PROJECT, 5, "x", "")).await;
        assert_eq!(put(next(&mut watch).await.1).description, "x");
    }

    #[tokio::test]
    async fn a_watch_has_only_so_much_ready() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = catalog(&dir).await;
        let before = catalog.revision();
        for digit in 4..16 {
            let mut large = job(PROJECT, digit, "large", "");
            let action = large.job_actions[0].freezer_action.as_mut().unwrap();
            action.path_to_backup = "p".repeat(3500);
            create(&catalog, large).await;
        }
        let mut watch = catalog.watch(query("large", before, false)).unwrap();
        watch.take(&committed(&catalog, before).await).unwrap();
        // The tenth passes the most.
        assert_eq!(watch.ready.len(), READY_CHANGES_BYTES_MAX / 3500 + 1);
        assert_eq!(watch.changes.after(), before + watch.ready.len() as u64);
    }
}
