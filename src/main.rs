//! The `icebox` command.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Creates, and making a view again, allocate much memory from several threads. With glibc's allocator both take half as long
/// again.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    icebox::cli::main()
}
