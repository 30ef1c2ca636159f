//! What shards of one node say to each other.

use crate::cluster::command::{Forwarded, MetadataCommand};
use crate::coordinator::command::GroupCommand;
use crate::log::{DirectoryHealth, OfflineDirectory, RunDirectory};
use crate::net::connection::ConnectionInfo;
use crate::partition::command::PartitionCommand;
use crate::runtime::oneshot;
use bytes::Bytes;
use logmill_state::metadata::Image;
use logmill_wire::frame::checkpoint::LogState;
use logmill_wire::ids::{TopicPartition, Uuid};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A message from one shard to another. `H` is a connection on its way.
pub enum ShardMessage<H> {
    /// The log directories are recovered: the shard can begin.
    Begin(Box<Beginning>),
    /// A command for a partition of the receiver.
    Partition(PartitionCommand),
    /// A request for a group's coordinator on the receiver.
    Group(GroupCommand),
    /// A command for the control shard.
    Metadata(MetadataCommand),
    /// A request that another broker has forwarded; answered with the response and the size before it.
    Forwarded(Forwarded, oneshot::Sender<Option<Bytes>>),
    /// A newer image; answered when the shard works with it.
    Image(Arc<Image>, oneshot::Sender<()>),
    /// A connection that the receiver shall serve.
    Connection(H, ConnectionInfo),
    /// Finish what was begun and end; answered when all is durable.
    Stop(oneshot::Sender<()>),
}

/// What a shard begins with.
pub struct Beginning {
    /// Its part of each log directory that could be opened; there is at least one.
    pub directories: Vec<DirectoryBeginning>,
    /// The log directories that could not be opened.
    pub offline: Vec<OfflineDirectory>,
}

/// What a shard begins with in one log directory.
pub struct DirectoryBeginning {
    /// The directory's place in `log.dirs`, from 0.
    pub number: usize,
    /// The run that its journal belongs to.
    pub run: RunDirectory,
    /// The journal's identity.
    pub journal_id: Uuid,
    /// The states of its logs there.
    pub states: BTreeMap<TopicPartition, LogState>,
    /// The log directory's health.
    pub health: Arc<DirectoryHealth>,
}
