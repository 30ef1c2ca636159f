//! Requests off a byte stream: sizes are checked and room is found before a body is stored.

use super::connection::End;
use super::replies::ReplyQueue;
use crate::request::router::{frame_class, may_begin_large};
use crate::request::services::Services;
use crate::runtime::{Connection, Runtime};
use crate::shard::deadline::{Either, Ticker, either};
use crate::shard::memory::{MemoryClass, Reservation};
use bytes::{Buf, Bytes, BytesMut};
use logmill_wire::frame::prefix::{FIRST_BYTE, is_peer_frame};
use logmill_wire::ids::MonotonicNs;
use logmill_wire::limits::REQUEST_HEADER_BYTES_MAX;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

const SIZE_BYTES: usize = 4;
/// Key, version and correlation id: no request is shorter.
const REQUEST_BYTES_MIN: usize = 8;
/// What must be there before room is looked for: the size and the API's key.
const PROLOGUE_BYTES: usize = SIZE_BYTES + 2;

/// What an idle connection has at hand to receive into; it is not part of the budget, only counted by the bound on
/// connections.
const READ_AHEAD_MIN_BYTES: usize = 4 << 10;
/// What a busy one has.
const READ_AHEAD_MAX_BYTES: usize = 64 << 10;

/// The share of its class that a request may have that has arrived whole.
const WHOLE_SHARE: usize = 8;

/// The memory that a body gets before any of it has arrived; it grows with what comes, so that announcing much
/// costs nothing.
const BODY_FIRST_BYTES: usize = 1 << 20;

/// How often a body that does not come is looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long a begun request may stand still.
const STALL_NS: u64 = 10_000_000_000;
/// How long it may stand still while others wait for the room that it has.
const STALL_CONTENDED_NS: u64 = 2_000_000_000;
/// How long a whole request may take, and how many bytes a second it must bring beyond that.
const FRAME_NS: u64 = 30_000_000_000;
const FRAME_BYTES_PER_SECOND: u64 = 256 << 10;

type Sleep = Pin<Box<dyn Future<Output = ()>>>;

/// The requests of one connection.
pub(super) struct FrameReader<'s, R: Runtime> {
    services: &'s Rc<Services<R>>,
    connection: R::Connection,
    queue: &'s ReplyQueue,
    /// Received and not yet taken.
    ahead: BytesMut,
    read_ahead_bytes: usize,
    was_heard: bool,
    /// One timer for the whole time between requests: it is set again when it has run out too early.
    idle_timer: Option<Sleep>,
    /// Within requests.
    ticker: Ticker,
}

impl<'s, R: Runtime> FrameReader<'s, R> {
    pub(super) fn new(
        services: &'s Rc<Services<R>>,
        connection: R::Connection,
        queue: &'s ReplyQueue,
        received: BytesMut,
    ) -> Self {
        Self {
            services,
            connection,
            queue,
            ahead: received,
            read_ahead_bytes: READ_AHEAD_MIN_BYTES,
            was_heard: false,
            idle_timer: None,
            ticker: Ticker::default(),
        }
    }

    /// The client has sent a request that makes sense: it may send large ones.
    pub(super) fn heard(&mut self) {
        self.was_heard = true;
    }

    /// Whether another broker speaks its own protocol here, which the first bytes tell.
    pub(super) async fn is_from_broker(&mut self) -> Result<bool, End> {
        while self.ahead.is_empty() {
            self.receive_ahead(None).await?;
        }
        let deadline = self.services.runtime.monotonic().plus_ns(FRAME_NS);
        while self.ahead.first() == Some(&FIRST_BYTE) && self.ahead.len() < SIZE_BYTES {
            self.receive_ahead(Some((deadline, MemoryClass::Control))).await?;
        }
        Ok(self.ahead.first_chunk().is_some_and(|first| is_peer_frame(*first)))
    }

