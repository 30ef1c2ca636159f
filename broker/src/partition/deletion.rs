//! Deleting records: the log's start moves, and whoever asked for it hears of it when a restart would find it so.

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
                Ok(start) => self.start_at(start, reply),
                Err(error) => reply.send(Err(PartitionError::LogStart(error))),
            }
        }
    }

    /// Moves the log's start to an offset that is not above the high watermark.
    pub(super) fn start_at(&self, start: Offset, reply: DeletionReply) {
        let known = self.role.borrow().log().log_start_offset();
        if start <= known {
            reply.send(Ok(known));
            return;
        }
        match self.log.advance_start(start) {
            Ok(()) => self.deletions.borrow_mut().push(Deletion { start, reply }),
            Err(error) => reply.send(Err(storage_error(error))),
        }
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
        let low_watermark = self.role.borrow().log().log_start_offset();
        let (due, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut *self.deletions.borrow_mut())
            .into_iter()
            .partition(|deletion| deletion.start <= low_watermark);
        *self.deletions.borrow_mut() = rest;
        for deletion in due {
            deletion.reply.send(Ok(low_watermark));
        }
    }

    pub(super) fn refuse_deletions(&self, error: &PartitionError) {
        for deletion in std::mem::take(&mut *self.deletions.borrow_mut()) {
            deletion.reply.send(Err(error.clone()));
        }
    }
}
