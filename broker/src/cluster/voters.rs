//! The metadata quorum, as somebody asks about it.

use super::quorum::{Member, MemberChange, MemberKey, ProposeError, Quorum, QuorumStatus};
use super::quorum_command::{QuorumCommand, VoterError};
use crate::runtime::Runtime;

/// Carries out one command on the active controller. A change of the voters may take as long as they need: nothing else
/// waits for it.
pub(super) fn carry_out<R: Runtime>(runtime: &R, quorum: &Quorum, command: QuorumCommand) {
    let (status, quorum) = (quorum.status(), quorum.clone());
    match command {
        QuorumCommand::Describe { reply } => reply.send(Ok(quorum.describe(runtime.wall_clock()))),
        QuorumCommand::AddVoter { cluster_id, key, endpoints, reply } => {
            let change = MemberChange::Set(Member { key, is_voter: true, endpoints: endpoints.clone() });
            match check(&status, cluster_id.as_deref(), &change) {
                Err(error) => reply.send(Ok(Err(error))),
                Ok(()) => runtime.spawn(async move {
                    let changed = quorum.add_voter(key, endpoints).await;
                    reply.send(Ok(changed.map(drop).map_err(not_now)));
                }),
            }
        }
        QuorumCommand::RemoveVoter { cluster_id, key, reply } => {
            match check(&status, cluster_id.as_deref(), &MemberChange::Remove(key)) {
                Err(error) => reply.send(Ok(Err(error))),
                Ok(()) => runtime.spawn(async move {
                    let changed = quorum.remove_voter(key).await;
                    reply.send(Ok(changed.map(drop).map_err(not_now)));
                }),
            }
        }
    }
}

fn not_now(error: ProposeError) -> VoterError {
    VoterError::NotNow(error.to_string())
}

fn check(status: &QuorumStatus, cluster_id: Option<&str>, change: &MemberChange) -> Result<(), VoterError> {
    if cluster_id.is_some_and(|meant| meant != status.cluster_id.to_string()) {
        return Err(VoterError::InconsistentClusterId);
    }
    let votes = |key: MemberKey| status.members.get(key).is_some_and(|member| member.is_voter);
    match change {
        MemberChange::Set(member) => {
            let has_node = status.members.voters().any(|voter| voter.key.node == member.key.node);
            if has_node {
                return Err(VoterError::DuplicateVoter);
            }
        }
        MemberChange::Remove(key) if !votes(*key) => return Err(VoterError::VoterNotFound),
        MemberChange::Remove(_) if status.members.voters().count() == 1 => {
            return Err(VoterError::Invalid(
                "The last voter of the metadata quorum cannot be removed; add another one first.".to_owned(),
            ));
        }
        MemberChange::Remove(_) => {}
    }
    status.members.check(change).map_err(VoterError::Invalid)
}

#[cfg(test)]
mod tests {
    use super::super::quorum::{MemberSet, Role};
    use super::*;
    use logmill_wire::ids::{NodeId, Uuid};

    fn key(node: i32, directory: u8) -> MemberKey {
        MemberKey { node: NodeId(node), directory: Uuid([directory; 16]) }
    }

    fn member(key: MemberKey, is_voter: bool) -> Member {
        Member { key, is_voter, endpoints: Vec::new() }
    }

    fn status(members: impl IntoIterator<Item = Member>) -> QuorumStatus {
        QuorumStatus {
            role: Role::Leader,
            term: 3,
            leader: Some(NodeId(1)),
            is_current: true,
            committed: 9,
            applied: 9,
            digest: 0,
            last_index: 9,
            cluster_id: Uuid([7; 16]),
            members: MemberSet::founding(members),
            matched: Vec::new(),
        }
    }

    #[test]
    fn changes_that_make_no_sense_are_refused() {
        let two = status([member(key(1, 1), true), member(key(2, 1), true), member(key(3, 1), false)]);
        let add = |key| MemberChange::Set(member(key, true));
        let own = Uuid([7; 16]).to_string();
        assert_eq!(check(&two, Some(&own), &add(key(3, 1))), Ok(()));
        assert_eq!(check(&two, None, &MemberChange::Remove(key(2, 1))), Ok(()));
        assert_eq!(check(&two, Some("x"), &add(key(3, 1))), Err(VoterError::InconsistentClusterId));
        assert_eq!(check(&two, None, &add(key(2, 9))), Err(VoterError::DuplicateVoter));
        for missing in [key(2, 9), key(3, 1), key(5, 1)] {
            assert_eq!(check(&two, None, &MemberChange::Remove(missing)), Err(VoterError::VoterNotFound));
        }
        let one = status([member(key(1, 1), true)]);
        assert!(matches!(check(&one, None, &MemberChange::Remove(key(1, 1))), Err(VoterError::Invalid(_))));
    }
}
