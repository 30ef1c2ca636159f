//! The receiving end of links: what other brokers send goes to the shards that own the partitions.

use super::counters::{ReplicationCounters, count};
use super::cut::{Complaints, Cut};
use super::frame_reader::FrameReader;
use super::greeting::{check_kinship, check_process, own_hello};
use super::session::{keepalive, send_within};
use crate::partition::command::PartitionCommand;
use crate::partition::peers::{Peer, PeerCommand};
use crate::partition::router::PartitionRouter;
use crate::runtime::{Connection, Runtime, oneshot};
use crate::shard::deadline::{Either, either, within};
use crate::shard::memory::{MemoryClass, MemoryClasses, Reservation};
use crate::shard::signal::Signal;
use bytes::{Bytes, BytesMut};
use logmill_state::metadata::Image;
use logmill_wire::frame::FrameError;
use logmill_wire::frame::replication::{self, Frame, Hello, Link, PushedPartition};
use logmill_wire::ids::{NodeId, ShardIndex, TopicPartition};
use logmill_wire::limits::{REPLICATION_CONNECT_MS, REPLICATION_KEEPALIVE_MS};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// A stranger's first header is no longer than a hello is.
const HELLO_BYTES_MAX: u32 = 64;

/// Serves the connections that other brokers make to a shard.
pub struct PeerServer<R: Runtime> {
    runtime: R,
    node_id: NodeId,
    /// The one listener on which brokers are heard.
    listener: Option<String>,
    partitions: PartitionRouter,
    memory: MemoryClasses,
    counters: Rc<ReplicationCounters>,
    image: RefCell<Arc<Image>>,
    changed: Signal,
    complaints: Complaints,
}

impl<R: Runtime> PeerServer<R> {
    /// A server that hears brokers on `listener`, and nobody without one.
    #[must_use]
    pub fn new(
        runtime: R,
        node_id: NodeId,
        listener: Option<String>,
        partitions: PartitionRouter,
        memory: MemoryClasses,
        counters: Rc<ReplicationCounters>,
    ) -> Rc<Self> {
        Rc::new(Self {
            runtime,
            node_id,
            listener,
            partitions,
            memory,
            counters,
            image: RefCell::default(),
            changed: Signal::default(),
            complaints: Complaints::default(),
        })
    }

    /// Takes over a newer image: connections of processes that are no more end.
    pub fn apply_image(&self, image: Arc<Image>) {
        *self.image.borrow_mut() = image;
        self.changed.notify_all();
    }

    /// Serves a connection until it ends. `received` is what came on it already.
    pub async fn serve<C: Connection>(
        &self,
        connection: &C,
        received: BytesMut,
        listener: &str,
        address: SocketAddr,
    ) -> Cut {
        let outcome = self.greet_and_read(connection, received, listener).await;
        let cut = match outcome {
            Ok(cut) | Err(cut) => cut,
        };
        if cut.is_misconduct() {
            count(&self.counters.refused, 1);
            if let Some(passed_over) = self.complaints.may_say(self.runtime.monotonic()) {
                tracing::warn!(%address, cause = %cut, passed_over, "a connection for replication was closed");
            }
        }
        cut
    }

    async fn greet_and_read<C: Connection>(
        &self,
        connection: &C,
        received: BytesMut,
        listener: &str,
    ) -> Result<Cut, Cut> {
        if self.listener.as_deref() != Some(listener) {
            return Err(Cut::Refused(format!(
                "brokers are heard on the listener {}, not on {listener}; set inter.broker.listener.name alike everywhere",
                self.listener.as_deref().unwrap_or("of none")
            )));
        }
        let mut frames = FrameReader::new(self.runtime.clone(), connection.clone(), received);
        let limit = Duration::from_millis(REPLICATION_CONNECT_MS);
        let hello =
            within(&self.runtime, limit, read_hello(&mut frames)).await.unwrap_or(Err(Cut::Stalled))?;
        let (peer, answer) = self.judge(&hello);
        if let Some(answer) = answer {
            let bytes = replication::encode_hello(&answer)?;
            send_within(&self.runtime, connection, vec![bytes.into()]).await?;
        }
        let peer = peer?;
        if hello.link == Link::Live {
            for shard in self.partitions.shards() {
                self.hand_to(shard, PeerCommand::Linked { from: peer });
            }
        }
        tracing::debug!(broker = %peer.node, shard = hello.shard.0, link = ?hello.link, "a broker is heard");
        let reading = self.read_frames(&mut frames, peer);
        let beside = either(self.keep_alive(connection), self.until_outdated(peer));
        match either(reading, beside).await {
            Either::First(cut) | Either::Second(Either::First(cut)) => Ok(cut),
            Either::Second(Either::Second(())) => Ok(Cut::Outdated),
        }
    }

    /// Who it is, if it is heard, and what it is told. Who is to come again, because metadata are older here or there,
    /// is told nothing.
    fn judge(&self, hello: &Hello) -> (Result<Peer, Cut>, Option<Hello>) {
        let image = self.image.borrow();
        let own = own_hello(&image, self.node_id, self.runtime.shard(), hello.link);
        let Some(own) = own else {
            return (Err(Cut::Failed("this broker is not registered yet".to_owned())), None);
        };
        if let Err(cut) = check_kinship(&own, hello) {
            return (Err(cut), Some(own));
        }
        let peer = check_process(&image, &own, hello);
        let is_heard = peer.is_ok();
        (peer, is_heard.then_some(own))
    }

