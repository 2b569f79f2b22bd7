//! The `keyferry` command.

use std::process::ExitCode;

use keyferry_broker::cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run()
}
