//! Brokers whose partitions are simple fakes, over real links.

use crate::partition::command::PartitionCommand;
use crate::partition::peers::{Peer, PeerCommand, Peers, Taken};
use crate::partition::router::{PartitionRouter, shard_of};
use crate::replication::{Links, LinksSettings, Partitions, PeerServer, Plain, ReplicationCounters};
use crate::runtime::{Connection, Listener, Runtime, oneshot};
use crate::shard::join::Boxed;
use crate::shard::memory::MemoryClasses;
use bytes::{Bytes, BytesMut};
use logmill_state::metadata::{Endpoint, Image, Record};
use logmill_wire::frame::replication::{
    BATCH_START_BYTES, EpochAnswer, EpochQuery, PartitionEnds, PushedPartition,
};
use logmill_wire::ids::{LeaderEpoch, NodeId, Offset, PartitionIndex, ShardIndex, TopicPartition, Uuid};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub(super) const LISTENER: &str = "PLAINTEXT";
pub(super) const CLUSTER: u128 = 42;

/// The image that knows these brokers: id, number of its start, address.
pub(super) fn image(cluster: u128, brokers: &[(NodeId, i32, SocketAddr)]) -> Arc<Image> {
    let mut image = Image::default();
    image.apply(&Record::ClusterIdMinted { cluster_id: Uuid::from_random(cluster) }).unwrap();
    for &(broker_id, starts, address) in brokers {
        let endpoint = Endpoint {
            listener: LISTENER.to_owned(),
            host: address.ip().to_string(),
            port: address.port(),
            security_protocol: 0,
        };
        let record = Record::BrokerRegistered {
            broker_id,
            incarnation: incarnation(broker_id, starts),
            leader_epoch_base: starts,
            rack: None,
            endpoints: vec![endpoint],
        };
        image.apply(&record).unwrap();
    }
    Arc::new(image)
}

pub(super) fn incarnation(node: NodeId, starts: i32) -> Uuid {
    Uuid::from_random(u128::from(node.0.unsigned_abs()) << 32 | u128::from(starts.unsigned_abs()))
}

/// Partition `index` of the topic of a leader.
pub(super) fn partition_of(leader: NodeId, index: i32) -> TopicPartition {
    let topic_id = Uuid::from_random(1000 + u128::from(leader.0.unsigned_abs()));
    TopicPartition { topic_id, partition: PartitionIndex(index) }
}

/// Something that begins as a batch does.
pub(super) fn batch(offset: usize, bytes: usize) -> Bytes {
    let mut batch = vec![offset as u8; bytes.max(61)];
    batch[..8].copy_from_slice(&(offset as i64).to_be_bytes());
    let length = batch.len() as i32 - 12;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch.into()
}

fn split(mut payload: Bytes) -> Vec<Bytes> {
    let mut batches = Vec::new();
    while !payload.is_empty() {
        let length = i32::from_be_bytes(payload[8..12].try_into().unwrap());
        batches.push(payload.split_to(length as usize + 12));
    }
    batches
}

/// A log with one follower.
#[derive(Default)]
struct Led {
    follower: NodeId,
    batches: Vec<Bytes>,
    next: Option<usize>,
    acknowledged: usize,
    told: Option<usize>,
    /// What lies before is on disk.
    memory_from: usize,
}

struct Followed {
    leader: NodeId,
    batches: Vec<Bytes>,
    high_watermark: usize,
}

/// The partitions of one shard: one leads, another follows, without epochs.
pub(super) struct Fake {
    sleep: Box<dyn Fn(Duration) -> Boxed<'static, ()>>,
    peers: OnceCell<Rc<dyn Peers>>,
    led: RefCell<BTreeMap<TopicPartition, Led>>,
    followed: RefCell<BTreeMap<TopicPartition, Followed>>,
    /// Keeps what is pushed from being done.
    pub hold: Cell<bool>,
    held: RefCell<Vec<oneshot::Sender<()>>>,
    pub losses: Cell<usize>,
    pub pushes: Cell<usize>,
    pub answers: RefCell<Vec<EpochAnswer>>,
    /// Bytes that were handed over and are not done.
    pub undone_bytes: Cell<usize>,
}

impl Fake {
    fn new<R: Runtime>(runtime: R) -> Rc<Self> {
        Rc::new(Self {
            sleep: Box::new(move |duration| Box::pin(runtime.sleep(duration))),
            peers: OnceCell::new(),
            led: RefCell::default(),
            followed: RefCell::default(),
            hold: Cell::default(),
            held: RefCell::default(),
            losses: Cell::default(),
            pushes: Cell::default(),
            answers: RefCell::default(),
            undone_bytes: Cell::default(),
        })
    }

