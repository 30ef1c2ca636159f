//! Who belongs to the quorum.

use logmill_wire::ids::{NodeId, Uuid};
use raft::eraftpb::{ConfChange, ConfChangeType, ConfState};
use std::collections::BTreeMap;
use std::fmt;

/// The most members that bytes may name: what comes from peers is bounded.
const MEMBERS_MAX: usize = 4096;

/// A node together with the disk that it votes from (KIP-853).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberKey {
    /// The node.
    pub node: NodeId,
    /// The id of its metadata log directory.
    pub directory: Uuid,
}

impl MemberKey {
    /// The number by which Raft knows the member: never 0, another one for another disk of the same node. Two disks of
    /// one node share it once in 2^32 times; [`MemberSet::check`] keeps them from being members together, and frames
    /// carry the whole key.
    #[must_use]
    pub fn raft_id(self) -> u64 {
        let node = u64::from(self.node.0.unsigned_abs()) + 1;
        (node << 32) | u64::from(crc32c::crc32c(&self.directory.0))
    }
}

impl fmt::Display for MemberKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} with directory {}", self.node, self.directory)
    }
}

/// Where a voter is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoterEndpoint {
    /// The listener's name.
    pub listener: String,
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// A member of the quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub key: MemberKey,
    /// Whether it votes; the others observe.
    pub is_voter: bool,
    /// Where it is reached, if it said so.
    pub endpoints: Vec<VoterEndpoint>,
}

/// One change of the members. At most one is under way at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// There is a new member, or one that votes or observes from now on.
    Set(Member),
    /// A member is gone.
    Remove(MemberKey),
}

impl MemberChange {
    /// Whom it is about.
    #[must_use]
    pub const fn key(&self) -> MemberKey {
        match self {
            Self::Set(member) => member.key,
            Self::Remove(key) => *key,
        }
    }

    /// The change as Raft knows it. Its protobuf form is made and read on this node only.
    pub(super) fn to_raft(&self) -> ConfChange {
        let mut change = ConfChange { node_id: self.key().raft_id(), ..ConfChange::default() };
        change.set_change_type(match self {
            Self::Set(member) if member.is_voter => ConfChangeType::AddNode,
            Self::Set(_) => ConfChangeType::AddLearnerNode,
            Self::Remove(_) => ConfChangeType::RemoveNode,
        });
        change
    }

    /// Its bytes: 1 and a member, or 0 and a key.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Vec::new();
        match self {
            Self::Set(member) => {
                to.push(1);
                append_member(&mut to, member);
            }
            Self::Remove(key) => {
                to.push(0);
                append_key(&mut to, *key);
            }
        }
        to
    }

    /// Reads what [`MemberChange::encode`] wrote; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let change = match from.u8()? {
            1 => Self::Set(from.member()?),
            0 => Self::Remove(from.key()?),
            _ => return None,
        };
        from.is_at_end().then_some(change)
    }
}

/// All members, by their Raft ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberSet(BTreeMap<u64, Member>);

impl MemberSet {
    /// Nobody.
    pub(super) const EMPTY: Self = Self(BTreeMap::new());

    /// The voters with which a quorum begins.
    #[must_use]
    pub fn founding(voters: impl IntoIterator<Item = Member>) -> Self {
        Self(voters.into_iter().map(|member| (member.key.raft_id(), member)).collect())
    }

    /// All members, voters and observers.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.0.values()
    }

    /// The voters.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.iter().filter(|member| member.is_voter)
    }

    /// The member with this key.
    #[must_use]
    pub fn get(&self, key: MemberKey) -> Option<&Member> {
        self.0.get(&key.raft_id()).filter(|member| member.key == key)
    }

    /// The member that Raft knows by this number.
    #[must_use]
    pub fn by_raft_id(&self, raft_id: u64) -> Option<&Member> {
        self.0.get(&raft_id)
    }

    /// Whether nobody is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `key` is the one voter.
    #[must_use]
    pub fn is_sole_voter(&self, key: MemberKey) -> bool {
        let mut voters = self.voters();
        voters.next().is_some_and(|member| member.key == key) && voters.next().is_none()
    }

    /// Whether a change is possible.
    ///
    /// # Errors
    /// Why it is not.
    pub fn check(&self, change: &MemberChange) -> Result<(), String> {
        let key = change.key();
        if self.0.get(&key.raft_id()).is_some_and(|other| other.key != key) {
            return Err(format!(
                "{key} cannot be told from another directory of that node; give it a new directory.id"
            ));
        }
        let current = self.get(key);
        match change {
            MemberChange::Set(member) if key.node.0 < 0 => {
                Err(format!("{} is not a node id", member.key.node))
            }
            MemberChange::Set(member) if current == Some(member) => Err(format!("{key} is a member already")),
            MemberChange::Set(member) if !member.is_voter && current.is_some_and(|now| now.is_voter) => {
                Err(format!("{key} is a voter; remove it first"))
            }
            MemberChange::Set(_) if self.0.len() >= MEMBERS_MAX => {
                Err("the quorum has too many members".into())
            }
            MemberChange::Set(_) => Ok(()),
            MemberChange::Remove(_) if current.is_none() => Err(format!("{key} is not a member")),
            MemberChange::Remove(_) if self.is_sole_voter(key) => {
                Err(format!("{key} is the last voter; add another one first"))
            }
            MemberChange::Remove(_) => Ok(()),
        }
    }

    /// Changes the members; false, and nothing changed, if the change is not possible. Every node comes to the same
    /// decision at the same place of the log.
    pub(super) fn apply(&mut self, change: &MemberChange) -> bool {
        if self.check(change).is_err() {
            return false;
        }
        match change {
            MemberChange::Set(member) => self.0.insert(member.key.raft_id(), member.clone()),
            MemberChange::Remove(key) => self.0.remove(&key.raft_id()),
        };
        true
    }

    /// The members as Raft counts them.
    pub(super) fn conf_state(&self) -> ConfState {
        let ids = |voters: bool| -> Vec<u64> {
            self.0.iter().filter(|(_, member)| member.is_voter == voters).map(|(&id, _)| id).collect()
        };
        ConfState::from((ids(true), ids(false)))
    }

    /// Their bytes: a count and the members.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Vec::new();
        to.extend_from_slice(&(self.0.len() as u32).to_be_bytes());
        for member in self.0.values() {
            append_member(&mut to, member);
        }
        to
    }

    /// Reads what [`MemberSet::encode`] wrote; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let count = from.u32()?;
        if count as usize > MEMBERS_MAX {
            return None;
        }
        let mut members = BTreeMap::new();
        for _ in 0..count {
            let member = from.member()?;
            if members.insert(member.key.raft_id(), member).is_some() {
                return None;
            }
        }
        from.is_at_end().then_some(Self(members))
    }
}

