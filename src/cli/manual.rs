//! `icebox completions` and `icebox man`: what shells and `man` need to know about the command.

use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Error};

/// Print completions for a shell
#[derive(clap::Args)]
#[command(after_help = "Examples:
  icebox completions bash > /etc/bash_completion.d/icebox
  icebox completions zsh > ~/.zfunc/_icebox
  icebox completions fish > ~/.config/fish/completions/icebox.fish")]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

/// Write the manual pages into a directory
#[derive(clap::Args)]
#[command(after_help = "Examples:
  icebox man /usr/local/share/man/man1")]
pub(super) struct Man {
    /// The directory, made if it is missing
    dir: PathBuf,
}

pub(super) fn print_completions(args: &Completions) -> Result<(), Error> {
    // The generator panics if it cannot write. Writing to memory never fails.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "icebox", &mut script);
    Ok(std::io::Write::write_all(&mut std::io::stdout(), &script)?)
}

pub(super) fn write_manual(args: &Man) -> Result<(), Error> {
    let written = std::fs::create_dir_all(&args.dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), &args.dir));
    written.map(drop).map_err(|error| {
        Error::Failed(format!("{} cannot be written: {error}", args.dir.display()))
    })
}
