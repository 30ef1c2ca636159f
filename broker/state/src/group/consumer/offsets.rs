//! Who may commit and fetch a consumer group's offsets, and how they age.

use super::ConsumerGroup;
use super::member::Member;
use crate::group::effects::Context;
use crate::group::offsets::Aging;
use crate::group::request::{CommitRequest, NamedPartition};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::TopicId;

/// The first version of OffsetCommit that is told STALE_MEMBER_EPOCH.
const KNOWS_MEMBER_EPOCHS: i16 = 9;

impl ConsumerGroup {
    /// Whether the sender may commit. A member whose epoch has moved on may still commit for the partitions that it
    /// has held since its older epoch (KIP-1251).
    ///
    /// # Errors
    /// UNKNOWN_MEMBER_ID, STALE_MEMBER_EPOCH (UNSUPPORTED_VERSION for who cannot know it), or ILLEGAL_GENERATION for
    /// a member that speaks the classic protocol.
    pub fn admit_commit(&mut self, request: &CommitRequest, cx: &Context<'_>) -> Result<(), ErrorCode> {
        let epoch = request.generation_or_epoch;
        // An operator, or a consumer that assigns its partitions itself.
        if epoch < 0 && self.is_empty() {
            return Ok(());
        }
        let member = self.member(&request.member.member_id)?;
        if !member.is_classic() && request.version < KNOWS_MEMBER_EPOCHS {
            return Err(ErrorCode::UnsupportedVersion);
        }
        let held_since = |partition: &NamedPartition, topic_id: TopicId| {
            let topic_id = if topic_id.is_zero() {
                cx.image.topic_by_name(&partition.topic).map(|topic| topic.id)?
            } else {
                topic_id
            };
            let current = &member.current;
            current
                .assigned
                .epoch_of(topic_id, partition.partition)
                .or_else(|| current.pending_revocation.epoch_of(topic_id, partition.partition))
        };
        if epoch == member.current.epoch {
            return Ok(());
        }
        let still_holds_all = || {
            request.offsets.iter().all(|(partition, topic_id, _)| {
                held_since(partition, *topic_id).is_some_and(|since| since <= epoch)
            })
        };
        if !member.is_classic() && (0..member.current.epoch).contains(&epoch) && still_holds_all() {
            return Ok(());
        }
        Err(stale(member))
    }

    /// Whether this member may fetch offsets with this epoch (OffsetFetch version 9 on).
    ///
    /// # Errors
    /// UNKNOWN_MEMBER_ID, STALE_MEMBER_EPOCH, or ILLEGAL_GENERATION for a member that speaks the classic protocol.
    pub fn admit_fetch(&self, member_id: &str, member_epoch: i32) -> Result<(), ErrorCode> {
        // An operator, who has neither.
        if member_id.is_empty() && member_epoch < 0 {
            return Ok(());
        }
        let member = self.member(member_id)?;
        if member.current.epoch == member_epoch { Ok(()) } else { Err(stale(member)) }
    }

    fn member(&self, member_id: &str) -> Result<&Member, ErrorCode> {
        self.members.get(member_id).ok_or(ErrorCode::UnknownMemberId)
    }

    /// Whether a member is subscribed to the topic.
    #[must_use]
    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        let is_among =
            |topics: &[std::sync::Arc<str>]| topics.binary_search_by(|name| (**name).cmp(topic)).is_ok();
        self.topic_names.contains_key(topic) || self.regexes.values().any(|regex| is_among(&regex.topics))
    }

    /// Since when the group's offsets age: each from its commit on, but for topics that a member is subscribed to.
    #[must_use]
    pub fn aging(&self) -> Aging {
        Aging::SinceCommit
    }
}

fn stale(member: &Member) -> ErrorCode {
    if member.is_classic() { ErrorCode::IllegalGeneration } else { ErrorCode::StaleMemberEpoch }
}