fn append_key(to: &mut Vec<u8>, key: MemberKey) {
    to.extend_from_slice(&key.node.0.to_be_bytes());
    to.extend_from_slice(&key.directory.0);
}

fn append_member(to: &mut Vec<u8>, member: &Member) {
    append_key(to, member.key);
    to.push(u8::from(member.is_voter));
    to.push(member.endpoints.len().min(usize::from(u8::MAX)) as u8);
    for endpoint in member.endpoints.iter().take(usize::from(u8::MAX)) {
        append_text(to, &endpoint.listener);
        append_text(to, &endpoint.host);
        to.extend_from_slice(&endpoint.port.to_be_bytes());
    }
}

fn append_text(to: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes().get(..usize::from(u16::MAX)).unwrap_or(text.as_bytes());
    to.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    to.extend_from_slice(bytes);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const COUNT: usize>(&mut self) -> Option<[u8; COUNT]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let length = u16::from_be_bytes(self.take()?);
        let (text, rest): (&'a [u8], _) = self.0.split_at_checked(usize::from(length))?;
        self.0 = rest;
        std::str::from_utf8(text).ok().map(str::to_owned)
    }

    fn key(&mut self) -> Option<MemberKey> {
        let node = NodeId(i32::from_be_bytes(self.take()?));
        Some(MemberKey { node, directory: Uuid(self.take()?) }).filter(|key| key.node.0 >= 0)
    }

    fn member(&mut self) -> Option<Member> {
        let key = self.key()?;
        let is_voter = match self.u8()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let count = self.u8()?;
        let mut endpoints = Vec::new();
        for _ in 0..count {
            let (listener, host) = (self.text()?, self.text()?);
            endpoints.push(VoterEndpoint { listener, host, port: u16::from_be_bytes(self.take()?) });
        }
        Some(Member { key, is_voter, endpoints })
    }

    const fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(node: i32, directory: u8, is_voter: bool) -> Member {
        let endpoints =
            vec![VoterEndpoint { listener: "CONTROLLER".into(), host: "mill".into(), port: 9093 }];
        Member {
            key: MemberKey { node: NodeId(node), directory: Uuid([directory; 16]) },
            is_voter,
            endpoints,
        }
    }

    #[test]
    fn members_are_read_back_and_nothing_else_is() {
        let set = MemberSet::founding([member(1, 1, true), member(2, 2, true), member(2, 3, false)]);
        let bytes = set.encode();
        assert_eq!(MemberSet::decode(&bytes), Some(set));
        for end in 0..bytes.len() {
            assert_eq!(MemberSet::decode(&bytes[..end]), None, "cut at {end}");
        }
        assert_eq!(MemberSet::decode(&[0xff; 64]), None, "a count beyond all bounds");
        for change in [MemberChange::Set(member(1, 1, false)), MemberChange::Remove(member(7, 7, true).key)] {
            let mut bytes = change.encode();
            assert_eq!(MemberChange::decode(&bytes), Some(change));
            bytes.push(0);
            assert_eq!(MemberChange::decode(&bytes), None);
        }
    }

    #[test]
    fn another_disk_is_another_member() {
        let (one, other) = (member(1, 1, true), member(1, 2, true));
        assert_ne!(one.key.raft_id(), other.key.raft_id());
        let set = MemberSet::founding([one.clone()]);
        assert!(set.is_sole_voter(one.key));
        assert_eq!(set.get(other.key), None);
    }

    #[test]
    fn the_last_voter_stays() {
        let mut set = MemberSet::founding([member(1, 1, true)]);
        let remove = MemberChange::Remove(member(1, 1, true).key);
        assert!(!set.apply(&remove));
        assert!(set.apply(&MemberChange::Set(member(2, 2, false))));
        assert!(!set.apply(&remove), "an observer is no voter");
        assert!(set.apply(&MemberChange::Set(member(2, 2, true))));
        assert!(!set.apply(&MemberChange::Set(member(2, 2, false))), "a voter is removed, not demoted");
        assert!(set.apply(&remove));
        assert!(!set.apply(&remove));
        assert_eq!(set.conf_state().voters, [member(2, 2, true).key.raft_id()]);
    }
}
