//! A producer to one topic: idempotent by default, in order, with one request at a time to each broker.

use super::batches::{Batch, Identity, Shape, Waiting};
use super::chance::Chance;
use super::clock::{Backoff, Timer, wall_clock_ms};
use super::cluster::{Cluster, PATIENCE, To, Topic};
use super::failure::Failure;
use super::partitioner::Partitioner;
use bytes::Bytes;
use logmill_wire::api::{init_producer_id, produce};
use logmill_wire::compression::Codec;
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{ProducerEpoch, ProducerId, TimestampMs};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// How long a batch may take until it is given up (`delivery.timeout.ms`).
const DELIVERY_PATIENCE: Duration = Duration::from_secs(120);

/// How long the broker may wait for its followers, in milliseconds (`request.timeout.ms`).
const REQUEST_TIMEOUT_MS: i32 = 30_000;

/// How long the first of the waiting records waits for others (`linger.ms`).
const LINGER: Duration = Duration::from_millis(5);

/// What one partition may have waiting before all that waits is sent: well below `max.message.bytes`.
const BATCH_BYTES: usize = 128 << 10;

/// Whose acknowledgement is waited for (`acks`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// Nobody's: 0.
    None,
    /// The leader's: 1.
    Leader,
    /// That of all replicas in sync: -1, `all`.
    All,
}

/// How to produce.
#[derive(Clone, Debug)]
pub struct ProducerOptions {
    /// Whose acknowledgement is waited for. The producer is idempotent with [`Acks::All`] only, as Kafka's.
    pub acks: Acks,
    /// How batches are compressed.
    pub codec: Codec,
    /// Headers of every record.
    pub headers: Vec<(String, String)>,
    /// The partition, if it is not for the partitioner to choose.
    pub partition: Option<i32>,
}

/// What became of the records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Records that were acknowledged, or sent if no acknowledgement was asked for.
    pub delivered: u64,
    /// Bytes of their keys and values.
    pub delivered_bytes: u64,
    /// Records that were not delivered.
    pub failed: u64,
    /// The partitions that got records.
    pub partitions: BTreeSet<i32>,
    /// The first failure.
    pub failure: Option<Failure>,
}

/// Batches of each partition, in order.
type Queues = BTreeMap<i32, VecDeque<Batch>>;

/// What the broker said about the first batch of a partition.
type Verdict = (i32, Result<(), Failure>);

/// A producer.
#[derive(Debug)]
pub struct Producer<'c> {
    cluster: &'c mut Cluster,
    topic: Topic,
    options: ProducerOptions,
    shape: Shape,
    partitioner: Partitioner,
    identity: Option<Identity>,
    sequences: BTreeMap<i32, i32>,
    waiting: BTreeMap<i32, (Vec<Waiting>, usize)>,
    oldest: Option<Timer>,
    delivery: Delivery,
}

impl<'c> Producer<'c> {
    /// A producer to a topic, which the broker creates if it does so on demand.
    ///
    /// # Errors
    /// There is no such topic or partition; those of the connection.
    pub fn new(cluster: &'c mut Cluster, topic: &str, options: ProducerOptions) -> Result<Self, Failure> {
        let topic = cluster.topic(topic, true)?;
        if let Some(partition) = options.partition.filter(|partition| topic.partition(*partition).is_none()) {
            let count = topic.partitions.len();
            return Err(Failure::unfit(
                format!("topic {} has no partition {partition}, but {count}, counted from 0", topic.name),
                "name one of them, or leave the choice to the partitioner",
            ));
        }
        let shape = Shape { codec: options.codec, headers: options.headers.clone() };
        let mut producer = Self {
            cluster,
            topic,
            options,
            shape,
            partitioner: Partitioner::new(Chance::new()),
            identity: None,
            sequences: BTreeMap::new(),
            waiting: BTreeMap::new(),
            oldest: None,
            delivery: Delivery::default(),
        };
        if producer.options.acks == Acks::All {
            producer.identify()?;
        }
        Ok(producer)
    }

    /// Takes an id of its own, with which the broker tells repetitions (KIP-98).
    fn identify(&mut self) -> Result<(), Failure> {
        self.sequences.clear();
        let identity = self.cluster.retrying(PATIENCE, |cluster| {
            let request = init_producer_id::Request {
                transactional_id: None,
                transaction_timeout_ms: i32::MAX,
                ..Default::default()
            };
            let answer = cluster.call(To::Any, &request)?;
            let response: init_producer_id::Response = answer.decode()?;
            Failure::check(response.error_code, None, || "no producer id".to_owned())?;
            let (id, epoch) = (ProducerId(response.producer_id), ProducerEpoch(response.producer_epoch));
            Ok(Identity { id, epoch })
        })?;
        self.identity = Some(identity);
        Ok(())
    }

