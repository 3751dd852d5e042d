//! Icebox: a backup catalog and job registry with the resources of the OpenStack Freezer API v2.
//!
//! One way, down and back up, each layer knowing only the next:
//!
//! - [`cli`]: the command line, one file a command;
//! - [`server`]: listener, health, reflection, shutdown;
//! - [`service`]: one file a gRPC service: authorize, validate, one catalog call, reply;
//! - [`resource`]: one file a resource: its name, its rules, its Freezer JSON;
//! - [`catalog`]: any resource, stored: keys, pages, mutations;
//! - [`store`]: a durable ordered key-value store with revisions: journal and sled;
//! - [`proto`]: what is said on the wire, beside them all.

pub mod calls;
pub mod catalog;
pub mod cli;
mod clock;
mod icebox;
pub mod proto;
pub mod resource;
pub mod server;
pub mod service;
pub mod store;

pub use catalog::Error;
pub use icebox::Icebox;
pub use store::{OpenError, Options};
