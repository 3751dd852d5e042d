//! A durable, ordered key-value store with revisions.
//!
//! A **truth** orders changes and keeps them. The **view** is filled from it and is read. The truth is a file on this machine
//! (`local/`); the view does not depend on the kind of truth. What a catalog needs from both is here: [`Store::commit`],
//! [`Store::read`], [`Store::changes`] and the store's condition. What only an operator needs belongs to the truth: [`Local`].

#![warn(clippy::disallowed_methods)]

mod batch;
mod change;
mod error;
mod local;
mod meters;
mod outside;
mod reader;
mod state_hash;
mod tally;
mod view;

use std::{
    cell::Cell,
    fmt,
    ops::{Bound, ControlFlow},
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use tokio::sync::watch;
use uuid::Uuid;

pub(crate) use batch::{Batch, Entry, Found, Outcome};
pub(crate) use change::{Group, Write};
pub use error::{Error, OpenError};
#[cfg(fuzzing)]
pub(crate) use local::fuzzing;
pub(crate) use local::{
    Changes, Examined, Finding, Local, Pulled, Until, examine, has_view, restore, verify_file,
};
pub use local::{Condition, Options, Snapshot, Usage};
pub(crate) use meters::Meters;
pub(crate) use outside::blocking;
pub(crate) use view::Reading;

/// An open store. [`Store::close`] saves the next open some work. A drop or a kill loses nothing that was acknowledged.
pub(crate) struct Store {
    truth: Truth,
    view: Arc<view::View>,
}

/// What orders changes and keeps them.
enum Truth {
    /// A journal on this machine.
    Local(Local),
}

/// How much a read looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// At most a page: changing to another thread and back would cost more than the read.
    Page,
    /// More than a page, or its results take a while to handle.
    Far,
}

/// Something that holds keys in order: the view of an open store, or a store that is only examined.
pub(crate) trait Read {
    /// What a key durably holds.
    ///
    /// # Errors
    /// If the view cannot be read, or the value is damaged.
    fn get(&self, key: &[u8]) -> Result<Option<Entry>, Error>;

