//! What a step of the groups' state machines leaves to be done, and what it may look at.

use super::record::GroupRecord;
use super::reply::GroupReply;
use super::request::Ticket;
use crate::metadata::Image;
use crate::settings::GroupSettings;
use logmill_wire::ids::{MonotonicNs, TimestampMs};

/// The time of a step: sessions run by the monotonic clock, offsets expire by the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock.
    pub monotonic: MonotonicNs,
    /// The wall clock.
    pub wall: TimestampMs,
}

impl Now {
    /// The instant `milliseconds` from now; a negative time is none.
    #[must_use]
    pub fn after_ms(self, milliseconds: i32) -> MonotonicNs {
        self.monotonic.plus_ns(u64::from(milliseconds.max(0).unsigned_abs()) * 1_000_000)
    }
}

/// What a step may look at.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// When it happens.
    pub now: Now,
    /// The coordinator's settings.
    pub settings: &'a GroupSettings,
    /// What the cluster knows.
    pub image: &'a Image,
}

/// What a step leaves to be done: all its records are appended in one batch, and its replies go out when they,
/// and all records of earlier steps, are durable. The state has them already; if they cannot be appended, the
/// state is thrown away and made again from the log.
#[derive(Debug, Default, PartialEq)]
pub struct Effects {
    /// What to append to the partition of `__consumer_offsets`, in this order.
    pub records: Vec<GroupRecord>,
    /// Whom to answer.
    pub replies: Vec<(Ticket, GroupReply)>,
}

impl Effects {
    /// Adds a reply.
    pub fn reply(&mut self, ticket: Ticket, reply: GroupReply) {
        self.replies.push((ticket, reply));
    }
}
