//! A broker's storage on a simulated host: the same pieces, put together as a node puts them together.

use logmill::journal::Journal;
use logmill::log::{DirectoryHealth, Store, StoreSettings, recover};
use logmill::partition::PartitionTable;
use logmill::partition::command::PartitionCommand;
use logmill::partition::router::shard_of;
use logmill::runtime::simulated::{Host, SimulatedRuntime};
use logmill_state::metadata::Image;
use logmill_state::settings::BrokerSettings;
use logmill_wire::ids::{NodeId, ShardIndex, TopicPartition};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// The node's id in every world.
pub const NODE: NodeId = NodeId(1);

/// Where its log directory is.
pub const DIRECTORY: &str = "/data";

/// One shard of the node.
pub struct Shard {
    /// Its machine.
    pub runtime: SimulatedRuntime,
    /// Its part of the log directory.
    pub store: Rc<Store<SimulatedRuntime>>,
    /// Its partitions.
    pub table: Rc<PartitionTable<SimulatedRuntime>>,
}

/// A running node.
pub struct Node {
    /// Its shards.
    pub shards: Vec<Shard>,
    /// The health of its log directory.
    pub health: Arc<DirectoryHealth>,
}

/// How a node is started.
#[derive(Clone)]
pub struct Start {
    /// How many shards.
    pub shards: u16,
    /// The sizes of its stores.
    pub store: StoreSettings,
    /// What the cluster knows.
    pub image: Arc<Image>,
}

impl Node {
    /// Recovers the log directory and starts the shards.
    ///
    /// # Errors
    /// Why the node refuses to start.
    pub async fn start(host: Host, start: Start) -> Result<Rc<Self>, String> {
        let runtimes: Vec<_> = (0..start.shards).map(|shard| host.runtime(ShardIndex(shard))).collect();
        let Some(first) = runtimes.first() else { return Err("a node has at least one shard".into()) };
        let path = PathBuf::from(DIRECTORY);
        logmill::runtime::Runtime::create_directory(first, &path).await.map_err(|error| error.to_string())?;
        let root = PathBuf::from("/");
        logmill::runtime::Runtime::sync_directory(first, &root).await.map_err(|error| error.to_string())?;
        let recovery = recover(first, &path).await.map_err(|error| error.to_string())?;
        let (shards, journal_bytes) = (start.shards, start.store.journal_bytes);
        let opened = recovery
            .begin_run(first, shards, move |_| journal_bytes, move |log| shard_of(log, shards))
            .await
            .map_err(|error| error.to_string())?;
        let health = Arc::<DirectoryHealth>::default();
        let settings = BrokerSettings::from_values(BTreeMap::new()).map_err(|error| error.to_string())?;
        let settings = Arc::new(settings);
        let mut made = Vec::new();
        for (runtime, (journal_id, states)) in runtimes.into_iter().zip(opened.shards) {
            let shard = logmill::runtime::Runtime::shard(&runtime);
            let journal = Journal::open_fresh(&runtime, &opened.run.journal(shard), journal_id)
                .await
                .map_err(|error| error.to_string())?;
            let store = Store::start(
                runtime.clone(),
                opened.run.clone(),
                Arc::clone(&health),
                start.store,
                journal,
                states,
            );
            let table = PartitionTable::new(runtime.clone(), NODE, Rc::clone(&store), Arc::clone(&settings));
            table.apply_image(Arc::clone(&start.image)).await;
            made.push(Shard { runtime, store, table });
        }
        Ok(Rc::new(Self { shards: made, health }))
    }

    /// Sends a command to the shard that owns its partition.
    pub fn send(&self, command: PartitionCommand) {
        let shard = command.partition().map(|partition| self.shard_of(partition));
        if let Some(shard) = shard.and_then(|shard| self.shards.get(shard)) {
            shard.table.handle(command);
        }
    }

    fn shard_of(&self, log: TopicPartition) -> usize {
        usize::from(shard_of(log, self.shards.len() as u16).0)
    }

    /// Takes over a newer image on all shards.
    pub async fn apply_image(&self, image: Arc<Image>) {
        for shard in &self.shards {
            shard.table.apply_image(Arc::clone(&image)).await;
        }
    }

    /// Commits what was appended and ends in order.
    pub async fn stop(&self) {
        for shard in &self.shards {
            shard.store.stop().await;
        }
    }
}
