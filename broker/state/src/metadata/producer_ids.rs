//! Producer ids, which brokers get in blocks (KIP-730).

use std::fmt;

use logmill_wire::ids::{NodeId, ProducerId};

use super::image::Image;
use super::record::Record;

/// Producer ids in one block, as in Kafka.
pub const PRODUCER_ID_BLOCK_SIZE: i64 = 1000;

/// Producer ids that one broker may give out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProducerIdBlock {
    /// The first.
    pub first: ProducerId,
    /// How many.
    pub count: i64,
}

impl ProducerIdBlock {
    /// Takes the next id out of the block; `None` if it is used up.
    pub fn take(&mut self) -> Option<ProducerId> {
        if self.count <= 0 {
            return None;
        }
        let taken = self.first;
        self.first = ProducerId(taken.0 + 1);
        self.count -= 1;
        Some(taken)
    }
}

/// Why there is no block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProducerIdsError {
    /// BROKER_ID_NOT_REGISTERED: no such broker.
    BrokerNotRegistered(NodeId),
    /// UNKNOWN_SERVER_ERROR: producer ids end at 2^63 - 1.
    Exhausted,
}

impl fmt::Display for ProducerIdsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BrokerNotRegistered(id) => {
                write!(f, "broker {id} is not registered and gets no producer ids")
            }
            Self::Exhausted => f.write_str("all producer ids are given out"),
        }
    }
}

impl std::error::Error for ProducerIdsError {}

impl Image {
    /// Decides on a broker's request for producer ids. The block may be used once the record is committed.
    ///
    /// # Errors
    /// [`ProducerIdsError`].
    pub fn decide_allocate_producer_ids(
        &self,
        broker_id: NodeId,
    ) -> Result<(Record, ProducerIdBlock), ProducerIdsError> {
        if self.broker(broker_id).is_none() {
            return Err(ProducerIdsError::BrokerNotRegistered(broker_id));
        }
        let first = self.next_producer_id();
        let next_producer_id =
            first.checked_add(PRODUCER_ID_BLOCK_SIZE).ok_or(ProducerIdsError::Exhausted)?;
        let block = ProducerIdBlock { first: ProducerId(first), count: PRODUCER_ID_BLOCK_SIZE };
        Ok((Record::ProducerIdsAllocated { broker_id, next_producer_id }, block))
    }
}
