//! Groups that change their protocol while they have members (KIP-848, "Migration"), as far as
//! `group.consumer.migration.policy` lets them: a classic group of consumers with the first member that speaks the
//! consumer protocol, and back when the last such member has gone.

use super::classic::ClassicGroup;
use super::consumer::ConsumerGroup;
use super::{Arc, Context, Effects, ErrorCode, Group, Groups, Refused};

/// Which way groups may go.
struct Policy {
    upgrade: bool,
    downgrade: bool,
}

impl Policy {
    fn of(cx: &Context<'_>) -> Self {
        let is = |name: &str| cx.settings.consumer_migration_policy.eq_ignore_ascii_case(name);
        let both = is("bidirectional");
        Self { upgrade: both || is("upgrade"), downgrade: both || is("downgrade") }
    }
}

impl Groups {
    /// Makes a consumer group of a classic one that has members, for one that speaks the consumer protocol.
    ///
    /// # Errors
    /// GROUP_ID_NOT_FOUND, if the group cannot or may not be made one.
    pub(super) fn upgrade(
        &mut self,
        id: &Arc<str>,
        cx: &Context<'_>,
        out: &mut Effects,
    ) -> Result<(), Refused> {
        let refused = |message: String| Err(Refused::new(ErrorCode::GroupIdNotFound, message));
        let Some(Group::Classic(classic)) = self.groups.get_mut(id) else { return Ok(()) };
        let capacity = usize::try_from(cx.settings.consumer_max_size).unwrap_or(usize::MAX);
        let Some((value, protocols)) =
            classic.to_take_over().filter(|_| Policy::of(cx).upgrade && classic.member_count() < capacity)
        else {
            return refused(format!("Group {id} is not a consumer group."));
        };
        let mut records = Effects::default();
        let Some(group) = ConsumerGroup::taken_over(Arc::clone(id), &value, &protocols, cx, &mut records)
        else {
            return refused(format!(
                "Cannot upgrade the classic group {id} to consumer group because the embedded consumer protocol is \
                 malformed."
            ));
        };
        classic.hand_over(out);
        out.records.append(&mut records.records);
        self.groups.insert(Arc::clone(id), Group::Consumer(group));
        Ok(())
    }

    /// Makes a classic group of a consumer group of which all members speak the classic protocol.
    pub(super) fn downgrade_if_all_classic(&mut self, id: &Arc<str>, cx: &Context<'_>, out: &mut Effects) {
        let Some(Group::Consumer(group)) = self.groups.get(id) else { return };
        let capacity = usize::try_from(cx.settings.max_size).unwrap_or(usize::MAX);
        if !group.is_all_classic() || !Policy::of(cx).downgrade || group.member_count() > capacity {
            return;
        }
        let Some(value) = group.to_take_over(cx) else { return };
        group.tombstones(out);
        let classic = ClassicGroup::taken_over(Arc::clone(id), value, cx, out);
        self.groups.insert(Arc::clone(id), Group::Classic(classic));
    }
}
