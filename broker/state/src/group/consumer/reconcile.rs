//! The next step of a member towards its target (KIP-848): first it gives up what it shall not have, then it goes
//! on to the target's epoch, and gets what it shall have as soon as nobody else holds it.

use super::assignment::{Assignment, Held};
use super::member::{CurrentAssignment, MemberState};
use crate::group::reply::Refused;
use crate::group::request::TopicPartitions;
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{PartitionIndex, TopicId};
use std::collections::BTreeSet;

/// Where a member is to go, and what is known on the way.
pub struct Course<'a> {
    /// What it shall own.
    pub target: &'a Assignment,
    /// The epoch of that.
    pub target_epoch: i32,
    /// What it says that it owns; `None` if it does not say.
    pub owned: Option<&'a [TopicPartitions]>,
    /// The topics that it wants, if that has just changed.
    pub subscribed: Option<&'a BTreeSet<TopicId>>,
    /// Whether nobody else holds a partition.
    pub is_free: &'a dyn Fn(TopicId, PartitionIndex) -> bool,
}

impl Course<'_> {
    /// The member's next step; `None` if it stays where it is.
    ///
    /// # Errors
    /// FENCED_MEMBER_EPOCH for a member in a state that only a later release knows, unless it owns nothing.
    pub fn next(&self, current: &CurrentAssignment) -> Result<Option<CurrentAssignment>, Refused> {
        let next = match current.state {
            MemberState::Stable if current.epoch == self.target_epoch => None,
            MemberState::UnrevokedPartitions if self.still_owns(&current.pending_revocation) => {
                self.drop_unsubscribed(current)
            }
            MemberState::UnrevokedPartitions => Some(self.compute(current, current.epoch.saturating_add(1))),
            MemberState::Stable | MemberState::UnreleasedPartitions => {
                Some(self.compute(current, current.epoch))
            }
            MemberState::Unknown if self.owned.is_some_and(<[TopicPartitions]>::is_empty) => {
                Some(self.compute(current, self.target_epoch))
            }
            MemberState::Unknown => {
                return Err(Refused::new(
                    ErrorCode::FencedMemberEpoch,
                    "The member is in an unknown state. It must abandon all its partitions and rejoin.",
                ));
            }
        };
        Ok(next.filter(|next| next != current))
    }

    /// Who does not say what it owns may still own all of it.
    fn still_owns(&self, pending_revocation: &Held) -> bool {
        self.owned.is_none_or(|owned| {
            owned.iter().any(|topic| {
                topic.partitions.iter().any(|index| pending_revocation.contains(topic.topic_id, *index))
            })
        })
    }

    /// A member that still gives up partitions is not told any more to own what it no longer wants.
    fn drop_unsubscribed(&self, current: &CurrentAssignment) -> Option<CurrentAssignment> {
        let subscribed = self.subscribed?;
        let mut next = current.clone();
        next.assigned = Held::default();
        for (topic, index, epoch) in current.assigned.iter() {
            let held =
                if subscribed.contains(&topic) { &mut next.assigned } else { &mut next.pending_revocation };
            held.insert(topic, index, epoch);
        }
        Some(next)
    }

    fn compute(&self, current: &CurrentAssignment, epoch: i32) -> CurrentAssignment {
        let mut assigned = Held::default();
        let mut pending_revocation = Held::default();
        for (topic, index, since) in current.assigned.iter() {
            let held =
                if self.target.contains(topic, index) { &mut assigned } else { &mut pending_revocation };
            held.insert(topic, index, since);
        }
        let previous_epoch = current.epoch;
        if !pending_revocation.is_empty() && self.still_owns(&pending_revocation) {
            let state = MemberState::UnrevokedPartitions;
            return CurrentAssignment { epoch, previous_epoch, state, assigned, pending_revocation };
        }
        let mut state = MemberState::Stable;
        for (topic, index) in self.target.iter() {
            if assigned.contains(topic, index) {
                continue;
            }
            if (self.is_free)(topic, index) {
                assigned.insert(topic, index, self.target_epoch);
            } else {
                state = MemberState::UnreleasedPartitions;
            }
        }
        let pending_revocation = Held::default();
        CurrentAssignment { epoch: self.target_epoch, previous_epoch, state, assigned, pending_revocation }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: TopicId = TopicId::from_random(1);

    fn target(indexes: &[i32]) -> Assignment {
        indexes.iter().map(|index| (TOPIC, PartitionIndex(*index))).collect()
    }

    fn held(indexes: &[(i32, i32)]) -> Held {
        indexes.iter().map(|(index, epoch)| (TOPIC, PartitionIndex(*index), *epoch)).collect()
    }

    fn owned(indexes: &[i32]) -> Vec<TopicPartitions> {
        vec![TopicPartitions {
            topic_id: TOPIC,
            partitions: indexes.iter().copied().map(PartitionIndex).collect(),
        }]
    }

    fn current(
        epoch: i32,
        state: MemberState,
        assigned: &[(i32, i32)],
        pending: &[(i32, i32)],
    ) -> CurrentAssignment {
        CurrentAssignment {
            epoch,
            previous_epoch: epoch,
            state,
            assigned: held(assigned),
            pending_revocation: held(pending),
        }
    }

    fn step(
        from: &CurrentAssignment,
        goal: &[i32],
        epoch: i32,
        says: Option<&[TopicPartitions]>,
        taken: &[i32],
    ) -> Option<CurrentAssignment> {
        let course = Course {
            target: &target(goal),
            target_epoch: epoch,
            owned: says,
            subscribed: None,
            is_free: &|_, index| !taken.contains(&index.0),
        };
        course.next(from).unwrap()
    }

    #[test]
    fn a_stable_member_at_the_target_stays() {
        let from = current(5, MemberState::Stable, &[(1, 5)], &[]);
        assert_eq!(step(&from, &[1], 5, None, &[]), None);
    }

    #[test]
    fn a_member_goes_on_with_what_is_free_and_keeps_the_epochs_of_the_rest() {
        let from = current(5, MemberState::Stable, &[(1, 4)], &[]);
        let next = step(&from, &[1, 2], 6, None, &[1]).unwrap();
        assert_eq!((next.epoch, next.previous_epoch, next.state), (6, 5, MemberState::Stable));
        assert_eq!(next.assigned, held(&[(1, 4), (2, 6)]));
    }

    #[test]
    fn a_member_gives_up_before_its_epoch_moves() {
        let from = current(5, MemberState::Stable, &[(1, 5), (2, 5)], &[]);
        let next = step(&from, &[2, 3], 6, None, &[]).unwrap();
        assert_eq!((next.epoch, next.state), (5, MemberState::UnrevokedPartitions));
        assert_eq!((next.assigned, next.pending_revocation), (held(&[(2, 5)]), held(&[(1, 5)])));
    }

    #[test]
    fn a_member_that_says_it_has_given_up_already_goes_on_at_once() {
        let from = current(5, MemberState::Stable, &[(1, 5), (2, 5)], &[]);
        let next = step(&from, &[2], 6, Some(&owned(&[2])), &[]).unwrap();
        assert_eq!((next.epoch, next.state), (6, MemberState::Stable));
    }

    #[test]
    fn a_member_that_has_not_given_up_or_does_not_say_stays() {
        let from = current(5, MemberState::UnrevokedPartitions, &[(2, 5)], &[(1, 5)]);
        assert_eq!(step(&from, &[2], 6, None, &[]), None);
        assert_eq!(step(&from, &[2], 6, Some(&owned(&[1, 2])), &[]), None);
        let next = step(&from, &[2], 6, Some(&owned(&[2])), &[]).unwrap();
        assert_eq!((next.epoch, next.state), (6, MemberState::Stable));
    }

    #[test]
    fn a_member_that_gave_up_may_have_to_give_up_more_for_a_later_target() {
        let from = current(5, MemberState::UnrevokedPartitions, &[(2, 5), (3, 5)], &[(1, 5)]);
        let next = step(&from, &[3], 8, Some(&owned(&[2, 3])), &[]).unwrap();
        assert_eq!((next.epoch, next.state), (6, MemberState::UnrevokedPartitions));
        assert_eq!(next.pending_revocation, held(&[(2, 5)]));
    }

    #[test]
    fn a_member_waits_for_what_others_hold() {
        let from = current(5, MemberState::Stable, &[], &[]);
        let waiting = step(&from, &[1, 2], 6, None, &[1]).unwrap();
        assert_eq!((waiting.epoch, waiting.state), (6, MemberState::UnreleasedPartitions));
        assert_eq!(waiting.assigned, held(&[(2, 6)]));
        let still = step(&waiting, &[1, 2], 6, None, &[1]).map(|next| next.state);
        assert!(still.is_none_or(|state| state == MemberState::UnreleasedPartitions));
        let done = step(&waiting, &[1, 2], 6, None, &[]).unwrap();
        assert_eq!((done.state, done.assigned), (MemberState::Stable, held(&[(1, 6), (2, 6)])));
    }

    #[test]
    fn a_member_that_still_gives_up_loses_topics_that_it_no_longer_wants() {
        let from = current(5, MemberState::UnrevokedPartitions, &[(2, 5)], &[(1, 5)]);
        let course = Course {
            target: &target(&[]),
            target_epoch: 7,
            owned: None,
            subscribed: Some(&BTreeSet::new()),
            is_free: &|_, _| true,
        };
        let next = course.next(&from).unwrap().unwrap();
        assert_eq!((next.epoch, next.assigned.is_empty()), (5, true));
        assert_eq!(next.pending_revocation, held(&[(1, 5), (2, 5)]));
    }

    #[test]
    fn a_member_in_an_unknown_state_is_fenced_unless_it_owns_nothing() {
        let from = current(5, MemberState::Unknown, &[], &[]);
        let course = |owned| Course {
            target: const { &Assignment::EMPTY },
            target_epoch: 6,
            owned,
            subscribed: None,
            is_free: &|_, _| true,
        };
        assert_eq!(course(None).next(&from).unwrap_err().code, ErrorCode::FencedMemberEpoch);
        assert_eq!(course(Some(&[])).next(&from).unwrap().unwrap().epoch, 6);
    }
}
