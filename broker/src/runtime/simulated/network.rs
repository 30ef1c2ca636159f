//! Simulated byte streams: bounded windows, segments that travel, ends that close, reset or fall silent.

use super::core::{Completion, Core, Kind, Life};
use super::disk::error;
use super::executor::EndId;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::task::Waker;

/// How long a sender waits before it tries a cut way again.
const RETRY_NS: (u64, u64) = (5_000_000, 200_000_000);

/// How long a receive that was dropped may still swallow what arrives.
const CANCEL_NS: u64 = 30_000;

pub(super) type Received = (io::Result<usize>, BytesMut);

pub(super) struct PendingReceive {
    pub number: u64,
    pub buffer: BytesMut,
    pub completion: Completion<Received>,
}

pub(super) struct PendingSend {
    pub number: u64,
    pub parts: VecDeque<Bytes>,
    pub completion: Completion<io::Result<()>>,
}

enum Load {
    Data(Vec<Bytes>),
    End,
}

struct Segment {
    due_ns: u64,
    load: Load,
}

/// One end of a stream.
struct End {
    life: Life,
    /// What has arrived and was not received yet.
    inbound: VecDeque<Bytes>,
    inbound_bytes: usize,
    /// What is on its way from here to the other end, in order.
    outbound: VecDeque<Segment>,
    /// Bytes sent from here that the other end has not received.
    window_used: usize,
    window: usize,
    peer_has_ended: bool,
    is_reset: bool,
    is_shut: bool,
    is_closed: bool,
    receive: Option<PendingReceive>,
    send: Option<PendingSend>,
    /// A receive that was dropped while its cancellation was not through: how much it takes, until when.
    cancelling: Option<(usize, u64)>,
}

struct Stream {
    ends: [End; 2],
}

pub(super) struct ListenerState {
    life: Life,
    backlog: VecDeque<(EndId, SocketAddr)>,
    waiting: Vec<Waker>,
}

/// Every listener and stream of the world.
pub(super) struct Network {
    /// By host and address; an unspecified address listens on all of the host's.
    listeners: BTreeMap<(usize, SocketAddr), ListenerState>,
    streams: BTreeMap<u64, Stream>,
    next_stream: u64,
    next_port: u16,
    next_operation: u64,
    /// Ways on which nothing arrives: from, to.
    cuts: BTreeSet<(usize, usize)>,
}

/// The address of a host.
pub(super) fn host_ip(host: usize) -> Ipv4Addr {
    let [_, high, middle, low] = (host as u32 + 1).to_be_bytes();
    Ipv4Addr::new(10, high, middle, low)
}

fn host_of(ip: IpAddr, from: usize) -> Option<usize> {
    match ip {
        IpAddr::V4(ip) if ip.is_loopback() || ip.is_unspecified() => Some(from),
        IpAddr::V4(ip) if ip.octets()[0] == 10 => {
            let [_, high, middle, low] = ip.octets();
            (u32::from_be_bytes([0, high, middle, low]) as usize).checked_sub(1)
        }
        IpAddr::V6(ip) if ip.is_loopback() || ip.is_unspecified() => Some(from),
        _ => None,
    }
}

impl Network {
    pub fn new() -> Self {
        Self {
            listeners: BTreeMap::new(),
            streams: BTreeMap::new(),
            next_stream: 1,
            next_port: 32_768,
            next_operation: 1,
            cuts: BTreeSet::new(),
        }
    }

    pub fn cut(&mut self, from: usize, to: usize, is_cut: bool) {
        if is_cut {
            self.cuts.insert((from, to));
        } else {
            self.cuts.remove(&(from, to));
        }
    }

    pub fn heal(&mut self) {
        self.cuts.clear();
    }

    fn ephemeral_port(&mut self) -> u16 {
        self.next_port = if self.next_port == u16::MAX { 32_768 } else { self.next_port + 1 };
        self.next_port
    }

    pub fn operation(&mut self) -> u64 {
        self.next_operation += 1;
        self.next_operation
    }

    fn end(&mut self, end: EndId) -> Option<&mut End> {
        self.streams.get_mut(&end.stream).map(|stream| &mut stream.ends[end.side])
    }

