//! A partition's groups with a clock to turn, their log, and clients to play.

use crate::group::compacted_log::replay_all_ways;
use crate::group::{
    CommitRequest, Context, DescribedClassicGroup, Effects, GroupRecord, GroupReply, GroupRequest, Groups,
    HeartbeatRequest, JoinReply, JoinRequest, LeaveRequest, MemberIdentity, Now, SyncReply, SyncRequest,
    Ticket,
};
use crate::metadata::Image;
use crate::settings::{BrokerSettings, GroupSettings};
use bytes::Bytes;
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{MonotonicNs, TimestampMs, Uuid};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

pub const GROUP: &str = "g";
/// The default of `group.initial.rebalance.delay.ms`.
pub const DELAY_MS: u64 = 3000;
pub const SESSION_MS: i32 = 10_000;
pub const REBALANCE_MS: i32 = 60_000;

/// A client as it describes itself.
#[derive(Clone, Debug)]
pub struct Who {
    pub member_id: Arc<str>,
    pub instance_id: Option<Arc<str>>,
    pub client_id: Arc<str>,
    pub protocol_type: Arc<str>,
    pub protocols: Vec<(Arc<str>, Bytes)>,
    pub session_ms: i32,
    pub rebalance_ms: i32,
    pub requires_known_id: bool,
    pub can_skip: bool,
}

impl Who {
    /// A client of a version before KIP-394, so that it joins at once.
    pub fn dynamic(client_id: &str) -> Self {
        Self {
            member_id: "".into(),
            instance_id: None,
            client_id: client_id.into(),
            protocol_type: "consumer".into(),
            protocols: protocols(&["range"]),
            session_ms: SESSION_MS,
            rebalance_ms: REBALANCE_MS,
            requires_known_id: false,
            can_skip: true,
        }
    }

    pub fn fixed(instance_id: &str) -> Self {
        Self { instance_id: Some(instance_id.into()), ..Self::dynamic("client") }
    }

    pub fn with_id(&self, member_id: &Arc<str>) -> Self {
        Self { member_id: Arc::clone(member_id), ..self.clone() }
    }

    pub fn with_protocols(&self, names: &[&str]) -> Self {
        Self { protocols: protocols(names), ..self.clone() }
    }

    pub fn identity(&self) -> MemberIdentity {
        MemberIdentity { member_id: Arc::clone(&self.member_id), instance_id: self.instance_id.clone() }
    }
}

pub fn protocols(names: &[&str]) -> Vec<(Arc<str>, Bytes)> {
    names.iter().map(|name| (Arc::from(*name), Bytes::copy_from_slice(name.as_bytes()))).collect()
}

