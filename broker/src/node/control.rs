//! The control shard: it brings the node up, decides on the metadata, and takes the node down.

use super::message::{Beginning, ShardMessage};
use super::post::Post;
use super::start_block::{self, Facts};
use super::{Node, NodeError};
use crate::cluster::quorum::{MemberKey, NoPeers, Quorum, QuorumConfig, QuorumSettings};
use crate::cluster::{Controller, Publish, Publisher};
use crate::log::{DirectoryHealth, LogDirectoryError, RunDirectory, recover};
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
        Ok((mut controller, quorum)) => {
            control.serve(&mut controller, stop).await;
            Some(quorum)
        }
        Err(failure) => {
            control.node.fail(failure);
            None
        }
    };
    control.stop_shards().await;
    if let Some(quorum) = running {
        quorum.stop();
    }
}

impl<R: Runtime> Control<R> {
    async fn start(&self) -> Result<(Controller<R>, Quorum), NodeError> {
        // Listening comes first: a port that another process holds must be known before anything is changed.
        let bound = self.bind().await?;
        let (run, shards) = self.open_run().await.map_err(|error| self.not_opened(&error))?;
        let direct_io = self.has_direct_io(&run).await?;
        let health = Arc::<DirectoryHealth>::default();
        for (shard, (journal_id, states)) in (0..).map(ShardIndex).zip(shards) {
            let beginning = Beginning { run: run.clone(), journal_id, states, health: Arc::clone(&health) };
            self.post.send(shard, ShardMessage::Begin(Box::new(beginning)));
        }
        let quorum = self.open_quorum(health).await?;
        let settings = Arc::new(self.node.config.settings.clone());
        let (node_id, publisher) = (settings.node.node_id, Publisher::default());
        let mut controller =
            Controller::new(self.runtime.clone(), node_id, settings, quorum.clone(), publisher.clone());
        let cluster_id = self.register(&mut controller, &bound).await?;
        self.node.log_directory.join_cluster(cluster_id)?;
        publisher.begin(&self.runtime, quorum.clone(), self.publisher());
        publisher.until_published(quorum.status().applied).await;
        let image = controller.image();
        let listeners =
            bound.iter().map(|(name, listener)| format!("{name}://{}", listener.local_address())).collect();
        self.bound_connections(&image);
        self.accept(bound);
        let mut degradations = Vec::new();
        if !direct_io {
            degradations.push(
                "the filesystem has no direct I/O, so writes go through the page cache; put log.dirs on ext4 or XFS".to_owned(),
            );
        }
        let topics = (image.topic_count(), image.partition_count());
        start_block::print(&self.node, &Facts { cluster_id, listeners, direct_io, degradations, topics });
        Ok((controller, quorum))
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
            let needed = u64::from(self.node.shards) * journal_bytes;
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
        let shards = self.node.shards;
        let journal_bytes = self.node.config.settings.resources.journal_bytes;
        let opened = recovery
            .begin_run(&self.runtime, shards, move |_| journal_bytes, move |log| shard_of(log, shards))
            .await?;
        Ok((opened.run, opened.shards))
    }

    async fn has_direct_io(&self, run: &RunDirectory) -> Result<bool, NodeError> {
        let path = run.journal(ShardIndex(0));
        let failed =
            |error: io::Error| NodeError::new(format!("{}: {error}", path.display()), "check the disk");
        Ok(self.runtime.open(&path, OpenMode::Read).await.map_err(failed)?.is_direct())
    }

    async fn open_quorum(&self, health: Arc<DirectoryHealth>) -> Result<Quorum, NodeError> {
        let config = &self.node.config;
        let voters: Vec<_> = config.topology.voters.iter().map(|voter| voter.id).collect();
        if voters.len() > 1 {
            return Err(NodeError::new(
                format!(
                    "controller.quorum.voters names {} voters, and this version works with one",
                    voters.len()
                ),
                "name this node alone, or leave the setting out",
            ));
        }
        let directory = &self.node.log_directory;
        let node = config.settings.node.node_id;
        let quorum_config = QuorumConfig {
            key: MemberKey { node, directory: directory.directory_id() },
            endpoints: Vec::new(),
            voters,
            directory: directory.path().join("quorum"),
            known_cluster: directory.cluster_id(),
            health,
        };
        let timeout_ms = config.settings.node.quorum_election_timeout_ms;
        let settings = QuorumSettings::with_election_timeout_ms(timeout_ms);
        Quorum::start(self.runtime.clone(), NoPeers, quorum_config, settings).await.map_err(|error| {
            NodeError::new(
                error.to_string(),
                "make room if the volume is full; otherwise restore the directory quorum from a backup",
            )
        })
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
                "restore meta.properties and the directory quorum from the same backup",
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
                let before = controller.image();
                controller.handle(command).await;
                let image = controller.image();
                if !before.has_same_broker_configs(&image) {
                    self.bound_connections(&image);
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
