//! A running node: threads, log directories, the cluster's metadata, listeners, and the way down again.

mod control;
mod data_shard;
mod error;
mod identity;
mod listen;
mod machine;
mod message;
mod post;
mod signals;
mod start_block;

pub use error::NodeError;
pub use signals::on_termination;

use crate::config::Config;
use crate::runtime::mailbox::{Endpoint, Mesh};
use crate::runtime::threads::{ThreadedRuntime, available_cores};
use crate::runtime::{Runtime, event, uring::UringRuntime};
use logmill_wire::ids::ShardIndex;
use logmill_wire::limits::MAILBOX_MESSAGES_MAX;
use message::ShardMessage;
use std::sync::{Arc, Mutex, PoisonError};

/// What every thread of the node shares.
struct Node {
    config: Config,
    /// Data shards; the control shard's index follows theirs.
    shards: u16,
    memory: machine::Memory,
    log_directory: identity::LogDirectory,
    failure: Mutex<Option<NodeError>>,
}

impl Node {
    const fn control(&self) -> ShardIndex {
        ShardIndex(self.shards)
    }

    fn fail(&self, failure: NodeError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
    }
}

/// What one thread starts with.
struct Seed<H> {
    node: Arc<Node>,
    endpoint: Endpoint<ShardMessage<H>>,
    /// Set on the control shard only: the wait for the signal to stop.
    stop: Option<event::Wait>,
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// Why it could not start, or could not go on.
pub fn serve(config: Config) -> Result<(), NodeError> {
    serve_on::<UringRuntime>(config)
}

/// Runs a node on a backend of the runtime until it is told to stop.
///
/// # Errors
/// Why it could not start, or could not go on.
pub fn serve_on<R: ThreadedRuntime>(config: Config) -> Result<(), NodeError> {
    start_block::begin_logging(&config.settings.resources.log_filter);
    let log_directory = identity::LogDirectory::acquire(&config)?;
    let cores = available_cores();
    let shards = config.settings.resources.shards.unwrap_or(cores.len()).max(1);
    let shards = u16::try_from(shards)
        .map_err(|_| NodeError::new("logmill.shards is too large", "use fewer shards"))?;
    let memory = machine::Memory::plan(&config.settings, shards);
    let cores = if config.settings.resources.pin_cores { cores } else { Vec::new() };
    let (stop, stopped) = event::event();
    signals::set_on_termination(stop).map_err(|error| {
        NodeError::new(format!("signals cannot be handled: {error}"), "check the limits on threads")
    })?;
    let node = Arc::new(Node { config, shards, memory, log_directory, failure: Mutex::new(None) });
    let mut mesh = Mesh::new(usize::from(shards) + 1, MAILBOX_MESSAGES_MAX);
    let mut seeds: Vec<Seed<R::ConnectionHandle>> = (0..=shards)
        .filter_map(|shard| mesh.endpoint(ShardIndex(shard)))
        .map(|endpoint| Seed { node: Arc::clone(&node), endpoint, stop: None })
        .collect();
    let control = seeds.pop().map(|seed| Seed { stop: Some(stopped), ..seed });
    R::run_shards(cores, seeds, control, run_shard).map_err(|error| refused(&error))?;
    let failure = node.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
    failure.map_or(Ok(()), Err)
}

async fn run_shard<R: Runtime>(runtime: R, seed: Seed<R::ConnectionHandle>) {
    match seed.stop {
        Some(stop) => control::run(runtime, seed.node, seed.endpoint, stop).await,
        None => data_shard::run(runtime, seed.node, seed.endpoint).await,
    }
}

fn refused(error: &impl std::error::Error) -> NodeError {
    // The error's text is "cause; remedy".
    let text = error.to_string();
    let (cause, remedy) =
        text.split_once("; ").unwrap_or((&text, "see the cause; `logmill-tuning check` looks at the host"));
    NodeError::new(cause, remedy)
}
