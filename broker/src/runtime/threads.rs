//! Running the shards of a node, each on a thread of its own.

use super::Runtime;
use std::error::Error;
use std::future::Future;

/// A backend whose shards are threads of this process.
pub trait ThreadedRuntime: Runtime {
    /// Why a shard could not be started; its text is the cause and, where one is known, "; " and the remedy.
    type StartError: Error;

    /// Runs a shard for each seed and, if there is a seed for it, the unpinned control shard, whose index follows
    /// those of the others; returns when all have ended. The first shard is pinned to the first processor of
    /// `cores`; those beyond them stay unpinned. Each shard runs `main` with its own runtime and seed, once all of
    /// them could be made; if one cannot be, none runs.
    ///
    /// A panic of `main`, or of any task, ends the process after it was logged.
    ///
    /// # Errors
    /// Why a shard, or a thread, could not be had.
    fn run_shards<S, M, F>(
        cores: Vec<usize>,
        seeds: Vec<S>,
        control: Option<S>,
        main: M,
    ) -> Result<(), Self::StartError>
    where
        S: Send + 'static,
        M: Fn(Self, S) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + 'static;
}

/// The processors that this process may run on.
#[must_use]
pub fn available_cores() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}
