//! How the members of the quorum stand, as its leader knows it (DescribeQuorum, KIP-836).

use super::engine::QuorumStatus;
use super::members::{Member, MemberKey};
use logmill_wire::ids::{NodeId, TimestampMs};
use std::collections::BTreeMap;

/// A member as DescribeQuorum tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberDescription {
    /// Who, whether it votes, and where it is reached.
    pub member: Member,
    /// The end of its log: the place behind its last entry; -1 if the leader does not know it.
    pub log_end: i64,
    /// When it was heard from last, by the leader's clock.
    pub last_heard: Option<TimestampMs>,
    /// The last time at which it had all that the leader had.
    pub last_caught_up: Option<TimestampMs>,
}

/// The quorum as DescribeQuorum tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumDescription {
    /// The leader.
    pub leader: Option<NodeId>,
    /// Its term.
    pub term: u64,
    /// The place behind the last entry that is committed.
    pub high_watermark: i64,
    /// Voters and observers.
    pub members: Vec<MemberDescription>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Heard {
    at: TimestampMs,
    /// The end of the leader's log at that time.
    leader_end: u64,
    caught_up: Option<TimestampMs>,
}

/// When a leader heard from its followers.
#[derive(Clone, Debug, Default)]
pub(super) struct FollowerTimes {
    term: u64,
    heard: BTreeMap<MemberKey, Heard>,
}

impl FollowerTimes {
    /// Takes note of a message from a follower that has the log up to `matched`, of a leader whose log ends at
    /// `leader_end`. What was known in another term is forgotten.
    pub fn hear(&mut self, term: u64, from: MemberKey, matched: u64, leader_end: u64, now: TimestampMs) {
        if term != self.term {
            *self = Self { term, heard: BTreeMap::new() };
        }
        let before = self.heard.get(&from).copied();
        let caught_up = match before {
            _ if matched >= leader_end => Some(now),
            // It has what there was when it was heard from the last time.
            Some(before) if matched >= before.leader_end => Some(before.at),
            before => before.and_then(|before| before.caught_up),
        };
        self.heard.insert(from, Heard { at: now, leader_end, caught_up });
    }

    /// Describes the quorum of a leader.
    pub fn describe(&self, me: MemberKey, status: &QuorumStatus, now: TimestampMs) -> QuorumDescription {
        let place = |index: u64| i64::try_from(index).unwrap_or(i64::MAX).saturating_add(1);
        let members = status.members.iter().map(|member| {
            let is_me = member.key == me;
            let matched = status.matched.iter().find(|(key, _)| *key == member.key).map(|&(_, index)| index);
            let heard = self.heard.get(&member.key).filter(|_| self.term == status.term);
            let own = is_me.then_some(now);
            MemberDescription {
                member: member.clone(),
                log_end: match matched {
                    _ if is_me => place(status.last_index),
                    // Nobody's log is shorter than its first entry: the leader has not heard of its end.
                    None | Some(0) => -1,
                    Some(matched) => place(matched),
                },
                last_heard: own.or(heard.map(|heard| heard.at)),
                last_caught_up: own.or(heard.and_then(|heard| heard.caught_up)),
            }
        });
        QuorumDescription {
            leader: status.leader,
            term: status.term,
            high_watermark: place(status.committed),
            members: members.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MemberSet, Role};
    use super::*;
    use logmill_wire::ids::Uuid;

    #[test]
    fn a_follower_is_caught_up_as_of_when_the_leader_had_no_more() {
        let key = |node| MemberKey { node: NodeId(node), directory: Uuid([1; 16]) };
        let member = |node, is_voter| Member { key: key(node), is_voter, endpoints: Vec::new() };
        let mut status = QuorumStatus {
            role: Role::Leader,
            term: 4,
            leader: Some(NodeId(1)),
            is_current: true,
            committed: 10,
            applied: 10,
            digest: 0,
            last_index: 12,
            cluster_id: Uuid([7; 16]),
            members: MemberSet::founding([member(1, true), member(2, true), member(3, false)]),
            matched: vec![(key(1), 12), (key(2), 10), (key(3), 0)],
        };
        let mut times = FollowerTimes::default();
        let at = TimestampMs;
        let of = |times: &FollowerTimes, status: &QuorumStatus, node| {
            let told = times.describe(key(1), status, at(100));
            assert_eq!((told.leader, told.term, told.high_watermark), (Some(NodeId(1)), status.term, 11));
            let found = told.members.into_iter().find(|found| found.member.key == key(node)).unwrap();
            (found.log_end, found.last_heard, found.last_caught_up)
        };
        assert_eq!(of(&times, &status, 1), (13, Some(at(100)), Some(at(100))));
        assert_eq!(of(&times, &status, 2), (11, None, None));
        assert_eq!(of(&times, &status, 3), (-1, None, None));
        times.hear(4, key(2), 8, 10, at(20));
        assert_eq!(of(&times, &status, 2), (11, Some(at(20)), None));
        // Now it has what there was at 20.
        times.hear(4, key(2), 10, 12, at(30));
        assert_eq!(of(&times, &status, 2), (11, Some(at(30)), Some(at(20))));
        times.hear(4, key(2), 11, 15, at(40));
        assert_eq!(of(&times, &status, 2), (11, Some(at(40)), Some(at(20))));
        times.hear(4, key(2), 15, 15, at(50));
        assert_eq!(of(&times, &status, 2), (11, Some(at(50)), Some(at(50))));
        // Another term's leader has heard nothing yet.
        status.term = 5;
        assert_eq!(of(&times, &status, 2), (11, None, None));
        times.hear(5, key(3), 1, 15, at(60));
        assert_eq!(of(&times, &status, 3).1, Some(at(60)));
        assert_eq!(of(&times, &status, 2), (11, None, None));
    }
}
