//! LeaveGroup: members leave, or an administrator removes them (KIP-345).

use super::{ClassicGroup, State};
use crate::group::effects::{Context, Effects};
use crate::group::reply::{GroupReply, LeftMember};
use crate::group::request::{LeaveRequest, MemberIdentity, Ticket};
use logmill_wire::error_codes::ErrorCode;
use std::sync::Arc;

impl ClassicGroup {
    /// LeaveGroup.
    pub fn leave(&mut self, ticket: Ticket, request: &LeaveRequest, cx: &Context<'_>, out: &mut Effects) {
        let mut left = Vec::with_capacity(request.members.len());
        let mut has_left = false;
        for (identity, _) in &request.members {
            let found = self.find_leaver(identity);
            if let Ok(id) = &found {
                self.remove(id, out);
                has_left = true;
            }
            left.push(LeftMember {
                member_id: Arc::clone(&identity.member_id),
                instance_id: identity.instance_id.clone(),
                error: found.err().unwrap_or(ErrorCode::None),
            });
        }
        out.reply(ticket, GroupReply::Leave(Ok(left)));
        // An empty group that loses an id it had given out stays as it is.
        if has_left && self.state != State::Empty {
            self.rebalance_or_complete(cx, out);
        }
    }

    fn find_leaver(&self, identity: &MemberIdentity) -> Result<Arc<str>, ErrorCode> {
        if identity.member_id.is_empty() {
            let instance_id = identity.instance_id.as_deref();
            let id = instance_id.and_then(|instance_id| self.members.static_id(instance_id));
            return id.cloned().ok_or(ErrorCode::UnknownMemberId);
        }
        if !self.pending_joins.contains(&identity.member_id) {
            self.members.validate(identity)?;
        }
        Ok(Arc::clone(&identity.member_id))
    }
}