    pub fn listen(&mut self, life: Life, mut address: SocketAddr) -> io::Result<SocketAddr> {
        if host_of(address.ip(), life.host) != Some(life.host) {
            return Err(error(libc::EADDRNOTAVAIL));
        }
        while address.port() == 0 {
            let port = self.ephemeral_port();
            if !self.listeners.keys().any(|&(host, known)| host == life.host && known.port() == port) {
                address.set_port(port);
            }
        }
        let is_taken = self.listeners.keys().any(|&(host, known)| {
            let overlaps =
                known.ip() == address.ip() || known.ip().is_unspecified() || address.ip().is_unspecified();
            host == life.host && known.port() == address.port() && overlaps
        });
        if is_taken {
            return Err(error(libc::EADDRINUSE));
        }
        let state = ListenerState { life, backlog: VecDeque::new(), waiting: Vec::new() };
        self.listeners.insert((life.host, address), state);
        Ok(address)
    }

    fn listener_for(&mut self, host: usize, address: SocketAddr) -> Option<&mut ListenerState> {
        let found = self.listeners.keys().copied().find(|&(of, known)| {
            of == host
                && known.port() == address.port()
                && (known.ip() == address.ip() || known.ip().is_unspecified())
        })?;
        self.listeners.get_mut(&found)
    }

    /// The next connection that nobody has accepted; otherwise `waker` is woken when there is one.
    pub fn accept(&mut self, life: Life, address: SocketAddr, waker: &Waker) -> Option<(EndId, SocketAddr)> {
        let listener = self.listeners.get_mut(&(life.host, address)).filter(|known| known.life == life)?;
        let accepted = listener.backlog.pop_front();
        if accepted.is_none() && !listener.waiting.iter().any(|known| known.will_wake(waker)) {
            listener.waiting.push(waker.clone());
        }
        accepted
    }

    fn end_of(life: Life, window: u64) -> End {
        End {
            life,
            inbound: VecDeque::new(),
            inbound_bytes: 0,
            outbound: VecDeque::new(),
            window_used: 0,
            window: window.max(1) as usize,
            peer_has_ended: false,
            is_reset: false,
            is_shut: false,
            is_closed: false,
            receive: None,
            send: None,
            cancelling: None,
        }
    }
}

fn other(end: EndId) -> EndId {
    EndId { stream: end.stream, side: 1 - end.side }
}

impl Core {
    fn latency_ns(&self, from: usize, to: usize) -> u64 {
        let range = if from == to { self.options.local_latency_ns } else { self.options.network_latency_ns };
        self.draw(|chance| chance.between(range))
    }

    /// Goes to `address`, again and again while the way is cut or the host is down, until the deadline.
    pub fn begin_connect(
        &self,
        life: Life,
        address: SocketAddr,
        deadline_ns: u64,
        completion: Completion<io::Result<EndId>>,
    ) {
        let Some(host) = host_of(address.ip(), life.host) else {
            completion.complete(Err(error(libc::ENETUNREACH)));
            return;
        };
        let delay = self.latency_ns(life.host, host) + self.latency_ns(host, life.host);
        self.schedule(delay, Kind::Connect, Some(life), move |core| {
            let is_cut = {
                let network = core.network.borrow();
                network.cuts.contains(&(life.host, host)) || network.cuts.contains(&(host, life.host))
            };
            if is_cut || core.life(host).is_none() {
                if core.now_ns.get() >= deadline_ns {
                    completion.complete(Err(error(libc::ETIMEDOUT)));
                } else {
                    let pause = core.draw(|chance| chance.between(RETRY_NS));
                    core.schedule(pause, Kind::Connect, Some(life), move |core| {
                        core.begin_connect(life, address, deadline_ns, completion);
                    });
                }
                return;
            }
            completion.complete(core.connect_now(life, host, address));
        });
    }

    fn connect_now(&self, life: Life, host: usize, address: SocketAddr) -> io::Result<EndId> {
        let windows = self.draw(|chance| [(); 2].map(|()| chance.between(self.options.window_bytes)));
        let mut network = self.network.borrow_mut();
        let Some(listener) = network.listener_for(host, address) else {
            return Err(error(libc::ECONNREFUSED));
        };
        let peer_life = listener.life;
        let stream = network.next_stream;
        network.next_stream += 1;
        let port = network.ephemeral_port();
        let ip = if address.ip().is_loopback() { address.ip() } else { IpAddr::V4(host_ip(life.host)) };
        let Some(listener) = network.listener_for(host, address) else {
            return Err(error(libc::ECONNREFUSED));
        };
        listener.backlog.push_back((EndId { stream, side: 1 }, SocketAddr::new(ip, port)));
        let waiting = std::mem::take(&mut listener.waiting);
        let ends = [Network::end_of(life, windows[0]), Network::end_of(peer_life, windows[1])];
        network.streams.insert(stream, Stream { ends });
        drop(network);
        for waker in waiting {
            waker.wake();
        }
        Ok(EndId { stream, side: 0 })
    }

