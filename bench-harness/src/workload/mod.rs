//! What load a run puts on a broker: a small file, or options, as keys with values.

mod file;
mod keys;
mod open_messaging;

pub use file::load;
pub use keys::assign;

use crate::schedule::Arrivals;
use logmill_wire::compression::Codec;
use serde::Serialize;

/// What a broker has done when it acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Acks {
    /// No acknowledgement: nothing is known of latency or success.
    #[serde(rename = "0")]
    None,
    /// The leader has it.
    #[serde(rename = "1")]
    Leader,
    /// All in-sync replicas have it.
    #[serde(rename = "all")]
    All,
}

impl Acks {
    /// The number in a Produce request.
    #[must_use]
    pub const fn on_the_wire(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Leader => 1,
            Self::All => -1,
        }
    }
}

/// A load. Each field is a key of workload files; `keys.rs` has the values that are allowed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Workload {
    /// What to call it.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Topics; everything below is per topic, except rate and duration.
    pub topics: u32,
    /// Partitions of each topic.
    pub partitions: u32,
    /// Copies of each partition; -1 for the broker's default (KIP-464).
    pub replication_factor: i16,
    /// Bytes of each record's value.
    pub record_size: u32,
    /// Bytes of a batch before compression; at least one record goes in.
    pub batch_size: u32,
    /// Bytes of each record's key; 0 for records without a key.
    pub key_size: u32,
    /// How many different keys there are.
    pub distinct_keys: u32,
    /// How batches are compressed.
    #[serde(serialize_with = "codec_name")]
    pub codec: Codec,
    /// What the broker has done when it acknowledges.
    pub acks: Acks,
    /// Send with producer id and sequence (KIP-98).
    pub idempotent: bool,
    /// Producers of each topic, each with a connection to each leader.
    pub producers: u32,
    /// Requests that each connection of a producer may have unanswered.
    pub in_flight: u32,
    /// Records per second of all producers, in an open loop; 0 sends as fast as `in_flight` allows.
    pub rate: u64,
    /// How due times follow each other in an open loop.
    pub arrivals: Arrivals,
    /// Consumers of each subscription, which share its partitions.
    pub consumers: u32,
    /// Subscriptions, each of which reads everything.
    pub fan_out: u32,
    /// Consumers start at the first offset, not at the end; without producers they end where the log ended.
    pub from_beginning: bool,
    /// Bytes of one Fetch response, and of one partition in it.
    pub fetch_size: u32,
    /// Milliseconds that the broker may wait for the first record of a Fetch.
    pub fetch_wait_ms: u32,
    /// Check each fetched batch's CRC, as Kafka's consumers do.
    pub check_crc: bool,
    /// 10⁶ bytes that are written before the run, as fast as possible and not measured.
    pub backlog_mb: u64,
    /// Readers that read everything that is there from the beginning, over and over, while the run lasts.
    pub backlog_readers: u32,
    /// Members of a consumer group that take part in nothing but rebalances (KIP-848).
    pub group_members: u32,
    /// Milliseconds between a member's leaving or joining and the next one.
    pub rebalance_every_ms: u64,
    /// Milliseconds between a member's heartbeats.
    pub heartbeat_ms: u64,
    /// Seconds that are left out at the start.
    pub warm_up: u64,
    /// Seconds of the run, warm-up included; 0 if `records` ends it.
    pub duration: u64,
    /// Records after which producers or consumers end; 0 if `duration` ends the run.
    pub records: u64,
    /// The generator's threads go ahead of all ordinary threads of the host (`SCHED_RR`), so that a broker that takes
    /// all cores cannot make it late. For open loops on a shared host; needs the right to do so.
    pub realtime: bool,
    /// In an open loop, the largest 99th percentile of the generator's own lag with which the result counts.
    pub lag_limit_us: u64,
}

fn codec_name<S: serde::Serializer>(codec: &Codec, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(codec.name())
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            name: "unnamed".to_owned(),
            description: String::new(),
            topics: 1,
            partitions: 6,
            replication_factor: -1,
            record_size: 1024,
            batch_size: 16_384,
            key_size: 0,
            distinct_keys: 1000,
            codec: Codec::None,
            acks: Acks::All,
            idempotent: false,
            producers: 1,
            in_flight: 5,
            rate: 0,
            arrivals: Arrivals::Constant,
            consumers: 0,
            fan_out: 1,
            from_beginning: false,
            fetch_size: 1 << 20,
            fetch_wait_ms: 500,
            check_crc: true,
            backlog_mb: 0,
            backlog_readers: 0,
            group_members: 0,
            rebalance_every_ms: 2000,
            heartbeat_ms: 500,
            warm_up: 0,
            duration: 10,
            records: 0,
            realtime: false,
            lag_limit_us: 1000,
        }
    }
}

