//! What a shard says to one broker as long as its link stands.

use super::Partitions;
use super::counters::{ReplicationCounters, count};
use super::cut::Cut;
use super::dial::{Standing, Target, Transport, dial};
use super::frame_reader::FrameReader;
use super::outbox::Outbox;
use super::push_frame::{Entry, PushFrame};
use super::throttle::Throttle;
use crate::partition::peers::Taken;
use crate::runtime::{Connection, Runtime};
use crate::shard::deadline::{Either, either, within};
use crate::shard::join::{Boxed, join_all};
use bytes::Bytes;
use logmill_wire::frame::FrameError;
use logmill_wire::frame::replication::{self, Frame, Hello, Link};
use logmill_wire::ids::TopicPartition;
use logmill_wire::limits::{
    REPLICATION_BACKOFF_MS, REPLICATION_CATCH_UP_IDLE_MS, REPLICATION_CONNECT_MS, REPLICATION_ENTRIES_MAX,
    REPLICATION_KEEPALIVE_MS, REPLICATION_PARTITION_BYTES, REPLICATION_PUSH_BYTES, REPLICATION_READS_MAX,
    REPLICATION_STALL_MS,
};
use std::cell::Cell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

/// For how long a replica that is held up waits at a time: its rate may change, and others come.
const HELD_UP_MOST: Duration = Duration::from_millis(50);

const KEEPALIVE: Duration = Duration::from_millis(REPLICATION_KEEPALIVE_MS);

/// The frame that says nothing but that its sender lives.
pub(super) fn keepalive() -> Result<Bytes, Cut> {
    Ok(replication::encode_ends(&[])?.into())
}

/// Sends, unless the other end takes nothing for too long; the link is to be ended then.
pub(super) async fn send_within<R: Runtime, C: Connection>(
    runtime: &R,
    connection: &C,
    parts: Vec<Bytes>,
) -> Result<(), Cut> {
    let stall = Duration::from_millis(REPLICATION_STALL_MS);
    match within(runtime, stall, connection.send(parts)).await {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => Err(Cut::failed(format_args!("sending failed: {error}"))),
        None => Err(Cut::Stalled),
    }
}

/// One stand of the link to a broker.
pub(super) struct Session<'a, R: Runtime, T: Transport<R>> {
    pub runtime: &'a R,
    pub transport: &'a T,
    pub target: &'a Target,
    pub hello: Hello,
    pub outbox: &'a Outbox,
    pub partitions: Rc<dyn Partitions>,
    pub counters: &'a ReplicationCounters,
    /// Bytes of a push. It grows with what gets through: where links break all the time, a large frame never would.
    pub push_bytes: Cell<usize>,
    /// How fast replicas may catch up.
    pub throttle: &'a Throttle,
}

