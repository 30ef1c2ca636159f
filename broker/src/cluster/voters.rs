//! The metadata quorum, as somebody asks about it.

use super::quorum::{Member, MemberChange, MemberKey, ProposeError, Quorum, QuorumStatus, VoterEndpoint};
use super::quorum_command::{QuorumCommand, VoterError};
use crate::runtime::Runtime;

/// Carries out one command on the active controller. A change of the voters may take as long as they need: nothing else
/// waits for it.
pub(super) fn carry_out<R: Runtime>(runtime: &R, quorum: &Quorum, command: QuorumCommand) {
    let (cluster_id, wanted, reply) = match command {
        QuorumCommand::Describe { reply } | QuorumCommand::Members { reply } => {
            return reply.send(Ok(quorum.describe(runtime.wall_clock())));
        }
        QuorumCommand::AddVoter { cluster_id, key, endpoints, reply } => {
            (cluster_id, Wanted::Add(key, endpoints), reply)
        }
        QuorumCommand::UpdateVoter { cluster_id, key, endpoints, reply } => {
            (cluster_id, Wanted::Update(key, endpoints), reply)
        }
        QuorumCommand::RemoveVoter { cluster_id, key, reply } => (cluster_id, Wanted::Remove(key), reply),
    };
    match check(&quorum.status(), cluster_id.as_deref(), &wanted) {
        Err(error) => reply.send(Ok(Err(error))),
        Ok(None) => reply.send(Ok(Ok(()))),
        Ok(Some(change)) => {
            let quorum = quorum.clone();
            runtime.spawn(async move {
                let changed = quorum.change_members(change).await;
                reply.send(Ok(changed.map(drop).map_err(not_now)));
            });
        }
    }
}

/// What somebody wants of the voters.
enum Wanted {
    /// An observer is to vote.
    Add(MemberKey, Vec<VoterEndpoint>),
    /// A voter is reached elsewhere.
    Update(MemberKey, Vec<VoterEndpoint>),
    /// A voter is to go.
    Remove(MemberKey),
}

fn not_now(error: ProposeError) -> VoterError {
    VoterError::NotNow(error.to_string())
}

/// The change that is to be made; none if all is as it is wanted.
fn check(
    status: &QuorumStatus,
    cluster_id: Option<&str>,
    wanted: &Wanted,
) -> Result<Option<MemberChange>, VoterError> {
    if cluster_id.is_some_and(|meant| meant != status.cluster_id.to_string()) {
        return Err(VoterError::InconsistentClusterId);
    }
    let members = &status.members;
    let voter = |key: &MemberKey| members.get(*key).filter(|member| member.is_voter);
    let set = |key: &MemberKey, endpoints: &[VoterEndpoint]| {
        MemberChange::Set(Member { key: *key, is_voter: true, endpoints: endpoints.to_vec() })
    };
    let change = match wanted {
        Wanted::Add(key, endpoints) => {
            if members.voters().any(|voter| voter.key.node == key.node) {
                return Err(VoterError::DuplicateVoter);
            }
            set(key, endpoints)
        }
        Wanted::Update(key, endpoints) => {
            let now = voter(key).ok_or(VoterError::VoterNotFound)?;
            if now.endpoints == *endpoints {
                return Ok(None);
            }
            set(key, endpoints)
        }
        Wanted::Remove(key) => {
            voter(key).ok_or(VoterError::VoterNotFound)?;
            if members.voters().count() == 1 {
                return Err(VoterError::Invalid(
                    "The last voter of the metadata quorum cannot be removed; add another one first."
                        .to_owned(),
                ));
            }
            MemberChange::Remove(*key)
        }
    };
    members.check(&change).map_err(VoterError::Invalid)?;
    Ok(Some(change))
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
        let add = |key| Wanted::Add(key, Vec::new());
        let remove = Wanted::Remove;
        let own = Uuid([7; 16]).to_string();
        let set = MemberChange::Set(member(key(3, 1), true));
        assert_eq!(check(&two, Some(&own), &add(key(3, 1))), Ok(Some(set)));
        assert_eq!(check(&two, None, &remove(key(2, 1))), Ok(Some(MemberChange::Remove(key(2, 1)))));
        assert_eq!(check(&two, Some("x"), &add(key(3, 1))), Err(VoterError::InconsistentClusterId));
        assert_eq!(check(&two, None, &add(key(2, 9))), Err(VoterError::DuplicateVoter));
        for missing in [key(2, 9), key(3, 1), key(5, 1)] {
            assert_eq!(check(&two, None, &remove(missing)), Err(VoterError::VoterNotFound));
        }
        let one = status([member(key(1, 1), true)]);
        assert!(matches!(check(&one, None, &remove(key(1, 1))), Err(VoterError::Invalid(_))));
    }

    #[test]
    fn a_voter_is_moved_and_nobody_else() {
        let two = status([member(key(1, 1), true), member(key(2, 1), true), member(key(3, 1), false)]);
        let there = vec![VoterEndpoint { listener: "C".to_owned(), host: "mill".to_owned(), port: 9 }];
        let update = |key| Wanted::Update(key, there.clone());
        let moved = Member { endpoints: there.clone(), ..member(key(2, 1), true) };
        assert_eq!(check(&two, None, &update(key(2, 1))), Ok(Some(MemberChange::Set(moved.clone()))));
        assert_eq!(check(&two, Some("x"), &update(key(2, 1))), Err(VoterError::InconsistentClusterId));
        for missing in [key(2, 9), key(3, 1), key(5, 1)] {
            assert_eq!(check(&two, None, &update(missing)), Err(VoterError::VoterNotFound));
        }
        let after = status([member(key(1, 1), true), moved]);
        assert_eq!(check(&after, None, &update(key(2, 1))), Ok(None), "it is there already");
    }
}