    /// Stops listening; who waits in the backlog is turned away.
    pub fn close_listener(&self, life: Life, address: SocketAddr) {
        let mut network = self.network.borrow_mut();
        let key = (life.host, address);
        if network.listeners.get(&key).is_none_or(|listener| listener.life != life) {
            return;
        }
        let Some(listener) = network.listeners.remove(&key) else { return };
        drop(network);
        for (end, _) in listener.backlog {
            self.close_end(end);
        }
    }

    /// Hands a receive over; it completes at once if there is something to receive.
    pub fn begin_receive(&self, id: EndId, receive: PendingReceive) {
        let mut network = self.network.borrow_mut();
        let Some(end) = network.end(id) else {
            receive.completion.complete((Err(error(libc::ECONNRESET)), receive.buffer));
            return;
        };
        assert!(end.receive.is_none(), "two receives of one connection are under way together");
        assert!(receive.buffer.capacity() > receive.buffer.len(), "a receive needs room in its buffer");
        end.receive = Some(receive);
        drop(network);
        self.try_receive(id);
    }

    /// Gives a receive under way what has arrived.
    fn try_receive(&self, id: EndId) {
        let now_ns = self.now_ns.get();
        let mut network = self.network.borrow_mut();
        let Some(end) = network.end(id) else { return };
        let mut taken = 0;
        if let Some((room, until_ns)) = end.cancelling
            && end.inbound_bytes > 0
        {
            end.cancelling = None;
            if now_ns <= until_ns {
                taken += take(end, room, &mut BytesMut::new());
            }
        }
        if let Some(mut receive) = end.receive.take() {
            let room = receive.buffer.capacity() - receive.buffer.len();
            if end.is_reset {
                receive.completion.complete((Err(error(libc::ECONNRESET)), receive.buffer));
            } else if end.inbound_bytes > 0 && !end.is_shut {
                let most = room.min(end.inbound_bytes);
                let count = self.draw(|chance| if chance.one_in(3) { 1 + chance.index(most) } else { most });
                taken += take(end, count, &mut receive.buffer);
                receive.completion.complete((Ok(count), receive.buffer));
            } else if end.peer_has_ended || end.is_shut {
                receive.completion.complete((Ok(0), receive.buffer));
            } else {
                end.receive = Some(receive);
            }
        }
        if taken > 0
            && let Some(peer) = network.end(other(id))
        {
            peer.window_used = peer.window_used.saturating_sub(taken);
            drop(network);
            self.pump(other(id));
        }
    }

    /// Ends a receive that nobody waits for any more; until that is through it may take what arrives.
    pub fn cancel_receive(&self, id: EndId, number: u64) {
        let is_slow = self.draw(|chance| chance.one_in(2));
        let until_ns = self.now_ns.get() + CANCEL_NS;
        let mut network = self.network.borrow_mut();
        let Some(end) = network.end(id) else { return };
        if let Some(receive) = end.receive.take_if(|receive| receive.number == number) {
            if is_slow {
                end.cancelling = Some((receive.buffer.capacity() - receive.buffer.len(), until_ns));
            }
            drop(network);
            drop(receive);
        }
    }

    /// Hands a send over; it completes when the window has taken all of it.
    pub fn begin_send(&self, id: EndId, send: PendingSend) {
        let mut network = self.network.borrow_mut();
        let Some(end) = network.end(id) else {
            send.completion.complete(Err(error(libc::EPIPE)));
            return;
        };
        assert!(end.send.is_none(), "two sends over one connection are under way together");
        end.send = Some(send);
        drop(network);
        self.pump(id);
    }

    /// Stops a send that nobody waits for any more; what the window has taken still arrives.
    pub fn cancel_send(&self, id: EndId, number: u64) {
        let mut network = self.network.borrow_mut();
        let Some(end) = network.end(id) else { return };
        let dropped = end.send.take_if(|send| send.number == number);
        drop(network);
        drop(dropped);
    }

