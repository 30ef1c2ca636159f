//! A member: it says what it owns, and hears what it shall own.

use crate::cluster::Topic;
use crate::connection::Connection;
use crate::failure::{Failure, error_name};
use logmill_wire::api::consumer_group_heartbeat as heartbeat;
use logmill_wire::error_codes::ErrorCode;
use std::collections::BTreeSet;

/// How long a member may take to give up partitions, in milliseconds (`max.poll.interval.ms`).
const REBALANCE_TIMEOUT_MS: i32 = 300_000;

/// The epoch of a member that joins, and of one that leaves.
const JOINING: i32 = 0;
const LEAVING: i32 = -1;

pub(super) struct Member {
    connection: Connection,
    id: String,
    epoch: i32,
    owned: BTreeSet<i32>,
    /// Whether the coordinator has yet to hear what is owned now.
    has_news: bool,
    /// Whether the last heartbeat was refused; then the next one has to wait for its time.
    was_refused: bool,
    pub(super) next_beat_ns: u64,
}

impl Member {
    pub(super) const fn new(connection: Connection, id: String) -> Self {
        Self {
            connection,
            id,
            epoch: JOINING,
            owned: BTreeSet::new(),
            has_news: true,
            was_refused: false,
            next_beat_ns: 0,
        }
    }

    pub(super) const fn owned(&self) -> &BTreeSet<i32> {
        &self.owned
    }

    pub(super) const fn has_news(&self) -> bool {
        self.has_news
    }

    /// Whether the next heartbeat is due at once.
    pub(super) const fn is_in_a_hurry(&self) -> bool {
        self.has_news && !self.was_refused
    }

    pub(super) const fn has_joined(&self) -> bool {
        self.epoch > JOINING
    }

    /// One heartbeat. What was assigned is owned at once, as there is nothing to finish. The inner error is the
    /// coordinator's refusal.
    pub(super) fn beat(&mut self, group: &str, topic: &Topic) -> Result<Result<(), String>, Failure> {
        let is_joining = self.epoch == JOINING;
        let partitions: Vec<i32> = self.owned.iter().copied().collect();
        let owned = if partitions.is_empty() {
            Vec::new()
        } else {
            vec![heartbeat::TopicPartitions { topic_id: topic.id, partitions: partitions.into() }]
        };
        let request = heartbeat::Request {
            group_id: group.into(),
            member_id: self.id.as_str().into(),
            member_epoch: self.epoch,
            rebalance_timeout_ms: if is_joining { REBALANCE_TIMEOUT_MS } else { -1 },
            subscribed_topic_names: is_joining.then(|| vec![topic.name.as_str().into()].into()),
            topic_partitions: (is_joining || self.has_news).then(|| owned.into()),
            ..Default::default()
        };
        let answer = self.connection.call(&request)?;
        let response: heartbeat::Response<'_> = self.connection.decode(&answer)?;
        let code = response.error_code;
        self.was_refused = code != 0;
        if code != 0 {
            let is_lost = [ErrorCode::UnknownMemberId, ErrorCode::FencedMemberEpoch];
            if is_lost.iter().any(|lost| lost.code() == code) {
                (self.epoch, self.has_news) = (JOINING, true);
                self.owned.clear();
            }
            // A coordinator that is still loading is no error of the run.
            let is_passing = ErrorCode::from_code(code).is_some_and(ErrorCode::is_retriable);
            self.has_news = true;
            return Ok(if is_passing { Ok(()) } else { Err(error_name(code)) });
        }
        self.epoch = response.member_epoch;
        self.has_news = false;
        if let Some(id) = response.member_id {
            self.id = id.into_owned();
        }
        if let Some(assignment) = response.assignment {
            let ours = assignment.topic_partitions.iter().filter(|found| found.topic_id == topic.id);
            let assigned: BTreeSet<i32> = ours.flat_map(|found| found.partitions.into_vec()).collect();
            self.has_news = assigned != self.owned;
            self.owned = assigned;
        }
        Ok(Ok(()))
    }

    /// Leaves, so that others have its partitions at once.
    pub(super) fn leave(&mut self, group: &str) -> Result<(), Failure> {
        if !self.has_joined() {
            return Ok(());
        }
        self.epoch = LEAVING;
        let request = heartbeat::Request {
            group_id: group.into(),
            member_id: self.id.as_str().into(),
            member_epoch: LEAVING,
            ..Default::default()
        };
        let answer = self.connection.call(&request)?;
        let response: heartbeat::Response<'_> = self.connection.decode(&answer)?;
        if response.error_code != 0 {
            let subject = format!("a member that leaves group {group}");
            return Err(Failure::Refused {
                api: "ConsumerGroupHeartbeat",
                code: response.error_code,
                subject,
            });
        }
        Ok(())
    }
}