impl<R: Runtime, T: Transport<R>> Session<'_, R, T> {
    /// Speaks until the link is lost.
    pub async fn run(&self, mut live: Standing<R, T::Connection>) -> Cut {
        let speaking = either(self.speak(&live.connection.0), self.catch_up());
        match either(listen(&mut live.frames), speaking).await {
            Either::First(cut) | Either::Second(Either::First(cut) | Either::Second(cut)) => cut,
        }
    }

    async fn speak(&self, connection: &T::Connection) -> Cut {
        let mut left = None;
        let mut tick: Pin<Box<dyn Future<Output = ()>>> = Box::pin(self.runtime.sleep(KEEPALIVE));
        let mut was_quiet = true;
        loop {
            let parts = match self.turn(&mut left) {
                Ok(parts) => parts,
                Err(error) => return Cut::Malformed(error),
            };
            if !parts.is_empty() {
                was_quiet = false;
                if let Err(cut) = send_within(self.runtime, connection, parts).await {
                    return cut;
                }
                self.get_larger();
                continue;
            }
            if let Either::First(()) = either(self.something_to_say(), tick.as_mut()).await {
                continue;
            }
            if std::mem::replace(&mut was_quiet, true) {
                let sent = match keepalive() {
                    Ok(bytes) => send_within(self.runtime, connection, vec![bytes]).await,
                    Err(cut) => Err(cut),
                };
                if let Err(cut) = sent {
                    return cut;
                }
            }
            tick = Box::pin(self.runtime.sleep(KEEPALIVE));
        }
    }

    /// Waits until something has come, or the oldest that waits for a ride has waited long enough.
    async fn something_to_say(&self) {
        let changed = self.outbox.changed.wait();
        match self.outbox.ride_until() {
            None => changed.await,
            Some(until) => {
                let wait_ns = until.since(self.runtime.monotonic());
                either(changed, self.runtime.sleep(Duration::from_nanos(wait_ns))).await;
            }
        }
    }

    /// What is sent next: a frame of each kind at the most.
    fn turn(&self, left: &mut Option<Entry>) -> Result<Vec<Bytes>, FrameError> {
        let words = self.outbox.take_words(REPLICATION_ENTRIES_MAX);
        let mut parts: Vec<Bytes> = Vec::new();
        if !words.queries.is_empty() {
            parts.push(replication::encode_queries(&words.queries)?.into());
        }
        if !words.answers.is_empty() {
            parts.push(replication::encode_answers(&words.answers)?.into());
        }
        if !words.ends.is_empty() {
            parts.push(replication::encode_ends(&words.ends)?.into());
        }
        count(&self.counters.frames_sent, parts.len());
        let frame = self.gather(left)?;
        self.count_push(&frame);
        parts.extend(frame.finish()?);
        Ok(parts)
    }

    fn get_larger(&self) {
        self.push_bytes.set((self.push_bytes.get() * 2).min(REPLICATION_PUSH_BYTES));
    }

    fn count_push(&self, frame: &PushFrame) {
        let frames = usize::from(frame.entries > 0);
        count(&self.counters.frames_sent, frames);
        count(&self.counters.pushes_sent, frames);
        count(&self.counters.bytes_pushed, frame.bytes);
    }

    /// A push of what partitions have in memory, each in its turn.
    fn gather(&self, left: &mut Option<Entry>) -> Result<PushFrame, FrameError> {
        let mut frame = PushFrame::new(self.push_bytes.get());
        if let Some(entry) = left.take() {
            *left = frame.add(entry)?;
        }
        let now = self.runtime.monotonic();
        while frame.is_open() && left.is_none() {
            let Some(partition) = self.outbox.next_dirty(now) else { break };
            // The link that catches up waits where that holds nobody else up.
            if self.throttle.concerns(self.target.node, partition) {
                self.outbox.read_from_disk(partition);
                continue;
            }
            let most = REPLICATION_PARTITION_BYTES.min(frame.room());
            match self.partitions.take_push(self.target.node, partition, most) {
                Taken::Nothing => {}
                Taken::Push { entry, batches, has_more } => {
                    if has_more {
                        self.outbox.push(partition);
                    }
                    *left = frame.add((entry, batches))?;
                }
                Taken::OnDisk(_) => self.outbox.read_from_disk(partition),
            }
        }
        Ok(frame)
    }

    /// Reads from disk for the follower, over a connection of its own, which stands while there is something to read.
    async fn catch_up(&self) -> Cut {
        let hello = Hello { link: Link::CatchUp, ..self.hello };
        loop {
            while !self.outbox.has_disk() {
                self.outbox.changed.wait().await;
            }
            let limit = Duration::from_millis(REPLICATION_CONNECT_MS);
            let dialled =
                within(self.runtime, limit, dial(self.runtime, self.transport, self.target, &hello));
            let Some(Ok(mut standing)) = dialled.await else {
                // The live link tells whether the broker is there; if it is, its listener may just be busy.
                self.runtime.sleep(Duration::from_millis(REPLICATION_BACKOFF_MS.1)).await;
                continue;
            };
            let reading = self.read_for_follower(&standing.connection.0);
            match either(listen(&mut standing.frames), reading).await {
                Either::First(cut) | Either::Second(Err(cut)) => return cut,
                Either::Second(Ok(())) => {}
            }
        }
    }

    /// Sends what is read until nothing was to be read for some time.
    async fn read_for_follower(&self, connection: &T::Connection) -> Result<(), Cut> {
        let (mut read_at, mut spoke_at) = (self.runtime.monotonic(), self.runtime.monotonic());
        while self.runtime.monotonic().since(read_at) < REPLICATION_CATCH_UP_IDLE_MS * 1_000_000 {
            // Not only after a long wait: many short ones, each ended by what the live link has to say, are a silence, too.
            if self.runtime.monotonic().since(spoke_at) >= REPLICATION_KEEPALIVE_MS * 1_000_000 {
                send_within(self.runtime, connection, vec![keepalive()?]).await?;
                spoke_at = self.runtime.monotonic();
            }
            let (next, pause) = self.next_to_read();
            if let Some(pause) = pause.filter(|_| next.is_empty()) {
                read_at = self.runtime.monotonic();
                self.runtime.sleep(pause).await;
                continue;
            }
            let reading = self.alive_while(connection, self.read_some(next)).await?;
            if reading.is_empty() {
                either(self.outbox.changed.wait(), self.runtime.sleep(KEEPALIVE)).await;
                continue;
            }
            read_at = self.runtime.monotonic();
            let most = self.push_bytes.get();
            let (mut frame, mut followed) = (PushFrame::new(most), Vec::new());
            for (partition, taken) in reading {
                let Taken::Push { entry, batches, has_more } = taken else {
                    // There is nothing to send to a replica that follows no more; and what does not get on from disk
                    // waits until the partition says that it has something.
                    self.outbox.leave_disk(partition, false);
                    continue;
                };
                let (follower, now) = (self.target.node, self.runtime.monotonic());
                self.throttle.note(follower, partition, now, u64::from(entry.batch_bytes));
                followed.push((partition, has_more));
                if let Some(entry) = frame.add((entry, batches))? {
                    let full = std::mem::replace(&mut frame, PushFrame::new(most));
                    self.send_push(connection, full).await?;
                    frame.add(entry)?;
                }
            }
            self.send_push(connection, frame).await?;
            for (partition, has_more) in followed {
                if has_more || self.outbox.has_come_again(partition) {
                    self.outbox.go_on_reading(partition);
                } else {
                    self.outbox.leave_disk(partition, false);
                }
            }
        }
        Ok(())
    }

    async fn send_push(&self, connection: &T::Connection, frame: PushFrame) -> Result<(), Cut> {
        self.count_push(&frame);
        let bytes = frame.bytes;
        count(&self.counters.bytes_caught_up, bytes);
        let parts = frame.finish()?;
        if !parts.is_empty() {
            send_within(self.runtime, connection, parts).await?;
            self.get_larger();
        }
        Ok(())
    }

    /// Waits for something that may take longer than the other end takes for silence.
    async fn alive_while<O>(
        &self,
        connection: &T::Connection,
        work: impl Future<Output = O>,
    ) -> Result<O, Cut> {
        let mut work = pin!(work);
        loop {
            if let Either::First(outcome) = either(work.as_mut(), self.runtime.sleep(KEEPALIVE)).await {
                return Ok(outcome);
            }
            send_within(self.runtime, connection, vec![keepalive()?]).await?;
        }
    }

    /// The partitions whose turn it is; and how long to wait for one that is held up, if there is one.
    fn next_to_read(&self) -> (Vec<TopicPartition>, Option<Duration>) {
        let (mut next, mut held_up, mut pause) = (Vec::new(), Vec::new(), None);
        let now = self.runtime.monotonic();
        while next.len() < REPLICATION_READS_MAX {
            let Some(partition) = self.outbox.next_on_disk() else { break };
            match self.throttle.pause(self.target.node, partition, now) {
                Duration::ZERO => next.push(partition),
                wait => {
                    held_up.push(partition);
                    pause = Some(pause.unwrap_or(HELD_UP_MOST).min(wait));
                }
            }
        }
        held_up.into_iter().for_each(|partition| self.outbox.go_on_reading(partition));
        (next, pause)
    }

    /// What some partitions have next for the follower, read together; what they have in memory by now is taken at once.
    async fn read_some(&self, next: Vec<TopicPartition>) -> Vec<(TopicPartition, Taken)> {
        let most = self.push_bytes.get() / next.len().max(1);
        let reads = next.iter().map(|&partition| self.take_or_read(partition, most)).collect();
        next.iter().copied().zip(join_all(reads).await).collect()
    }

    fn take_or_read(&self, partition: TopicPartition, most: usize) -> Boxed<'static, Taken> {
        let most = self.throttle.most(self.target.node, partition, most);
        match self.partitions.take_push(self.target.node, partition, most) {
            Taken::OnDisk(_) => Rc::clone(&self.partitions).read_push(self.target.node, partition, most),
            taken => Box::pin(std::future::ready(taken)),
        }
    }
}

/// Hears that the other end lives; it has nothing else to say here.
async fn listen<R: Runtime, C: Connection>(frames: &mut FrameReader<R, C>) -> Cut {
    loop {
        if let Err(cut) = hear_keepalive(frames).await {
            return cut;
        }
    }
}

async fn hear_keepalive<R: Runtime, C: Connection>(frames: &mut FrameReader<R, C>) -> Result<(), Cut> {
    let prefix = frames.prefix().await?;
    let is_alive = prefix.header_bytes == 0 && prefix.payload_bytes == 0;
    match replication::open(&prefix, &[]) {
        Ok(Frame::Ends(_)) if is_alive => Ok(()),
        Ok(_) => Err(Cut::Malformed(FrameError::InvalidField)),
        Err(error) => Err(Cut::Malformed(error)),
    }
}
