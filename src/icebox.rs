//! An open Icebox, which a program that embeds it holds.

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    calls::{Actions, Backups, Calls, Clients, Jobs, Sessions},
    catalog::{Catalog, Changes, Error, Status},
    store::{self, OpenError, Options, Snapshot, Store, blocking},
};
#[cfg(feature = "server")]
use crate::{
    identity::Access,
    server::{Listener, Servers, Serving},
};

/// How long closing waits for a call that still uses the store, and how often it checks.
const HOLDERS_PATIENCE: Duration = Duration::from_secs(2);
const HOLDERS_LOOK: Duration = Duration::from_millis(5);

/// An open store with typed calls, and with servers that offer the same calls over gRPC.
///
/// Many tasks may make calls at the same time: share it in an `Arc`, or lend it. Neither a drop nor a kill loses anything that was
/// acknowledged. [`Icebox::close`] waits for servers to finish what is under way, and saves the next open some work. A drop only
/// tells the servers to end; without any, it waits a moment for the store's threads.
#[derive(Debug)]
pub struct Icebox {
    catalog: Catalog,
    #[cfg(feature = "server")]
    servers: Servers,
}

/// Tells the opening of a store to stop if nobody waits for it any more.
struct CancelOnDrop(Option<Arc<AtomicBool>>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(cancelled) = &self.0 {
            cancelled.store(true, Ordering::Relaxed);
        }
    }
}

impl Icebox {
    /// Opens the store in a file, or makes a new one there. No other process can open it until it is closed.
    ///
    /// Opening takes a second or two if the store was not closed, and longer if its view has to be made again. It stops if the
    /// future is dropped, and nothing is lost by that.
    ///
    /// # Errors
    /// [`OpenError::Locked`] if another process has it open; [`OpenError::Foreign`] if the file is something else;
    /// [`OpenError::NewerFormat`]; errors of the disk; what is damaged.
    pub async fn open(path: impl Into<PathBuf>, options: Options) -> Result<Icebox, OpenError> {
        let path = path.into();
        let cancelled = Arc::<AtomicBool>::default();
        let mut cancel = CancelOnDrop(Some(cancelled.clone()));
        let opened = blocking(move || Store::open_unless(cancelled, &path, &options)).await?;
        // From now on the flag belongs to the open store.
        cancel.0 = None;
        let catalog = Catalog::new(opened?);
        Ok(Icebox {
            #[cfg(feature = "server")]
            servers: Servers::new(catalog.clone()),
            catalog,
        })
    }

    /// The calls on backups.
    #[must_use]
    pub fn backups(&self) -> Backups<'_> {
        Calls::new(&self.catalog)
    }

    /// The calls on jobs.
    #[must_use]
    pub fn jobs(&self) -> Jobs<'_> {
        Calls::new(&self.catalog)
    }

    /// The calls on clients.
    #[must_use]
    pub fn clients(&self) -> Clients<'_> {
        Calls::new(&self.catalog)
    }

    /// The calls on stored actions.
    #[must_use]
    pub fn actions(&self) -> Actions<'_> {
        Calls::new(&self.catalog)
    }

    /// The calls on sessions.
    #[must_use]
    pub fn sessions(&self) -> Sessions<'_> {
        Calls::new(&self.catalog)
    }

    /// The store's revision: calls show at least all changes up to it. It grows with each change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.catalog.revision()
    }

    /// Follows commits after a revision. 0 starts with the oldest changes that are kept. [`Icebox::revision`], or the revision of a
    /// list, continues from there.
    #[must_use]
    pub fn changes(&self, after_revision: u64) -> Changes {
        self.catalog.changes(after_revision)
    }

    /// The state of the store, and what it holds.
    ///
    /// # Errors
    /// If the runtime is shutting down.
    pub async fn status(&self) -> Result<Status, Error> {
        self.catalog.status().await
    }

    /// Writes a snapshot of everything that the store holds at one revision, while writes go on. Returns that revision. The
    /// snapshot is complete only if this succeeds, and durable only once `to` is.
    ///
    /// # Errors
    /// If the store cannot be read, `to` fails, or another snapshot is being made.
    pub async fn snapshot(&self, mut to: impl Write + Send + 'static) -> Result<Snapshot, Error> {
        let permit = self.catalog.begin_snapshot()?;
        let catalog = self.catalog.clone();
        let refused = |error: io::Error| store::Error::Io {
            action: "write the snapshot".into(),
            reason: error.to_string(),
        };
        let snapshot = move || {
            let _permit = permit;
            let made = catalog.snapshot(|chunk| to.write_all(&chunk).map_err(refused))?;
            to.flush().map_err(refused)?;
            Ok(made)
        };
        blocking(snapshot).await?
    }

    /// Serves gRPC on a listener until [`Icebox::close`], or until this is dropped. There may be several.
    ///
    /// Everybody who can connect may do everything: listen on a loopback address or a Unix socket of your own.
    ///
    /// # Panics
    /// If it is called outside of a tokio runtime.
    #[cfg(feature = "server")]
    pub fn serve(&self, listener: impl Into<Listener>) -> Serving {
        self.serve_those(listener, Access::default())
    }

    /// Like [`Icebox::serve`], but only for callers that `access` lets in.
    ///
    /// # Panics
    /// The same as for [`Icebox::serve`].
    #[cfg(feature = "server")]
    pub fn serve_those(&self, listener: impl Into<Listener>, access: Access) -> Serving {
        let catalog = self.catalog.clone();
        self.servers.start(catalog, listener.into(), access)
    }

    /// Serves Freezer's HTTP API v2 on a listener until [`Icebox::close`], or until this is dropped. It offers the calls of
    /// [`Icebox::serve_those`] to Freezer's own clients, with the same access.
    ///
    /// # Panics
    /// If it is called outside of a tokio runtime.
    #[cfg(feature = "http")]
    pub fn serve_http(&self, listener: impl Into<Listener>, access: Access) -> Serving {
        let catalog = self.catalog.clone();
        self.servers.start_http(catalog, listener.into(), access)
    }

    /// Serves Prometheus over HTTP on a listener until [`Icebox::close`], or until this is dropped: `/metrics`, and `/livez` and
    /// `/readyz` for supervisors. There is no authentication, and no stored data is shown.
    ///
    /// # Panics
    /// If it is called outside of a tokio runtime.
    #[cfg(feature = "server")]
    pub fn serve_metrics(&self, listener: tokio::net::TcpListener) -> Serving {
        self.servers.start_metrics(listener)
    }

    /// Lets servers finish what is under way for at most 8 seconds, commits what is queued, and closes the store.
    ///
    /// # Errors
    /// Errors of the disk. Nothing that was acknowledged depends on it.
    pub async fn close(self) -> Result<(), store::Error> {
        #[cfg(feature = "server")]
        self.servers.end().await;
        let mut store = self.catalog.into_store();
        let patience = tokio::time::sleep(HOLDERS_PATIENCE);
        tokio::pin!(patience);
        loop {
            store = match Arc::try_unwrap(store) {
                Ok(store) => return blocking(move || store.close()).await?,
                Err(store) => store,
            };
            tokio::select! {
                () = tokio::time::sleep(HOLDERS_LOOK) => {}
                () = &mut patience => {
                    return Err(store::Error::Io {
                        action: "close the store".into(),
                        reason: "a call is still under way".into(),
                    });
                }
            }
        }
    }
}
