//! Watches: what is stored, then every change to it, in order, without a gap.
//!
//! What matches is known from the journal alone, which has of each commit what it has replaced: so a watch remembers nothing of what
//! it has sent, and one that is resumed after a revision says just what the one before would have said.

use std::{
    collections::VecDeque,
    ops::{Bound, ControlFlow},
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

/// What a watch has ready at a time, in bytes: what one that is not read holds. Of changes it is more, which are mostly shared by those
/// who watch them, while a group that is older is read again for what was left of it.
const READY_STATE_BYTES_MAX: usize = 8 << 10;
const READY_CHANGES_BYTES_MAX: usize = 32 << 10;
/// Records that one step looks at: some tens of milliseconds.
const STEP_ITEMS_MAX: usize = 10_000;
/// How often a watch says where it is, whatever happens: so often whoever reads it knows that it lives, and that going on after
/// what it last said does not fall out of the history.
pub(crate) const BOOKMARK_INTERVAL: Duration = Duration::from_secs(15);

/// What is watched.
#[derive(Clone, Debug)]
pub(crate) struct WatchQuery<R: Resource> {
    /// Whose resources.
    pub(crate) scope: Scope,
    /// Which of them.
    pub(crate) filter: R::Filter,
    /// The last revision that was seen. 0 says what is stored first.
    pub(crate) after_revision: u64,
    /// Whether what only some may see is said, too.
    pub(crate) with_secrets: bool,
    /// How often it says where it is.
    pub(crate) bookmark_interval: Duration,
}

/// A watch. It is pulled by its reader, and holds nobody up.
#[derive(Debug)]
pub(crate) struct Watch<R: Resource> {
    catalog: Catalog,
    query: WatchQuery<R>,
    /// What is compared with the filter, if anything is.
    chosen: Option<Chosen<R>>,
    /// What is still to be read of what is stored, if anything is.
    state: Option<keys::Range>,
    changes: store::Changes,
    bell: Listening,
    /// The revision when it began: once it has come so far it says so.
    head: u64,
    has_caught_up: bool,
    bookmark_at: Instant,
    ready: VecDeque<Watched<R>>,
    ready_bytes: usize,
}

impl Catalog {
    /// Has bells rung, if nobody does yet.
    fn ring_bells(&self) {
        self.bells.ring_for(|after| self.store.changes(after));
    }

    /// Watches.
    ///
    /// # Errors
    /// [`Error::Ahead`] if the revision to go on after is one that this store has not reached.
    pub(crate) fn watch<R: Resource>(&self, query: WatchQuery<R>) -> Result<Watch<R>, Error> {
        let head = self.revision();
        let after = query.after_revision;
        if after > head {
            return Err(Error::Ahead { after, head });
        }
        // What is committed while the state is read is said behind it.
        let (state, after) = match after {
            0 => {
                let all = keys::records::<R>(&query.scope, query.filter.names(), None);
                (Some(all), head)
            }
            after => (None, after),
        };
        Ok(Watch {
            chosen: Chosen::of(query.filter.clone()),
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

/// What a query watches, as far as that is told apart.
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
    /// What comes next. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// [`Error::Compacted`] if what comes next is gone: read all, and go on from there. [`Error::Store`] if the store is closing, or
    /// cannot be read.
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

    /// Makes ready some more of what is stored.
    async fn read_state(&mut self) -> Result<(), Error> {
        let range = self.state.clone().expect("there is more to read");
        let query = self.query.clone();
        let until = self.head;
        let store = self.catalog.store.clone();
        // What a filter lets through may lie far apart.
        let reach = if self.chosen.is_some() {
            Reach::Far
        } else {
            Reach::Page
        };
        let read = store.read(reach, move |view| step(view, &query, &range, until));
        let (ready, rest) = read.await?;
        self.ready = ready;
        self.state = rest;
        Ok(())
    }

    /// Makes ready what a group of commits says of what is watched, as far as there is room.
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
            // More may come of the same commit: whoever goes on after this must see that.
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

    /// What a commit says of a resource to who watches those that match.
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
                // Written by a version that kept none of this.
                None => true,
            };
        Ok(has_matched.then(|| Watched::removed(seen, touched.id_of(R::KIND))))
    }

    fn matches(&self, key: &[u8], value: &[u8]) -> Result<bool, Error> {
        matches(self.chosen.as_ref(), key, value)
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

/// What is stored in a range, as far as there is room, and the range that is left. What was written after `until` is said by its
/// change.
fn step<R: Resource>(
    view: &Reading<'_>,
    query: &WatchQuery<R>,
    range: &keys::Range,
    until: u64,
) -> Result<(VecDeque<Watched<R>>, Option<keys::Range>), Error> {
    use crate::store::Read;
    let chosen = Chosen::<R>::of(query.filter.clone());
    let (mut ready, mut bytes, mut looked_at) = (VecDeque::new(), 0, 0);
    let mut last = None;
    let end = range.1.clone();
    let scanned = view.scan(range.clone(), |found| {
        if found.revision <= until && matches(chosen.as_ref(), found.key, found.value)? {
            let secret = if query.with_secrets {
                secret::in_view::<R>(view, found.key)?
            } else {
                None
            };
            let record = match secret {
                Some(secret) => secret::whole(found.value, &secret).into(),
                None => Bytes::copy_from_slice(found.value),
            };
            bytes += record.len();
            ready.push_back(Watched::put(0, record, found.revision));
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