    fn peers(&self) -> &Rc<dyn Peers> {
        self.peers.get().unwrap()
    }

    fn take(&self, follower: NodeId, partition: TopicPartition, max_bytes: usize, reads: bool) -> Taken {
        let mut led = self.led.borrow_mut();
        let Some(led) = led.get_mut(&partition).filter(|led| led.follower == follower) else {
            return Taken::Nothing;
        };
        let Some(next) = led.next else { return Taken::Nothing };
        if !reads && next < led.memory_from.min(led.batches.len()) {
            return Taken::OnDisk(Offset(next as i64));
        }
        let (mut end, mut bytes) = (next, 0);
        while end < led.batches.len() && (end == next || bytes + led.batches[end].len() <= max_bytes) {
            bytes += led.batches[end].len();
            end += 1;
        }
        if end == next && led.told == Some(led.acknowledged) {
            return Taken::Nothing;
        }
        (led.next, led.told) = (Some(end), Some(led.acknowledged));
        let starts = led.batches[next..end].iter().map(|batch| &batch[..BATCH_START_BYTES]);
        let entry = PushedPartition {
            partition,
            leader_epoch: LeaderEpoch(1),
            from: Offset(next as i64),
            high_watermark: Offset(led.acknowledged as i64),
            log_start: Offset(0),
            first_offset: Offset(0),
            batch_bytes: bytes as u32,
            batch_starts_crc: starts.fold(0, crc32c::crc32c_append),
        };
        let batches = led.batches[next..end].to_vec();
        Taken::Push { entry, batches, has_more: end < led.batches.len() }
    }

    fn ends(partition: TopicPartition, followed: &Followed, rewind: bool) -> PartitionEnds {
        let end = Offset(followed.batches.len() as i64);
        PartitionEnds {
            partition,
            leader_epoch: LeaderEpoch(1),
            log_end: end,
            written: end,
            durable: end,
            log_start: Offset(0),
            rewind,
        }
    }

    fn on_push(&self, from: Peer, payload: &Bytes, entries: Vec<(PushedPartition, Range<usize>)>) {
        for (entry, range) in entries {
            let mut followed = self.followed.borrow_mut();
            let Some(followed) = followed.get_mut(&entry.partition) else { continue };
            assert_eq!(followed.leader, from.node);
            let (from_offset, end) = (entry.from.0 as usize, followed.batches.len());
            let is_gap = from_offset > end;
            if !is_gap {
                let batches = split(payload.slice(range));
                for (offset, batch) in (from_offset..).zip(batches) {
                    assert_eq!(i64::from_be_bytes(batch[..8].try_into().unwrap()), offset as i64);
                    if offset >= end {
                        followed.batches.push(batch);
                    }
                }
                followed.high_watermark = followed.high_watermark.max(entry.high_watermark.0 as usize);
            }
            self.peers().tell_ends(from.node, Self::ends(entry.partition, followed, is_gap));
        }
    }

    fn on_ends(&self, from: Peer, ends: &PartitionEnds) {
        let (mut is_behind, mut has_moved) = (false, false);
        if let Some(led) = self.led.borrow_mut().get_mut(&ends.partition) {
            let end = ends.log_end.0 as usize;
            if ends.rewind || led.next.is_none_or(|next| next < end) {
                led.next = Some(end);
            }
            let before = led.acknowledged;
            led.acknowledged = if ends.rewind { end } else { end.max(before) };
            (is_behind, has_moved) = (led.next < Some(led.batches.len()), led.acknowledged != before);
        }
        if is_behind {
            self.peers().push(from.node, ends.partition);
        } else if has_moved {
            self.peers().push_later(from.node, ends.partition);
        }
    }

    fn handle(&self, command: PeerCommand) {
        match command {
            PeerCommand::Linked { from } => self.resend(from.node),
            PeerCommand::Push { from, payload, entries, done } => {
                self.pushes.set(self.pushes.get() + 1);
                self.on_push(from, &payload, entries);
                if self.hold.get() {
                    self.undone_bytes.set(self.undone_bytes.get() + payload.len());
                    self.held.borrow_mut().push(done);
                } else {
                    done.send(());
                }
            }
            PeerCommand::Ends { from, entries } => entries.iter().for_each(|ends| self.on_ends(from, ends)),
            PeerCommand::Query { from, entries } => {
                for query in entries {
                    let (epoch, end_offset, first_offset) = (query.last_epoch, Offset(0), Offset(0));
                    self.peers().answer(from.node, EpochAnswer { query, epoch, end_offset, first_offset });
                }
            }
            PeerCommand::Answer { entries, .. } => self.answers.borrow_mut().extend(entries),
        }
    }

