//! The partitions of a shard that have replicas on other brokers. They are brought to life as the metadata say, for
//! others count on them whether anybody here uses them or not.

use super::command::PartitionError;
use super::hosted::Partition;
use super::peers::{Peer, PeerCommand, Taken};
use super::replica::Placed;
use super::router::shard_of;
use super::table::PartitionTable;
use crate::runtime::Runtime;
use logmill_state::metadata::{Image, Topic};
use logmill_state::partition::{AlterPartition, AlterPartitionOutcome};
use logmill_wire::ids::{NodeId, PartitionIndex, TopicPartition};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How often what may have got lost is said again, and lagging followers are looked for.
const TICK: Duration = Duration::from_millis(500);

/// After how many ticks a follower tells its leader where it is, though nothing has changed.
const TICKS_PER_REPETITION: u32 = 6;

impl<R: Runtime> PartitionTable<R> {
    /// Gives the partitions with several replicas the roles that a newer image has for them.
    pub(super) async fn place_replicas(self: &Rc<Self>, before: &Image, image: &Image) {
        let Some(local) = image.broker(self.node_id).map(|broker| (broker.id, broker.incarnation)) else {
            return;
        };
        let changed = changed_brokers(before, image);
        let broker_changed = !before.has_same_broker_configs(image);
        for topic in image.topics() {
            let known = before.topic_by_id(topic.id);
            let is_as_before = known.is_some_and(|known| Arc::ptr_eq(known, topic));
            if is_as_before && changed.is_empty() && !broker_changed {
                continue;
            }
            let has_settings_of =
                |known: &Arc<Topic>| !broker_changed && (is_as_before || known.configs == topic.configs);
            let is_set_anew = !known.is_some_and(has_settings_of);
            for index in (0..topic.partition_count()).map(PartitionIndex) {
                let key = TopicPartition { topic_id: topic.id, partition: index };
                if self.is_on_this_shard(key) {
                    self.place_one(image, topic, key, (local, is_set_anew), &changed).await;
                }
                if self.runtime.should_yield() {
                    self.runtime.yield_now().await;
                }
            }
        }
    }

    async fn place_one(
        self: &Rc<Self>,
        image: &Image,
        topic: &Topic,
        key: TopicPartition,
        (local, is_set_anew): ((NodeId, logmill_wire::ids::Uuid), bool),
        changed: &BTreeSet<NodeId>,
    ) {
        let Some(found) = image.partition(topic, key.partition) else { return };
        let hosted = self.in_use(key);
        if !found.replicas.contains(&local.0) {
            return self.leave(key, hosted).await;
        }
        if hosted.is_none() {
            // The partition may have been here before, and gone.
            self.stores.until_forgotten(key).await;
        }
        let is_replicated = hosted.as_ref().is_some_and(|partition| partition.replicated.get().is_some());
        if found.replicas.len() < 2 && !is_replicated {
            return;
        }
        let epochs = (found.leader_epoch, found.partition_epoch);
        let is_known = hosted.as_ref().is_some_and(|partition| partition.placed_epochs() == Some(epochs));
        if is_known && !is_set_anew && !found.replicas.iter().any(|node| changed.contains(node)) {
            return;
        }
        let (Some(assignment), leader) = (image.replica_assignment(key), found.leader) else { return };
        match hosted.map_or_else(|| self.host_replica(key, topic), Ok) {
            Ok(partition) => partition.place(&self.peers, Placed { leader, local, assignment }),
            Err(error) => {
                tracing::error!(partition = %key, error = %error.message(), "a replica cannot be brought to life");
            }
        }
    }

    /// This broker has no replica of the partition; its log goes, if there is one.
    async fn leave(self: &Rc<Self>, key: TopicPartition, hosted: Option<Rc<Partition<R>>>) {
        if let Some(partition) = hosted {
            partition.retire();
            self.forget(key);
            partition.log().delete().await;
        } else {
            self.stores.delete(key).await;
        }
    }

    /// Brings a replica to life. It follows nobody before it is placed.
    pub(super) fn host_replica(
        self: &Rc<Self>,
        key: TopicPartition,
        topic: &Topic,
    ) -> Result<Rc<Partition<R>>, PartitionError> {
        let (log, state) = self.log_of(key, topic)?;
        let policy = self.shared_policy_of(topic);
        let partition = Partition::host_replica(self.runtime.clone(), log, state, policy);
        self.note_hosted(key, &partition);
        Ok(partition)
    }

    pub(super) fn is_on_this_shard(&self, key: TopicPartition) -> bool {
        shard_of(key, self.shards) == self.runtime.shard()
    }

    /// What there is to push to a follower out of memory, at most `max_bytes` unless the first batch is larger. Whatever
    /// is handed out counts as sent, until [`PartitionTable::link_lost`].
    #[must_use]
    pub fn take_push(&self, follower: NodeId, partition: TopicPartition, max_bytes: usize) -> Taken {
        self.in_use(partition).map_or(Taken::Nothing, |partition| partition.take_push(follower, max_bytes))
    }

    /// As [`PartitionTable::take_push`], with records that are on disk.
    pub async fn read_push(&self, follower: NodeId, partition: TopicPartition, max_bytes: usize) -> Taken {
        match self.in_use(partition) {
            Some(partition) => partition.read_push(follower, max_bytes).await,
            None => Taken::Nothing,
        }
    }

