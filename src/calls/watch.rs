//! The call that watches.

use std::{future::IntoFuture, time::Duration};

use super::{Behalf, Call, fleet, list, undecodable};
use crate::{
    catalog::{self, BOOKMARK_INTERVAL, Catalog, Error, WatchQuery},
    proto::{WatchEvent, Watched},
    resource::{Filter, Resource, Violations},
};

/// A watch that has not begun yet. Awaiting it gives a [`Watching`].
///
/// # Errors
/// [`Error::Invalid`] with every bad field; [`Error::Ahead`] if the store has not reached the revision to resume after.
#[derive(Clone, Debug)]
#[must_use = "nothing is watched before it is awaited"]
pub struct Watch<'a, R: Resource> {
    catalog: &'a Catalog,
    behalf: &'a Behalf,
    project_id: String,
    after_revision: u64,
    filter: Option<R::Filter>,
    bookmark_interval: Duration,
}

/// A running watch. Its reader pulls events at its own pace: a slow reader fills no queue and delays nobody.
#[derive(Debug)]
pub struct Watching<R: Resource> {
    watch: catalog::Watch<R>,
    revision: u64,
    catalog: Catalog,
    behalf: Behalf,
}

impl<'a, R: Resource> Watch<'a, R> {
    pub(super) fn new(catalog: &'a Catalog, behalf: &'a Behalf, project_id: String) -> Self {
        Watch {
            catalog,
            behalf,
            project_id,
            after_revision: 0,
            filter: None,
            bookmark_interval: BOOKMARK_INTERVAL,
        }
    }

    /// Resumes after a revision that the reader has seen. Without this call, or after 0, the watch first sends what is stored.
    pub fn after(mut self, revision: u64) -> Self {
        self.after_revision = revision;
        self
    }

    /// Watches only what this filter lets through. A resource that no longer matches is reported as removed.
    pub fn filter(mut self, filter: impl Into<Option<R::Filter>>) -> Self {
        self.filter = filter.into();
        self
    }

    /// Sets how often the watch reports its revision when nothing happens. The default is 15 seconds.
    pub fn bookmark_interval(mut self, interval: Duration) -> Self {
        self.bookmark_interval = interval;
        self
    }

    /// The query, if every field is well-formed.
    fn query(self) -> Result<WatchQuery<R>, Violations> {
        let mut violations = Violations::new();
        let scope = list::scope(&self.project_id, &mut violations);
        let filter = self.filter.unwrap_or_default();
        filter.check(&mut violations);
        match scope {
            Some(scope) => violations.or(WatchQuery {
                scope,
                filter,
                after_revision: self.after_revision,
                with_secrets: false,
                bookmark_interval: self.bookmark_interval,
            }),
            None => Err(violations),
        }
    }
}

impl<'a, R: Resource> IntoFuture for Watch<'a, R> {
    type Output = Result<Watching<R>, Error>;
    type IntoFuture = Call<'a, Watching<R>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Watch {
                catalog, behalf, ..
            } = self;
            let authority = &behalf.authority;
            let mut query = self.query()?;
            authority.check_scope(&query.scope)?;
            authority.narrow(&mut query.filter)?;
            query.with_secrets = authority.sees_secrets();
            let revision = query.after_revision;
            Ok(Watching {
                watch: catalog.watch(query)?,
                revision,
                catalog: catalog.clone(),
                behalf: behalf.clone(),
            })
        })
    }
}

impl<R: Resource> Watching<R> {
    /// Waits for the next event. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Error::Compacted`] if the next changes are no longer kept: start a new watch without a revision. [`Error::Store`] if the
    /// store is closing, or cannot be read.
    pub async fn next(&mut self) -> Result<WatchEvent<R>, Error> {
        loop {
            let said = self.next_encoded().await?;
            if let Some(event) = said.decoded().map_err(|_| undecodable::<R>())? {
                return Ok(event);
            }
        }
    }

    /// The revision to resume after if the watch ends here. It is 0 until everything that is stored has been sent.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Like [`Watching::next`], but the resource stays encoded.
    pub(crate) async fn next_encoded(&mut self) -> Result<Watched<R>, Error> {
        let said = self.watch.next().await?;
        self.revision = said.revision;
        // An agent that listens is alive, even if it makes no calls.
        fleet::heard_of(&self.catalog, &self.behalf);
        Ok(said)
    }
}
