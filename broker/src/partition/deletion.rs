//! Deleting records: the log's start moves, and whoever asked for it hears of it when a restart would find it so, here and
//! on the followers in sync, one of which may lead next.

use super::command::PartitionError;
use super::hosted::{Partition, storage_error};
use super::role::{Role, Standing};
use crate::runtime::{Runtime, oneshot};
use logmill_wire::ids::Offset;
use std::rc::Rc;

type DeletionReply = oneshot::Sender<Result<Offset, PartitionError>>;

/// Somebody who waits until the log starts at an offset.
pub(super) struct Deletion {
    start: Offset,
    /// Whether the followers in sync are waited for, too.
    everywhere: bool,
    reply: DeletionReply,
}

impl<R: Runtime> Partition<R> {
    /// Deletes the records before `before` (-1: the high watermark), as DeleteRecords asks for it (KIP-107); the answer
    /// is the log's start once it is durable.
    pub fn delete_records(self: &Rc<Self>, before: Offset, reply: DeletionReply) {
        let cleanup = self.policy.get().cleanup;
        if self.standing.get() != Standing::Leads {
            reply.send(Err(self.refusal()));
        } else if cleanup.compact && !cleanup.delete {
            reply.send(Err(PartitionError::NotDeletable));
        } else {
            let start = self.role.borrow().log().delete_records(before);
            match start {
                Ok(start) => self.start_at(start, true, reply),
                Err(error) => reply.send(Err(PartitionError::LogStart(error))),
            }
        }
    }

    /// Moves the log's start to an offset that is not above the high watermark; the answer comes when it is durable here, or
    /// on the followers in sync as well.
    pub(super) fn start_at(&self, start: Offset, everywhere: bool, reply: DeletionReply) {
        let known = self.role.borrow().log().log_start_offset();
        if start > known
            && let Err(error) = self.log.advance_start(start)
        {
            reply.send(Err(storage_error(error)));
            return;
        }
        self.deletions.borrow_mut().push(Deletion { start, everywhere, reply });
        self.answer_deletions();
    }

    /// Takes note that a restart would find the log starting at `start`.
    pub(super) fn log_starts_at(&self, start: Offset) {
        let moved = match &mut *self.role.borrow_mut() {
            Role::Leads(leader) => leader.advance_log_start(start),
            Role::Follows(follower) => {
                follower.advance_log_start(start);
                Ok(false)
            }
        };
        match moved {
            Ok(true) => {
                if let Some(replicated) = self.replicated.get() {
                    replicated.push_later(self.log.key());
                }
            }
            Ok(false) => {}
            Err(error) => {
                tracing::error!(%error, "the journal has a log's start that its partition does not allow");
                return;
            }
        }
        if let Some(replicated) = self.replicated.get() {
            // A leader waits for it; of one that leads itself nothing is said.
            self.say_again(replicated, false);
        }
        self.answer_deletions();
    }

    /// Answers those who wait for nothing any more.
    pub(super) fn answer_deletions(&self) {
        if self.deletions.borrow().is_empty() {
            return;
        }
        let (here, low_watermark) = match &*self.role.borrow() {
            Role::Leads(leader) => (leader.log_start_offset(), leader.low_watermark()),
            Role::Follows(follower) => (follower.log().log_start_offset(), Offset(-1)),
        };
        let reached = |deletion: &Deletion| if deletion.everywhere { low_watermark } else { here };
        let (due, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut *self.deletions.borrow_mut())
            .into_iter()
            .partition(|deletion| deletion.start <= reached(deletion));
        *self.deletions.borrow_mut() = rest;
        for deletion in due {
            let reached = reached(&deletion);
            deletion.reply.send(Ok(reached));
        }
    }

    pub(super) fn refuse_deletions(&self, error: &PartitionError) {
        for deletion in std::mem::take(&mut *self.deletions.borrow_mut()) {
            deletion.reply.send(Err(error.clone()));
        }
    }
}
