//! What a partition answers without changing: reads, offsets, epochs.

use super::command::{OffsetFound, OffsetQuery, PartitionError, ReadReply, ReadRequest};
use super::hosted::{Partition, storage_error};
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
        let check = self.leader.borrow().check_fetch(
            request.offset,
            request.current_leader_epoch,
            request.last_fetched_epoch,
        );
        let is_beyond = matches!(&check, Err(FetchCheckError::OffsetOutOfRange { .. }))
            || request.offset >= self.leader.borrow().next_offset();
        let records = match (check, self.log.damage()) {
            // What stood there was acknowledged: a consumer must neither wait for it nor be sent elsewhere.
            (_, Some(what)) if is_beyond => Err(PartitionError::Corrupt(what)),
            (Err(error), _) => Err(PartitionError::Fetch(error)),
            (Ok(_), _) => self.records(request).await,
        };
        self.reply(records)
    }

    /// The reply to a read for which there are no records yet, or that wants none: most partitions of a fetch have
    /// nothing new.
    pub(super) fn reads_nothing(&self, request: &ReadRequest) -> Option<ReadReply> {
        let wants_nothing = request.max_bytes == 0 && !request.at_least_one;
        let is_at_end = wants_nothing || request.offset >= self.log.readable_end();
        let (offset, epoch) = (request.offset, request.current_leader_epoch);
        let is_valid = || self.leader.borrow().check_fetch(offset, epoch, request.last_fetched_epoch).is_ok();
        (is_at_end && !self.log.is_damaged() && is_valid()).then(|| self.reply(Ok(Vec::new())))
    }

    fn reply(&self, records: Result<Vec<bytes::Bytes>, PartitionError>) -> ReadReply {
        let leader = self.leader.borrow();
        ReadReply {
            high_watermark: leader.high_watermark(),
            last_stable_offset: leader.readable_end(Isolation::ReadCommitted),
            log_start_offset: leader.log_start_offset(),
            leader_epoch: leader.leader_epoch(),
            records,
        }
    }

    async fn records(&self, request: ReadRequest) -> Result<Vec<bytes::Bytes>, PartitionError> {
        match self.log.read(request.offset, request.max_bytes, request.at_least_one).await {
            Ok(outcome) => Ok(outcome.views.into_iter().map(|view| view.into_bytes()).collect()),
            // Between high watermark and log end: there is nothing for a consumer yet.
            Err(LogError::OutOfRange) if self.leader.borrow().holds(request.offset) => Ok(Vec::new()),
            Err(LogError::OutOfRange) => {
                let leader = self.leader.borrow();
                Err(PartitionError::Fetch(FetchCheckError::OffsetOutOfRange {
                    log_start_offset: leader.log_start_offset(),
                    log_end_offset: leader.next_offset(),
                }))
            }
            Err(error) => Err(storage_error(error)),
        }
    }

    /// Looks up an offset for ListOffsets.
    ///
    /// # Errors
    /// If the caller's epoch is not the leader's, or the log cannot be read.
    pub async fn find_offset(
        self: Rc<Self>,
        query: OffsetQuery,
        current_leader_epoch: LeaderEpoch,
        isolation: Isolation,
    ) -> Result<OffsetFound, PartitionError> {
        self.leader.borrow().check_epoch(current_leader_epoch).map_err(PartitionError::Epoch)?;
        let (start, end) = {
            let leader = self.leader.borrow();
            (leader.log_start_offset(), leader.readable_end(isolation))
        };
        let found = match query {
            OffsetQuery::Earliest | OffsetQuery::EarliestLocal => return Ok(self.bare_offset(start)),
            OffsetQuery::Latest => {
                // The true end is not known; an earlier one would have a client go back.
                if let Some(what) = self.log.damage() {
                    return Err(PartitionError::Corrupt(what));
                }
                let leader_epoch = self.leader.borrow().leader_epoch();
                return Ok(OffsetFound { leader_epoch, ..self.bare_offset(end) });
            }
            OffsetQuery::LatestTiered => return Ok(NONE),
            OffsetQuery::MaxTimestamp => self.log.offset_of_max_timestamp(start).await,
            OffsetQuery::Timestamp(timestamp) => self.log.offset_for_timestamp(timestamp, start).await,
        };
        // What is not yet visible to this isolation is not found.
        let found = found.map_err(storage_error)?.filter(|(offset, _)| *offset < end);
        Ok(found.map_or(NONE, |(offset, timestamp)| OffsetFound { timestamp, ..self.bare_offset(offset) }))
    }

    fn bare_offset(&self, offset: Offset) -> OffsetFound {
        let leader = self.leader.borrow();
        let epoch = leader.epochs().iter().take_while(|entry| entry.start_offset <= offset).last();
        let leader_epoch = epoch.map_or(LeaderEpoch::NONE, |entry| entry.epoch);
        OffsetFound { offset, timestamp: TimestampMs(-1), leader_epoch }
    }

    /// The end of an epoch for OffsetForLeaderEpoch.
    ///
    /// # Errors
    /// If the caller's epoch is not the leader's.
    pub fn epoch_end(
        &self,
        current_leader_epoch: LeaderEpoch,
        epoch: LeaderEpoch,
    ) -> Result<EpochEnd, PartitionError> {
        self.leader.borrow().end_offset_for_epoch(current_leader_epoch, epoch).map_err(PartitionError::Epoch)
    }
}