    /// The link to a follower was lost: what was handed out for it goes out again from where the follower has said that it
    /// is.
    pub fn link_lost(&self, follower: NodeId) {
        for partition in self.replicated_here() {
            partition.on_link_lost(follower);
        }
    }

    /// A link to another broker stands: all partitions that follow it tell it where it has to go on, or ask it; those of
    /// which it is a follower have it get what there is.
    pub fn resend(&self, other: NodeId) {
        for partition in self.replicated_here() {
            let Some(replicated) = partition.replicated.get() else { continue };
            if replicated.leader() == other {
                partition.say_again(replicated, true);
            } else if replicated.leader() == self.node_id {
                self.peers.push(other, partition.log().key());
            }
        }
    }

    /// A proposal that went out through [`Peers::alter_partition`](super::peers::Peers::alter_partition) was decided, or
    /// nobody knows.
    pub fn on_alter_partition(
        &self,
        partition: TopicPartition,
        proposal: &AlterPartition,
        outcome: &AlterPartitionOutcome,
    ) {
        if let Some(partition) = self.in_use(partition) {
            partition.on_alter_partition(proposal, outcome);
        }
    }

    /// Hands what another broker says to the partitions. What is for partitions that are not here was sent by older
    /// metadata, or by newer ones, and comes again.
    pub(super) fn on_peer(&self, command: PeerCommand) {
        match command {
            PeerCommand::Linked { from } => self.resend(from.node),
            PeerCommand::Push { from, payload, entries, done } => {
                let taken = Rc::new(done);
                for (entry, range) in entries {
                    if let Some(partition) = self.in_use(entry.partition)
                        && range.start <= range.end
                        && range.end <= payload.len()
                    {
                        partition.on_push(from, entry, payload.slice(range), Rc::clone(&taken));
                    }
                }
            }
            PeerCommand::Ends { from, entries } => {
                self.each(
                    from,
                    entries,
                    |ends| ends.partition,
                    |from, partition, ends| {
                        partition.on_ends(from, &ends);
                    },
                );
            }
            PeerCommand::Query { from, entries } => {
                self.each(
                    from,
                    entries,
                    |query| query.partition,
                    |from, partition, query| {
                        partition.on_query(from, query);
                    },
                );
            }
            PeerCommand::Answer { from, entries } => {
                self.each(
                    from,
                    entries,
                    |answer| answer.query.partition,
                    |from, partition, answer| {
                        partition.on_answer(from, &answer);
                    },
                );
            }
        }
    }

    fn each<T>(
        &self,
        from: Peer,
        entries: Vec<T>,
        key: impl Fn(&T) -> TopicPartition,
        action: impl Fn(Peer, &Rc<Partition<R>>, T),
    ) {
        for entry in entries {
            if let Some(partition) = self.in_use(key(&entry)) {
                action(from, &partition, entry);
            }
        }
    }

    /// Looks for followers that lag, and says again what may have got lost, for as long as the table is there.
    pub(super) fn start_repeating(self: &Rc<Self>) {
        let (runtime, table) = (self.runtime.clone(), Rc::downgrade(self));
        self.runtime.spawn(async move {
            let mut ticks = 0_u32;
            loop {
                runtime.sleep(TICK).await;
                let Some(table) = table.upgrade().filter(|table| !table.stores.is_ending()) else { return };
                ticks = ticks.wrapping_add(1);
                table.tell_of_offline().await;
                for partition in table.replicated_here() {
                    // One in a log directory that failed waits for a restart; what it knows of others helps nobody.
                    if partition.log().health().is_failed() {
                        continue;
                    }
                    partition.tick(ticks.is_multiple_of(TICKS_PER_REPETITION));
                    if runtime.should_yield() {
                        runtime.yield_now().await;
                    }
                }
            }
        });
    }
}

impl<R: Runtime> Partition<R> {
    fn tick(&self, repeats: bool) {
        let Some(replicated) = self.replicated.get().filter(|_| !self.is_gone()) else { return };
        let is_matching = match &*self.role.borrow() {
            super::role::Role::Leads(_) => None,
            super::role::Role::Follows(follower) => Some(follower.query().is_some()),
        };
        match is_matching {
            None => {
                self.shrink_in_sync(replicated);
                // Who was waited for may have left the in-sync set.
                self.answer_deletions();
            }
            Some(is_matching) => {
                let rewinds = replicated.must_rewind.take();
                if is_matching || rewinds || repeats {
                    self.say_again(replicated, rewinds);
                }
            }
        }
    }
}

/// The brokers that are not as they were: other processes, fenced or not.
fn changed_brokers(before: &Image, image: &Image) -> BTreeSet<NodeId> {
    let is_as_before = |broker: &&Arc<logmill_state::metadata::Broker>| {
        before.broker(broker.id).is_some_and(|known| Arc::ptr_eq(known, broker) || known == *broker)
    };
    let changed = image.brokers().filter(|broker| !is_as_before(broker)).map(|broker| broker.id);
    let gone = before.brokers().map(|broker| broker.id).filter(|id| image.broker(*id).is_none());
    changed.chain(gone).collect()
}
