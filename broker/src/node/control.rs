//! The control shard: it brings the node up, decides on the metadata, and takes the node down.

use super::directories::LogDirectories;
use super::last_boot::{UsedDirectories, UsedDirectory};
use super::listen::{self, Socket};
use super::message::{Beginning, ShardMessage};
use super::post::Post;
use super::runs::{self, DirectoryHealths, OpenedDirectories};
use super::start_block::{self, Facts};
use super::{Node, NodeError};
use crate::cluster::links::{Address, ControlLinks};
use crate::cluster::quorum::{MemberKey, Membership, Quorum, QuorumConfig, QuorumSettings, VoterEndpoint};
use crate::cluster::{CONTROLLED_SHUTDOWN_MAX, CarryOut, ControlPlane, Publish, Publisher, StartError};
use crate::log::{DirectoryHealth, OfflineDirectory};
use crate::net::acceptor::{Acceptance, accept_connections};
use crate::net::connection::{Carried, ConnectionInfo};
use crate::net::counts::{ConnectionCounts, ConnectionLimits};
use crate::net::first_bytes::{Speaker, who_speaks};
use crate::runtime::mailbox::Endpoint;
use crate::runtime::{Connection as _, Listener, Runtime, event, oneshot};
use crate::shard::join::{First, first};
use logmill_state::metadata::{
    BrokerRegistration, BrokerStart, DirectoryLogs, Endpoint as AdvertisedEndpoint, Image,
};
use logmill_state::settings::Voter;
use logmill_wire::ids::{ShardIndex, Uuid};
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

/// How many logs are told of in a registration at the most: as topics of one partition each, the largest message has them.
const LOGS_TOLD_MAX: usize = 400_000;

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
    used: UsedDirectories,
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
            control.serve(&running, stop).await;
            Some(running)
        }
        Err(failure) => {
            control.node.fail(failure);
            None
        }
    };
    control.stop_shards().await;
    if let Some(Running { plane, quorum, used }) = running {
        plane.stop();
        quorum.stop();
        if !control.node.has_failed() {
            used.note_stop(&control.runtime, control.node.boot).await;
        }
    }
}

impl<R: Runtime> Control<R> {
    async fn start(&self) -> Result<Running<R>, NodeError> {
        // Listening comes first: a port that another process holds must be known before anything is changed.
        let sockets = listen::bind(&self.runtime, &self.node.config.topology.listeners).await?;
        let (of_controllers, bound): (Vec<_>, Vec<_>) =
            sockets.into_iter().partition(|socket| socket.listener.is_controller);
        let node_id = self.node.config.settings.node.node_id;
        let directories = LogDirectories::open(&self.runtime, &self.node.log_directories, node_id).await?;
        let opened = runs::open(&self.runtime, &self.node, &directories).await?;
        let OpenedDirectories { healths, metadata_health, direct_io, offline, beginnings, logs } = opened;
        for (shard, directories) in (0..).map(ShardIndex).zip(beginnings) {
            let beginning = Beginning { directories, offline: offline.clone() };
            self.post.send(shard, ShardMessage::Begin(Box::new(beginning)));
        }
        let links = self.link(&directories);
        let used = in_use(&directories, &healths, &metadata_health);
        let (quorum, membership) =
            self.open_quorum(&directories, metadata_health, &of_controllers, &links).await?;
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
        plane.keep_membership(membership);
        links.set_handler(plane.call_handler());
        let cluster_id = self.register((&directories, &used), logs, &plane, &bound).await?;
        links.join_cluster(cluster_id);
        self.join_cluster(cluster_id, &directories, &healths).await?;
        used.note_start(&self.runtime, self.node.boot).await?;
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
        degradations.extend(offline.iter().map(|directory| {
            let OfflineDirectory { path, cause, .. } = directory;
            format!("{} is offline, with the partitions in it: {cause}", path.display())
        }));
        let topics = (image.topic_count(), image.partition_count());
        let works = |number: &usize| healths.contains_key(number);
        let data = directories.data.into_iter().filter(|(number, _)| works(number));
        let data = data.map(|(_, directory)| directory.path).collect();
        let facts = Facts { cluster_id, data, listeners, direct_io, degradations, topics };
        self.node.observer.started(&start_block::text(&self.node, &facts));
        Ok(Running { plane, quorum, used })
    }

    /// Records the cluster in all directories. One where that cannot be written is out of service.
    async fn join_cluster(
        &self,
        cluster_id: Uuid,
        directories: &LogDirectories,
        healths: &DirectoryHealths,
    ) -> Result<(), NodeError> {
        let of_metadata = &directories.metadata;
        of_metadata.identity.join_cluster(&self.runtime, &of_metadata.path, cluster_id).await?;
        for (number, directory) in &directories.data {
            let Some(health) = healths.get(number).filter(|_| !directories.has_metadata(directory)) else {
                continue;
            };
            let joined = directory.identity.join_cluster(&self.runtime, &directory.path, cluster_id).await;
            if let Err(error) = joined {
                health.fail(error.cause);
            }
        }
        Ok(())
    }

