//! A data shard: its partitions, and the connections that it serves.

use super::message::{Beginning, ShardMessage};
use super::post::Post;
use super::{Node, NodeError};
use crate::cluster::command::ClusterHandle;
use crate::coordinator::CoordinatorTable;
use crate::coordinator::command::GroupRouter;
use crate::journal::Journal;
use crate::log::{Store, StoreSettings};
use crate::net::connection::serve_connection;
use crate::partition::PartitionTable;
use crate::partition::peers::NoPeers;
use crate::partition::router::PartitionRouter;
use crate::replication::{PeerServer, ReplicationCounters};
use crate::request::forwarding::answer_forwarded;
use crate::request::services::Services;
use crate::request::shard_state::ShardState;
use crate::runtime::Runtime;
use crate::runtime::mailbox::Endpoint;
use logmill_state::settings::BrokerSettings;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

struct DataShard<R: Runtime> {
    runtime: R,
    store: Rc<Store<R>>,
    table: Rc<PartitionTable<R>>,
    coordinators: Rc<CoordinatorTable<R>>,
    services: Rc<Services<R>>,
    peers: Rc<PeerServer<R>>,
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
    let path = beginning.run.journal(runtime.shard());
    let journal = Journal::open_fresh(runtime, &path, beginning.journal_id)
        .await
        .map_err(|error| NodeError::new(format!("{}: {error}", path.display()), "check the disk"))?;
    let settings = Arc::new(node.config.settings.clone());
    let store_settings = StoreSettings {
        journal_bytes: settings.resources.journal_bytes,
        cache_bytes: node.memory.cache_bytes_per_shard,
        ..StoreSettings::default()
    };
    let store = Store::start(
        runtime.clone(),
        beginning.run,
        beginning.health,
        store_settings,
        journal,
        beginning.states,
    );
    let node_id = settings.node.node_id;
    let (of_store, of_settings) = (Rc::clone(&store), Arc::clone(&settings));
    let peers = Rc::new(NoPeers);
    let table = PartitionTable::new(runtime.clone(), node_id, of_store, of_settings, node.shards, peers);
    table.start_care(node.shards);
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
    let (control, outward) = (node.control(), Rc::clone(post));
    let cluster =
        ClusterHandle::new(Rc::new(move |command| outward.send(control, ShardMessage::Metadata(command))));
    let cluster = if is_sole_controller(&settings) { cluster } else { cluster.with_other_controllers() };
    let state = ShardState::new(home, node.shards, &settings, node.memory.request_bytes_per_shard);
    let peers = PeerServer::new(
        runtime.clone(),
        node_id,
        node.config.topology.inter_broker_listener.clone(),
        partitions.clone(),
        state.memory.clone(),
        Rc::<ReplicationCounters>::default(),
    );
    let services = Services {
        runtime: runtime.clone(),
        node_id,
        settings,
        partitions,
        groups,
        cluster,
        image: RefCell::default(),
        state,
    };
    Ok(DataShard { runtime: runtime.clone(), store, table, coordinators, services: Rc::new(services), peers })
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
                    self.store.stop().await;
                    answer.send(());
                    return;
                }
                message => self.carry_out(message).await,
            }
            if self.runtime.should_yield() {
                self.runtime.yield_now().await;
            }
        }
    }

    async fn carry_out(&self, message: ShardMessage<R::ConnectionHandle>) {
        match message {
            ShardMessage::Partition(command) => self.table.handle(command),
            ShardMessage::Group(command) => self.coordinators.handle(command),
            ShardMessage::Image(image, answer) => {
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
                self.runtime.spawn(async move { serve_connection(services, peers, connection, info).await });
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
