//! What a partition answers without changing: reads, offsets, epochs.

use super::command::{OffsetFound, OffsetQuery, PartitionError, ReadReply, ReadRequest};
use super::hosted::{Partition, storage_error};
use super::role::Role;
use crate::log::LogError;
use crate::runtime::Runtime;
use logmill_state::partition::{EpochEnd, FetchCheckError, Isolation};
use logmill_wire::ids::{LeaderEpoch, Offset, TimestampMs};
use std::rc::Rc;

const NONE: OffsetFound =
    OffsetFound { offset: Offset(-1), timestamp: TimestampMs(-1), leader_epoch: LeaderEpoch::NONE };

impl<R: Runtime> Partition<R> {
    /// Reads batches. Only what is below the high watermark is ever returned.
    pub async fn read(self: Rc<Self>, request: ReadRequest) -> ReadReply {
        if let Some(nothing) = self.reads_nothing(&request) {
            return nothing;
        }
        let check = self.check_fetch(&request);
        let is_beyond =
            matches!(&check, Err(PartitionError::Fetch(FetchCheckError::OffsetOutOfRange { .. })))
                || request.offset >= self.role.borrow().log().next_offset();
        let records = match (check, self.log.damage()) {
            // What stood there was acknowledged: a consumer must neither wait for it nor be sent elsewhere.
            (_, Some(what)) if is_beyond => Err(PartitionError::Corrupt(what)),
            (Err(error), _) => Err(error),
            (Ok(_), _) => self.records(request).await,
        };
        self.reply(records)
    }

    fn check_fetch(&self, request: &ReadRequest) -> Result<(), PartitionError> {
        let role = self.role.borrow();
        let (offset, epoch) = (request.offset, request.current_leader_epoch);
        match &*role {
            Role::Leads(leader) => leader.check_fetch(offset, epoch, request.last_fetched_epoch),
            // What is not known to be the leader's is nobody's to read (KIP-392).
            Role::Follows(follower) if request.leader_only || !follower.is_following() => {
                return Err(PartitionError::NotLeader);
            }
            Role::Follows(follower) => follower.check_fetch(offset, epoch, request.last_fetched_epoch),
        }
        .map_err(PartitionError::Fetch)
    }

    /// The reply to a read for which there are no records yet, or that wants none: most partitions of a fetch have
    /// nothing new.
    pub(super) fn reads_nothing(&self, request: &ReadRequest) -> Option<ReadReply> {
        let wants_nothing = request.max_bytes == 0 && !request.at_least_one;
        let is_at_end = wants_nothing || request.offset >= self.role.borrow().log().high_watermark();
        let is_valid = || self.check_fetch(request).is_ok();
        (is_at_end && !self.log.is_damaged() && is_valid()).then(|| self.reply(Ok(Vec::new())))
    }

    fn reply(&self, records: Result<Vec<bytes::Bytes>, PartitionError>) -> ReadReply {
        let role = self.role.borrow();
        let log = role.log();
        ReadReply {
            high_watermark: log.high_watermark(),
            last_stable_offset: log.readable_end(Isolation::ReadCommitted),
            log_start_offset: log.log_start_offset(),
            leader_epoch: match &*role {
                Role::Leads(leader) => leader.leader_epoch(),
                Role::Follows(follower) => follower.leader_epoch(),
            },
            records,
        }
    }

    async fn records(&self, request: ReadRequest) -> Result<Vec<bytes::Bytes>, PartitionError> {
        // Of several replicas this one may have more on its disk than was committed.
        let below = self.replicated.get().map(|_| self.role.borrow().log().high_watermark());
        let read = self.log.read(request.offset, request.max_bytes, request.at_least_one, below).await;
        match read {
            Ok(outcome) => Ok(outcome.views.into_iter().map(|view| view.into_bytes()).collect()),
            // Between high watermark and log end: there is nothing for a consumer yet.
            Err(LogError::OutOfRange) if self.role.borrow().log().holds(request.offset) => Ok(Vec::new()),
            Err(LogError::OutOfRange) => {
                let role = self.role.borrow();
                Err(PartitionError::Fetch(FetchCheckError::OffsetOutOfRange {
                    log_start_offset: role.log().log_start_offset(),
                    log_end_offset: role.log().next_offset(),
                }))
            }
            Err(error) => Err(storage_error(error)),
        }
    }

    /// Looks up an offset for ListOffsets.
    ///
    /// # Errors
    /// If this broker does not lead the partition, the caller's epoch is not the leader's, or the log cannot be read;
    /// [`PartitionError::OffsetNotAvailable`] of a leader that does not yet know what was committed (KIP-207).
    pub async fn find_offset(
        self: Rc<Self>,
        query: OffsetQuery,
        current_leader_epoch: LeaderEpoch,
        isolation: Isolation,
    ) -> Result<OffsetFound, PartitionError> {
        let (start, end, leader_epoch, is_end_known) = {
            let role = self.role.borrow();
            let leader = role.leader().ok_or(PartitionError::NotLeader)?;
            leader.check_epoch(current_leader_epoch).map_err(PartitionError::Epoch)?;
            let (start, end) = (leader.log_start_offset(), leader.readable_end(isolation));
            (start, end, leader.leader_epoch(), leader.is_high_watermark_current())
        };
        let found = match query {
            OffsetQuery::Earliest | OffsetQuery::EarliestLocal => return Ok(self.bare_offset(start)),
            OffsetQuery::Latest => {
                // The true end is not known; an earlier one would have a client go back.
                if let Some(what) = self.log.damage() {
                    return Err(PartitionError::Corrupt(what));
                }
                if !is_end_known {
                    return Err(PartitionError::OffsetNotAvailable);
                }
                return Ok(OffsetFound { leader_epoch, ..self.bare_offset(end) });
            }
            OffsetQuery::LatestTiered => return Ok(NONE),
            OffsetQuery::MaxTimestamp => self.log.offset_of_max_timestamp(start).await,
            OffsetQuery::Timestamp(timestamp) => self.log.offset_for_timestamp(timestamp, start).await,
        };
        // What is not yet visible to this isolation is not found.
        match found.map_err(storage_error)?.filter(|(offset, _)| *offset < end) {
            Some((offset, timestamp)) => Ok(OffsetFound { timestamp, ..self.bare_offset(offset) }),
            None if !is_end_known => Err(PartitionError::OffsetNotAvailable),
            None => Ok(NONE),
        }
    }

    fn bare_offset(&self, offset: Offset) -> OffsetFound {
        let role = self.role.borrow();
        let epoch = role.log().epochs().iter().take_while(|entry| entry.start_offset <= offset).last();
        let leader_epoch = epoch.map_or(LeaderEpoch::NONE, |entry| entry.epoch);
        OffsetFound { offset, timestamp: TimestampMs(-1), leader_epoch }
    }

    /// The end of an epoch for OffsetForLeaderEpoch.
    ///
    /// # Errors
    /// If this broker does not lead the partition, or the caller's epoch is not the leader's.
    pub fn epoch_end(
        &self,
        current_leader_epoch: LeaderEpoch,
        epoch: LeaderEpoch,
    ) -> Result<EpochEnd, PartitionError> {
        let role = self.role.borrow();
        let leader = role.leader().ok_or(PartitionError::NotLeader)?;
        leader.end_offset_for_epoch(current_leader_epoch, epoch).map_err(PartitionError::Epoch)
    }
}
