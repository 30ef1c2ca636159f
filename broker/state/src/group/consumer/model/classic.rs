//! Clients of the classic protocol in the model: they join, sync, and join again when they are told to.

use super::{Client, Partitions, REBALANCE_MS, World};
use crate::group::consumer::embedded::read_assignment;
use crate::group::consumer::test_bed::GROUP;
use crate::group::{
    GroupReply, GroupRequest, HeartbeatRequest, JoinRequest, LeaveRequest, MemberIdentity, SyncRequest,
};
use bytes::Bytes;
use logmill_wire::api::consumer_protocol_subscription::{ConsumerProtocolSubscription, TopicPartition};
use logmill_wire::api::record_bytes;
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::Uuid;
use std::sync::Arc;

const HEARTBEAT_EVERY_S: i64 = 3;

/// How a client of the classic protocol behaves, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classic {
    /// Whether it gives up everything before it joins, instead of what it shall not have after it has synced.
    pub is_eager: bool,
    /// Whether it must join next.
    pub joins: bool,
}

impl World {
    /// One report of a classic client: a heartbeat, or a join and a sync.
    pub fn report_as_classic(&mut self, at: usize) {
        let now = self.second;
        let Some(mut classic) = self.clients[at].classic else { return };
        if classic.joins {
            // A join would found a classic group.
            let is_founded = !self.bed.groups.groups.is_empty() && !self.bed.group().is_empty();
            if is_founded {
                classic.joins = !self.join_and_sync(at, classic);
            }
            self.clients[at].next_report = now + if classic.joins { 1 } else { HEARTBEAT_EVERY_S };
        } else {
            self.clients[at].next_report = now + HEARTBEAT_EVERY_S;
            let client = &mut self.clients[at];
            let (member, generation) = (identity(client), client.epoch);
            let request = HeartbeatRequest { group_id: GROUP.into(), member, generation };
            let GroupReply::Heartbeat(error) = self.bed.step(GroupRequest::Heartbeat(request)) else {
                panic!("a heartbeat is answered as one")
            };
            classic.joins = match error {
                ErrorCode::None => false,
                ErrorCode::RebalanceInProgress => true,
                error => is_thrown_out(client, error),
            };
            if classic.joins {
                client.next_report = now;
            }
        }
        self.clients[at].classic = Some(classic);
    }

    /// Whether the client has all that it shall have, and need not join again.
    fn join_and_sync(&mut self, at: usize, classic: Classic) -> bool {
        if classic.is_eager {
            self.clients[at].hands.clear();
        }
        let request = self.join_request(at);
        let GroupReply::Join(joined) = self.bed.step(GroupRequest::Join(request)) else {
            panic!("a join is answered as one")
        };
        if self.loses() {
            return false;
        }
        if joined.error != ErrorCode::None {
            return !is_thrown_out(&mut self.clients[at], joined.error);
        }
        let client = &mut self.clients[at];
        assert!(joined.generation >= client.epoch, "the generation of {} went back", client.id);
        client.epoch = joined.generation;
        let request = SyncRequest {
            group_id: GROUP.into(),
            member: identity(client),
            generation: client.epoch,
            protocol_type: joined.protocol_type,
            protocol_name: joined.protocol_name,
            assignments: Vec::new(),
        };
        let GroupReply::Sync(synced) = self.bed.step(GroupRequest::Sync(request)) else {
            panic!("a sync is answered as one")
        };
        if self.loses() {
            return false;
        }
        match synced.error {
            ErrorCode::None => self.take(at, &synced.assignment),
            ErrorCode::RebalanceInProgress => false,
            error => !is_thrown_out(&mut self.clients[at], error),
        }
    }

    fn take(&mut self, at: usize, assignment: &[u8]) -> bool {
        let assigned: Partitions = read_assignment(assignment)
            .unwrap()
            .into_iter()
            .map(|(name, index)| (self.bed.image.topic_by_name(&name).unwrap().id, index.0))
            .collect();
        let client = &mut self.clients[at];
        let gives_nothing_up = client.hands.is_subset(&assigned);
        client.hands = assigned;
        gives_nothing_up
    }

    fn join_request(&self, at: usize) -> JoinRequest {
        let client = &self.clients[at];
        let named = |(topic, index): &(Uuid, i32)| {
            let topic = self.bed.image.topic_by_id(*topic)?.name.to_string();
            Some(TopicPartition { topic: topic.into(), partitions: vec![*index].into() })
        };
        let message = ConsumerProtocolSubscription {
            topics: client.topics.iter().map(|topic| (*topic).into()).collect(),
            owned_partitions: client.hands.iter().filter_map(named).collect(),
            ..Default::default()
        };
        JoinRequest {
            group_id: GROUP.into(),
            member: identity(client),
            fresh_id: Uuid::from_random(1),
            client_id: "old".into(),
            client_host: "/127.0.0.1".into(),
            session_timeout_ms: 30_000,
            rebalance_timeout_ms: REBALANCE_MS,
            protocol_type: "consumer".into(),
            protocols: vec![("range".into(), Bytes::from(record_bytes(1, &message, 1).unwrap()))],
            reason: None,
            requires_known_member_id: true,
            supports_skipping_assignment: true,
        }
    }

    /// Whether the client was a member.
    pub fn leave_as_classic(&mut self, client: &Client) -> bool {
        let members = vec![(identity(client), None)];
        match self.bed.step(GroupRequest::Leave(LeaveRequest { group_id: GROUP.into(), members })) {
            GroupReply::Leave(Ok(left)) => left[0].error == ErrorCode::None,
            _ => false,
        }
    }
}

fn identity(client: &Client) -> MemberIdentity {
    MemberIdentity { member_id: Arc::from(client.id.as_str()), instance_id: None }
}

/// The client has lost its place: it gives up everything and joins again.
fn is_thrown_out(client: &mut Client, error: ErrorCode) -> bool {
    assert!(matches!(error, ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration), "{error:?}");
    client.drop_all();
    true
}