    /// Lets go of what is held, and holds nothing more.
    pub fn release(&self) {
        self.hold.set(false);
        self.undone_bytes.set(0);
        self.held.borrow_mut().drain(..).for_each(|done| done.send(()));
    }
}

impl Partitions for Fake {
    fn take_push(&self, follower: NodeId, partition: TopicPartition, max_bytes: usize) -> Taken {
        self.take(follower, partition, max_bytes, false)
    }

    fn read_push(
        self: Rc<Self>,
        follower: NodeId,
        partition: TopicPartition,
        max_bytes: usize,
    ) -> Boxed<'static, Taken> {
        let wait = (self.sleep)(Duration::from_millis(1));
        Box::pin(async move {
            wait.await;
            self.take(follower, partition, max_bytes, true)
        })
    }

    fn link_lost(&self, follower: NodeId) {
        self.losses.set(self.losses.get() + 1);
        for led in self.led.borrow_mut().values_mut().filter(|led| led.follower == follower) {
            (led.next, led.told) = (led.next.map(|_| led.acknowledged), None);
        }
    }

    fn resend(&self, leader: NodeId) {
        for (partition, followed) in self.followed.borrow().iter().filter(|(_, log)| log.leader == leader) {
            self.peers().tell_ends(leader, Self::ends(*partition, followed, true));
        }
        for (partition, _) in self.led.borrow().iter().filter(|(_, led)| led.follower == leader) {
            self.peers().push(leader, *partition);
        }
    }
}

pub(super) struct Shard<R: Runtime> {
    pub runtime: R,
    pub links: Links<R>,
    pub server: Rc<PeerServer<R>>,
    pub fake: Rc<Fake>,
    pub memory: MemoryClasses,
}

/// One life of a broker.
pub(super) struct Broker<R: Runtime> {
    pub node: NodeId,
    pub shards: Vec<Shard<R>>,
}

impl<R: Runtime> Broker<R> {
    pub fn new(node: NodeId, runtimes: &[R], memory_bytes: usize) -> Rc<Self> {
        let fakes: Vec<_> = runtimes.iter().map(|runtime| Fake::new(runtime.clone())).collect();
        let shards = runtimes.iter().zip(fakes.clone()).map(|(runtime, fake)| {
            let all = fakes.clone();
            let hand_over = move |shard: ShardIndex, command| match command {
                PartitionCommand::Peer(command) => all[usize::from(shard.0)].handle(command),
                _ => panic!("links say nothing else"),
            };
            let router = PartitionRouter::new(fakes.len() as u16, Rc::new(hand_over));
            let counters = Rc::<ReplicationCounters>::default();
            let settings = LinksSettings {
                node_id: node,
                shards: fakes.len() as u16,
                listener: Some(LISTENER.to_owned()),
                ask_controller: Rc::new(|_, _| {}),
                lost_peers: Arc::default(),
            };
            let links = Links::new(runtime.clone(), Plain, settings, Rc::clone(&counters));
            let partitions: Rc<dyn Partitions> = fake.clone();
            links.begin(Rc::downgrade(&partitions));
            assert!(fake.peers.set(Rc::new(links.clone())).is_ok());
            let memory = MemoryClasses::new(memory_bytes);
            let listener = Some(LISTENER.to_owned());
            let server = PeerServer::new(
                runtime.clone(),
                node,
                listener,
                router,
                memory.clone(),
                Rc::clone(&counters),
            );
            Shard { runtime: runtime.clone(), links, server, fake, memory }
        });
        Rc::new(Self { node, shards: shards.collect() })
    }

    pub fn apply_image(&self, image: &Arc<Image>) {
        for shard in &self.shards {
            shard.links.apply_image(Arc::clone(image));
            shard.server.apply_image(Arc::clone(image));
        }
    }