/// Bytes of a record's value that say when the batch was due: a mark of the run and the time.
pub const STAMP_BYTES: u32 = 16;

/// Requests that a broker of the Kafka protocol lets an idempotent producer have in flight (KIP-98).
const IDEMPOTENT_IN_FLIGHT_MAX: u32 = 5;

impl Workload {
    /// Refuses values that contradict each other.
    ///
    /// # Errors
    /// What contradicts what, and what to do about it.
    pub fn check(&self) -> Result<(), String> {
        let refuse = |text: &str| Err(text.to_owned());
        if self.producers + self.consumers + self.backlog_readers + self.group_members == 0 {
            return refuse(
                "nothing is to be done; give `producers`, `consumers`, `backlog_readers` or `group_members`",
            );
        }
        if self.idempotent && self.acks != Acks::All {
            return refuse("`idempotent` needs `acks` = \"all\"");
        }
        if self.idempotent && self.in_flight > IDEMPOTENT_IN_FLIGHT_MAX {
            return refuse("`idempotent` allows at most `in_flight` = 5");
        }
        if self.realtime && self.rate == 0 && self.producers > 0 {
            return refuse("`realtime` would starve the broker in a closed loop; give `rate`");
        }
        if self.duration > 0 && self.warm_up >= self.duration {
            return refuse("`warm_up` takes all of `duration`; make it shorter, or the run longer");
        }
        if self.duration == 0 && self.records == 0 && !self.reads_to_the_end() {
            return refuse("the run has no end; give `duration` or `records`");
        }
        if self.backlog_readers > 0 && self.duration == 0 && self.producers == 0 {
            return refuse("`backlog_readers` read until the run ends; give `duration`");
        }
        if self.measures_end_to_end() && self.record_size < STAMP_BYTES {
            return refuse(
                "consumers find the time of a record in its value; make `record_size` at least 16, or \
                 leave out `consumers`",
            );
        }
        if self.acks == Acks::None && self.producers > 0 && self.consumers == 0 && self.rate > 0 {
            return refuse(
                "nothing would be measured with `acks` = \"0\"; add `consumers`, or wait for `acks`",
            );
        }
        Ok(())
    }

    /// Whether consumers see when what they read was due.
    #[must_use]
    pub const fn measures_end_to_end(&self) -> bool {
        self.producers > 0 && self.consumers > 0
    }

    /// Whether consumers alone end the run, where the log ends at its start.
    #[must_use]
    pub const fn reads_to_the_end(&self) -> bool {
        self.producers == 0 && self.consumers > 0 && self.from_beginning && self.duration == 0
    }

    /// Producers of all topics.
    #[must_use]
    pub const fn all_producers(&self) -> u32 {
        self.topics.saturating_mul(self.producers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_are_refused() {
        let refusal = |change: fn(&mut Workload)| {
            let mut workload = Workload::default();
            change(&mut workload);
            workload.check().unwrap_err()
        };
        Workload::default().check().unwrap();
        assert!(refusal(|w| w.producers = 0).contains("nothing is to be done"));
        assert!(refusal(|w| (w.idempotent, w.acks) = (true, Acks::Leader)).contains("`acks`"));
        assert!(refusal(|w| (w.idempotent, w.in_flight) = (true, 6)).contains("`in_flight`"));
        assert!(refusal(|w| w.realtime = true).contains("`rate`"));
        assert!(refusal(|w| w.warm_up = 10).contains("`warm_up`"));
        assert!(refusal(|w| w.duration = 0).contains("no end"));
        assert!(refusal(|w| (w.consumers, w.record_size) = (1, 10)).contains("`record_size`"));
        assert!(refusal(|w| (w.acks, w.rate) = (Acks::None, 10)).contains("`acks`"));
        let reading =
            Workload { producers: 0, consumers: 1, from_beginning: true, duration: 0, ..Workload::default() };
        reading.check().unwrap();
    }
}
