//! The members of a group and what is counted over all of them.

use super::record::ClassicMemberValue;
use crate::group::reply::{DescribedClassicMember, JoinedMember};
use crate::group::request::{MemberIdentity, Ticket};
use bytes::Bytes;
use logmill_wire::error_codes::ErrorCode;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a member supports, best first, with what it tells the leader of itself.
pub(super) type Protocols = Vec<(Arc<str>, Bytes)>;

/// One member.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: Arc<str>,
    pub(super) instance_id: Option<Arc<str>>,
    pub(super) client_id: Arc<str>,
    pub(super) client_host: Arc<str>,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) session_timeout_ms: i32,
    pub(super) assignment: Bytes,
    /// The SyncGroup that waits for the leader's.
    pub(super) syncing: Option<Ticket>,
    /// Whether its first JoinGroup waits: the client does not know its id, so that it cannot send heartbeats.
    pub(super) is_new: bool,
    protocols: Protocols,
    /// The JoinGroup that waits for the other members; [`Members`] counts them.
    joining: Option<Ticket>,
}

/// How a member's JoinGroup changes it.
pub(super) struct Rejoin {
    pub(super) ticket: Ticket,
    pub(super) protocols: Protocols,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) session_timeout_ms: i32,
}

/// Requests that wait for a member that is no longer what they asked for.
#[derive(Debug, Default)]
pub(super) struct Stranded {
    pub(super) joining: Option<Ticket>,
    pub(super) syncing: Option<Ticket>,
}

impl Member {
    pub(super) fn new(
        identity: MemberIdentity,
        client_id: Arc<str>,
        client_host: Arc<str>,
        rejoin: Rejoin,
    ) -> Self {
        Self {
            id: identity.member_id,
            instance_id: identity.instance_id,
            client_id,
            client_host,
            rebalance_timeout_ms: rejoin.rebalance_timeout_ms,
            session_timeout_ms: rejoin.session_timeout_ms,
            assignment: Bytes::new(),
            syncing: None,
            is_new: true,
            protocols: rejoin.protocols,
            joining: Some(rejoin.ticket),
        }
    }

    /// A member as a record tells of it: of its protocols only the chosen one is known.
    pub(super) fn from_record(value: ClassicMemberValue, protocol: &Arc<str>) -> Self {
        let rebalance_timeout_ms = match value.rebalance_timeout_ms {
            -1 => value.session_timeout_ms,
            timeout_ms => timeout_ms,
        };
        Self {
            id: value.member_id,
            instance_id: value.instance_id,
            client_id: value.client_id,
            client_host: value.client_host,
            rebalance_timeout_ms,
            session_timeout_ms: value.session_timeout_ms,
            assignment: value.assignment,
            syncing: None,
            is_new: false,
            protocols: vec![(Arc::clone(protocol), value.subscription)],
            joining: None,
        }
    }

    pub(super) fn to_record(&self, protocol: &str) -> ClassicMemberValue {
        ClassicMemberValue {
            member_id: Arc::clone(&self.id),
            instance_id: self.instance_id.clone(),
            client_id: Arc::clone(&self.client_id),
            client_host: Arc::clone(&self.client_host),
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            session_timeout_ms: self.session_timeout_ms,
            subscription: self.metadata(protocol).cloned().unwrap_or_default(),
            assignment: self.assignment.clone(),
        }
    }

    pub(super) const fn is_joining(&self) -> bool {
        self.joining.is_some()
    }

    /// Whether a silent member is excused: it waits for us. A new one is not, as its client may be long gone.
    pub(super) const fn is_waiting(&self) -> bool {
        !self.is_new && (self.joining.is_some() || self.syncing.is_some())
    }

    /// What the member says of itself for a protocol; `None` if it does not support it.
    pub(super) fn metadata(&self, protocol: &str) -> Option<&Bytes> {
        self.protocols.iter().find(|(name, _)| **name == *protocol).map(|(_, metadata)| metadata)
    }

    pub(super) const fn protocols(&self) -> &Protocols {
        &self.protocols
    }

    pub(super) fn has_protocols(&self, protocols: &Protocols) -> bool {
        self.protocols == *protocols
    }

