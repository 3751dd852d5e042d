//! The `icebox` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    icebox::cli::main()
}
