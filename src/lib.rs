//! Icebox keeps the catalog of a backup fleet, and the registry of its jobs: the resources of the OpenStack Freezer API v2, in a
//! durable store on this machine. A program embeds it, or serves it over gRPC, or both.
//!
//! # Open, create, list, close
//!
//! ```
//! use icebox::{Icebox, Options, proto::{Backup, BackupMetadata}};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("icebox.db");
//! let icebox = Icebox::open(&path, Options::default()).await?;
//!
//! let backup = Backup {
//!     backup_metadata: Some(BackupMetadata {
//!         backup_name: "nightly".into(),
//!         container: "backups".into(),
//!         hostname: "db-1".into(),
//!         ..BackupMetadata::default()
//!     }),
//!     ..Backup::default()
//! };
//! let created = icebox.backups().create("demo", backup).await?;
//! println!("{} is stored", created.resource.backup_id);
//!
//! // Pages are sorted by name. The next one starts after the last item that was seen.
//! let mut marker = String::new();
//! loop {
//!     let page = icebox.backups().list("demo").limit(10).after(marker).await?;
//!     let Some(last) = page.items.last() else { break };
//!     marker = last.backup_id.clone();
//! }
//!
//! icebox.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! What a call has acknowledged is on the disk, whatever happens to the process or the machine. A store belongs to one process
//! at a time; within it, many tasks may call.
//!
//! # Errors
//!
//! [`Error`] names every bad field at once, and tells what is not there from what has changed meanwhile:
//!
//! ```
//! # use icebox::{Error, Icebox, Options, proto::Job};
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let icebox = Icebox::open(dir.path().join("icebox.db"), Options::default()).await?;
//! match icebox.jobs().create("demo", Job::default()).await {
//!     Err(Error::Invalid(violations)) => {
//!         for violation in &violations {
//!             println!("{}: {}", violation.field, violation.description);
//!         }
//!     }
//!     other => panic!("{other:?}"),
//! }
//! # icebox.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Serve it
//!
//! [`Icebox::serve`] offers the same calls over gRPC, with health and reflection, on a listener of the program's own, until
//! [`Icebox::close`]:
//!
#![cfg_attr(feature = "server", doc = "```")]
#![cfg_attr(not(feature = "server"), doc = "```ignore")]
//! # use icebox::{Icebox, Options, proto::{ListJobsRequest, job_service_client::JobServiceClient}};
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let icebox = Icebox::open(dir.path().join("icebox.db"), Options::default()).await?;
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let address = listener.local_addr()?;
//! let serving = icebox.serve(listener);
//!
//! let mut jobs = JobServiceClient::connect(format!("http://{address}")).await?;
//! let request = ListJobsRequest { project_id: "demo".into(), ..Default::default() };
//! assert_eq!(jobs.list_jobs(request).await?.into_inner().count(), 0);
//!
//! icebox.close().await?;
//! serving.await?;
//! # Ok(())
//! # }
//! ```
//!
//! Everybody who can connect may do everything: listen on a loopback address or a Unix socket of your own.
//!
//! # Follow what changes
//!
//! [`Icebox::changes`] returns commits after a revision, in order, at the reader's own pace.
//!
//! # Features
//!
//! - `server`: gRPC, with clients. Without it and without `cli`, an embedded store needs no tonic.
//! - `http`: `server`, and Freezer's HTTP API.
//! - `cli` (on by default): the `icebox` command. Programs that embed Icebox leave it out.

#![deny(missing_docs)]
// Without these features, some functions that only the command or the services call are unused.
#![cfg_attr(not(feature = "cli"), allow(dead_code, unused_imports))]

mod calls;
mod catalog;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod clock;
#[cfg(feature = "http")]
mod freezer_http;
#[cfg(feature = "documents")]
mod freezer_json;
#[cfg(all(fuzzing, feature = "documents"))]
#[doc(hidden)]
pub mod fuzzing;
mod icebox;
#[cfg(feature = "server")]
mod identity;
pub mod proto;
mod resource;
#[cfg(feature = "server")]
mod server;
#[cfg(feature = "server")]
mod service;
mod store;

pub use calls::{
    Actions, Answered, Backups, Calls, Clients, Created, Delete, Jobs, List, Listed, Sessions,
    Update, Watch, Watching,
};
pub use catalog::{Change, Changed, Changes, Counts, Error, Status};
pub use icebox::Icebox;
#[cfg(feature = "server")]
pub use identity::{Access, BadTokens, Tokens};
pub use resource::{Kind, Violation, Violations};
#[cfg(feature = "server")]
pub use server::{BadTls, Limits, Listener, Serving, Tls};
pub use store::{Condition, Error as StoreError, OpenError, Options, Snapshot, Usage};
