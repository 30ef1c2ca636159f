//! Frames off a byte stream: bounded before they are read, in memory that grows with what has come.

use super::cut::Cut;
use crate::runtime::{Connection, Runtime};
use crate::shard::deadline::{Either, either};
use bytes::{Buf, Bytes, BytesMut};
use logmill_wire::frame::prefix::{PEER_PREFIX_BYTES, PeerPrefix};
use logmill_wire::frame::replication::parse_prefix;
use logmill_wire::ids::MonotonicNs;
use logmill_wire::limits::REPLICATION_SILENCE_MS;
use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

/// What an idle link has at hand to receive into, and a busy one.
const READ_AHEAD_MIN_BYTES: usize = 4 << 10;
const READ_AHEAD_MAX_BYTES: usize = 64 << 10;

/// The memory that a payload gets before any of it has come.
const PAYLOAD_FIRST_BYTES: usize = 1 << 20;

/// How long a frame may take, and how many bytes a second it must bring beyond that.
const FRAME_NS: u64 = 30_000_000_000;
const FRAME_BYTES_PER_SECOND: u64 = 256 << 10;

const SILENCE_NS: u64 = REPLICATION_SILENCE_MS * 1_000_000;

type Sleep = Pin<Box<dyn Future<Output = ()>>>;

/// The frames of one connection.
pub(super) struct FrameReader<R: Runtime, C: Connection> {
    runtime: R,
    connection: C,
    /// Received and not yet taken.
    ahead: BytesMut,
    read_ahead_bytes: usize,
    /// One timer for as long as the link stands: it is set again when it has run out too early.
    timer: Option<Sleep>,
}

impl<R: Runtime, C: Connection> FrameReader<R, C> {
    /// Reads on behind what was received already.
    pub fn new(runtime: R, connection: C, received: BytesMut) -> Self {
        Self { runtime, connection, ahead: received, read_ahead_bytes: READ_AHEAD_MIN_BYTES, timer: None }
    }

    /// The start of the next frame: nothing but its lengths is known to make sense.
    pub async fn prefix(&mut self) -> Result<PeerPrefix, Cut> {
        let deadline = self.deadline(PEER_PREFIX_BYTES);
        loop {
            if let Some(bytes) = self.ahead.first_chunk() {
                let prefix = parse_prefix(bytes)?;
                self.ahead.advance(PEER_PREFIX_BYTES);
                return Ok(prefix);
            }
            // The time between two frames is no part of one.
            let deadline = (!self.ahead.is_empty()).then_some(deadline);
            self.receive_ahead(deadline).await?;
        }
    }

    /// So many bytes more.
    pub async fn take(&mut self, bytes: usize) -> Result<Bytes, Cut> {
        if self.ahead.len() >= bytes {
            return Ok(self.ahead.split_to(bytes).freeze());
        }
        let deadline = self.deadline(bytes);
        let mut body = BytesMut::with_capacity(bytes.min(PAYLOAD_FIRST_BYTES.max(self.ahead.len())));
        body.extend_from_slice(&self.ahead);
        self.ahead.clear();
        while body.len() < bytes {
            if body.len() == body.capacity() {
                let mut larger = BytesMut::with_capacity(bytes.min(body.len().saturating_mul(2)));
                larger.extend_from_slice(&body);
                body = larger;
            }
            // An allocation may be larger than asked for; what follows the frame is no part of it.
            let mut rest = body.split_off(body.len());
            let wanted = bytes - body.len();
            let surplus = (rest.capacity() > wanted).then(|| rest.split_off(wanted));
            rest = self.receive(rest, Some(deadline)).await?;
            drop(surplus);
            body.unsplit(rest);
        }
        Ok(body.freeze())
    }

    fn deadline(&self, bytes: usize) -> MonotonicNs {
        let extra_ns = (bytes as u64).saturating_mul(1_000_000_000) / FRAME_BYTES_PER_SECOND;
        self.runtime.monotonic().plus_ns(FRAME_NS.saturating_add(extra_ns))
    }

    async fn receive_ahead(&mut self, deadline: Option<MonotonicNs>) -> Result<(), Cut> {
        let mut buffer = std::mem::take(&mut self.ahead);
        let before = buffer.len();
        if buffer.capacity() - before < PEER_PREFIX_BYTES {
            let mut fresh = BytesMut::with_capacity(self.read_ahead_bytes);
            fresh.extend_from_slice(&buffer);
            buffer = fresh;
        }
        let room = buffer.capacity() - before;
        self.ahead = self.receive(buffer, deadline).await?;
        let is_filled = self.ahead.len() - before == room;
        self.read_ahead_bytes = if is_filled { READ_AHEAD_MAX_BYTES } else { READ_AHEAD_MIN_BYTES };
        Ok(())
    }

    /// Receives at least one byte. Silence counts only while there is a receive: who waits for room hears nobody.
    async fn receive(&mut self, buffer: BytesMut, deadline: Option<MonotonicNs>) -> Result<BytesMut, Cut> {
        let began = self.runtime.monotonic();
        let mut receiving = pin!(self.connection.receive(buffer));
        let runtime = &self.runtime;
        loop {
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(runtime.sleep(Duration::from_nanos(SILENCE_NS))))
                .as_mut();
            if let Either::First((result, buffer)) = either(receiving.as_mut(), timer).await {
                return match result {
                    Ok(0) => Err(Cut::Finished),
                    Ok(_) if deadline.is_some_and(|deadline| runtime.monotonic() >= deadline) => {
                        Err(Cut::Stalled)
                    }
                    Ok(_) => Ok(buffer),
                    Err(error) => Err(Cut::failed(format_args!("receiving failed: {error}"))),
                };
            }
            let silent_ns = runtime.monotonic().since(began);
            if silent_ns >= SILENCE_NS {
                return Err(Cut::Silent);
            }
            self.timer = Some(Box::pin(runtime.sleep(Duration::from_nanos(SILENCE_NS - silent_ns))));
        }
    }
}