    /// Moves as much of a send into segments as the window takes.
    fn pump(&self, id: EndId) {
        loop {
            let mut network = self.network.borrow_mut();
            let Some(end) = network.end(id) else { return };
            let Some(send) = &mut end.send else { return };
            while send.parts.front().is_some_and(Bytes::is_empty) {
                send.parts.pop_front();
            }
            if end.is_reset || end.is_shut || send.parts.is_empty() {
                let outcome = if end.is_reset || end.is_shut { Err(error(libc::EPIPE)) } else { Ok(()) };
                let Some(send) = end.send.take() else { return };
                drop(network);
                send.completion.complete(outcome);
                return;
            }
            let room = end.window.saturating_sub(end.window_used);
            if room == 0 {
                return;
            }
            let (limit, is_reset) = self.draw(|chance| {
                let limit = if chance.one_in(4) { 1 + chance.index(room.min(1500)) } else { room };
                (limit, chance.hit(self.options.reset))
            });
            if is_reset {
                drop(network);
                self.reset_stream(id.stream);
                return;
            }
            let mut load = Vec::new();
            let mut taken = 0;
            while taken < limit
                && let Some(part) = send.parts.front_mut()
            {
                let count = part.len().min(limit - taken);
                load.push(part.split_to(count));
                taken += count;
                if part.is_empty() {
                    send.parts.pop_front();
                }
            }
            end.window_used += taken;
            drop(network);
            self.dispatch(id, Load::Data(load));
        }
    }

    /// Sends a segment on its way.
    fn dispatch(&self, id: EndId, load: Load) {
        let mut network = self.network.borrow_mut();
        let Some(to) = network.end(other(id)).map(|end| end.life.host) else { return };
        let Some(end) = network.end(id) else { return };
        let from = end.life.host;
        let delay_ns = self.latency_ns(from, to);
        let due_ns = self.now_ns.get() + delay_ns;
        end.outbound.push_back(Segment { due_ns, load });
        drop(network);
        self.schedule(delay_ns, Kind::Segment, None, move |core| core.arrive(id, from, to));
    }

    /// Delivers what is due from an end, in order, unless the way is cut.
    fn arrive(&self, id: EndId, from: usize, to: usize) {
        let now_ns = self.now_ns.get();
        loop {
            let mut network = self.network.borrow_mut();
            let is_cut = network.cuts.contains(&(from, to));
            let Some(end) = network.end(id) else { return };
            if end.outbound.front().is_none_or(|segment| segment.due_ns > now_ns) {
                return;
            }
            if is_cut {
                drop(network);
                let pause = self.draw(|chance| chance.between(RETRY_NS));
                self.schedule(pause, Kind::Segment, None, move |core| core.arrive(id, from, to));
                return;
            }
            let Some(segment) = end.outbound.pop_front() else { return };
            let Some(target) = network.end(other(id)) else { return };
            let life = target.life;
            let refuses = target.is_closed || target.is_shut;
            match segment.load {
                Load::Data(parts) if self.is_alive(life) && !refuses && !target.is_reset => {
                    target.inbound_bytes += parts.iter().map(Bytes::len).sum::<usize>();
                    target.inbound.extend(parts);
                }
                Load::Data(_) => {
                    drop(network);
                    // A host that is down answers nothing; one that knows nothing of the stream refuses.
                    if self.life(to).is_some() {
                        self.schedule_reset(id, to, from);
                    }
                    continue;
                }
                Load::End => target.peer_has_ended = true,
            }
            drop(network);
            self.try_receive(other(id));
            self.tidy_stream(id.stream);
        }
    }

    /// Tells an end, after the way there, that its stream is gone.
    fn schedule_reset(&self, id: EndId, from: usize, to: usize) {
        let delay_ns = self.latency_ns(from, to);
        self.schedule(delay_ns, Kind::Reset, None, move |core| core.reset_end(id));
    }

    /// Resets one end: what it holds is lost, what is under way fails.
    pub fn reset_end(&self, id: EndId) {
        let mut network = self.network.borrow_mut();
        let Some(end) = network.end(id) else { return };
        end.is_reset = true;
        end.inbound_bytes = 0;
        let dropped = std::mem::take(&mut end.inbound);
        let (receive, send) = (end.receive.take(), end.send.take());
        drop(network);
        drop(dropped);
        if let Some(receive) = receive {
            receive.completion.complete((Err(error(libc::ECONNRESET)), receive.buffer));
        }
        if let Some(send) = send {
            send.completion.complete(Err(error(libc::ECONNRESET)));
        }
    }

    /// Resets both ends at once.
    pub fn reset_stream(&self, stream: u64) {
        for side in [0, 1] {
            self.reset_end(EndId { stream, side });
        }
    }

