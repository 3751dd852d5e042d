//! A durable, ordered key-value store with revisions.
//!
//! A **truth** orders changes and keeps them; the **view** is filled from it and read. The truth is a file on this machine
//! (`local/`); the view is the same whatever the truth. What a catalog needs of both is here: [`Store::commit`],
//! [`Store::read`], [`Store::changes`] and how the store is. What only an operator needs belongs to the truth: [`Local`].

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

/// An open store. Closing it with [`Store::close`] spares the next open some work; just dropping it, or being killed, loses
/// nothing that was acknowledged.
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
    /// A page at most: a hop to another thread and back would cost more than the read.
    Page,
    /// More, or what comes of it takes a while.
    Far,
}

/// What holds keys in order: the view of an open store, or a store that is only looked at.
pub(crate) trait Read {
    /// What a key durably holds.
    ///
    /// # Errors
    /// If the view cannot be read, or the value is damaged.
    fn get(&self, key: &[u8]) -> Result<Option<Entry>, Error>;

    /// Hands what the keys within the bounds durably hold to `visit`, in order, until that breaks off, and says whether it did.
    /// Nothing is copied. What is written meanwhile may or may not be seen, each key once.
    ///
    /// # Errors
    /// If the view cannot be read, or a value is damaged; what `visit` refuses with.
    fn scan<E: From<Error>>(
        &self,
        bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>),
        visit: impl FnMut(Found<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<ControlFlow<()>, E>;

    /// Hands all that the keys within the bounds hold to `visit`, as [`Read::scan`] does.
    ///
    /// # Errors
    /// As of [`Read::scan`].
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
    /// Opens the store in the file `path`, or makes one there.
    ///
    /// A view that is behind the journal is rolled forward; one that is missing, fails, panics, or does not hold what was written
    /// is made anew from the file. Blocks for as long as that takes, and gives up once `cancelled` is set, with
    /// [`Error::Closed`]: nothing is lost by that. The open store keeps `cancelled` for its own end.
    ///
    /// # Errors
    /// [`OpenError::Locked`], [`OpenError::Foreign`], [`OpenError::NewerFormat`], [`Error::Corrupt`] naming what is lost, or what
    /// the disk says.
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

    /// The truth, where that is a journal on this machine: what belongs to it alone.
    #[must_use]
    pub(crate) fn local(&self) -> &Local {
        let Truth::Local(local) = &self.truth;
        local
    }

    /// What tells this store from every other: made with it, never changed.
    #[must_use]
    pub(crate) fn id(&self) -> Uuid {
        match &self.truth {
            Truth::Local(local) => local.id(),
        }
    }

    /// The revision that reads show at least.
    #[must_use]
    pub(crate) fn revision(&self) -> u64 {
        self.view.shown().revision
    }

    /// Follows how the store is.
    #[must_use]
    pub(crate) fn condition(&self) -> watch::Receiver<Condition> {
        match &self.truth {
            Truth::Local(local) => local.condition(),
        }
    }

    /// The time of a commit that is made now, milliseconds since the Unix epoch. It never goes back, whatever the clock does.
    #[must_use]
    pub(crate) fn now_ms(&self) -> u64 {
        match &self.truth {
            Truth::Local(local) => local.now_ms(),
        }
    }

    /// How many keys start with these two bytes.
    #[must_use]
    pub(crate) fn count(&self, kind: [u8; 2]) -> u64 {
        self.view.count(kind)
    }

    /// Makes what a batch writes durable as one, after all that was queued before it, if every key holds what it expects.
    ///
    /// If the future is dropped, a batch that is queued already commits as a whole or not at all.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Full`], [`Error::Stopped`] and [`Error::Closed`] when nothing was written;
    /// [`Error::OutcomeUnknown`] when only a restart can tell.
    pub(crate) async fn commit(&self, batch: Batch) -> Result<Outcome, Error> {
        match &self.truth {
            Truth::Local(local) => local.commit(batch).await,
        }
    }

    /// Follows what is committed after a revision, pulled at the reader's own pace.
    #[must_use]
    pub(crate) fn changes(&self, after: u64) -> Changes {
        match &self.truth {
            Truth::Local(local) => local.changes(after),
        }
    }

    /// Runs a read: on this thread, if it is short and finds all in memory, and else, maybe once more, on one that may wait.
    ///
    /// # Errors
    /// What `read` fails with; [`Error::Closed`] if the process is ending.
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
    /// As of [`Store::read`].
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
    /// What sled or the disk says. Nothing that was acknowledged depends on it.
    pub(crate) fn close(self) -> Result<(), Error> {
        drop(self.view);
        match self.truth {
            Truth::Local(local) => local.close(),
        }
    }
}

/// Runs a scan that `visit` may break off by refusing.
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

    /// Ends as a process ends that is killed, but waits until its threads are gone.
    fn abandon(self) {
        drop(self);
    }

    /// All that can be read.
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

    /// Compares all that can be read with what was written: every value's checksum, the count of keys, and the state hash.
    ///
    /// Only for a store that is not being written to.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming what is damaged.
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

    /// sled, once it has all that can be read.
    fn fed_sled(&self) -> Arc<view::Sled> {
        while self.view.fed() != self.view.shown() {
            outside::sleep(std::time::Duration::from_millis(1));
        }
        self.view.sled().expect("there is one")
    }
}