/// What Java's consumer says of itself.
pub fn subscription(topics: &[&str]) -> Bytes {
    let mut bytes = vec![0, 0];
    bytes.extend_from_slice(&u32::try_from(topics.len()).unwrap().to_be_bytes());
    for topic in topics {
        bytes.extend_from_slice(&u16::try_from(topic.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(topic.as_bytes());
    }
    bytes.extend_from_slice(&(-1_i32).to_be_bytes());
    bytes.into()
}

pub struct Stage {
    pub groups: Groups,
    pub settings: GroupSettings,
    image: Image,
    pub now_ms: u64,
    next_ticket: u64,
    open: BTreeSet<Ticket>,
    replies: BTreeMap<Ticket, GroupReply>,
    /// Whether effects wait for [`Stage::release`] until they are durable.
    pub is_slow: bool,
    undurable: VecDeque<Effects>,
    /// What was answered since somebody looked, in this order.
    pub released: Vec<(Ticket, GroupReply)>,
    /// All that is durable.
    pub log: Vec<GroupRecord>,
}

impl Stage {
    pub fn new() -> Self {
        let settings = BrokerSettings::from_values(BTreeMap::new()).expect("defaults are valid").groups;
        Self {
            groups: Groups::default(),
            settings,
            image: Image::default(),
            now_ms: 0,
            next_ticket: 0,
            open: BTreeSet::new(),
            replies: BTreeMap::new(),
            is_slow: false,
            undurable: VecDeque::new(),
            released: Vec::new(),
            log: Vec::new(),
        }
    }

    pub fn wall(&self) -> TimestampMs {
        TimestampMs(1_700_000_000_000 + i64::try_from(self.now_ms).unwrap())
    }

    fn now(&self) -> Now {
        Now { monotonic: MonotonicNs(self.now_ms * 1_000_000), wall: self.wall() }
    }

    /// Takes effects in, as a driver does: what is written is what can be read.
    pub fn absorb(&mut self, effects: Effects) {
        for record in &effects.records {
            let encoded = record.encode().expect("records can be written");
            let read = GroupRecord::decode(Some(&encoded.key), encoded.value.as_deref());
            assert_eq!(read, Ok(Some(record.clone())), "a record is read as it was written");
        }
        for (ticket, reply) in &effects.replies {
            assert!(self.open.remove(ticket), "{ticket:?} is answered twice, or was never asked: {reply:?}");
        }
        self.undurable.push_back(effects);
        if !self.is_slow {
            while self.release() {}
        }
    }

    /// The oldest effects are durable: their replies go out. `false` if there are none.
    pub fn release(&mut self) -> bool {
        let Some(effects) = self.undurable.pop_front() else { return false };
        self.log.extend(effects.records);
        for (ticket, reply) in effects.replies {
            self.released.push((ticket, reply.clone()));
            self.replies.insert(ticket, reply);
        }
        true
    }

    pub fn send(&mut self, request: GroupRequest) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.open.insert(ticket);
        let now = self.now();
        let cx = Context { now, settings: &self.settings, image: &self.image };
        let effects = self.groups.step(ticket, request, &cx);
        self.absorb(effects);
        ticket
    }

    /// Lets time pass; everything is due at its time.
    pub fn pass(&mut self, milliseconds: u64) {
        let until = self.now_ms + milliseconds;
        while let Some(next) = self.groups.next_deadline()
            && next.0 <= until * 1_000_000
        {
            self.now_ms = self.now_ms.max(next.0.div_ceil(1_000_000));
            self.expire();
        }
        self.now_ms = until;
    }

    /// The coordinator was held up for so long, and gives more time to who could not be heard.
    pub fn hold_up(&mut self, milliseconds: u64) {
        self.now_ms += milliseconds;
        let now = self.now();
        self.groups.excuse(&Context { now, settings: &self.settings, image: &self.image });
        self.expire();
    }

    /// Carries out what is due, which must come to an end at once.
    pub fn expire(&mut self) {
        let now = self.now();
        let cx = Context { now, settings: &self.settings, image: &self.image };
        let effects = self.groups.expire(&cx);
        self.absorb(effects);
        assert!(self.groups.next_deadline().is_none_or(|next| next > now.monotonic), "nothing is left over");
    }

    /// The coordinator is lost, and another one reads the log. Open requests get no reply, nor do those whose effects
    /// are not durable.
    pub fn restart(&mut self) {
        self.undurable.clear();
        self.open.clear();
        let (replayed, compacted) = replay_all_ways(&self.log);
        for after in compacted {
            assert_eq!(format!("{after:?}"), format!("{replayed:?}"), "a compacted log says the same");
        }
        self.groups = replayed;
        let now = self.now();
        self.groups.loaded(&Context { now, settings: &self.settings, image: &self.image });
    }

    pub fn take(&mut self, ticket: Ticket) -> Option<GroupReply> {
        self.replies.remove(&ticket)
    }

    pub fn is_answered(&self, ticket: Ticket) -> bool {
        self.replies.contains_key(&ticket)
    }

    pub fn waiting(&self) -> usize {
        self.open.len()
    }

    pub fn is_waiting(&self, ticket: Ticket) -> bool {
        self.open.contains(&ticket)
    }

    pub fn join(&mut self, who: &Who) -> Ticket {
        let fresh_id = Uuid::from_random(u128::from(self.next_ticket));
        self.send(GroupRequest::Join(JoinRequest {
            group_id: GROUP.into(),
            member: who.identity(),
            fresh_id,
            client_id: Arc::clone(&who.client_id),
            client_host: "/127.0.0.1".into(),
            session_timeout_ms: who.session_ms,
            rebalance_timeout_ms: who.rebalance_ms,
            protocol_type: Arc::clone(&who.protocol_type),
            protocols: who.protocols.clone(),
            reason: None,
            requires_known_member_id: who.requires_known_id,
            supports_skipping_assignment: who.can_skip,
        }))
    }

    pub fn sync_with(&mut self, who: &Who, generation: i32, assignments: &[(&Arc<str>, &str)]) -> Ticket {
        self.sync_as(who, generation, assignments, (None, None))
    }

    pub fn sync_as(
        &mut self,
        who: &Who,
        generation: i32,
        assignments: &[(&Arc<str>, &str)],
        (protocol_type, protocol_name): (Option<&str>, Option<&str>),
    ) -> Ticket {
        let assignments = assignments
            .iter()
            .map(|(id, text)| (Arc::clone(id), Bytes::copy_from_slice(text.as_bytes())))
            .collect();
        self.send(GroupRequest::Sync(SyncRequest {
            group_id: GROUP.into(),
            member: who.identity(),
            generation,
            protocol_type: protocol_type.map(Arc::from),
            protocol_name: protocol_name.map(Arc::from),
            assignments,
        }))
    }

    pub fn heartbeat(&mut self, who: &Who, generation: i32) -> ErrorCode {
        let ticket = self.send(GroupRequest::Heartbeat(HeartbeatRequest {
            group_id: GROUP.into(),
            member: who.identity(),
            generation,
        }));
        match self.take(ticket) {
            Some(GroupReply::Heartbeat(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    pub fn leave(&mut self, members: &[&Who]) -> Vec<ErrorCode> {
        let members = members.iter().map(|who| (who.identity(), None)).collect();
        let ticket = self.send(GroupRequest::Leave(LeaveRequest { group_id: GROUP.into(), members }));
        match self.take(ticket) {
            Some(GroupReply::Leave(Ok(left))) => left.iter().map(|member| member.error).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// A commit of no offsets at all: only whether it would be admitted.
    pub fn commit(&mut self, member: MemberIdentity, generation: i32) -> ErrorCode {
        use crate::group::{NamedPartition, OffsetAndMetadata};
        use logmill_wire::ids::{LeaderEpoch, Offset, PartitionIndex, TopicId};
        let partition = NamedPartition { topic: "t".into(), partition: PartitionIndex(0) };
        let offset =
            OffsetAndMetadata { offset: Offset(1), leader_epoch: LeaderEpoch(-1), metadata: "".into() };
        let ticket = self.send(GroupRequest::CommitOffsets(CommitRequest {
            group_id: GROUP.into(),
            member,
            generation_or_epoch: generation,
            retention_ms: -1,
            offsets: vec![(partition, TopicId::ZERO, offset)],
            version: 9,
        }));
        match self.take(ticket) {
            Some(GroupReply::CommitOffsets(errors)) => errors[0],
            other => panic!("{other:?}"),
        }
    }

    pub fn joined(&mut self, ticket: Ticket) -> JoinReply {
        match self.take(ticket) {
            Some(GroupReply::Join(reply)) => reply,
            other => panic!("{ticket:?} is not joined: {other:?}"),
        }
    }

    pub fn synced(&mut self, ticket: Ticket) -> SyncReply {
        match self.take(ticket) {
            Some(GroupReply::Sync(reply)) => reply,
            other => panic!("{ticket:?} is not synced: {other:?}"),
        }
    }

    pub fn describe(&mut self) -> DescribedClassicGroup {
        let ticket = self.send(GroupRequest::DescribeClassic(GROUP.into()));
        match self.take(ticket) {
            Some(GroupReply::DescribeClassic(Ok(described))) => described,
            other => panic!("{other:?}"),
        }
    }

    pub fn state(&mut self) -> &'static str {
        self.describe().state
    }

    /// Brings a new group to CompletingRebalance of generation 1; the first of the clients leads.
    pub fn completing(&mut self, clients: &[Who]) -> Vec<Who> {
        let tickets: Vec<Ticket> = clients.iter().map(|who| self.join(who)).collect();
        while self.is_waiting(tickets[0]) {
            let next = self.groups.next_deadline().expect("the rebalance has a deadline");
            self.pass(next.0 / 1_000_000 - self.now_ms);
        }
        let members: Vec<Who> = clients
            .iter()
            .zip(tickets)
            .map(|(who, ticket)| who.with_id(&self.joined(ticket).member_id))
            .collect();
        assert_eq!(self.state(), "CompletingRebalance");
        members
    }

    /// Brings a new group to Stable, each member assigned its place in the list.
    pub fn stable(&mut self, clients: &[Who]) -> Vec<Who> {
        let members = self.completing(clients);
        self.sync_all(&members, 1);
        members
    }

    /// All sync, the first as the leader, which assigns to each its place in the list.
    pub fn sync_all(&mut self, members: &[Who], generation: i32) {
        let names: Vec<String> = (0..members.len()).map(|place| place.to_string()).collect();
        let assignments: Vec<(&Arc<str>, &str)> =
            members.iter().zip(&names).map(|(who, name)| (&who.member_id, &**name)).collect();
        for (place, who) in members.iter().enumerate() {
            let ticket = self.sync_with(who, generation, if place == 0 { &assignments } else { &[] });
            let reply = self.synced(ticket);
            assert_eq!((reply.error, &*reply.assignment), (ErrorCode::None, names[place].as_bytes()));
        }
        assert_eq!(self.state(), "Stable");
    }
}
