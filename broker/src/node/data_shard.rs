//! A data shard: its partitions, and the connections that it serves.

use super::message::{Beginning, DirectoryBeginning, ShardMessage};
use super::post::Post;
use super::{Node, NodeError};
use crate::cluster::command::{ClusterHandle, MetadataCommand};
use crate::coordinator::CoordinatorTable;
use crate::coordinator::command::GroupRouter;
use crate::journal::Journal;
use crate::log::{NumberedStore, Store, StoreSettings, Stores};
use crate::net::connection::serve_connection;
use crate::partition::PartitionTable;
use crate::partition::router::PartitionRouter;
use crate::replication::{
    AskController, Links, LinksSettings, Partitions, PeerServer, Plain, ReplicationCounters,
};
use crate::request::forwarding::answer_forwarded;
use crate::request::services::Services;
use crate::request::shard_state::ShardState;
use crate::runtime::mailbox::Endpoint;
use crate::runtime::{Runtime, oneshot};
use crate::shard::signal::Signal;
use logmill_state::partition::AlterPartitionOutcome;
use logmill_state::settings::BrokerSettings;
use std::cell::{OnceCell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;

struct DataShard<R: Runtime> {
    runtime: R,
    table: Rc<PartitionTable<R>>,
    coordinators: Rc<CoordinatorTable<R>>,
    services: Rc<Services<R>>,
    links: Links<R>,
    peers: Rc<PeerServer<R>>,
}

/// The way of proposals for other in-sync sets to the controller, and of their outcomes back to the partitions.
struct Proposals<R: Runtime>(Rc<OnceCell<Weak<PartitionTable<R>>>>);

impl<R: Runtime> Default for Proposals<R> {
    fn default() -> Self {
        Self(Rc::default())
    }
}

impl<R: Runtime> Proposals<R> {
    /// The partitions are there now.
    fn begin(&self, table: &Rc<PartitionTable<R>>) {
        // There is one table.
        let _ = self.0.set(Rc::downgrade(table));
    }

    /// Each proposal is answered, if only by nobody being there who could have decided on it.
    fn way_out(&self, runtime: &R, cluster: &ClusterHandle) -> AskController {
        let (table, runtime, cluster) = (Rc::clone(&self.0), runtime.clone(), cluster.clone());
        Rc::new(move |partition, proposal| {
            let (reply, answer) = oneshot::channel();
            let command = MetadataCommand::AlterPartition { partition, proposal: proposal.clone(), reply };
            cluster.send(command);
            let table = Rc::clone(&table);
            runtime.spawn(async move {
                let outcome = answer.await.unwrap_or(AlterPartitionOutcome::Unknown);
                if let Some(table) = table.get().and_then(Weak::upgrade) {
                    table.on_alter_partition(partition, &proposal, &outcome);
                }
            });
        })
    }
}

pub async fn run<R: Runtime>(
    runtime: R,
    node: Arc<Node>,
    endpoint: Endpoint<ShardMessage<R::ConnectionHandle>>,
) {
    let post = Post::new(runtime.clone(), endpoint);
    let beginning = match post.receive().await {
        ShardMessage::Begin(beginning) => beginning,
        ShardMessage::Stop(answer) => {
            answer.send(());
            return;
        }
        // Nothing else is sent to a shard that has not begun.
        _ => return,
    };
    match begin(&runtime, &node, &post, *beginning).await {
        Ok(shard) => shard.serve(&post).await,
        Err(failure) => {
            node.fail(failure);
            refuse_all(&post).await;
        }
    }
}

async fn begin<R: Runtime>(
    runtime: &R,
    node: &Arc<Node>,
    post: &Rc<Post<R, R::ConnectionHandle>>,
    beginning: Beginning,
) -> Result<DataShard<R>, NodeError> {
    let settings = Arc::new(node.config.settings.clone());
    let stores = open_stores(runtime, node, beginning).await?;
    let cluster = cluster_handle(node, post, &settings);
    let (table, links) = partitions_and_links(runtime, node, stores, &settings, &cluster);
    let home = runtime.shard();
    let (local, outward) = (Rc::clone(&table), Rc::clone(post));
    let partitions = PartitionRouter::new(
        node.shards,
        Rc::new(move |shard, command| {
            if shard == home {
                local.handle(command);
            } else {
                outward.send(shard, ShardMessage::Partition(command));
            }
        }),
    );
    let (coordinators, groups) = coordinators(runtime, node, post, &partitions, &settings);
    let state = ShardState::new(home, node.shards, &settings, node.memory.request_bytes_per_shard);
    let peers = PeerServer::new(
        runtime.clone(),
        settings.node.node_id,
        node.config.topology.inter_broker_listener.clone(),
        partitions.clone(),
        state.memory.clone(),
        links.counters(),
    );
    let services = Services {
        runtime: runtime.clone(),
        node_id: settings.node.node_id,
        settings,
        partitions,
        groups,
        cluster,
        image: RefCell::default(),
        image_changed: Signal::default(),
        lost_peers: Arc::clone(&node.lost_peers),
        state,
    };
    Ok(DataShard { runtime: runtime.clone(), table, coordinators, services: Rc::new(services), links, peers })
}

/// The shard's part of each log directory.
async fn open_stores<R: Runtime>(
    runtime: &R,
    node: &Node,
    beginning: Beginning,
) -> Result<Stores<R>, NodeError> {
    let settings = StoreSettings {
        journal_bytes: node.config.settings.resources.journal_bytes,
        cache_bytes: node.memory.cache_bytes_per_shard / beginning.directories.len().max(1),
        ..StoreSettings::default()
    };
    let mut stores = Vec::new();
    for DirectoryBeginning { number, run, journal_id, states, health } in beginning.directories {
        let path = run.journal(runtime.shard());
        let journal = Journal::open_fresh(runtime, &path, journal_id)
            .await
            .map_err(|error| NodeError::new(format!("{}: {error}", path.display()), "check the disk"))?;
        let store = Store::start(runtime.clone(), run, health, settings, journal, states);
        stores.push(NumberedStore { number, store });
    }
    Ok(Stores::new(stores, beginning.offline))
}

/// The partitions of the shard, and the links to the brokers of their other replicas.
fn partitions_and_links<R: Runtime>(
    runtime: &R,
    node: &Node,
    stores: Stores<R>,
    settings: &Arc<BrokerSettings>,
    cluster: &ClusterHandle,
) -> (Rc<PartitionTable<R>>, Links<R>) {
    let node_id = settings.node.node_id;
    let proposals = Proposals::default();
    let links_settings = LinksSettings {
        node_id,
        shards: node.shards,
        listener: node.config.topology.inter_broker_listener.clone(),
        ask_controller: proposals.way_out(runtime, cluster),
        lost_peers: Arc::clone(&node.lost_peers),
    };
    let links = Links::new(runtime.clone(), Plain, links_settings, Rc::<ReplicationCounters>::default());
    let (of_settings, to_peers) = (Arc::clone(settings), Rc::new(links.clone()));
    let table = PartitionTable::new(runtime.clone(), node_id, stores, of_settings, node.shards, to_peers);
    proposals.begin(&table);
    let to_controller = cluster.clone();
    table.tell_offline_with(Rc::new(move |partitions| {
        to_controller.send(MetadataCommand::ReplicasOffline { partitions });
    }));
    let replicated: Rc<dyn Partitions> = Rc::<PartitionTable<R>>::clone(&table);
    links.begin(Rc::downgrade(&replicated));
    table.start_care(node.shards);
    (table, links)
}

fn cluster_handle<R: Runtime>(
    node: &Node,
    post: &Rc<Post<R, R::ConnectionHandle>>,
    settings: &BrokerSettings,
) -> ClusterHandle {
    let (control, outward) = (node.control(), Rc::clone(post));
    let cluster =
        ClusterHandle::new(Rc::new(move |command| outward.send(control, ShardMessage::Metadata(command))));
    if is_sole_controller(settings) { cluster } else { cluster.with_other_controllers() }
}

/// Whether no other node can be the active controller.
fn is_sole_controller(settings: &BrokerSettings) -> bool {
    let node = &settings.node;
    node.quorum_voters.iter().all(|voter| voter.id == node.node_id)
        && node.roles.controller
        && node.quorum_bootstrap_servers.is_empty()
}

fn coordinators<R: Runtime>(
    runtime: &R,
    node: &Node,
    post: &Rc<Post<R, R::ConnectionHandle>>,
    partitions: &PartitionRouter,
    settings: &BrokerSettings,
) -> (Rc<CoordinatorTable<R>>, GroupRouter) {
    let groups = Arc::new(settings.groups.clone());
    let node_id = settings.node.node_id;
    let table = CoordinatorTable::new(runtime.clone(), node_id, node.shards, partitions.clone(), groups);
    let home = runtime.shard();
    let (local, outward) = (Rc::clone(&table), Rc::clone(post));
    let router = GroupRouter::new(
        node.shards,
        Rc::new(move |shard, command| {
            if shard == home {
                local.handle(command);
            } else {
                outward.send(shard, ShardMessage::Group(command));
            }
        }),
    );
    (table, router)
}

impl<R: Runtime> DataShard<R> {
    async fn serve(self, post: &Rc<Post<R, R::ConnectionHandle>>) {
        loop {
            match post.receive().await {
                ShardMessage::Stop(answer) => {
                    self.table.stop().await;
                    answer.send(());
                    return;
                }
                message => self.carry_out(message, post).await,
            }
            if self.runtime.should_yield() {
                self.runtime.yield_now().await;
            }
        }
    }

    async fn carry_out(
        &self,
        message: ShardMessage<R::ConnectionHandle>,
        post: &Rc<Post<R, R::ConnectionHandle>>,
    ) {
        match message {
            ShardMessage::Partition(command) => self.table.handle(command),
            ShardMessage::Group(command) => self.coordinators.handle(command),
            ShardMessage::Image(image, answer) => {
                // Before the partitions, who speak to the processes that the image names.
                self.links.apply_image(Arc::clone(&image));
                self.coordinators.retire_by(&image);
                // The partitions first: a request that sees a topic must find its partitions.
                self.table.apply_image(Arc::clone(&image)).await;
                self.coordinators.apply_image(&image);
                self.peers.apply_image(Arc::clone(&image));
                self.services.set_image(image);
                answer.send(());
            }
            ShardMessage::Forwarded(request, reply) => {
                let services = Rc::clone(&self.services);
                self.runtime.spawn(async move { reply.send(answer_forwarded(services, request).await) });
            }
            ShardMessage::Connection(handle, info) => {
                let connection = self.runtime.adopt(handle);
                let (services, peers) = (Rc::clone(&self.services), Rc::clone(&self.peers));
                let post = Rc::clone(post);
                let hand_over = move |shard, handle, info| {
                    post.send(shard, ShardMessage::Connection(handle, info));
                };
                self.runtime.spawn(serve_connection(services, peers, connection, info, hand_over));
            }
            ShardMessage::Begin(_) | ShardMessage::Metadata(_) | ShardMessage::Stop(_) => {}
        }
    }
}

/// Answers the control shard until it stops this one.
async fn refuse_all<R: Runtime>(post: &Rc<Post<R, R::ConnectionHandle>>) {
    loop {
        match post.receive().await {
            ShardMessage::Stop(answer) => {
                answer.send(());
                return;
            }
            ShardMessage::Image(_, answer) => answer.send(()),
            _ => {}
        }
    }
}
