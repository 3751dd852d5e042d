//! The command line: `icebox COMMAND …`, with one file for each command.

mod actions;
mod audit;
mod backups;
mod change;
mod clients;
mod commands;
mod config;
mod connection;
mod context;
mod document;
mod each;
mod error;
mod export;
#[cfg(test)]
mod fake_server;
mod ids;
mod import;
mod jobs;
mod listen;
mod manual;
mod output;
mod paging;
mod progress;
mod remote;
mod restore;
mod serve;
mod sessions;
mod snapshot;
mod status;
mod stream;
mod token;
mod verify;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use connection::{Channel, Connection};
pub use error::Error;

/// A backup catalog and job registry: the resources of the OpenStack Freezer API v2, over gRPC.
#[derive(Parser)]
#[command(
    name = "icebox",
    version,
    after_help = "Examples:
  icebox serve
  icebox import --project demo backups.json
  icebox backups list --project demo
  icebox export --project demo --out catalog.json

`icebox COMMAND --help` tells more about each."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Args),
    Backups(backups::Args),
    Jobs(jobs::Args),
    Clients(clients::Args),
    Actions(actions::Args),
    Sessions(sessions::Args),
    Import(import::Args),
    Export(export::Args),
    Snapshot(snapshot::Args),
    Verify(verify::Args),
    Restore(restore::Args),
    Status(status::Args),
    Audit(audit::Args),
    Context(context::Args),
    Config(config::Args),
    Token(token::Args),
    Completions(manual::Completions),
    Man(manual::Man),
    /// Print the version
    Version,
}

/// Runs the command that the process was started with.
///
/// Exit status: 0 if all was done, 1 if something was refused or failed, 2 for wrong usage.
#[must_use]
pub fn main() -> ExitCode {
    let result = config::Settings::parse().and_then(run);
    match result {
        Ok(()) | Err(Error::OutputClosed) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("icebox: {error}");
            error.exit_code()
        }
    }
}

fn run(settings: config::Settings) -> Result<(), Error> {
    match settings.cli.command {
        Command::Config(_) => config::run(&settings),
        Command::Serve(args) => serve::run(&args),
        Command::Backups(args) => connection::block_on(backups::run(args)),
        Command::Jobs(args) => connection::block_on(jobs::run(args)),
        Command::Clients(args) => connection::block_on(clients::run(args)),
        Command::Actions(args) => connection::block_on(actions::run(args)),
        Command::Sessions(args) => connection::block_on(sessions::run(args)),
        Command::Import(args) => connection::block_on(import::run(args)),
        Command::Export(args) => connection::block_on(export::run(args)),
        Command::Snapshot(args) => connection::block_on(snapshot::run(args)),
        Command::Verify(args) => verify::run(&args),
        Command::Restore(args) => restore::run(&args),
        Command::Audit(args) => connection::block_on(audit::run(args)),
        Command::Status(args) => connection::block_on(status::run(args)),
        Command::Context(args) => context::run(args),
        Command::Token(args) => token::run(args),
        Command::Completions(args) => manual::print_completions(&args),
        Command::Man(args) => manual::write_manual(&args),
        Command::Version => {
            println!("icebox {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    }
}
