//! The broker's executable.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    logmill::cli::run(|_config| {
        Err(logmill::cli::Failure::new(
            "this build can show its configuration, but cannot serve yet",
            "use `logmill config` to look at the settings",
        ))
    })
}
