//! What one connection has to send, and the calls on it that wait for their answers.

use super::CallFailed;
use crate::runtime::oneshot;
use crate::shard::signal::Signal;
use bytes::Bytes;
use logmill_wire::frame::control_link::{ControlFrame, ControlKind};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};

/// Bytes that may wait to be sent; what would exceed them is lost.
const OUTGOING_BYTES_MAX: usize = 64 << 20;

/// Bytes that one send takes along.
const SEND_BYTES: usize = 1 << 20;

/// Calls of the other end that are carried out at a time; more are refused.
const ANSWERING_MAX: usize = 1024;

type Answer = Result<Bytes, CallFailed>;

/// A call that is on its way.
pub(super) struct Asked {
    pub id: u64,
    pub answer: oneshot::Receiver<Answer>,
}

pub(super) struct Lane {
    /// Whether this node made the connection.
    pub is_own: bool,
    outgoing: RefCell<VecDeque<Bytes>>,
    outgoing_bytes: Cell<usize>,
    /// There is something to send, or the lane is closed.
    pub work: Signal,
    is_closed: Cell<bool>,
    calls: RefCell<BTreeMap<u64, oneshot::Sender<Answer>>>,
    next_call: Cell<u64>,
    answering: Cell<usize>,
}

impl Lane {
    pub fn new(is_own: bool) -> Self {
        Self {
            is_own,
            outgoing: RefCell::default(),
            outgoing_bytes: Cell::new(0),
            work: Signal::default(),
            is_closed: Cell::new(false),
            calls: RefCell::default(),
            next_call: Cell::new(1),
            answering: Cell::new(0),
        }
    }

    /// Queues a frame that is no call.
    pub fn say(&self, kind: ControlKind, payload: Bytes) {
        let _ = self.queue(kind, 0, 0, payload);
    }

    /// Queues a call.
    pub fn ask(&self, operation: u16, payload: Bytes) -> Result<Asked, CallFailed> {
        let id = self.next_call.get();
        self.next_call.set(id + 1);
        self.queue(ControlKind::Call, id, operation, payload)?;
        let (reply, answer) = oneshot::channel();
        self.calls.borrow_mut().insert(id, reply);
        Ok(Asked { id, answer })
    }

    /// Queues an answer.
    pub fn answer(&self, id: u64, operation: u16, answer: Option<Bytes>) {
        // Operation 0 is none: the call was refused.
        let operation = if answer.is_some() { operation } else { 0 };
        if self.queue(ControlKind::Answer, id, operation, answer.unwrap_or_default()).is_err() {
            // The caller must not wait for what is too large to be sent.
            let _ = self.queue(ControlKind::Answer, id, 0, Bytes::new());
        }
    }

    fn queue(&self, kind: ControlKind, id: u64, operation: u16, payload: Bytes) -> Result<(), CallFailed> {
        let start = ControlFrame::seal(kind, id, operation, &payload).map_err(|_| CallFailed::Refused)?;
        let bytes = self.outgoing_bytes.get() + start.len() + payload.len();
        if self.is_closed.get() || bytes > OUTGOING_BYTES_MAX {
            return Err(CallFailed::NotConnected);
        }
        self.outgoing_bytes.set(bytes);
        let mut outgoing = self.outgoing.borrow_mut();
        outgoing.push_back(start.into());
        if !payload.is_empty() {
            outgoing.push_back(payload);
        }
        drop(outgoing);
        self.work.notify_all();
        Ok(())
    }

    /// What is to be sent next; empty if there is nothing.
    pub fn take(&self) -> Vec<Bytes> {
        let mut outgoing = self.outgoing.borrow_mut();
        let (mut parts, mut bytes) = (Vec::new(), 0);
        while bytes < SEND_BYTES
            && let Some(part) = outgoing.pop_front()
        {
            bytes += part.len();
            parts.push(part);
        }
        self.outgoing_bytes.set(self.outgoing_bytes.get().saturating_sub(bytes));
        parts
    }

    /// An answer has come.
    pub fn on_answer(&self, id: u64, operation: u16, payload: Bytes) {
        // Of a call that nobody waits for any more there is nothing to tell.
        if let Some(reply) = self.calls.borrow_mut().remove(&id) {
            reply.send(if operation == 0 { Err(CallFailed::Refused) } else { Ok(payload) });
        }
    }

    /// Nobody waits for this call any more.
    pub fn forget(&self, id: u64) {
        self.calls.borrow_mut().remove(&id);
    }

    /// Whether one more call may be carried out; [`Lane::end_answering`] gives its place back.
    pub fn begin_answering(&self) -> bool {
        let count = self.answering.get();
        self.answering.set((count + 1).min(ANSWERING_MAX));
        count < ANSWERING_MAX
    }

    pub fn end_answering(&self) {
        self.answering.set(self.answering.get().saturating_sub(1));
    }

    pub fn is_closed(&self) -> bool {
        self.is_closed.get()
    }

    /// Ends the lane: its connection is shut down, and who waits for an answer is told that none will come.
    pub fn close(&self) {
        self.is_closed.set(true);
        self.outgoing.borrow_mut().clear();
        self.outgoing_bytes.set(0);
        let calls = std::mem::take(&mut *self.calls.borrow_mut());
        for reply in calls.into_values() {
            reply.send(Err(CallFailed::Unknown));
        }
        self.work.notify_all();
    }
}
