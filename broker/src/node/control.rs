//! The control shard: it brings the node up, decides on the metadata, and takes the node down.

use super::message::{Beginning, ShardMessage};
use super::post::Post;
use super::start_block::{self, Facts};
use super::{Node, NodeError};
use crate::cluster::{Controller, METADATA_PARTITION, MetadataLog, Publish};
use crate::journal::Journal;
use crate::log::{DirectoryHealth, LogDirectoryError, RunDirectory, Store, StoreSettings, recover};
use crate::net::acceptor::{Acceptance, accept_connections};
use crate::net::connection::ConnectionInfo;
use crate::net::counts::{ConnectionCounts, ConnectionLimits};
use crate::partition::router::shard_of;
use crate::runtime::mailbox::Endpoint;
use crate::runtime::{File, Listener, OpenMode, Runtime, event, oneshot};
use crate::shard::join::{First, first};
use logmill_state::metadata::Image;
use logmill_state::metadata::{BrokerRegistration, Endpoint as AdvertisedEndpoint};
use logmill_wire::frame::checkpoint::LogState;
use logmill_wire::ids::{ShardIndex, TopicPartition, Uuid};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The journal of the control shard: metadata changes are few.
const CONTROL_JOURNAL_BYTES: u64 = 4 << 20;

/// The cache of the control shard.
const CONTROL_CACHE_BYTES: usize = 8 << 20;

/// How often, and after how long, a port that is in use is tried again: for 2 s in all.
const LISTEN_RETRIES: u32 = 80;
const LISTEN_RETRY_AFTER: Duration = Duration::from_millis(25);

struct Control<R: Runtime> {
    runtime: R,
    node: Arc<Node>,
    post: Rc<Post<R, R::ConnectionHandle>>,
    acceptance: Arc<Acceptance>,
}

/// Runs the control shard until `stop`, or until the node cannot go on.
pub async fn run<R: Runtime>(
    runtime: R,
    node: Arc<Node>,
    endpoint: Endpoint<ShardMessage<R::ConnectionHandle>>,
    stop: event::Wait,
) {
    let post = Post::new(runtime.clone(), endpoint);
    let limits = ConnectionLimits::from_settings(&node.config.settings.network);
    let acceptance = Arc::new(Acceptance::new(ConnectionCounts::new(node.shards), limits));
    let control = Control { runtime, node, post, acceptance };
    let outcome = control.start().await;
    let running = match outcome {
        Ok((mut controller, store)) => {
            control.serve(&mut controller, stop).await;
            Some((controller, store))
        }
        Err(failure) => {
            control.node.fail(failure);
            None
        }
    };
    control.stop_shards().await;
    if let Some((controller, store)) = running {
        store.stop().await;
        // The last checkpoint asks the metadata's partition for its state, so it lives until here.
        drop(controller);
    }
}

impl<R: Runtime> Control<R> {
    async fn start(&self) -> Result<(Controller<R>, Rc<Store<R>>), NodeError> {
        // Listening comes first: a port that another process holds must be known before anything is changed.
        let bound = self.bind().await?;
        let (run, mut shards) = self.open_run().await.map_err(|error| self.not_opened(&error))?;
        let health = Arc::<DirectoryHealth>::default();
        let own = shards.pop();
        for (shard, (journal_id, states)) in (0..).map(ShardIndex).zip(shards) {
            let beginning = Beginning { run: run.clone(), journal_id, states, health: Arc::clone(&health) };
            self.post.send(shard, ShardMessage::Begin(Box::new(beginning)));
        }
        let (journal_id, states) = own.unwrap_or_else(|| (Uuid::ZERO, BTreeMap::new()));
        let (store, direct_io) = self.open_store(run, health, journal_id, states).await?;
        let mut controller = self.open_controller(&store).await?;
        let cluster_id = self.register(&mut controller, &bound).await?;
        self.node.log_directory.join_cluster(cluster_id)?;
        controller.publish().await;
        let listeners =
            bound.iter().map(|(name, listener)| format!("{name}://{}", listener.local_address())).collect();
        self.bound_connections(controller.image());
        self.accept(bound);
        let image = controller.image();
        let mut degradations = Vec::new();
        if !direct_io {
            degradations.push(
                "the filesystem has no direct I/O, so writes go through the page cache; put log.dirs on ext4 or XFS".to_owned(),
            );
        }
        let topics = (image.topic_count(), image.partition_count());
        start_block::print(&self.node, &Facts { cluster_id, listeners, direct_io, degradations, topics });
        Ok((controller, store))
    }

