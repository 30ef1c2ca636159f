//! The control shard: it brings the node up, decides on the metadata, and takes the node down.

use super::identity::Identity;
use super::last_boot::LastBoot;
use super::listen::{self, Socket};
use super::message::{Beginning, ShardMessage};
use super::post::Post;
use super::start_block::{self, Facts};
use super::{Node, NodeError};
use crate::cluster::links::{Address, ControlLinks};
use crate::cluster::quorum::{MemberKey, Quorum, QuorumConfig, QuorumSettings, VoterEndpoint};
use crate::cluster::{CONTROLLED_SHUTDOWN_MAX, CarryOut, ControlPlane, Publish, Publisher, StartError};
use crate::log::{DirectoryHealth, LogDirectoryError, RunDirectory, recover};
use crate::net::acceptor::{Acceptance, accept_connections};
use crate::net::connection::ConnectionInfo;
use crate::net::counts::{ConnectionCounts, ConnectionLimits};
use crate::partition::router::shard_of;
use crate::runtime::mailbox::Endpoint;
use crate::runtime::{File, Listener, OpenMode, Runtime, event, oneshot};
use crate::shard::join::{First, first};
use logmill_state::metadata::{BrokerRegistration, BrokerStart, Endpoint as AdvertisedEndpoint, Image};
use logmill_state::settings::Voter;
use logmill_wire::frame::checkpoint::LogState;
use logmill_wire::ids::{ShardIndex, TopicPartition, Uuid};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;

struct Control<R: Runtime> {
    runtime: R,
    node: Arc<Node>,
    post: Rc<Post<R, R::ConnectionHandle>>,
    acceptance: Arc<Acceptance>,
}

/// What a node has once it serves.
struct Running<R: Runtime> {
    plane: ControlPlane<R>,
    quorum: Quorum,
    health: Arc<DirectoryHealth>,
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
        Ok(running) => {
            control.serve(&running.plane, stop).await;
            Some(running)
        }
        Err(failure) => {
            control.node.fail(failure);
            None
        }
    };
    control.stop_shards().await;
    if let Some(Running { plane, quorum, health }) = running {
        plane.stop();
        quorum.stop();
        control.note_stop(&health).await;
    }
}