    /// Calls `visit` in order with what the keys within the bounds durably hold, until `visit` breaks off. Returns whether it did.
    /// Nothing is copied. A write meanwhile may or may not be seen, but each key is seen only once.
    ///
    /// # Errors
    /// If the view cannot be read, or a value is damaged; any error that `visit` returns.
    fn scan<E: From<Error>>(
        &self,
        bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>),
        visit: impl FnMut(Found<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<ControlFlow<()>, E>;

    /// Calls `visit` with everything that the keys within the bounds hold, as [`Read::scan`] does.
    ///
    /// # Errors
    /// The same as for [`Read::scan`].
    fn for_each<E: From<Error>>(
        &self,
        bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>),
        mut visit: impl FnMut(Found<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let scanned = self.scan(bounds, |found| visit(found).map(ControlFlow::Continue));
        scanned.map(drop)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("id", &self.id())
            .field("revision", &self.revision())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in the file `path`. Makes one if it is missing.
    ///
    /// If the view is behind the journal, it is rolled forward. If it is missing, fails, panics or does not hold what was written,
    /// it is made anew from the file. This blocks as long as that takes. It gives up with [`Error::Closed`] once `cancelled` is
    /// set, and nothing is lost by that. The open store keeps `cancelled` for its own end.
    ///
    /// # Errors
    /// [`OpenError::Locked`], [`OpenError::Foreign`], [`OpenError::NewerFormat`]; [`Error::Corrupt`] with what is lost; errors of
    /// the disk.
    pub(crate) fn open_unless(
        cancelled: Arc<AtomicBool>,
        path: &Path,
        options: &Options,
    ) -> Result<Store, OpenError> {
        Local::open_unless(cancelled, path, options).map(Store::of)
    }

    fn of(local: Local) -> Store {
        Store {
            view: local.view(),
            truth: Truth::Local(local),
        }
    }

    /// The local truth, with what only that kind has.
    #[must_use]
    pub(crate) fn local(&self) -> &Local {
        let Truth::Local(local) = &self.truth;
        local
    }

    /// The id that distinguishes this store from all others. It never changes.
    #[must_use]
    pub(crate) fn id(&self) -> Uuid {
        match &self.truth {
            Truth::Local(local) => local.id(),
        }
    }

    /// Reads show all commits up to this revision, and perhaps later ones.
    #[must_use]
    pub(crate) fn revision(&self) -> u64 {
        self.view.shown().revision
    }

    /// Follows the store's condition.
    #[must_use]
    pub(crate) fn condition(&self) -> watch::Receiver<Condition> {
        match &self.truth {
            Truth::Local(local) => local.condition(),
        }
    }

    /// The time of a commit that is made now, in milliseconds since the Unix epoch. It never goes back, whatever the system's clock
    /// does.
    #[must_use]
    pub(crate) fn now_ms(&self) -> u64 {
        match &self.truth {
            Truth::Local(local) => local.now_ms(),
        }
    }

    /// The number of keys that start with these two bytes.
    #[must_use]
    pub(crate) fn count(&self, kind: [u8; 2]) -> u64 {
        self.view.count(kind)
    }

    /// Commits a batch, after everything that was queued before it, if every key is as the batch expects. When this returns, its
    /// writes are durable.
    ///
    /// If the future is dropped, a batch that is queued already still commits as a whole or not at all.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Full`], [`Error::Stopped`] and [`Error::Closed`] if nothing was written; [`Error::OutcomeUnknown`]
    /// if only a restart can tell.
    pub(crate) async fn commit(&self, batch: Batch) -> Result<Outcome, Error> {
        match &self.truth {
            Truth::Local(local) => local.commit(batch).await,
        }
    }

    /// Follows commits after a revision, at the reader's own pace.
    #[must_use]
    pub(crate) fn changes(&self, after: u64) -> Changes {
        match &self.truth {
            Truth::Local(local) => local.changes(after),
        }
    }

    /// Runs a read: on this thread if it is short and finds everything in memory. Otherwise, perhaps a second time, on a thread
    /// that may wait.
    ///
    /// # Errors
    /// Any error that `read` returns; [`Error::Closed`] if the process is ending.
    pub(crate) async fn read<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        reach: Reach,
        read: impl Fn(&Reading<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        if reach == Reach::Page && self.view.is_in_memory() {
            let would_wait = Cell::new(false);
            let done = read(&self.view.at_once(&would_wait));
            if !would_wait.get() {
                return done;
            }
        }
        self.read_far(move |view| read(view)).await
    }

    /// Runs a read on a thread that may wait.
    ///
    /// # Errors
    /// The same as for [`Store::read`].
    pub(crate) async fn read_far<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        read: impl FnOnce(&Reading<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let view = self.view.clone();
        blocking(move || read(&view.patiently())).await?
    }

    /// Commits what is queued and closes the store. Blocks.
    ///
    /// # Errors
    /// Errors of sled or the disk. Nothing that was acknowledged depends on it.
    pub(crate) fn close(self) -> Result<(), Error> {
        drop(self.view);
        match self.truth {
            Truth::Local(local) => local.close(),
        }
    }
}

/// Runs a scan. An error of `visit` breaks it off and is returned.
fn refusing<E: From<Error>>(
    mut visit: impl FnMut(Found<'_>) -> Result<ControlFlow<()>, E>,
    scan: impl FnOnce(&mut dyn FnMut(Found<'_>) -> ControlFlow<()>) -> Result<ControlFlow<()>, Error>,
) -> Result<ControlFlow<()>, E> {
    let mut refused = None;
    let scanned = scan(&mut |found| {
        visit(found).unwrap_or_else(|error| {
            refused = Some(error);
            ControlFlow::Break(())
        })
    })?;
    refused.map_or(Ok(scanned), Err)
}

#[cfg(test)]
impl Store {
    fn open(root: &Path, options: &Options) -> Result<Store, OpenError> {
        Store::open_unless(Arc::default(), root, options)
    }

    /// Ends as a killed process ends, but waits until the threads have gone.
    fn abandon(self) {
        drop(self);
    }

    /// Everything that can be read.
    fn content(&self) -> Result<Vec<Entry>, Error> {
        let all = (
            Bound::Excluded(view::Sled::LAST_OWN_KEY.to_vec()),
            Bound::Unbounded,
        );
        let mut content = Vec::new();
        self.view.patiently().for_each::<Error>(all, |found| {
            content.push(Entry {
                key: bytes::Bytes::copy_from_slice(found.key),
                value: bytes::Bytes::copy_from_slice(found.value),
                revision: found.revision,
            });
            Ok(())
        })?;
        Ok(content)
    }

    /// Compares everything that can be read with what was written: every value's checksum, the number of keys, and the state hash.
    ///
    /// The store must not be written to meanwhile.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with what is damaged.
    pub(crate) fn verify(&self) -> Result<(), Error> {
        let (mut state, mut tally) = (state_hash::StateHash::default(), tally::Tally::default());
        for entry in self.content()? {
            state = state.with(&entry.key, &entry.value, entry.revision);
            tally.change(&entry.key, None, Some(entry.value.len()));
        }
        assert_eq!(tally, *self.view.tally(), "the count is right");
        if state != self.view.shown().state {
            return Err(Error::Corrupt {
                what: "the view does not hold what was written".into(),
            });
        }
        self.local().verify_file()
    }

    /// sled, once it has everything that can be read.
    fn fed_sled(&self) -> Arc<view::Sled> {
        while self.view.fed() != self.view.shown() {
            outside::sleep(std::time::Duration::from_millis(1));
        }
        self.view.sled().expect("there is one")
    }
}
