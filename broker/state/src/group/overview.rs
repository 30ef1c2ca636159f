//! Describing, listing and deleting groups.

use super::membership::Touched;
use super::{Arc, Context, Effects, ErrorCode, Group, GroupReply, Groups, ListRequest, Refused, Ticket};

impl Groups {
    pub(super) fn describe_classic(&self, ticket: Ticket, id: &Arc<str>, out: &mut Effects) -> Touched {
        let reply = match self.groups.get(id) {
            Some(Group::Classic(group)) => Ok(group.describe()),
            Some(Group::Consumer(_)) => Err(not_a("classic", id)),
            None => Err(not_found(id)),
        };
        out.reply(ticket, GroupReply::DescribeClassic(reply));
        None
    }

    pub(super) fn describe_consumer(
        &self,
        ticket: Ticket,
        id: &Arc<str>,
        cx: &Context<'_>,
        out: &mut Effects,
    ) -> Touched {
        let reply = match self.groups.get(id) {
            Some(Group::Consumer(group)) => Ok(group.describe(cx)),
            Some(Group::Classic(_)) => Err(not_a("consumer", id)),
            None => Err(not_found(id)),
        };
        out.reply(ticket, GroupReply::DescribeConsumer(reply));
        None
    }

    pub(super) fn delete(&mut self, ticket: Ticket, id: Arc<str>, out: &mut Effects) -> Touched {
        let error = match self.groups.get(&id) {
            None => ErrorCode::GroupIdNotFound,
            Some(group) if !group.is_empty() => ErrorCode::NonEmptyGroup,
            Some(_) => {
                self.remove_group(&id, out);
                ErrorCode::None
            }
        };
        out.reply(ticket, GroupReply::Delete(error));
        Some(id)
    }

    pub(super) fn list(&self, ticket: Ticket, request: &ListRequest, out: &mut Effects) -> Touched {
        let wanted = |filter: &[Arc<str>], value: &str| {
            filter.is_empty() || filter.iter().any(|name| name.eq_ignore_ascii_case(value))
        };
        let groups = self
            .groups
            .iter()
            .map(|(id, group)| group.listed(id))
            .filter(|group| wanted(&request.states, group.state) && wanted(&request.types, group.group_type))
            .collect();
        out.reply(ticket, GroupReply::List(groups));
        None
    }
}

fn not_found(id: &str) -> Refused {
    Refused::new(ErrorCode::GroupIdNotFound, format!("Group {id} not found."))
}

fn not_a(kind: &str, id: &str) -> Refused {
    Refused::new(ErrorCode::GroupIdNotFound, format!("Group {id} is not a {kind} group."))
}