    /// What has come and was not taken.
    pub(super) fn into_received(self) -> BytesMut {
        self.ahead
    }

    /// The next request, without its size, and the room that it takes.
    pub(super) async fn next(&mut self) -> Result<(Bytes, Reservation), End> {
        while self.ahead.is_empty() {
            self.receive_ahead(None).await?;
        }
        let began = self.services.runtime.recent();
        while self.ahead.len() < PROLOGUE_BYTES {
            if let Some(announced) = self.ahead.first_chunk::<SIZE_BYTES>() {
                self.check_size(i32::from_be_bytes(*announced), None)?;
            }
            self.receive_ahead(Some((began.plus_ns(FRAME_NS), MemoryClass::Control))).await?;
        }
        let Some(&[a, b, c, d, high, low]) = self.ahead.first_chunk::<PROLOGUE_BYTES>() else {
            return Err(End::failed("a request is shorter than its header"));
        };
        let key = i16::from_be_bytes([high, low]);
        let size = self.check_size(i32::from_be_bytes([a, b, c, d]), Some(key))?;
        // Room is for those who send: announcing alone takes none.
        let evidence = (SIZE_BYTES + size).min(READ_AHEAD_MIN_BYTES);
        while self.ahead.len() < evidence {
            self.receive_ahead(Some((began.plus_ns(FRAME_NS), MemoryClass::Control))).await?;
        }
        let is_whole = self.ahead.len() >= SIZE_BYTES + size
            && size <= self.services.state.memory.size(MemoryClass::Whole) / WHOLE_SHARE;
        let class = if is_whole { MemoryClass::Whole } else { frame_class(key) };
        let room = self.services.state.memory.reserve(class, size).map_err(|error| {
            tracing::warn!(%error, "a request is larger than the memory for it");
            End::failed(error)
        })?;
        let room = room.await;
        self.ahead.advance(SIZE_BYTES);
        if self.ahead.len() >= size {
            return Ok((self.ahead.split_to(size).freeze(), room));
        }
        let extra_ns = (size as u64).saturating_mul(1_000_000_000) / FRAME_BYTES_PER_SECOND;
        let deadline = self.services.runtime.monotonic().plus_ns(FRAME_NS.saturating_add(extra_ns));
        Ok((self.receive_body(size, deadline, class).await?, room))
    }

    /// Checks the size that a request announces. Until a client has been heard only its records may be long: a
    /// simple producer may begin with them, and a stranger gets no room for anything else.
    fn check_size(&self, announced: i32, key: Option<i16>) -> Result<usize, End> {
        let size = usize::try_from(announced).unwrap_or(0);
        if size < REQUEST_BYTES_MIN {
            return Err(End::failed(format_args!("a request announces {announced} bytes")));
        }
        let max = self.services.settings.network.request_max_bytes;
        let max = match key {
            Some(key) if !self.was_heard && !may_begin_large(key) => max.min(REQUEST_HEADER_BYTES_MAX),
            _ => max,
        };
        if size > max {
            return Err(End::failed(format_args!(
                "a request of {size} bytes is larger than the {max} that are allowed here \
                 (socket.request.max.bytes, or the bound on a connection's first request)"
            )));
        }
        Ok(size)
    }

    async fn receive_body(
        &mut self,
        size: usize,
        deadline: MonotonicNs,
        class: MemoryClass,
    ) -> Result<Bytes, End> {
        let mut body = BytesMut::with_capacity(size.min(BODY_FIRST_BYTES.max(self.ahead.len())));
        body.extend_from_slice(&self.ahead);
        self.ahead.clear();
        while body.len() < size {
            if body.len() == body.capacity() {
                let mut larger = BytesMut::with_capacity(size.min(body.len().saturating_mul(2)));
                larger.extend_from_slice(&body);
                body = larger;
            }
            // An allocation may be larger than asked for; what follows the request is not its body.
            let mut rest = body.split_off(body.len());
            let wanted = size - body.len();
            let surplus = if rest.capacity() > wanted { Some(rest.split_off(wanted)) } else { None };
            rest = self.receive(rest, Some((deadline, class))).await?;
            drop(surplus);
            body.unsplit(rest);
        }
        Ok(body.freeze())
    }

