//! A broker's storage on a simulated host: the same pieces, put together as a node puts them together.

use logmill::journal::Journal;
use logmill::log::{DirectoryHealth, Store, StoreSettings, recover};
use logmill::partition::PartitionTable;
use logmill::partition::command::PartitionCommand;
use logmill::partition::peers::NoPeers;
use logmill::partition::router::shard_of;
use logmill::runtime::Runtime;
use logmill::runtime::simulated::{Chance, Host, SimulatedRuntime};
use logmill_state::metadata::Image;
use logmill_state::settings::BrokerSettings;
use logmill_wire::ids::{NodeId, ShardIndex, TopicPartition};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

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
    /// Images on their way to it, each with the time that it takes to arrive.
    images: RefCell<VecDeque<(Arc<Image>, Duration)>>,
    /// How many it has taken over since its start.
    applied: Cell<u64>,
}

/// A running node.
pub struct Node {
    /// Its shards.
    pub shards: Vec<Rc<Shard>>,
    /// Images that were published since the start.
    published: Cell<u64>,
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
    /// How often logs that are worth compacting are looked for, in milliseconds.
    pub cleaner_backoff_ms: u64,
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
        first.create_directory(&path).await.map_err(|error| error.to_string())?;
        let root = PathBuf::from("/");
        first.sync_directory(&root).await.map_err(|error| error.to_string())?;
        let recovery = recover(first, &path).await.map_err(|error| error.to_string())?;
        let (shards, journal_bytes) = (start.shards, start.store.journal_bytes);
        let opened = recovery
            .begin_run(first, shards, move |_| journal_bytes, move |log| shard_of(log, shards))
            .await
            .map_err(|error| error.to_string())?;
        let health = Arc::<DirectoryHealth>::default();
        // Old records are looked for so often that every generation sees it.
        let backoff = start.cleaner_backoff_ms.to_string();
        let values =
            [("log.retention.check.interval.ms", "40"), ("log.cleaner.backoff.ms", backoff.as_str())];
        let values = values.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect();
        let settings = BrokerSettings::from_values(values).map_err(|error| error.to_string())?;
        let settings = Arc::new(settings);
        let mut made = Vec::new();
        for (runtime, (journal_id, states)) in runtimes.into_iter().zip(opened.shards) {
            let shard = runtime.shard();
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
            let (of_store, of_settings) = (Rc::clone(&store), Arc::clone(&settings));
            let peers = Rc::new(NoPeers);
            let table = PartitionTable::new(runtime.clone(), NODE, of_store, of_settings, shards, peers);
            table.apply_image(Arc::clone(&start.image)).await;
            made.push(Rc::new(Shard {
                runtime,
                store,
                table,
                images: RefCell::default(),
                applied: Cell::new(0),
            }));
        }
        Ok(Rc::new(Self { shards: made, published: Cell::new(0), health }))
    }

    /// Lets the shards delete old records, and compact, from now on.
    pub fn start_care(&self) {
        for shard in &self.shards {
            shard.table.start_care(self.shards.len() as u16);
        }
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

    /// Hands a newer image to all shards; each takes it over in its own time, one image after another. Returns how
    /// many images there were.
    pub fn publish(&self, image: &Arc<Image>, chance: &mut Chance) -> u64 {
        for shard in &self.shards {
            let delay = Duration::from_micros(if chance.one_in(2) { 0 } else { chance.below(5_000) });
            shard.images.borrow_mut().push_back((Arc::clone(image), delay));
            if shard.images.borrow().len() > 1 {
                continue;
            }
            let taking = Rc::clone(shard);
            shard.runtime.spawn(async move {
                loop {
                    let Some((image, delay)) = taking.images.borrow().front().cloned() else { return };
                    taking.runtime.sleep(delay).await;
                    taking.table.apply_image(image).await;
                    taking.applied.set(taking.applied.get() + 1);
                    taking.images.borrow_mut().pop_front();
                }
            });
        }
        self.published.set(self.published.get() + 1);
        self.published.get()
    }

    /// Waits until the shard of a partition has taken over so many images.
    pub async fn until_known(&self, log: TopicPartition, images: u64) {
        let Some(shard) = self.shards.get(self.shard_of(log)) else { return };
        while shard.applied.get() < images {
            shard.runtime.sleep(Duration::from_micros(50)).await;
        }
    }

    /// Waits until all shards have taken over all images.
    pub async fn until_all_known(&self) {
        for shard in &self.shards {
            while shard.applied.get() < self.published.get() {
                shard.runtime.sleep(Duration::from_micros(50)).await;
            }
        }
    }

    /// Commits what was appended and ends in order.
    pub async fn stop(&self) {
        for shard in &self.shards {
            shard.store.stop().await;
        }
    }
}