    pub(super) fn joined(&self, protocol: &str) -> JoinedMember {
        JoinedMember {
            member_id: Arc::clone(&self.id),
            instance_id: self.instance_id.clone(),
            metadata: self.metadata(protocol).cloned().unwrap_or_default(),
        }
    }

    /// The member in words; what it said of itself is shown for a protocol that is in force.
    pub(super) fn describe(&self, protocol: Option<&str>) -> DescribedClassicMember {
        let metadata = protocol.and_then(|protocol| self.metadata(protocol)).cloned().unwrap_or_default();
        DescribedClassicMember {
            member_id: Arc::clone(&self.id),
            instance_id: self.instance_id.clone(),
            client_id: Arc::clone(&self.client_id),
            client_host: Arc::clone(&self.client_host),
            metadata,
            assignment: self.assignment.clone(),
        }
    }
}

/// All members, by id and, if they are static (KIP-345), by instance id.
#[derive(Debug, Default)]
pub(super) struct Members {
    by_id: BTreeMap<Arc<str>, Member>,
    statics: BTreeMap<Arc<str>, Arc<str>>,
    leader: Option<Arc<str>>,
    /// How many wait for their JoinGroup's reply.
    joining: usize,
    /// How many support each protocol.
    supporters: BTreeMap<Arc<str>, usize>,
}

