//! An open Icebox: what a program holds that embeds it.

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

/// How long closing waits for a call that still holds the store, and how often it looks.
const HOLDERS_PATIENCE: Duration = Duration::from_secs(2);
const HOLDERS_LOOK: Duration = Duration::from_millis(5);

/// An open store, with typed calls, and servers of the same calls over gRPC.
///
/// Calls may be made from many tasks at one time: share it in an `Arc`, or lend it. Dropping it, or being killed, loses nothing
/// that was acknowledged; [`Icebox::close`] spares the next open some work, and waits for servers to finish what is under way.
/// A drop tells them to end, and does not wait; if there are none, it waits a moment for the store's threads.
#[derive(Debug)]
pub struct Icebox {
    catalog: Catalog,
    #[cfg(feature = "server")]
    servers: Servers,
}

/// Says that opening may stop, when nobody waits for it any more.
struct CancelOnDrop(Option<Arc<AtomicBool>>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(cancelled) = &self.0 {
            cancelled.store(true, Ordering::Relaxed);
        }
    }
}

impl Icebox {
    /// Opens the store in a file, or makes one there. This process has it for itself from then on.
    ///
    /// It takes a second or two if the store was not closed, longer if its view has to be made anew. Opening stops if the future
    /// is dropped; nothing is lost by that.
    ///
    /// # Errors
    /// [`OpenError::Locked`] if another process has it open; [`OpenError::Foreign`] if something else is there;
    /// [`OpenError::NewerFormat`]; what the disk says, or what is lost, if it is damaged.
    pub async fn open(path: impl Into<PathBuf>, options: Options) -> Result<Icebox, OpenError> {
        let path = path.into();
        let cancelled = Arc::<AtomicBool>::default();
        let mut cancel = CancelOnDrop(Some(cancelled.clone()));
        let opened = blocking(move || Store::open_unless(cancelled, &path, &options)).await?;
        // It is the open store's from now on.
        cancel.0 = None;
        let catalog = Catalog::new(opened?);
        Ok(Icebox {
            #[cfg(feature = "server")]
            servers: Servers::new(catalog.clone()),
            catalog,
        })
    }

    /// What may be asked about backups.
    #[must_use]
    pub fn backups(&self) -> Backups<'_> {
        Calls::new(&self.catalog)
    }

    /// What may be asked about jobs.
    #[must_use]
    pub fn jobs(&self) -> Jobs<'_> {
        Calls::new(&self.catalog)
    }

    /// What may be asked about clients.
    #[must_use]
    pub fn clients(&self) -> Clients<'_> {
        Calls::new(&self.catalog)
    }

    /// What may be asked about stored actions.
    #[must_use]
    pub fn actions(&self) -> Actions<'_> {
        Calls::new(&self.catalog)
    }

    /// What may be asked about sessions.
    #[must_use]
    pub fn sessions(&self) -> Sessions<'_> {
        Calls::new(&self.catalog)
    }

    /// The revision of the last change that calls show at least. It grows with each.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.catalog.revision()
    }

    /// Follows what is committed after a revision: from the beginning after 0, as far back as it is kept, or on from
    /// [`Icebox::revision`], or from where a list was.
    #[must_use]
    pub fn changes(&self, after_revision: u64) -> Changes {
        self.catalog.changes(after_revision)
    }

    /// How the store is, and what it holds.
    ///
    /// # Errors
    /// If the runtime is shutting down.
    pub async fn status(&self) -> Result<Status, Error> {
        self.catalog.status().await
    }

    /// Writes a snapshot of all that the store holds at one revision, while writes go on, and says which. It is complete only if
    /// this succeeds, and durable only once `to` is.
    ///
    /// # Errors
    /// If the store cannot be read, `to` refuses, or another snapshot is being made.
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

    /// Serves gRPC on a listener from now on, until [`Icebox::close`], or it is dropped. There may be several.
    ///
    /// Whoever can connect may do everything: listen on a loopback address or a Unix socket of one's own.
    ///
    /// # Panics
    /// If it is not called within a tokio runtime.
    #[cfg(feature = "server")]
    pub fn serve(&self, listener: impl Into<Listener>) -> Serving {
        self.serve_those(listener, Access::default())
    }

    /// As [`Icebox::serve`], for those who may have access.
    ///
    /// # Panics
    /// As of that.
    #[cfg(feature = "server")]
    pub fn serve_those(&self, listener: impl Into<Listener>, access: Access) -> Serving {
        let catalog = self.catalog.clone();
        self.servers.start(catalog, listener.into(), access)
    }

    /// Serves Freezer's HTTP API v2 on a listener from now on, for those who may have access, until [`Icebox::close`], or it is
    /// dropped: the same calls as those of [`Icebox::serve_those`], for Freezer's own clients.
    ///
    /// # Panics
    /// If it is not called within a tokio runtime.
    #[cfg(feature = "http")]
    pub fn serve_http(&self, listener: impl Into<Listener>, access: Access) -> Serving {
        let catalog = self.catalog.clone();
        self.servers.start_http(catalog, listener.into(), access)
    }

    /// Answers Prometheus over HTTP on a listener from now on, until [`Icebox::close`], or it is dropped: `/metrics`, and `/livez` and
    /// `/readyz` for what watches over it. Nobody is asked who they are, and nothing of what is stored is told.
    ///
    /// # Panics
    /// If it is not called within a tokio runtime.
    #[cfg(feature = "server")]
    pub fn serve_metrics(&self, listener: tokio::net::TcpListener) -> Serving {
        self.servers.start_metrics(listener)
    }

    /// Lets servers finish what is under way, for 8 seconds at the most, commits what is queued, and closes the store.
    ///
    /// # Errors
    /// What the disk says. Nothing that was acknowledged depends on it.
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
