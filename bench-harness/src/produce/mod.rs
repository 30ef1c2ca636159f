//! Producers: batches on a schedule, or as fast as the in-flight limit allows. One thread drives many of them.

mod connect;
pub(crate) mod frame;
mod link;
mod sender;

pub(crate) use connect::connect;
pub(crate) use sender::{Course, Sender};

use crate::schedule::{Load, Pacer};
use crate::workload::Acks;
use frame::{BatchTemplate, Envelope};

/// A partition as a producer sees it.
struct Target {
    /// The connection to its leader, by its place in the thread.
    link: usize,
    envelope: Envelope,
    next_sequence: Option<i32>,
}

/// A producer that is connected and has everything encoded beforehand.
struct Producer {
    targets: Vec<Target>,
    batch: BatchTemplate,
    acks: Acks,
    in_flight_max: usize,
    next_target: usize,
    pacer: Pacer,
    load: Load,
    /// When it is to be looked at again.
    wake_ns: Option<u64>,
    is_finished: bool,
}