    async fn until_outdated(&self, peer: Peer) {
        let is_current = || {
            let image = self.image.borrow();
            image.broker(peer.node).is_some_and(|known| known.incarnation == peer.incarnation)
        };
        while is_current() {
            self.changed.wait().await;
        }
    }

    async fn keep_alive<C: Connection>(&self, connection: &C) -> Cut {
        loop {
            self.runtime.sleep(Duration::from_millis(REPLICATION_KEEPALIVE_MS)).await;
            let alive = match keepalive() {
                Ok(bytes) => send_within(&self.runtime, connection, vec![bytes]).await,
                Err(cut) => Err(cut),
            };
            if let Err(cut) = alive {
                return cut;
            }
        }
    }

    async fn read_frames<C: Connection>(&self, frames: &mut FrameReader<R, C>, peer: Peer) -> Cut {
        loop {
            if let Err(cut) = self.read_frame(frames, peer).await {
                return cut;
            }
            if self.runtime.should_yield() {
                self.runtime.yield_now().await;
            }
        }
    }

    async fn read_frame<C: Connection>(&self, frames: &mut FrameReader<R, C>, peer: Peer) -> Result<(), Cut> {
        let prefix = frames.prefix().await?;
        let (header_bytes, payload_bytes) = (prefix.header_bytes as usize, prefix.payload_bytes as usize);
        let room = self.room_for(header_bytes + payload_bytes).await?;
        let header = frames.take(header_bytes).await?;
        // What is announced must be sealed before a payload is read.
        let frame = replication::open(&prefix, &header)?;
        drop(header);
        if header_bytes > 0 {
            count(&self.counters.frames_received, 1);
        }
        match frame {
            Frame::Hello(_) => return Err(Cut::Malformed(FrameError::InvalidField)),
            Frame::Ends(entries) => self.spread(
                entries,
                |ends| ends.partition,
                |entries| PeerCommand::Ends { from: peer, entries },
            ),
            Frame::Queries(entries) => self.spread(
                entries,
                |query| query.partition,
                |entries| PeerCommand::Query { from: peer, entries },
            ),
            Frame::Answers(entries) => self.spread(
                entries,
                |answer| answer.query.partition,
                |entries| PeerCommand::Answer { from: peer, entries },
            ),
            Frame::Push(entries) => {
                let payload = frames.take(payload_bytes).await?;
                count(&self.counters.bytes_received, payload_bytes);
                self.hand_over_push(peer, entries, payload, room).await?;
            }
        }
        Ok(())
    }

    /// Waits for room; a frame that is larger than all there is gets it alone.
    async fn room_for(&self, bytes: usize) -> Result<Reservation, Cut> {
        let most = self.memory.size(MemoryClass::Peers);
        let mut room = self.memory.reserve(MemoryClass::Peers, bytes.min(most)).map_err(Cut::failed)?.await;
        if bytes > most {
            room.resize(bytes);
        }
        Ok(room)
    }

    async fn hand_over_push(
        &self,
        peer: Peer,
        entries: Vec<(PushedPartition, usize)>,
        payload: Bytes,
        room: Reservation,
    ) -> Result<(), Cut> {
        let mut checked = Vec::with_capacity(entries.len());
        for (entry, begin) in entries {
            let range = begin..begin.saturating_add(entry.batch_bytes as usize);
            entry.check_batches(payload.get(range.clone()).ok_or(FrameError::Truncated)?)?;
            checked.push((entry, range));
            if self.runtime.should_yield() {
                self.runtime.yield_now().await;
            }
        }
        let mut taken_over = Vec::new();
        let command = |entries: Vec<(PushedPartition, Range<usize>)>| {
            let (done, is_done) = oneshot::channel();
            taken_over.push(is_done);
            PeerCommand::Push { from: peer, payload: payload.clone(), entries, done }
        };
        self.spread(checked, |(entry, _)| entry.partition, command);
        self.runtime.spawn(async move {
            for is_done in taken_over {
                // Dropped, it is done too.
                let _ = is_done.await;
            }
            drop(room);
        });
        Ok(())
    }

    /// Gives each shard its entries, in their order.
    fn spread<E>(
        &self,
        entries: Vec<E>,
        partition: impl Fn(&E) -> TopicPartition,
        mut command: impl FnMut(Vec<E>) -> PeerCommand,
    ) {
        let mut shares: Vec<(ShardIndex, Vec<E>)> = Vec::new();
        for entry in entries {
            let shard = self.partitions.shard_of(partition(&entry));
            match shares.iter_mut().find(|(owner, _)| *owner == shard) {
                Some((_, share)) => share.push(entry),
                None => shares.push((shard, vec![entry])),
            }
        }
        for (shard, share) in shares {
            self.hand_to(shard, command(share));
        }
    }

    fn hand_to(&self, shard: ShardIndex, command: PeerCommand) {
        self.partitions.send_to(shard, PartitionCommand::Peer(command));
    }
}

/// The first frame of either end.
pub(super) async fn read_hello<R: Runtime, C: Connection>(
    frames: &mut FrameReader<R, C>,
) -> Result<Hello, Cut> {
    let prefix = frames.prefix().await?;
    if prefix.header_bytes > HELLO_BYTES_MAX || prefix.payload_bytes > 0 {
        return Err(Cut::Malformed(FrameError::InvalidField));
    }
    let header = frames.take(prefix.header_bytes as usize).await?;
    match replication::open(&prefix, &header)? {
        Frame::Hello(hello) => Ok(hello),
        _ => Err(Cut::Malformed(FrameError::InvalidField)),
    }
}