    /// The way to the controllers.
    fn link(&self, directories: &LogDirectories) -> ControlLinks<R> {
        let config = &self.node.config;
        let cluster_id = directories.cluster_id().unwrap_or(Uuid::ZERO);
        let links = ControlLinks::new(self.runtime.clone(), config.settings.node.node_id, cluster_id);
        let address =
            |voter: &Voter| Address { host: voter.endpoint.host.clone(), port: voter.endpoint.port };
        links.set_addresses(config.topology.voters.iter().map(|voter| (voter.id, address(voter))).collect());
        links
    }

    async fn open_quorum(
        &self,
        directories: &LogDirectories,
        health: Arc<DirectoryHealth>,
        sockets: &[Socket<R>],
        links: &ControlLinks<R>,
    ) -> Result<(Quorum, Membership), NodeError> {
        let config = &self.node.config;
        let voters: Vec<_> = config.topology.voters.iter().map(|voter| voter.id).collect();
        let node = &config.settings.node;
        let directory = &directories.metadata;
        let key = MemberKey { node: node.node_id, directory: directory.identity.directory_id };
        let endpoints = voter_endpoints(sockets);
        let joins = node.quorum_auto_join && node.roles.controller;
        let membership = Membership { key, endpoints: endpoints.clone(), joins };
        let quorum_config = QuorumConfig {
            key,
            endpoints,
            voters,
            directory: directory.path.join("quorum"),
            known_cluster: directory.identity.cluster_id,
            health,
        };
        let settings = QuorumSettings::with_election_timeout_ms(node.quorum_election_timeout_ms);
        let started = Quorum::start(self.runtime.clone(), links.quorum_link(), quorum_config, settings).await;
        let quorum = started.map_err(|error| {
            NodeError::new(
                error.to_string(),
                "make room if the volume is full; otherwise restore the directory quorum from a backup",
            )
        })?;
        Ok((quorum, membership))
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
        (directories, used): (&LogDirectories, &UsedDirectories),
        logs: Vec<DirectoryLogs>,
        plane: &ControlPlane<R>,
        bound: &[Socket<R>],
    ) -> Result<Uuid, NodeError> {
        let config = &self.node.config;
        if let Some(known) = directories.cluster_id()
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
            cluster_id: directories.cluster_id().unwrap_or(Uuid::ZERO),
            incarnation: Uuid::ZERO,
            rack: config.settings.node.rack.clone(),
            endpoints,
        };
        let lost_writes = used.have_lost_writes(&self.runtime, self.node.boot).await;
        if lost_writes && directories.cluster_id().is_some() {
            tracing::warn!(
                "the host may have been restarted without a clean stop before; replicas of topics with write.caching are copied anew where others have them"
            );
        }
        let known = plane.image().broker(registration.broker_id).map_or(0, |before| before.directories.len());
        let configured = directories.data.len() + directories.offline.len();
        let start = BrokerStart {
            registration,
            directories: used.working_ids(),
            logs: if known.max(configured) > 1 { told(logs) } else { Vec::new() },
            lost_writes,
            starts_fenced: true,
        };
        let registered = plane.register(start).await.map_err(|error| match error {
            StartError::Refused(error) => {
                NodeError::new(error.to_string(), "correct node.id, log.dirs or controller.quorum.voters")
            }
            StartError::Quorum(cause) => NodeError::new(cause, "check the disk of the log directory"),
        })?;
        Ok(registered.cluster_id)
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

    /// Connections of other control shards stay on this one: no load holds them up. Those of clients go to a data shard.
    fn accept_nodes(&self, sockets: Vec<Socket<R>>, links: &ControlLinks<R>) {
        for Socket { listener, socket } in sockets {
            let (own, links, post) = (self.runtime.clone(), links.clone(), Rc::clone(&self.post));
            let serve = move |shard, handle: R::ConnectionHandle, info: ConnectionInfo| {
                let (runtime, links, post) = (own.clone(), links.clone(), Rc::clone(&post));
                own.spawn(async move {
                    let connection = runtime.adopt(handle);
                    match who_speaks(&runtime, &connection).await {
                        Speaker::Node(received) => links.serve(connection, received, info.ticket),
                        Speaker::Client(received) => {
                            // A machine that cannot move connections has no such clients.
                            let Ok(handle) = runtime.release(connection) else { return };
                            let info = ConnectionInfo { carried: Some(Carried::first(received)), ..info };
                            post.send(shard, ShardMessage::Connection(handle, info));
                        }
                        Speaker::Nobody => connection.shutdown(),
                    }
                });
            };
            let (runtime, acceptance) = (self.runtime.clone(), Arc::clone(&self.acceptance));
            self.runtime.spawn(accept_connections(runtime, socket, listener.name.into(), acceptance, serve));
        }
    }

