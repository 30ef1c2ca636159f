//! A broker's storage on a simulated host: the same pieces, put together as a node puts them together.

use logmill::journal::Journal;
use logmill::log::{DirectoryHealth, NumberedStore, OpenedRun, Store, StoreSettings, Stores, recover};
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
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The node's id in every world.
pub const NODE: NodeId = NodeId(1);

/// Where its log directory is, or the first of them.
pub const DIRECTORY: &str = "/data";

/// Where its log directories are, if it has as many.
pub const DIRECTORIES: [&str; 2] = [DIRECTORY, "/more"];

/// One shard of the node.
pub struct Shard {
    /// Its machine.
    pub runtime: SimulatedRuntime,
    /// Its part of each log directory.
    pub stores: Vec<Rc<Store<SimulatedRuntime>>>,
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
    /// The health of each of its log directories.
    pub healths: Vec<Arc<DirectoryHealth>>,
}

/// How a node is started.
#[derive(Clone)]
pub struct Start {
    /// How many shards.
    pub shards: u16,
    /// How many log directories, from 1.
    pub directories: usize,
    /// The sizes of its stores.
    pub store: StoreSettings,
    /// How often logs that are worth compacting are looked for, in milliseconds.
    pub cleaner_backoff_ms: u64,
    /// What the cluster knows.
    pub image: Arc<Image>,
}

impl Node {
    /// Recovers the log directories and starts the shards.
    ///
    /// # Errors
    /// Why the node refuses to start.
    pub async fn start(host: Host, start: Start) -> Result<Rc<Self>, String> {
        let runtimes: Vec<_> = (0..start.shards).map(|shard| host.runtime(ShardIndex(shard))).collect();
        let Some(first) = runtimes.first() else { return Err("a node has at least one shard".into()) };
        let mut opened = Vec::new();
        for path in DIRECTORIES.iter().take(start.directories) {
            opened.push(open(first, Path::new(path), &start).await?);
        }
        let shards = start.shards;
        let healths: Vec<_> = opened.iter().map(|_| Arc::<DirectoryHealth>::default()).collect();
        // Old records are looked for so often that every generation sees it.
        let backoff = start.cleaner_backoff_ms.to_string();
        let values =
            [("log.retention.check.interval.ms", "40"), ("log.cleaner.backoff.ms", backoff.as_str())];
        let values = values.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect();
        let settings = BrokerSettings::from_values(values).map_err(|error| error.to_string())?;
        let settings = Arc::new(settings);
        let mut made = Vec::new();
        for runtime in runtimes {
            let mut stores = Vec::new();
            for (run, health) in opened.iter_mut().zip(&healths) {
                stores.push(start_store(&runtime, run, health, start.store).await?);
            }
            let (of_stores, of_settings) = (numbered(&stores), Arc::clone(&settings));
            let peers = Rc::new(NoPeers);
            let table = PartitionTable::new(runtime.clone(), NODE, of_stores, of_settings, shards, peers);
            table.apply_image(Arc::clone(&start.image)).await;
            made.push(Rc::new(Shard {
                runtime,
                stores,
                table,
                images: RefCell::default(),
                applied: Cell::new(0),
            }));
        }
        Ok(Rc::new(Self { shards: made, published: Cell::new(0), healths }))
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
            shard.table.stop().await;
        }
    }
}

/// Recovers one log directory and begins a run in it.
async fn open(runtime: &SimulatedRuntime, path: &Path, start: &Start) -> Result<OpenedRun, String> {
    runtime.create_directory(path).await.map_err(|error| error.to_string())?;
    let root = PathBuf::from("/");
    runtime.sync_directory(&root).await.map_err(|error| error.to_string())?;
    let recovery = recover(runtime, path).await.map_err(|error| error.to_string())?;
    let (shards, journal_bytes) = (start.shards, start.store.journal_bytes);
    recovery
        .begin_run(runtime, shards, move |_| journal_bytes, move |log| shard_of(log, shards))
        .await
        .map_err(|error| error.to_string())
}

/// Starts a shard's part of a log directory.
async fn start_store(
    runtime: &SimulatedRuntime,
    opened: &mut OpenedRun,
    health: &Arc<DirectoryHealth>,
    settings: StoreSettings,
) -> Result<Rc<Store<SimulatedRuntime>>, String> {
    let shard = runtime.shard();
    let of_shard = opened.shards.get_mut(usize::from(shard.0)).ok_or("the run has no such shard")?;
    let (journal_id, states) = (of_shard.0, std::mem::take(&mut of_shard.1));
    let journal = Journal::open_fresh(runtime, &opened.run.journal(shard), journal_id)
        .await
        .map_err(|error| error.to_string())?;
    let (run, health) = (opened.run.clone(), Arc::clone(health));
    Ok(Store::start(runtime.clone(), run, health, settings, journal, states))
}

/// The stores of a shard, as its table takes them.
fn numbered(stores: &[Rc<Store<SimulatedRuntime>>]) -> Stores<SimulatedRuntime> {
    let numbered = stores.iter().enumerate();
    let numbered =
        numbered.map(|(number, store)| NumberedStore { number, store: Rc::clone(store) }).collect();
    Stores::new(numbered, Vec::new())
}