impl Members {
    pub(super) fn with_leader(leader: Option<Arc<str>>) -> Self {
        Self { leader, ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub(super) const fn joining(&self) -> usize {
        self.joining
    }

    pub(super) fn all_joining(&self) -> bool {
        self.joining == self.by_id.len()
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    pub(super) fn get(&self, id: &str) -> Option<&Member> {
        self.by_id.get(id)
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut Member> {
        self.by_id.get_mut(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.by_id.values()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.by_id.values_mut()
    }

    pub(super) fn ids(&self) -> Vec<Arc<str>> {
        self.by_id.keys().cloned().collect()
    }

    /// The id that a static member has now.
    pub(super) fn static_id(&self, instance_id: &str) -> Option<&Arc<str>> {
        self.statics.get(instance_id)
    }

    pub(super) const fn leader(&self) -> Option<&Arc<str>> {
        self.leader.as_ref()
    }

    pub(super) fn is_leader(&self, id: &str) -> bool {
        self.leader.as_deref() == Some(id)
    }

    /// Whether the sender is the member that it says it is.
    ///
    /// # Errors
    /// UNKNOWN_MEMBER_ID, or FENCED_INSTANCE_ID if another process has taken the static member's place (KIP-345).
    pub(super) fn validate(&self, identity: &MemberIdentity) -> Result<(), ErrorCode> {
        if let Some(instance_id) = &identity.instance_id {
            match self.statics.get(instance_id) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(id) if *id != identity.member_id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.contains(&identity.member_id) { Ok(()) } else { Err(ErrorCode::UnknownMemberId) }
    }

    /// Adds a member; the first one leads. One whose id or instance id is taken is not added.
    pub(super) fn add(&mut self, member: Member) {
        let is_taken = member.instance_id.as_ref().is_some_and(|id| self.statics.contains_key(id))
            || self.contains(&member.id);
        if is_taken {
            return;
        }
        if let Some(instance_id) = &member.instance_id {
            self.statics.insert(Arc::clone(instance_id), Arc::clone(&member.id));
        }
        self.leader.get_or_insert_with(|| Arc::clone(&member.id));
        self.joining += usize::from(member.is_joining());
        for (name, _) in &member.protocols {
            *self.supporters.entry(Arc::clone(name)).or_default() += 1;
        }
        self.by_id.insert(Arc::clone(&member.id), member);
    }

    /// Removes a member; another one leads if it did.
    pub(super) fn remove(&mut self, id: &str) -> Option<Stranded> {
        let member = self.by_id.remove(id)?;
        self.forget_support(&member.protocols);
        self.joining -= usize::from(member.is_joining());
        if let Some(instance_id) = &member.instance_id {
            self.statics.remove(instance_id);
        }
        if self.is_leader(id) {
            self.leader = self.by_id.keys().next().cloned();
        }
        Some(Stranded { joining: member.joining, syncing: member.syncing })
    }

    fn forget_support(&mut self, protocols: &Protocols) {
        for (name, _) in protocols {
            if let Some(count) = self.supporters.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.supporters.remove(name);
                }
            }
        }
    }

    /// Gives a static member another id; what waits under the old one is fenced.
    pub(super) fn replace_static(
        &mut self,
        instance_id: &Arc<str>,
        old: &Arc<str>,
        new: &Arc<str>,
    ) -> Stranded {
        let Some(mut member) = self.by_id.remove(old) else { return Stranded::default() };
        let stranded = Stranded { joining: member.joining.take(), syncing: member.syncing.take() };
        self.joining -= usize::from(stranded.joining.is_some());
        member.id = Arc::clone(new);
        member.is_new = false;
        self.by_id.insert(Arc::clone(new), member);
        if self.is_leader(old) {
            self.leader = Some(Arc::clone(new));
        }
        self.statics.insert(Arc::clone(instance_id), Arc::clone(new));
        stranded
    }

    /// A member joins again. Returns the JoinGroup that it has sent before and no longer waits for.
    pub(super) fn update(&mut self, id: &str, rejoin: Rejoin) -> Option<Ticket> {
        let before = match self.by_id.get_mut(id) {
            Some(member) => std::mem::replace(&mut member.protocols, rejoin.protocols),
            None => return Some(rejoin.ticket),
        };
        self.forget_support(&before);
        let member = self.by_id.get_mut(id)?;
        for (name, _) in &member.protocols {
            *self.supporters.entry(Arc::clone(name)).or_default() += 1;
        }
        member.rebalance_timeout_ms = rejoin.rebalance_timeout_ms;
        member.session_timeout_ms = rejoin.session_timeout_ms;
        let superseded = member.joining.replace(rejoin.ticket);
        self.joining += usize::from(superseded.is_none());
        superseded
    }

    /// Takes the JoinGroup of a member, which is to be answered now.
    pub(super) fn take_joining(&mut self, id: &str) -> Option<Ticket> {
        let ticket = self.by_id.get_mut(id)?.joining.take()?;
        self.joining -= 1;
        Some(ticket)
    }

    /// Makes sure that the leader is one that has joined; `false` if nobody has.
    pub(super) fn elect_joined_leader(&mut self) -> bool {
        let leader = self.leader.as_deref().and_then(|leader| self.get(leader));
        if leader.is_some_and(Member::is_joining) {
            return true;
        }
        let next =
            self.by_id.values().find(|member| member.is_joining()).map(|member| Arc::clone(&member.id));
        let found = next.is_some();
        if found {
            self.leader = next;
        }
        found
    }

    /// Whether all members support one of these protocols.
    pub(super) fn support_one_of(&self, protocols: &Protocols) -> bool {
        protocols.iter().any(|(name, _)| self.supporters.get(name).copied().unwrap_or(0) == self.len())
    }

    /// The protocol that most members prefer among those that all support. Kafka leaves it to chance which one wins
    /// with equal votes; here it is the first by name.
    pub(super) fn select_protocol(&self) -> Option<Arc<str>> {
        let candidates: BTreeSet<&Arc<str>> =
            self.supporters.iter().filter(|(_, count)| **count == self.len()).map(|(name, _)| name).collect();
        let mut votes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for member in self.by_id.values() {
            let vote = member.protocols.iter().map(|(name, _)| name).find(|name| candidates.contains(name));
            if let Some(name) = vote {
                *votes.entry(name).or_default() += 1;
            }
        }
        let most = votes.values().max().copied()?;
        votes.into_iter().find(|(_, count)| *count == most).map(|(name, _)| Arc::clone(name))
    }

    /// The longest rebalance timeout of the members, in milliseconds.
    pub(super) fn rebalance_timeout_ms(&self) -> u64 {
        let longest = self.by_id.values().map(|member| member.rebalance_timeout_ms).max().unwrap_or(0);
        u64::from(longest.max(0).unsigned_abs())
    }
}