    async fn bind(&self) -> Result<Vec<(String, R::Listener)>, NodeError> {
        let mut bound = Vec::new();
        for listener in self.node.config.topology.listeners.iter().filter(|listener| !listener.is_controller)
        {
            let address = resolve(&listener.bind.host, listener.bind.port)?;
            let socket = self.listen(address).await.map_err(|error| {
                NodeError::new(
                    format!("{} cannot listen on {address}: {error}", listener.name),
                    "stop the process that holds the port, or choose another one in listeners",
                )
            })?;
            bound.push((listener.name.clone(), socket));
        }
        Ok(bound)
    }

    /// Listens, and gives a port that is in use a moment to become free: the kernel takes a killed process's rings
    /// down, and with them its listening sockets, only after the process has ended.
    async fn listen(&self, address: SocketAddr) -> io::Result<R::Listener> {
        for _ in 0..LISTEN_RETRIES {
            match self.runtime.listen(address).await {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    self.runtime.sleep(LISTEN_RETRY_AFTER).await;
                }
                outcome => return outcome,
            }
        }
        self.runtime.listen(address).await
    }

    /// What to do about a log directory that cannot be opened.
    fn not_opened(&self, error: &LogDirectoryError) -> NodeError {
        let remedy = if error.is_no_space() {
            // The journals of the run before go only once those of the next one are there.
            let journal_bytes = self.node.config.settings.resources.journal_bytes;
            let needed = u64::from(self.node.shards) * journal_bytes + CONTROL_JOURNAL_BYTES;
            format!(
                "a start needs {} MiB for new journals before it gives back the old ones: make room on the volume, or \
                 lower logmill.journal.bytes or logmill.shards; all that was acknowledged is still there",
                needed.div_ceil(1 << 20)
            )
        } else {
            "repair the disk, or restore the log directory from a replica".to_owned()
        };
        NodeError::new(error.to_string(), remedy)
    }

    async fn open_run(
        &self,
    ) -> Result<(RunDirectory, Vec<(Uuid, BTreeMap<TopicPartition, LogState>)>), LogDirectoryError> {
        let recovery = recover(&self.runtime, self.node.log_directory.path()).await?;
        let (shards, control) = (self.node.shards, self.node.control());
        let journal_bytes = self.node.config.settings.resources.journal_bytes;
        let place = move |log: TopicPartition| {
            if log == METADATA_PARTITION { control } else { shard_of(log, shards) }
        };
        let sizes =
            move |shard: ShardIndex| if shard == control { CONTROL_JOURNAL_BYTES } else { journal_bytes };
        let opened = recovery.begin_run(&self.runtime, shards + 1, sizes, place).await?;
        Ok((opened.run, opened.shards))
    }

    async fn open_store(
        &self,
        run: RunDirectory,
        health: Arc<DirectoryHealth>,
        journal_id: Uuid,
        states: BTreeMap<TopicPartition, LogState>,
    ) -> Result<(Rc<Store<R>>, bool), NodeError> {
        let path = run.journal(self.runtime.shard());
        let failed =
            |error: std::io::Error| NodeError::new(format!("{}: {error}", path.display()), "check the disk");
        let direct_io = self.runtime.open(&path, OpenMode::Read).await.map_err(failed)?.is_direct();
        let journal = Journal::open_fresh(&self.runtime, &path, journal_id).await.map_err(failed)?;
        let settings = StoreSettings {
            journal_bytes: CONTROL_JOURNAL_BYTES,
            cache_bytes: CONTROL_CACHE_BYTES,
            ..StoreSettings::default()
        };
        Ok((Store::start(self.runtime.clone(), run, health, settings, journal, states), direct_io))
    }

    async fn open_controller(&self, store: &Rc<Store<R>>) -> Result<Controller<R>, NodeError> {
        let settings = Arc::new(self.node.config.settings.clone());
        let node_id = settings.node.node_id;
        let unusable = |error: crate::cluster::MetadataLogError| {
            NodeError::new(
                error.to_string(),
                "restore __cluster_metadata-0 from a backup; nothing was changed",
            )
        };
        let log = MetadataLog::open(self.runtime.clone(), store).map_err(unusable)?;
        Controller::open(self.runtime.clone(), node_id, settings, log, self.publisher())
            .await
            .map_err(unusable)
    }

    /// Hands an image to every data shard and waits for all of them.
    fn publisher(&self) -> Publish {
        let (post, shards) = (Rc::clone(&self.post), self.node.shards);
        Rc::new(move |image: Arc<Image>| -> Pin<Box<dyn Future<Output = ()>>> {
            let post = Rc::clone(&post);
            Box::pin(async move {
                let answers: Vec<_> = (0..shards)
                    .map(|shard| {
                        let (reply, answer) = oneshot::channel();
                        post.send(ShardIndex(shard), ShardMessage::Image(Arc::clone(&image), reply));
                        answer
                    })
                    .collect();
                for answer in answers {
                    // A shard that is gone has no use for the image.
                    let _ = answer.await;
                }
            })
        })
    }

    async fn register(
        &self,
        controller: &mut Controller<R>,
        bound: &[(String, R::Listener)],
    ) -> Result<Uuid, NodeError> {
        let config = &self.node.config;
        if let Some(known) = self.node.log_directory.cluster_id()
            && controller.image().cluster_id().is_some_and(|id| id != known)
        {
            return Err(NodeError::new(
                format!("the log directory belongs to cluster {known}, and its metadata to another"),
                "restore meta.properties and __cluster_metadata-0 from the same backup",
            ));
        }
        let endpoints = bound
            .iter()
            .filter_map(|(name, socket)| {
                let listener = config.topology.listener(name)?;
                let port = match listener.advertised.port {
                    0 => socket.local_address().port(),
                    port => port,
                };
                Some(AdvertisedEndpoint {
                    listener: name.clone(),
                    host: listener.advertised.host.clone(),
                    port,
                    security_protocol: 0,
                })
            })
            .collect();
        let registration = BrokerRegistration {
            broker_id: config.settings.node.node_id,
            cluster_id: self.node.log_directory.cluster_id().unwrap_or(Uuid::ZERO),
            incarnation: Uuid::ZERO,
            rack: config.settings.node.rack.clone(),
            endpoints,
        };
        controller
            .register(registration)
            .await
            .map_err(|error| NodeError::new(error.to_string(), "check the disk of the log directory"))
    }

    fn accept(&self, bound: Vec<(String, R::Listener)>) {
        for (name, listener) in bound {
            let post = Rc::clone(&self.post);
            let hand_over = move |shard: ShardIndex, handle: R::ConnectionHandle, info: ConnectionInfo| {
                post.send(shard, ShardMessage::Connection(handle, info));
            };
            let acceptance = Arc::clone(&self.acceptance);
            let runtime = self.runtime.clone();
            self.runtime.spawn(accept_connections(runtime, listener, name.into(), acceptance, hand_over));
        }
    }

    async fn serve(&self, controller: &mut Controller<R>, mut stop: event::Wait) {
        loop {
            let message = {
                let mut next = pin!(self.post.receive());
                match first(&mut stop, &mut next).await {
                    First::Left(()) => return,
                    First::Right(message) => message,
                }
            };
            if let ShardMessage::Metadata(command) = message {
                let before = controller.image().clone();
                controller.handle(command).await;
                if !before.has_same_broker_configs(controller.image()) {
                    self.bound_connections(controller.image());
                }
            }
        }
    }

    /// Bounds connections as the settings say, with those that are set on the running cluster.
    fn bound_connections(&self, image: &Image) {
        let started_with = &self.node.config.settings;
        let settings = image.effective_settings(started_with.node.node_id, started_with);
        self.acceptance.set_limits(ConnectionLimits::from_settings(&settings.network));
    }

    async fn stop_shards(&self) {
        let answers: Vec<_> = (0..self.node.shards)
            .map(|shard| {
                let (reply, answer) = oneshot::channel();
                self.post.send(ShardIndex(shard), ShardMessage::Stop(reply));
                answer
            })
            .collect();
        for answer in answers {
            // A shard that has ended already has nothing left to finish.
            let _ = answer.await;
        }
    }
}

fn resolve(host: &str, port: u16) -> Result<SocketAddr, NodeError> {
    let host = if host.is_empty() { "0.0.0.0" } else { host };
    let failed = |cause: String| {
        NodeError::new(
            format!("{host}:{port} is not an address of this machine: {cause}"),
            "correct listeners",
        )
    };
    let mut addresses = (host, port).to_socket_addrs().map_err(|error| failed(error.to_string()))?;
    addresses.next().ok_or_else(|| failed("the name has no address".into()))
}