    /// Takes a record, and sends what waits if that is enough.
    ///
    /// # Errors
    /// As [`Producer::flush`].
    pub fn send(&mut self, key: Option<Vec<u8>>, value: Vec<u8>) -> Result<(), Failure> {
        let record = Waiting { timestamp: TimestampMs(wall_clock_ms()), key, value };
        let headers: usize = self.shape.headers.iter().map(|(key, value)| 4 + key.len() + value.len()).sum();
        let bytes = record.bytes() + headers;
        let partition = self.options.partition.unwrap_or_else(|| {
            let partitions = &self.topic.partitions;
            let place = self.partitioner.place(record.key.as_deref(), bytes, partitions.len());
            partitions.get(place).map_or(0, |partition| partition.index)
        });
        let (records, waiting_bytes) = self.waiting.entry(partition).or_default();
        let is_over = !records.is_empty() && *waiting_bytes + bytes > BATCH_BYTES;
        if is_over {
            self.flush()?;
        }
        let (records, waiting_bytes) = self.waiting.entry(partition).or_default();
        records.push(record);
        *waiting_bytes += bytes;
        self.oldest.get_or_insert_with(Timer::start);
        Ok(())
    }

    /// How long what waits may still wait for more; `None` if nothing waits.
    #[must_use]
    pub fn linger_left(&self) -> Option<Duration> {
        self.oldest.map(|oldest| LINGER.saturating_sub(oldest.elapsed()))
    }

