//! The `icebox` command.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Creates and the making of a view allocate much, from several threads: with glibc's allocator both take half as long again.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    icebox::cli::main()
}