    /// The streams that run between two hosts and are open.
    pub fn streams_between(&self, one: usize, two: usize) -> Vec<u64> {
        let network = self.network.borrow();
        let joins = |stream: &Stream| {
            let [left, right] = [stream.ends[0].life.host, stream.ends[1].life.host];
            (left, right) == (one, two) || (left, right) == (two, one)
        };
        network.streams.iter().filter(|(_, stream)| joins(stream)).map(|(&number, _)| number).collect()
    }

    /// Ends both directions of a stream, from one of its ends.
    pub fn shut_end(&self, id: EndId) {
        let mut network = self.network.borrow_mut();
        let Some(end) = network.end(id) else { return };
        if end.is_shut || !self.is_alive(end.life) {
            return;
        }
        end.is_shut = true;
        let (receive, send) = (end.receive.take(), end.send.take());
        let is_reset = end.is_reset;
        drop(network);
        if let Some(receive) = receive {
            receive.completion.complete((Ok(0), receive.buffer));
        }
        if let Some(send) = send {
            send.completion.complete(Err(error(libc::EPIPE)));
        }
        if !is_reset {
            self.dispatch(id, Load::End);
        }
    }

    /// The last owner of an end is gone. Bytes that it had not received reset the stream.
    pub fn close_end(&self, id: EndId) {
        let mut network = self.network.borrow_mut();
        let Some(end) = network.end(id) else { return };
        if !self.is_alive(end.life) {
            return;
        }
        let from = end.life.host;
        let has_unread = end.inbound_bytes > 0;
        end.is_closed = true;
        let to = network.end(other(id)).map_or(from, |peer| peer.life.host);
        drop(network);
        self.shut_end(id);
        if has_unread {
            self.schedule_reset(other(id), from, to);
        }
        self.tidy_stream(id.stream);
    }

    /// Forgets a stream that neither end will ask for again.
    fn tidy_stream(&self, stream: u64) {
        let mut network = self.network.borrow_mut();
        let is_done = |end: &End| {
            let is_gone = end.is_closed || !self.is_alive(end.life);
            is_gone && (end.outbound.is_empty() || end.is_reset)
        };
        let gone = match network.streams.get(&stream) {
            Some(known) if known.ends.iter().all(is_done) => network.streams.remove(&stream),
            _ => None,
        };
        drop(network);
        drop(gone);
    }

    /// What becomes of a host's streams and listeners with its life. A killed process leaves a kernel that
    /// resets its streams; after a crash the peers hear nothing until the host is back.
    pub fn end_network_life(&self, life: Life, is_crash: bool) {
        let mut network = self.network.borrow_mut();
        network.listeners.retain(|_, listener| listener.life != life);
        let mut orphans = Vec::new();
        for (&stream, known) in &mut network.streams {
            for side in [0, 1] {
                if known.ends[side].life == life {
                    let end = &mut known.ends[side];
                    (end.receive, end.send, end.cancelling) = (None, None, None);
                    if is_crash {
                        end.outbound.clear();
                    }
                    let peer = known.ends[1 - side].life;
                    orphans.push((EndId { stream, side: 1 - side }, peer.host));
                }
            }
        }
        drop(network);
        if !is_crash {
            for (end, host) in orphans {
                self.schedule_reset(end, life.host, host);
            }
        }
    }

    /// A host is back: whoever still waits for an answer from its former life learns that it is gone.
    pub fn reset_former_streams(&self, host: usize) {
        let mut network = self.network.borrow_mut();
        let mut orphans = Vec::new();
        for (&stream, known) in &mut network.streams {
            for side in [0, 1] {
                let waits = known.ends[1 - side].window_used > 0;
                if known.ends[side].life.host == host && waits {
                    orphans.push((EndId { stream, side: 1 - side }, known.ends[1 - side].life.host));
                }
            }
        }
        drop(network);
        for (end, peer) in orphans {
            self.schedule_reset(end, host, peer);
        }
    }
}

/// Moves up to `count` bytes of what has arrived into `buffer`; how many those were.
fn take(end: &mut End, count: usize, buffer: &mut BytesMut) -> usize {
    let count = count.min(end.inbound_bytes);
    let mut rest = count;
    while rest > 0
        && let Some(part) = end.inbound.front_mut()
    {
        let step = rest.min(part.len());
        buffer.put_slice(&part[..step]);
        part.advance(step);
        if part.is_empty() {
            end.inbound.pop_front();
        }
        rest -= step;
    }
    end.inbound_bytes -= count;
    count
}
