//! How a quorum begins: pure, asked by the driver of a fresh node.
//!
//! Only the first of the configured voters founds, and only when it has heard from all others that they are fresh too.
//! Whoever else is fresh waits until a candidate or a leader of that quorum speaks to its directory. So two quorums
//! cannot begin side by side, and a node whose disk was wiped cannot begin one while a voter remembers the old.

use super::members::{Member, MemberKey, MemberSet};
use logmill_wire::ids::{NodeId, Uuid};
use std::collections::BTreeMap;

/// What a fresh node knows of the configured voters.
pub(super) struct Founding {
    me: Member,
    /// The configured voters, each with the directory with which it said to be fresh.
    voters: BTreeMap<NodeId, Option<Uuid>>,
}

impl Founding {
    pub fn new(me: Member, configured: &[NodeId]) -> Self {
        let mut voters: BTreeMap<_, _> = configured.iter().map(|&node| (node, None)).collect();
        if let Some(own) = voters.get_mut(&me.key.node) {
            *own = Some(me.key.directory);
        }
        Self { me, voters }
    }

    /// Whom to ask.
    pub fn others(&self) -> impl Iterator<Item = NodeId> {
        self.voters.keys().copied().filter(|&node| node != self.me.key.node)
    }

    /// A node has answered.
    pub fn hear(&mut self, from: MemberKey, is_fresh: bool) {
        if from.node != self.me.key.node
            && let Some(known) = self.voters.get_mut(&from.node)
        {
            *known = is_fresh.then_some(from.directory);
        }
    }

    /// The members of the new quorum, if it is this node that founds it, now.
    pub fn decide(&self) -> Option<MemberSet> {
        if self.voters.keys().next() != Some(&self.me.key.node) {
            return None;
        }
        let voters: Option<Vec<Member>> = self
            .voters
            .iter()
            .map(|(&node, directory)| {
                if node == self.me.key.node {
                    return Some(Member { is_voter: true, ..self.me.clone() });
                }
                let key = MemberKey { node, directory: (*directory)? };
                Some(Member { key, is_voter: true, endpoints: Vec::new() })
            })
            .collect();
        voters.map(MemberSet::founding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(node: i32, directory: u8) -> MemberKey {
        MemberKey { node: NodeId(node), directory: Uuid([directory; 16]) }
    }

    fn founding(node: i32, configured: &[i32]) -> Founding {
        let me = Member { key: key(node, 1), is_voter: false, endpoints: Vec::new() };
        Founding::new(me, &configured.iter().map(|&node| NodeId(node)).collect::<Vec<_>>())
    }

    #[test]
    fn a_quorum_of_one_begins_at_once() {
        let members = founding(7, &[7]).decide().expect("nobody to wait for");
        assert!(members.is_sole_voter(key(7, 1)));
    }

    #[test]
    fn the_first_voter_founds_when_all_are_fresh() {
        let mut first = founding(1, &[3, 1, 2]);
        assert_eq!(first.others().collect::<Vec<_>>(), [NodeId(2), NodeId(3)]);
        first.hear(key(2, 5), true);
        assert_eq!(first.decide(), None);
        first.hear(key(3, 6), true);
        first.hear(key(4, 6), false);
        let members = first.decide().expect("all are fresh");
        let voters: Vec<_> = members.voters().map(|member| member.key).collect();
        assert_eq!(voters, [key(1, 1), key(2, 5), key(3, 6)]);
    }

    #[test]
    fn nobody_founds_beside_a_voter_that_remembers() {
        let mut first = founding(1, &[1, 2, 3]);
        first.hear(key(2, 5), true);
        first.hear(key(3, 6), true);
        first.hear(key(2, 5), false);
        assert_eq!(first.decide(), None);
    }

    #[test]
    fn neither_a_later_voter_nor_an_observer_founds() {
        let mut second = founding(2, &[1, 2]);
        second.hear(key(1, 5), true);
        assert_eq!(second.decide(), None);
        let mut observer = founding(0, &[1, 2]);
        observer.hear(key(1, 5), true);
        observer.hear(key(2, 5), true);
        assert_eq!(observer.decide(), None);
    }
}
