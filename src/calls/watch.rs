//! A watch.

use std::{future::IntoFuture, time::Duration};

use super::{Behalf, Call, fleet, list, undecodable};
use crate::{
    catalog::{self, BOOKMARK_INTERVAL, Catalog, Error, WatchQuery},
    proto::{WatchEvent, Watched},
    resource::{Filter, Resource, Violations},
};

/// A watch in the making: awaited, it gives a [`Watching`].
///
/// # Errors
/// [`Error::Invalid`] with every bad field; [`Error::Ahead`] if this store has not reached the revision to go on after.
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

/// A watch. It is pulled at its reader's own pace: a slow one queues nothing, and holds nobody up.
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

    /// Goes on after a revision that was seen. Without it, or after 0, what is stored is said first.
    pub fn after(mut self, revision: u64) -> Self {
        self.after_revision = revision;
        self
    }

    /// Only what this filter lets through: what no longer matches is said to be removed.
    pub fn filter(mut self, filter: impl Into<Option<R::Filter>>) -> Self {
        self.filter = filter.into();
        self
    }

    /// How often it says where it is when nothing happens: every 15 seconds, if this is not called.
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
    /// What comes next. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// [`Error::Compacted`] if what comes next is gone: watch anew, without a revision. [`Error::Store`] if the store is closing,
    /// or cannot be read.
    pub async fn next(&mut self) -> Result<WatchEvent<R>, Error> {
        loop {
            let said = self.next_encoded().await?;
            if let Some(event) = said.decoded().map_err(|_| undecodable::<R>())? {
                return Ok(event);
            }
        }
    }

    /// The revision to go on after, if the watch ends here. 0 until all that is stored has been said.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// As [`Watching::next`], as it is stored.
    pub(crate) async fn next_encoded(&mut self) -> Result<Watched<R>, Error> {
        let said = self.watch.next().await?;
        self.revision = said.revision;
        // An agent that listens is there, though it says nothing.
        fleet::heard_of(&self.catalog, &self.behalf);
        Ok(said)
    }
}