impl<R: Runtime> Control<R> {
    async fn start(&self) -> Result<Running<R>, NodeError> {
        // Listening comes first: a port that another process holds must be known before anything is changed.
        let sockets = listen::bind(&self.runtime, &self.node.config.topology.listeners).await?;
        let (of_controllers, bound): (Vec<_>, Vec<_>) =
            sockets.into_iter().partition(|socket| socket.listener.is_controller);
        let (directory, node_id) = (&self.node.log_directory, self.node.config.settings.node.node_id);
        let identity = Identity::establish(&self.runtime, directory, node_id).await?;
        let (run, shards) = self.open_run().await.map_err(|error| self.not_opened(&error))?;
        let direct_io = self.has_direct_io(&run).await?;
        let health = Arc::<DirectoryHealth>::default();
        for (shard, (journal_id, states)) in (0..).map(ShardIndex).zip(shards) {
            let beginning = Beginning { run: run.clone(), journal_id, states, health: Arc::clone(&health) };
            self.post.send(shard, ShardMessage::Begin(Box::new(beginning)));
        }
        let links = self.link(&identity);
        let quorum = self.open_quorum(&identity, Arc::clone(&health), &of_controllers, &links).await?;
        let told = quorum.clone();
        links.set_on_gone(Rc::new(move |node| told.is_gone(node)));
        let (clock, lost_peers) = (self.runtime.clone(), Arc::clone(&self.node.lost_peers));
        links.set_on_broken(Rc::new(move |node| lost_peers.note(node, clock.monotonic())));
        self.accept_nodes(of_controllers, &links);
        let settings = Arc::new(self.node.config.settings.clone());
        let publisher = Publisher::default();
        let (runtime, calls) = (self.runtime.clone(), Rc::new(links.clone()));
        let plane = ControlPlane::start(runtime, settings, quorum.clone(), publisher.clone(), calls);
        plane.carry_out_with(self.carry_out());
        links.set_handler(plane.call_handler());
        let cluster_id = self.register(&identity, &plane, &bound).await?;
        links.join_cluster(cluster_id);
        identity.join_cluster(&self.runtime, directory, cluster_id).await?;
        self.note_start().await?;
        self.runtime.spawn(leave_with_directory(plane.clone(), Arc::clone(&health)));
        publisher.begin(&self.runtime, quorum.clone(), self.publisher());
        publisher.until_published(quorum.status().applied).await;
        if !plane.until_unfenced().await {
            return Err(NodeError::new(
                quorum.failure().unwrap_or_default(),
                "restart once the cause is gone",
            ));
        }
        let image = plane.image();
        let listeners = bound
            .iter()
            .map(|bound| format!("{}://{}", bound.listener.name, bound.socket.local_address()))
            .collect();
        self.accept(bound);
        let mut degradations = Vec::new();
        if !direct_io {
            degradations.push(
                "the filesystem has no direct I/O, so writes go through the page cache; put log.dirs on ext4 or XFS".to_owned(),
            );
        }
        let topics = (image.topic_count(), image.partition_count());
        let facts = Facts { cluster_id, listeners, direct_io, degradations, topics };
        self.node.observer.started(&start_block::text(&self.node, &facts));
        Ok(Running { plane, quorum, health })
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
        let recovery = recover(&self.runtime, &self.node.log_directory).await?;
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

    /// The way to the controllers.
    fn link(&self, identity: &Identity) -> ControlLinks<R> {
        let config = &self.node.config;
        let cluster_id = identity.cluster_id.unwrap_or(Uuid::ZERO);
        let links = ControlLinks::new(self.runtime.clone(), config.settings.node.node_id, cluster_id);
        let address =
            |voter: &Voter| Address { host: voter.endpoint.host.clone(), port: voter.endpoint.port };
        links.set_addresses(config.topology.voters.iter().map(|voter| (voter.id, address(voter))).collect());
        links
    }

    async fn open_quorum(
        &self,
        identity: &Identity,
        health: Arc<DirectoryHealth>,
        sockets: &[Socket<R>],
        links: &ControlLinks<R>,
    ) -> Result<Quorum, NodeError> {
        let config = &self.node.config;
        let voters: Vec<_> = config.topology.voters.iter().map(|voter| voter.id).collect();
        let endpoints = sockets
            .iter()
            .map(|socket| VoterEndpoint {
                listener: socket.listener.name.clone(),
                host: socket.listener.advertised.host.clone(),
                port: socket.advertised_port(),
            })
            .collect();
        let node = config.settings.node.node_id;
        let quorum_config = QuorumConfig {
            key: MemberKey { node, directory: identity.directory_id },
            endpoints,
            voters,
            directory: self.node.log_directory.join("quorum"),
            known_cluster: identity.cluster_id,
            health,
        };
        let timeout_ms = config.settings.node.quorum_election_timeout_ms;
        let settings = QuorumSettings::with_election_timeout_ms(timeout_ms);
        Quorum::start(self.runtime.clone(), links.quorum_link(), quorum_config, settings).await.map_err(
            |error| {
                NodeError::new(
                    error.to_string(),
                    "make room if the volume is full; otherwise restore the directory quorum from a backup",
                )
            },
        )
    }

    /// Hands an image to every data shard and waits for all of them.
    fn publisher(&self) -> Publish {
        let (post, shards) = (Rc::clone(&self.post), self.node.shards);
        let (node, acceptance) = (Arc::clone(&self.node), Arc::clone(&self.acceptance));
        let before: RefCell<Option<Arc<Image>>> = RefCell::default();
        Rc::new(move |image: Arc<Image>| -> Pin<Box<dyn Future<Output = ()>>> {
            let post = Rc::clone(&post);
            node.observer.applied(&image);
            let before = before.replace(Some(Arc::clone(&image)));
            if before.is_none_or(|before| !before.has_same_broker_configs(&image)) {
                bound_connections(&node, &acceptance, &image);
            }
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
        identity: &Identity,
        plane: &ControlPlane<R>,
        bound: &[Socket<R>],
    ) -> Result<Uuid, NodeError> {
        let config = &self.node.config;
        if let Some(known) = identity.cluster_id
            && plane.image().cluster_id().is_some_and(|id| id != known)
        {
            return Err(NodeError::new(
                format!("the log directory belongs to cluster {known}, and its metadata to another"),
                "restore meta.properties and the directory quorum from the same backup",
            ));
        }
        let endpoints = bound
            .iter()
            .map(|bound| AdvertisedEndpoint {
                listener: bound.listener.name.clone(),
                host: bound.listener.advertised.host.clone(),
                port: bound.advertised_port(),
                security_protocol: 0,
            })
            .collect();
        let registration = BrokerRegistration {
            broker_id: config.settings.node.node_id,
            cluster_id: identity.cluster_id.unwrap_or(Uuid::ZERO),
            incarnation: Uuid::ZERO,
            rack: config.settings.node.rack.clone(),
            endpoints,
        };
        let directories = vec![identity.directory_id];
        let lost_writes = self.has_lost_writes(identity).await;
        let start = BrokerStart { registration, directories, lost_writes, starts_fenced: true };
        let registered = plane.register(start).await.map_err(|error| match error {
            StartError::Refused(error) => {
                NodeError::new(error.to_string(), "correct node.id, log.dirs or controller.quorum.voters")
            }
            StartError::Quorum(cause) => NodeError::new(cause, "check the disk of the log directory"),
        })?;
        Ok(registered.cluster_id)
    }

    /// Whether what the process before had written, and not made durable, may be gone.
    async fn has_lost_writes(&self, identity: &Identity) -> bool {
        let noted = LastBoot::read(&self.runtime, &self.node.log_directory).await;
        let has_lost = LastBoot::has_lost_writes(noted, self.node.boot);
        if has_lost && identity.cluster_id.is_some() {
            tracing::warn!(
                "the host may have been restarted without a clean stop before; replicas of topics with write.caching are copied anew where others have them"
            );
        }
        has_lost
    }

    /// Notes the boot in which the log directory is used. The registration is committed, which says what was lost
    /// before; whatever is acknowledged from now on would be lost by another boot.
    async fn note_start(&self) -> Result<(), NodeError> {
        let path = &self.node.log_directory;
        let used = LastBoot { boot: self.node.boot.unwrap_or(Uuid::ZERO), is_clean: false };
        if LastBoot::read(&self.runtime, path).await == Some(used) {
            return Ok(());
        }
        used.write(&self.runtime, path).await.map_err(|error| {
            NodeError::new(
                format!("{}: the boot cannot be noted: {error}", path.display()),
                "make room on the volume, or check the disk",
            )
        })
    }

    /// Notes that nothing is left to lose: all shards have committed what they had.
    async fn note_stop(&self, health: &DirectoryHealth) {
        if health.is_failed() || self.node.has_failed() {
            return;
        }
        let clean = LastBoot { boot: self.node.boot.unwrap_or(Uuid::ZERO), is_clean: true };
        if let Err(error) = clean.write(&self.runtime, &self.node.log_directory).await {
            tracing::warn!(%error, "a clean stop cannot be noted; after a restart of the host, replicas of topics with write.caching will be copied anew");
        }
    }

    /// Has a data shard carry out what other brokers forward: each the next one.
    fn carry_out(&self) -> CarryOut {
        let (post, shards, next) = (Rc::clone(&self.post), self.node.shards.max(1), Cell::new(0_u16));
        Rc::new(move |request| {
            next.set((next.get() + 1) % shards);
            let (reply, answer) = oneshot::channel();
            post.send(ShardIndex(next.get()), ShardMessage::Forwarded(request, reply));
            Box::pin(async move { answer.await.ok().flatten() })
        })
    }

    fn accept(&self, bound: Vec<Socket<R>>) {
        for Socket { listener, socket } in bound {
            let post = Rc::clone(&self.post);
            let hand_over = move |shard: ShardIndex, handle: R::ConnectionHandle, info: ConnectionInfo| {
                post.send(shard, ShardMessage::Connection(handle, info));
            };
            let acceptance = Arc::clone(&self.acceptance);
            let runtime = self.runtime.clone();
            self.runtime.spawn(accept_connections(
                runtime,
                socket,
                listener.name.into(),
                acceptance,
                hand_over,
            ));
        }
    }

    /// Connections of other control shards stay on this one: no load holds them up.
    fn accept_nodes(&self, sockets: Vec<Socket<R>>, links: &ControlLinks<R>) {
        for Socket { listener, socket } in sockets {
            let (runtime, links) = (self.runtime.clone(), links.clone());
            let serve = move |_, handle: R::ConnectionHandle, info: ConnectionInfo| {
                links.serve(runtime.adopt(handle), info.ticket);
            };
            let (runtime, acceptance) = (self.runtime.clone(), Arc::clone(&self.acceptance));
            self.runtime.spawn(accept_connections(runtime, socket, listener.name.into(), acceptance, serve));
        }
    }

    async fn serve(&self, plane: &ControlPlane<R>, mut stop: event::Wait) {
        let mut replaced = pin!(plane.until_replaced());
        let mut ending = pin!(async {
            match first(&mut stop, &mut replaced).await {
                First::Left(()) => {
                    if !plane.shut_down(CONTROLLED_SHUTDOWN_MAX).await {
                        tracing::warn!("the node stops although it leads partitions that others could lead");
                    }
                }
                First::Right(cause) => {
                    self.node.fail(NodeError::new(cause, "give each node its own node.id"))
                }
            }
        });
        loop {
            let message = {
                let mut next = pin!(self.post.receive());
                match first(&mut ending, &mut next).await {
                    First::Left(()) => return,
                    First::Right(message) => message,
                }
            };
            if let ShardMessage::Metadata(command) = message {
                plane.handle(command);
            }
        }
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

/// Has others lead, once the log directory is out of service: this broker gives signs of life, and could take nothing in.
/// It goes on to serve reads until it is started anew.
async fn leave_with_directory<R: Runtime>(plane: ControlPlane<R>, health: Arc<DirectoryHealth>) {
    std::future::poll_fn(|context| health.poll_failed(context)).await;
    let cause = health.cause().unwrap_or_default();
    tracing::error!(%cause, "the log directory is out of service, and others are to lead; restart the broker once the disk is repaired");
    plane.shut_down(CONTROLLED_SHUTDOWN_MAX).await;
}

/// Bounds connections as the settings say, with those that are set on the running cluster.
fn bound_connections(node: &Node, acceptance: &Acceptance, image: &Image) {
    let started_with = &node.config.settings;
    let settings = image.effective_settings(started_with.node.node_id, started_with);
    acceptance.set_limits(ConnectionLimits::from_settings(&settings.network));
}
