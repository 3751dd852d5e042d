//! What Icebox promises, a module for each promise. These tests speak to whole servers through sockets.
//!
//! They are one binary, which is linked once, and while one test waits another one runs. What needs a process of its own is a file
//! beside this directory.

mod harness;
#[path = "../resident/mod.rs"]
mod resident;

mod access;
mod actions;
mod audit;
mod backups;
mod bad_input;
mod bad_requests;
mod cli;
mod cli_fleet;
mod cli_watch;
mod clients;
mod config;
mod discovery;
mod durability;
mod embedded;
mod freezer_door;
mod freezer_hostile;
mod freezer_http;
mod freezer_lists;
mod jobs;
mod labels;
mod limits;
mod linearizable;
mod listening;
mod maintenance;
mod metrics;
mod paging;
mod resources;
mod secrets;
mod sessions;
mod sessions_model;
mod tls;
mod upgrade;
mod watch_memory;
mod watches;