    async fn serve(&self, Running { plane, used, .. }: &Running<R>, mut stop: event::Wait) {
        let mut doomed = pin!(async {
            let (mut replaced, mut lost) = (pin!(plane.until_replaced()), pin!(self.until_lost(plane, used)));
            match first(&mut replaced, &mut lost).await {
                First::Left(cause) => NodeError::new(cause, "give each node its own node.id"),
                First::Right(failure) => failure,
            }
        });
        let mut ending = pin!(async {
            match first(&mut stop, &mut doomed).await {
                First::Left(()) => {
                    if !plane.shut_down(CONTROLLED_SHUTDOWN_MAX).await {
                        tracing::warn!("the node stops although it leads partitions that others could lead");
                    }
                }
                First::Right(failure) => self.node.fail(failure),
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

    /// Waits until the node cannot go on: the log directory of the metadata is out of service, or all of the data are, and
    /// then others lead as far as they can. What lies in one of several is offline, and the node goes on (KIP-112).
    async fn until_lost(&self, plane: &ControlPlane<R>, used: &UsedDirectories) -> NodeError {
        let mut told = vec![false; used.data.len()];
        while !used.metadata_health.is_failed() && told.contains(&false) {
            until_more_fails(used, &told).await;
            for (UsedDirectory { path, health, .. }, is_told) in used.data.iter().zip(&mut told) {
                if !*is_told && health.is_failed() {
                    *is_told = true;
                    let cause = health.cause().unwrap_or_default();
                    tracing::error!(directory = %path.display(), %cause, "a log directory is out of service, and the partitions in it are offline; restart the broker once the disk is repaired");
                }
            }
        }
        let (what, health) = if used.metadata_health.is_failed() {
            ("the log directory of the metadata is out of service", Some(&used.metadata_health))
        } else {
            plane.shut_down(CONTROLLED_SHUTDOWN_MAX).await;
            ("all log directories are out of service", used.data.last().map(|directory| &directory.health))
        };
        let cause = health.and_then(|health| health.cause()).unwrap_or_default();
        NodeError::new(format!("{what}: {cause}"), "repair or replace the disk, then start the broker again")
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

/// Where a controller is reached.
fn voter_endpoints<R: Runtime>(sockets: &[Socket<R>]) -> Vec<VoterEndpoint> {
    let of = |socket: &Socket<R>| VoterEndpoint {
        listener: socket.listener.name.clone(),
        host: socket.listener.advertised.host.clone(),
        port: socket.advertised_port(),
    };
    sockets.iter().map(of).collect()
}

/// What the controller is told of the logs that were found. Of too many for a message it is told nothing: then replicas
/// in a directory that works count as those in one that is missing.
fn told(logs: Vec<DirectoryLogs>) -> Vec<DirectoryLogs> {
    let count: usize = logs.iter().map(|directory| directory.logs.len()).sum();
    if count <= LOGS_TOLD_MAX { logs } else { Vec::new() }
}

/// The data directories that work, and the health of the one of the metadata.
fn in_use(
    directories: &LogDirectories,
    healths: &DirectoryHealths,
    metadata_health: &Arc<DirectoryHealth>,
) -> UsedDirectories {
    let data = directories.data.iter().filter_map(|(number, directory)| {
        Some(UsedDirectory {
            path: directory.path.clone(),
            id: directory.identity.directory_id,
            has_metadata: directories.has_metadata(directory),
            health: Arc::clone(healths.get(number)?),
        })
    });
    UsedDirectories { data: data.collect(), metadata_health: Arc::clone(metadata_health) }
}

/// Waits until the log directory of the metadata is out of service, or one of the data of which that was not `told`.
async fn until_more_fails(used: &UsedDirectories, told: &[bool]) {
    poll_fn(|context| {
        let untold = used.data.iter().zip(told).filter(|(_, is_told)| !**is_told);
        let mut healths = untold.map(|(directory, _)| &directory.health).chain([&used.metadata_health]);
        if healths.any(|health| health.poll_failed(context).is_ready()) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// Bounds connections as the settings say, with those that are set on the running cluster.
fn bound_connections(node: &Node, acceptance: &Acceptance, image: &Image) {
    let started_with = &node.config.settings;
    let settings = image.effective_settings(started_with.node.node_id, started_with);
    acceptance.set_limits(ConnectionLimits::from_settings(&settings.network));
}