    /// Hears other brokers on all shards in turn.
    pub async fn listen(self: &Rc<Self>, address: SocketAddr) -> SocketAddr {
        let runtime = self.shards[0].runtime.clone();
        let listener = runtime.listen(address).await.unwrap();
        let (broker, bound) = (Rc::clone(self), listener.local_address());
        runtime.spawn(async move {
            for turn in 0.. {
                let (handle, peer) = listener.accept().await.unwrap();
                let shard = &broker.shards[turn % broker.shards.len()];
                let (connection, server) = (shard.runtime.adopt(handle), Rc::clone(&shard.server));
                shard.runtime.spawn(async move {
                    server.serve(&connection, BytesMut::new(), LISTENER, peer).await;
                    connection.shutdown();
                });
            }
        });
        bound
    }

    pub fn fake(&self, partition: TopicPartition) -> &Rc<Fake> {
        &self.shards[usize::from(shard_of(partition, self.shards.len() as u16).0)].fake
    }

    pub fn lead(&self, partition: TopicPartition, follower: NodeId) {
        let led = Led { follower, ..Led::default() };
        self.fake(partition).led.borrow_mut().insert(partition, led);
    }

    /// Follows, and tells the leader where it has to begin.
    pub fn follow(&self, partition: TopicPartition, leader: NodeId) {
        let followed = Followed { leader, batches: Vec::new(), high_watermark: 0 };
        let fake = self.fake(partition);
        fake.peers().tell_ends(leader, Fake::ends(partition, &followed, true));
        fake.followed.borrow_mut().insert(partition, followed);
    }

    pub fn append(&self, partition: TopicPartition, bytes: usize) {
        let fake = self.fake(partition);
        let follower = {
            let mut led = fake.led.borrow_mut();
            let led = led.get_mut(&partition).unwrap();
            let offset = led.batches.len();
            led.batches.push(batch(offset, bytes));
            led.follower
        };
        fake.peers().push(follower, partition);
    }

    /// Takes it that the follower has said where it begins.
    pub fn push_from_the_beginning(&self, partition: TopicPartition) {
        let fake = self.fake(partition);
        let follower = {
            let mut led = fake.led.borrow_mut();
            let led = led.get_mut(&partition).unwrap();
            led.next = Some(0);
            led.follower
        };
        fake.peers().push(follower, partition);
    }

    /// Has only the last `count` batches in memory.
    pub fn keep_in_memory(&self, partition: TopicPartition, count: usize) {
        let mut led = self.fake(partition).led.borrow_mut();
        let led = led.get_mut(&partition).unwrap();
        led.memory_from = led.batches.len().saturating_sub(count);
    }

    pub fn ask(&self, leader: NodeId, partition: TopicPartition) {
        let (leader_epoch, last_epoch) = (LeaderEpoch(1), LeaderEpoch(0));
        let query = EpochQuery { partition, leader_epoch, last_epoch, log_end: Offset(0) };
        self.fake(partition).peers().ask(leader, query);
    }

    /// Whether `follower` has all that this broker has appended, and both know.
    pub fn is_followed_by(&self, follower: &Self) -> bool {
        self.missing_at(follower).is_empty()
    }

    /// The partitions that differ at `follower`, each with the ends here and there.
    pub fn missing_at(&self, follower: &Self) -> Vec<String> {
        let mut missing = Vec::new();
        for shard in &self.shards {
            let led = shard.fake.led.borrow();
            for (partition, led) in led.iter().filter(|(_, led)| led.follower == follower.node) {
                let followed = follower.fake(*partition).followed.borrow();
                let is_same = followed.get(partition).is_some_and(|followed| {
                    followed.batches == led.batches
                        && led.acknowledged == led.batches.len()
                        && followed.high_watermark == led.acknowledged
                });
                if !is_same {
                    let there = followed.get(partition).map(|log| (log.batches.len(), log.high_watermark));
                    let here = (led.batches.len(), led.next, led.acknowledged, led.told);
                    missing.push(format!("{}: {here:?}, {there:?}", partition.partition));
                }
            }
        }
        missing
    }

    /// How many batches a partition that follows has.
    pub fn end_of(&self, partition: TopicPartition) -> usize {
        self.fake(partition).followed.borrow().get(&partition).map_or(0, |followed| followed.batches.len())
    }

    pub fn sum(&self, of: impl Fn(&ReplicationCounters) -> u64) -> u64 {
        self.shards.iter().map(|shard| of(&shard.links.counters())).sum()
    }

    pub fn losses(&self) -> usize {
        self.shards.iter().map(|shard| shard.fake.losses.get()).sum()
    }

    pub fn pushes_heard(&self) -> usize {
        self.shards.iter().map(|shard| shard.fake.pushes.get()).sum()
    }
}
