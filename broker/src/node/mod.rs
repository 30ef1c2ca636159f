//! A running node: threads, log directories, the cluster's metadata, listeners, and the way down again.

mod control;
mod data_shard;
mod directories;
mod error;
mod force_quorum;
mod identity;
mod last_boot;
mod listen;
mod machine;
mod message;
mod post;
mod runs;
mod signals;
mod start_block;

pub use directories::LogDirectoryPaths;
pub use error::NodeError;
pub use force_quorum::force_quorum;
pub use signals::on_termination;

use crate::config::Config;
use crate::runtime::mailbox::{Endpoint, Mesh};
use crate::runtime::threads::{ThreadedRuntime, available_cores};
use crate::runtime::{Runtime, event, uring::UringRuntime};
use crate::shard::lost_peers::LostPeers;
use logmill_state::metadata::Image;
use logmill_wire::ids::{ShardIndex, Uuid};
use logmill_wire::limits::MAILBOX_MESSAGES_MAX;
use message::ShardMessage;
use std::sync::{Arc, Mutex, PoisonError};

/// What every thread of the node shares.
struct Node {
    config: Config,
    /// Data shards; the control shard's index follows theirs.
    shards: u16,
    memory: machine::Memory,
    log_directories: LogDirectoryPaths,
    observer: Box<dyn Observer>,
    /// The boot of the host, if the kernel tells it.
    boot: Option<Uuid>,
    /// The brokers to which a connection of any shard has just broken.
    lost_peers: Arc<LostPeers>,
    failure: Mutex<Option<NodeError>>,
}

impl Node {
    const fn control(&self) -> ShardIndex {
        ShardIndex(self.shards)
    }

    fn fail(&self, failure: NodeError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
    }

    fn has_failed(&self) -> bool {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// Who watches a node from outside; called on its control shard.
pub trait Observer: Send + Sync {
    /// The node serves. `block` is what its operator should see.
    fn started(&self, block: &str);

    /// The node has applied this image of the cluster's metadata, and hands it to its shards.
    fn applied(&self, _image: &Arc<Image>) {}
}

/// Shows the operator the start block.
struct StandardOutput;

impl Observer for StandardOutput {
    fn started(&self, block: &str) {
        start_block::print(block);
    }
}

/// What one shard starts with.
pub struct Seed<H> {
    node: Arc<Node>,
    endpoint: Endpoint<ShardMessage<H>>,
    /// Set on the control shard only: the wait for the signal to stop.
    stop: Option<event::Wait>,
}

/// A node that has not begun: what each of its shards is to be run with, by [`run_shard`].
pub struct Assembly<H> {
    /// Of the data shards, in the order of their indices.
    pub data: Vec<Seed<H>>,
    /// Of the control shard, whose index follows theirs; always there.
    pub control: Option<Seed<H>>,
    /// Why the node cannot go on, once it cannot.
    pub failure: Failure,
}

/// Why a node could not start, or could not go on.
pub struct Failure(Arc<Node>);

impl Failure {
    /// Takes the cause; there is none of a node that was told to stop.
    #[must_use]
    pub fn take(&self) -> Option<NodeError> {
        self.0.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Puts a node of `shards` data shards together. Its log directories must exist, and be no other node's while it
/// runs; it runs until `stop`. `boot` is another one after each start of its host; `None` if that is not known.
#[must_use]
pub fn assemble<H: Send>(
    config: Config,
    shards: u16,
    log_directories: impl Into<LogDirectoryPaths>,
    boot: Option<Uuid>,
    observer: Box<dyn Observer>,
    stop: event::Wait,
) -> Assembly<H> {
    let memory = machine::Memory::plan(&config.settings, shards);
    let (failure, log_directories) = (Mutex::new(None), log_directories.into());
    let node = Arc::new(Node {
        config,
        shards,
        memory,
        log_directories,
        boot,
        observer,
        lost_peers: Arc::default(),
        failure,
    });
    let mut mesh = Mesh::new(usize::from(shards) + 1, MAILBOX_MESSAGES_MAX);
    let mut data: Vec<_> = (0..=shards)
        .filter_map(|shard| mesh.endpoint(ShardIndex(shard)))
        .map(|endpoint| Seed { node: Arc::clone(&node), endpoint, stop: None })
        .collect();
    let control = data.pop().map(|seed| Seed { stop: Some(stop), ..seed });
    Assembly { data, control, failure: Failure(node) }
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
    let (log_directories, _locks) = directories::lock(&config.settings)?;
    let cores = available_cores();
    let shards = config.settings.resources.shards.unwrap_or(cores.len()).max(1);
    let shards = u16::try_from(shards)
        .map_err(|_| NodeError::new("logmill.shards is too large", "use fewer shards"))?;
    let cores = if config.settings.resources.pin_cores { cores } else { Vec::new() };
    let (stop, stopped) = event::event();
    signals::set_on_termination(stop).map_err(|error| {
        NodeError::new(format!("signals cannot be handled: {error}"), "check the limits on threads")
    })?;
    let boot = machine::boot_id();
    let node = assemble(config, shards, log_directories, boot, Box::new(StandardOutput), stopped);
    R::run_shards(cores, node.data, node.control, run_shard).map_err(|error| refused(&error))?;
    node.failure.take().map_or(Ok(()), Err)
}

/// Runs one shard of a node until the node ends; `runtime` must drive the shard that the seed is of.
pub async fn run_shard<R: Runtime>(runtime: R, seed: Seed<R::ConnectionHandle>) {
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