    /// Sends what waits, and waits for the acknowledgements. Records that a broker refuses for good are counted.
    ///
    /// # Errors
    /// A batch could not be delivered in two minutes: what became of it is not known.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.oldest = None;
        let mut queues: Queues = std::mem::take(&mut self.waiting)
            .into_iter()
            .map(|(partition, (records, _))| (partition, VecDeque::from([Batch::new(records)])))
            .collect();
        let outcome = self.deliver(&mut queues);
        if outcome.is_err() {
            self.delivery.failed += count(&queues);
        }
        outcome
    }

    fn deliver(&mut self, queues: &mut Queues) -> Result<(), Failure> {
        let mut backoff = Backoff::new(DELIVERY_PATIENCE);
        while !queues.is_empty() {
            let mut again = None;
            for (partition, verdict) in self.round(queues) {
                if let Err(failure) = self.judge(partition, verdict, queues)? {
                    again = Some(failure);
                }
            }
            queues.retain(|_, queue| !queue.is_empty());
            if let Some(failure) = again {
                if !backoff.pause() {
                    return Err(failure);
                }
                self.refresh()?;
            }
        }
        Ok(())
    }

    /// Looks again who leads the partitions. A cluster that cannot be asked now is asked again later.
    fn refresh(&mut self) -> Result<(), Failure> {
        match self.cluster.topics(Some(&[&self.topic.name]), false) {
            Ok(mut topics) => {
                // A topic that is gone for a moment keeps its leaders; the broker's answer to the batch decides.
                self.topic = topics.pop().filter(|topic| topic.error == 0).unwrap_or(self.topic.clone());
                Ok(())
            }
            Err(failure) if failure.is_retriable() => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Sends the first batch of each partition to its leader, and returns what became of them.
    fn round(&mut self, queues: &mut Queues) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        let mut by_leader: BTreeMap<i32, Vec<(i32, Bytes)>> = BTreeMap::new();
        for (&partition, queue) in queues.iter_mut() {
            let Some(batch) = queue.front_mut() else { continue };
            let sequence = self.sequences.get(&partition).copied().unwrap_or(0);
            let bytes = match batch.encoded(&self.shape, self.identity, sequence) {
                Ok(bytes) => bytes,
                Err(failure) => {
                    verdicts.push((partition, Err(failure)));
                    continue;
                }
            };
            match self.topic.leader(partition) {
                Some(leader) => by_leader.entry(leader).or_default().push((partition, bytes)),
                None => {
                    let code = ErrorCode::LeaderNotAvailable.code();
                    verdicts.push((partition, Failure::check(code, None, || self.what(partition))));
                }
            }
        }
        for (leader, batches) in by_leader {
            let partitions: Vec<i32> = batches.iter().map(|(partition, _)| *partition).collect();
            match self.exchange(leader, batches) {
                Ok(found) => verdicts.extend(found),
                Err(failure) => {
                    for partition in partitions {
                        if let Some(batch) = queues.get_mut(&partition).and_then(VecDeque::front_mut) {
                            batch.is_doubtful = true;
                        }
                        verdicts.push((partition, Err(failure.clone())));
                    }
                }
            }
        }
        verdicts
    }

    /// One Produce request and its answer.
    fn exchange(&mut self, leader: i32, batches: Vec<(i32, Bytes)>) -> Result<Vec<Verdict>, Failure> {
        let partitions: Vec<i32> = batches.iter().map(|(partition, _)| *partition).collect();
        let data = |(index, bytes): (i32, Bytes)| produce::PartitionProduceData {
            index,
            records: Some(bytes.into()),
        };
        let topic = produce::TopicProduceData {
            name: self.topic.name.as_str().into(),
            topic_id: self.topic.id,
            partition_data: batches.into_iter().map(data).collect(),
        };
        let acks = match self.options.acks {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => -1,
        };
        let request = produce::Request {
            acks,
            timeout_ms: REQUEST_TIMEOUT_MS,
            topic_data: vec![topic].into(),
            ..Default::default()
        };
        if self.options.acks == Acks::None {
            self.cluster.with(To::Broker(leader), |connection| connection.send(&request).map(drop))?;
            return Ok(partitions.into_iter().map(|partition| (partition, Ok(()))).collect());
        }
        let answer = self.cluster.call(To::Broker(leader), &request)?;
        let response: produce::Response<'_> = answer.decode()?;
        let mut verdicts = Vec::new();
        for result in response.responses.iter().flat_map(|topic| topic.partition_responses.into_vec()) {
            let message = result.error_message.as_deref();
            let verdict = Failure::check(result.error_code, message, || self.what(result.index));
            verdicts.push((result.index, verdict));
        }
        let is_answered = |partition: &i32| verdicts.iter().any(|(answered, _)| answered == partition);
        if !partitions.iter().all(is_answered) {
            return Err(answer.protocol("Produce left out partitions"));
        }
        Ok(verdicts)
    }

    fn what(&self, partition: i32) -> String {
        format!("records for partition {partition} of {}", self.topic.name)
    }

    /// Draws the consequences for the first batch of a partition; the inner error is that it has to be sent again.
    fn judge(
        &mut self,
        partition: i32,
        verdict: Result<(), Failure>,
        queues: &mut Queues,
    ) -> Result<Result<(), Failure>, Failure> {
        let Some(queue) = queues.get_mut(&partition) else { return Ok(Ok(())) };
        let Some(batch) = queue.pop_front() else { return Ok(Ok(())) };
        let code = verdict.as_ref().err().and_then(Failure::code);
        match (verdict, code) {
            (Ok(()), _) | (_, Some(ErrorCode::DuplicateSequenceNumber)) => self.delivered(partition, &batch),
            (Err(_), Some(ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge))
                if batch.records.len() > 1 =>
            {
                let (first, second) = batch.split();
                queue.push_front(second);
                queue.push_front(first);
            }
            (Err(failure), Some(code)) if is_lost_identity(code) && self.identity.is_some() => {
                let (is_doubtful, is_current) = (batch.is_doubtful, batch.identity() == self.identity);
                if is_doubtful {
                    self.given_up(&batch, failure.clone());
                } else {
                    queue.push_front(batch);
                }
                if is_current {
                    self.identify()?;
                }
                queues.values_mut().flatten().for_each(Batch::forget_encoding);
                return Ok(if is_doubtful { Ok(()) } else { Err(failure) });
            }
            (Err(failure), _) if failure.is_retriable() => {
                queue.push_front(batch);
                return Ok(Err(failure));
            }
            (Err(failure), _) => self.given_up(&batch, failure),
        }
        Ok(Ok(()))
    }

    fn delivered(&mut self, partition: i32, batch: &Batch) {
        let count = batch.records.len();
        if batch.identity() == self.identity {
            let sequence = self.sequences.entry(partition).or_insert(0);
            // Sequence numbers go on from 0 after the largest one.
            let next = (i64::from(*sequence) + count as i64) % (1 << 31);
            *sequence = i32::try_from(next).unwrap_or(0);
        }
        let bytes = |record: &Waiting| record.key.as_ref().map_or(0, Vec::len) + record.value.len();
        self.delivery.delivered += count as u64;
        self.delivery.delivered_bytes += batch.records.iter().map(bytes).sum::<usize>() as u64;
        self.delivery.partitions.insert(partition);
    }

    fn given_up(&mut self, batch: &Batch, failure: Failure) {
        self.delivery.failed += batch.records.len() as u64;
        self.delivery.failure.get_or_insert(failure);
    }

    /// Sends what waits, and tells what became of everything.
    #[must_use]
    pub fn finish(mut self) -> Delivery {
        let mut outcome = self.flush();
        if outcome.is_ok() && self.options.acks == Acks::None {
            // An answer on the same connection means that all before it has arrived.
            outcome = self.cluster.settle();
        }
        if let Err(failure) = outcome {
            self.delivery.failure.get_or_insert(failure);
        }
        self.delivery
    }
}

/// Whether the broker does not know, or no longer takes, what the producer counts with.
const fn is_lost_identity(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::OutOfOrderSequenceNumber
            | ErrorCode::UnknownProducerId
            | ErrorCode::InvalidProducerEpoch
            | ErrorCode::InvalidProducerIdMapping
    )
}

fn count(queues: &Queues) -> u64 {
    queues.values().flatten().map(|batch| batch.records.len() as u64).sum()
}