    async fn receive_ahead(&mut self, deadline: Option<(MonotonicNs, MemoryClass)>) -> Result<(), End> {
        let mut buffer = std::mem::take(&mut self.ahead);
        let before = buffer.len();
        if buffer.capacity() - before < PROLOGUE_BYTES {
            let mut fresh = BytesMut::with_capacity(self.read_ahead_bytes);
            fresh.extend_from_slice(&buffer);
            buffer = fresh;
        }
        let room = buffer.capacity() - before;
        self.ahead = self.receive(buffer, deadline).await?;
        // Who fills the buffer gets a larger one, who doesn't gives it back at the next change.
        let filled = self.ahead.len() - before == room;
        self.read_ahead_bytes = if filled { READ_AHEAD_MAX_BYTES } else { READ_AHEAD_MIN_BYTES };
        Ok(())
    }

    /// Receives at least one byte. Within a request there is a deadline; between requests the connection may be
    /// idle for as long as the settings say.
    async fn receive(
        &mut self,
        buffer: BytesMut,
        deadline: Option<(MonotonicNs, MemoryClass)>,
    ) -> Result<BytesMut, End> {
        let mut receiving = pin!(self.connection.receive(buffer));
        let (result, buffer) = match deadline {
            None => idle(self.services, self.queue, &mut self.idle_timer, receiving.as_mut()).await?,
            Some((deadline, class)) => {
                let ticker = &mut self.ticker;
                hurried(self.services, (deadline, class), ticker, receiving.as_mut()).await?
            }
        };
        self.queue.note_activity(self.services.runtime.recent());
        match result {
            Ok(0) => Err(End::Finished),
            Ok(_) => Ok(buffer),
            Err(error) => Err(End::failed(format_args!("receiving failed: {error}"))),
        }
    }
}

async fn idle<R: Runtime, T>(
    services: &Services<R>,
    queue: &ReplyQueue,
    timer: &mut Option<Sleep>,
    mut receiving: Pin<&mut impl Future<Output = T>>,
) -> Result<T, End> {
    let Some(idle_ms) = services.settings.network.connections_max_idle_ms else { return Ok(receiving.await) };
    let idle_ns = idle_ms.saturating_mul(1_000_000);
    loop {
        let armed =
            timer.get_or_insert_with(|| Box::pin(services.runtime.sleep(Duration::from_millis(idle_ms))));
        if let Either::First(received) = either(receiving.as_mut(), armed.as_mut()).await {
            return Ok(received);
        }
        let silent_ns = services.runtime.monotonic().since(queue.last_activity());
        if silent_ns >= idle_ns && queue.is_idle() {
            return Err(End::Idle);
        }
        let left = Duration::from_nanos(idle_ns.saturating_sub(silent_ns)).max(TICK);
        *timer = Some(Box::pin(services.runtime.sleep(left)));
    }
}

async fn hurried<R: Runtime, T>(
    services: &Services<R>,
    (deadline, class): (MonotonicNs, MemoryClass),
    ticker: &mut Ticker,
    mut receiving: Pin<&mut impl Future<Output = T>>,
) -> Result<T, End> {
    let began = services.runtime.recent();
    loop {
        if let Some(received) = ticker.until_tick(&services.runtime, TICK, receiving.as_mut()).await {
            return Ok(received);
        }
        let now = services.runtime.monotonic();
        let still_ns = now.since(began);
        let bound_ns = if services.state.memory.is_contended(class) { STALL_CONTENDED_NS } else { STALL_NS };
        if now >= deadline || still_ns >= bound_ns {
            return Err(End::SlowRequest);
        }
    }
}
