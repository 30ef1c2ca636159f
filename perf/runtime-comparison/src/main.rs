//! The broker's executable, on glommio.

use logmill_glommio::GlommioRuntime;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    logmill::cli::run(|config| {
        logmill::node::serve_on::<GlommioRuntime>(config)
            .map_err(|error| logmill::cli::Failure::new(error.cause, error.remedy))
    })
}
