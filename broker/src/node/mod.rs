//! A running node: threads, log directories, the cluster's metadata, listeners, and the way down again.

mod control;
mod data_shard;
mod error;
mod identity;
mod machine;
mod message;
mod post;
mod signals;
mod start_block;

pub use error::NodeError;
pub use signals::on_termination;

use crate::config::Config;
use crate::runtime::mailbox::{Endpoint, Mesh};
use crate::runtime::uring::{Options, ShardThreads, StartError, UringConnectionHandle, available_cores};
use crate::runtime::{event, uring::UringRuntime};
use logmill_wire::ids::ShardIndex;
use logmill_wire::limits::MAILBOX_MESSAGES_MAX;
use message::ShardMessage;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

type Handle = UringConnectionHandle;

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
struct Seed {
    node: Arc<Node>,
    endpoint: Endpoint<ShardMessage<Handle>>,
    /// Set on the control shard only: the wait for the signal to stop.
    stop: Option<event::Wait>,
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// Why it could not start, or could not go on.
pub fn serve(config: Config) -> Result<(), NodeError> {
    start_block::begin_logging(&config.settings.resources.log_filter);
    let log_directory = identity::LogDirectory::acquire(&config)?;
    let cores = available_cores();
    let shards = config.settings.resources.shards.unwrap_or(cores.len()).max(1);
    let shards = u16::try_from(shards)
        .map_err(|_| NodeError::new("logmill.shards is too large", "use fewer shards"))?;
    let memory = machine::Memory::plan(&config.settings, shards);
    let options = Options {
        cores: if config.settings.resources.pin_cores { cores } else { Vec::new() },
        ..Options::default()
    };
    let (stop, stopped) = event::event();
    signals::set_on_termination(stop).map_err(|error| {
        NodeError::new(format!("signals cannot be handled: {error}"), "check the limits on threads")
    })?;
    let node = Arc::new(Node { config, shards, memory, log_directory, failure: Mutex::new(None) });
    let mut mesh = Mesh::new(usize::from(shards) + 1, MAILBOX_MESSAGES_MAX);
    let mut seeds: Vec<Seed> = (0..=shards)
        .filter_map(|shard| mesh.endpoint(ShardIndex(shard)))
        .map(|endpoint| Seed { node: Arc::clone(&node), endpoint, stop: None })
        .collect();
    let control = seeds.pop().map(|seed| Seed { stop: Some(stopped), ..seed });
    let threads = ShardThreads::start(&options, seeds, control, run_shard).map_err(refused)?;
    let stats = threads.stats().to_vec();
    threads.join();
    for (shard, stats) in stats.iter().enumerate() {
        let longest_poll_us = stats.longest_poll_ns.load(Ordering::Relaxed) / 1000;
        let (polls, sleeps) = (stats.polls.load(Ordering::Relaxed), stats.sleeps.load(Ordering::Relaxed));
        tracing::info!(shard, longest_poll_us, polls, sleeps, "a shard has ended");
    }
    let failure = node.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
    failure.map_or(Ok(()), Err)
}

async fn run_shard(runtime: UringRuntime, seed: Seed) {
    match seed.stop {
        Some(stop) => control::run(runtime, seed.node, seed.endpoint, stop).await,
        None => data_shard::run(runtime, seed.node, seed.endpoint).await,
    }
}

fn refused(error: StartError) -> NodeError {
    // The error's text is "cause; remedy".
    let text = error.to_string();
    let (cause, remedy) =
        text.split_once("; ").unwrap_or((&text, "see the cause; `logmill-tuning check` looks at the host"));
    NodeError::new(cause, remedy)
}
