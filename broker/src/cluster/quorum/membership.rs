//! What a controller wants changed about itself in the set of voters: pure, asked whenever the quorum's state has changed.
//!
//! A voter has the members say where it is reached (KIP-853's UpdateRaftVoter). A controller that observes becomes a voter by
//! itself if `controller.quorum.auto.join.enable` is on. What its node was before it lost its disk goes first: a node has one
//! vote at most.

use super::engine::QuorumStatus;
use super::members::{MemberKey, VoterEndpoint};

/// A change that a controller asks the leader for, about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnChange {
    /// It observes, and is to vote.
    Join(MemberKey, Vec<VoterEndpoint>),
    /// It had another directory when it voted: that voter is to go.
    LeaveBehind(MemberKey),
    /// It votes, and is reached elsewhere than the members say.
    Update(MemberKey, Vec<VoterEndpoint>),
}

/// What a controller is and wants to be.
#[derive(Clone, Debug)]
pub struct Membership {
    /// This node and its directory.
    pub key: MemberKey,
    /// Where its controller listener is reached.
    pub endpoints: Vec<VoterEndpoint>,
    /// Whether it is to vote without anybody asking for it.
    pub joins: bool,
}

impl Membership {
    /// What to ask for next, if anything, by what this node knows. The leader may know better.
    #[must_use]
    pub fn next(&self, status: &QuorumStatus) -> Option<OwnChange> {
        let own = status.members.get(self.key)?;
        if own.is_voter {
            let is_elsewhere = own.endpoints != self.endpoints && !self.endpoints.is_empty();
            return is_elsewhere.then(|| OwnChange::Update(self.key, self.endpoints.clone()));
        }
        if !self.joins || self.endpoints.is_empty() {
            return None;
        }
        let former = status.members.voters().find(|voter| voter.key.node == self.key.node);
        Some(match former {
            Some(former) => OwnChange::LeaveBehind(former.key),
            None => OwnChange::Join(self.key, self.endpoints.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Member, MemberSet, Role};
    use super::*;
    use logmill_wire::ids::{NodeId, Uuid};

    fn key(node: i32, directory: u8) -> MemberKey {
        MemberKey { node: NodeId(node), directory: Uuid([directory; 16]) }
    }

    fn at(port: u16) -> Vec<VoterEndpoint> {
        vec![VoterEndpoint { listener: "CONTROLLER".to_owned(), host: "mill".to_owned(), port }]
    }

    fn next(
        joins: bool,
        endpoints: Vec<VoterEndpoint>,
        members: &[(MemberKey, bool, u16)],
    ) -> Option<OwnChange> {
        let member = |&(key, is_voter, port): &(MemberKey, bool, u16)| Member {
            key,
            is_voter,
            endpoints: if port == 0 { Vec::new() } else { at(port) },
        };
        let status = QuorumStatus {
            role: Role::Observer,
            term: 3,
            leader: Some(NodeId(1)),
            is_current: false,
            committed: 9,
            applied: 9,
            digest: 0,
            last_index: 9,
            cluster_id: Uuid([7; 16]),
            members: MemberSet::founding(members.iter().map(member)),
            matched: Vec::new(),
        };
        Membership { key: key(2, 5), endpoints, joins }.next(&status)
    }

    #[test]
    fn a_voter_wants_the_members_to_know_where_it_is() {
        for joins in [false, true] {
            let update = Some(OwnChange::Update(key(2, 5), at(93)));
            assert_eq!(next(joins, at(93), &[(key(1, 1), true, 1), (key(2, 5), true, 0)]), update);
            assert_eq!(next(joins, at(93), &[(key(2, 5), true, 92)]), update);
            assert_eq!(next(joins, at(93), &[(key(2, 5), true, 93)]), None);
            assert_eq!(next(joins, Vec::new(), &[(key(2, 5), true, 93)]), None, "it has nothing to say");
        }
    }

    #[test]
    fn an_observer_joins_if_it_is_told_to() {
        let observing = [(key(1, 1), true, 1), (key(2, 5), false, 0)];
        assert_eq!(next(true, at(93), &observing), Some(OwnChange::Join(key(2, 5), at(93))));
        assert_eq!(next(false, at(93), &observing), None);
        assert_eq!(next(true, Vec::new(), &observing), None, "nobody would reach it");
        assert_eq!(
            next(true, at(93), &[(key(1, 1), true, 1)]),
            None,
            "it is no member yet, and may lag far behind"
        );
    }

    #[test]
    fn what_the_node_was_with_another_disk_goes_first() {
        let replaced = [(key(1, 1), true, 1), (key(2, 4), true, 93), (key(2, 5), false, 0)];
        assert_eq!(next(true, at(93), &replaced), Some(OwnChange::LeaveBehind(key(2, 4))));
        assert_eq!(next(false, at(93), &replaced), None, "not without being told");
        let observed = [(key(1, 1), true, 1), (key(2, 4), false, 0), (key(2, 5), false, 0)];
        assert_eq!(next(true, at(93), &observed), Some(OwnChange::Join(key(2, 5), at(93))));
    }
}
