//! A ProduceRequest read in one walk.
//!
//! [`produce::Request`](super::produce::Request) checks its arrays when it is decoded and decodes their elements again
//! when they are iterated, once more for each level of arrays: of a request with many small record sets that is most of
//! the work. Here every byte is looked at once, and an error may come after elements that were sound; who acts on them
//! must have read to the end first.

use super::{format, produce};
use crate::ids::Uuid;
use crate::primitives::{DecodeError, Format, Reader, WireType};
use std::borrow::Cow;
use std::ops::Range;

/// What stands before a topic's partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicHead<'a> {
    /// Kafka's `Name`; versions 3-12, empty otherwise.
    pub name: Cow<'a, str>,
    /// Kafka's `TopicId`; versions 13+, zero otherwise.
    pub topic_id: Uuid,
    /// How many partitions follow; at most as many as bytes remain.
    pub partitions: usize,
}

/// One partition's records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionRecords {
    /// Kafka's `Index`.
    pub index: i32,
    /// Where in the body the records lie; `None` for null.
    pub records: Option<Range<usize>>,
}

/// A position in a ProduceRequest: topics, and in each of them partitions.
#[derive(Debug)]
pub struct ProduceWalk<'a> {
    reader: Reader<'a>,
    format: Format,
    body_bytes: usize,
    topics_left: usize,
    /// Partitions left of the topic that was begun, if one was.
    partitions_left: Option<usize>,
    ended: bool,
    /// Kafka's `TransactionalId`.
    pub transactional_id: Option<Cow<'a, str>>,
    /// Kafka's `Acks`.
    pub acks: i16,
    /// Kafka's `TimeoutMs`.
    pub timeout_ms: i32,
}

impl<'a> ProduceWalk<'a> {
    /// Reads what stands before the topics.
    ///
    /// # Errors
    /// [`DecodeError::UnsupportedVersion`]; otherwise what is wrong with the bytes.
    pub fn begin(body: &'a [u8], version: i16) -> Result<Self, DecodeError> {
        let format = format::<produce::Request<'_>>(version).ok_or(DecodeError::UnsupportedVersion)?;
        let mut reader = Reader::new(body);
        let transactional_id = WireType::read_nullable(&mut reader, format)?;
        let (acks, timeout_ms) = (reader.i16()?, reader.i32()?);
        let topics_left = reader.length(format.flexible)?.ok_or(DecodeError::UnexpectedNull)?;
        let body_bytes = body.len();
        let (partitions_left, ended) = (None, false);
        Ok(Self {
            reader,
            format,
            body_bytes,
            topics_left,
            partitions_left,
            ended,
            transactional_id,
            acks,
            timeout_ms,
        })
    }

    /// The next topic, behind what is left of the one before; `None` at the request's end, which is checked then.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn next_topic(&mut self) -> Result<Option<TopicHead<'a>>, DecodeError> {
        while self.next_partition()?.is_some() {}
        if self.topics_left == 0 {
            if !std::mem::replace(&mut self.ended, true) {
                self.end_of_struct()?;
            }
            return Ok(None);
        }
        self.topics_left -= 1;
        let (name, topic_id) = if self.format.version < TOPIC_IDS_FROM {
            (WireType::read(&mut self.reader, self.format)?, Uuid::default())
        } else {
            (Cow::Borrowed(""), self.reader.uuid()?)
        };
        let partitions = self.reader.length(self.format.flexible)?.ok_or(DecodeError::UnexpectedNull)?;
        self.partitions_left = Some(partitions);
        Ok(Some(TopicHead { name, topic_id, partitions }))
    }

    /// The next partition of the topic; `None` at the topic's end.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn next_partition(&mut self) -> Result<Option<PartitionRecords>, DecodeError> {
        let Some(left) = self.partitions_left else { return Ok(None) };
        let Some(left) = left.checked_sub(1) else {
            self.partitions_left = None;
            self.end_of_struct()?;
            return Ok(None);
        };
        self.partitions_left = Some(left);
        let index = self.reader.i32()?;
        let records = match self.reader.length(self.format.flexible)? {
            None => None,
            Some(length) => {
                let start = self.body_bytes - self.reader.remaining();
                self.reader.take(length)?;
                Some(start..start + length)
            }
        };
        self.end_of_struct()?;
        Ok(Some(PartitionRecords { index, records }))
    }

    fn end_of_struct(&mut self) -> Result<(), DecodeError> {
        if self.format.flexible { self.reader.tagged_fields(|_, _| Ok(false)) } else { Ok(()) }
    }
}

/// The first version with topic ids instead of names (KIP-516).
const TOPIC_IDS_FROM: i16 = 13;

// A newer version may have fields that are not read here.
const _: () = assert!(*produce::VERSIONS.end() == TOPIC_IDS_FROM);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Message;
    use crate::api::produce::{PartitionProduceData, Request, TopicProduceData};
    use crate::primitives::{Records, Writer};

    type Walked<'a> =
        (Option<Cow<'a, str>>, i16, i32, Vec<(Cow<'a, str>, Uuid, Vec<(i32, Option<&'a [u8]>)>)>);

    fn walked(body: &[u8], version: i16) -> Result<Walked<'_>, DecodeError> {
        let mut walk = ProduceWalk::begin(body, version)?;
        let mut topics = Vec::new();
        while let Some(head) = walk.next_topic()? {
            let mut partitions = Vec::new();
            while let Some(partition) = walk.next_partition()? {
                partitions.push((partition.index, partition.records.map(|range| &body[range])));
            }
            assert_eq!(partitions.len(), head.partitions);
            topics.push((head.name, head.topic_id, partitions));
        }
        assert_eq!(walk.next_topic(), Ok(None));
        Ok((walk.transactional_id.clone(), walk.acks, walk.timeout_ms, topics))
    }

    fn decoded(body: &[u8], version: i16) -> Result<Walked<'_>, DecodeError> {
        let request = Request::decode(&mut Reader::new(body), version)?;
        let records = |data: PartitionProduceData<'_>| {
            let records = data.records.map(|records| records.to_vec());
            let at =
                |records: &Vec<u8>| body.windows(records.len().max(1)).position(|window| window == records);
            let slice = |records: Vec<u8>| at(&records).map_or(&[][..], |at| &body[at..at + records.len()]);
            (data.index, records.map(slice))
        };
        let topics = request.topic_data.iter().map(|topic| {
            (topic.name.clone(), topic.topic_id, topic.partition_data.iter().map(records).collect())
        });
        let topics = topics.collect();
        Ok((request.transactional_id, request.acks, request.timeout_ms, topics))
    }

    fn body(version: i16) -> Vec<u8> {
        let partition = |index, records: Option<&'static [u8]>| PartitionProduceData {
            index,
            records: records.map(Records::Borrowed),
        };
        let topic = |name: &'static str, partitions: Vec<PartitionProduceData<'static>>| TopicProduceData {
            name: if version < 13 { name.into() } else { "".into() },
            topic_id: if version < 13 { Uuid::default() } else { Uuid([name.len() as u8; 16]) },
            partition_data: partitions.into(),
        };
        let request = Request {
            transactional_id: Some("transactional".into()),
            acks: -1,
            timeout_ms: 1500,
            topic_data: vec![
                topic("first", vec![partition(3, Some(b"some records")), partition(-4, None)]),
                topic("none", Vec::new()),
                topic("last one", vec![partition(0, Some(b"other records"))]),
            ]
            .into(),
        };
        let mut writer = Writer::new();
        request.encode(&mut writer, version).unwrap();
        writer.finish().concat()
    }

    #[test]
    fn a_walk_finds_what_decoding_finds() {
        for version in produce::VERSIONS {
            let body = body(version);
            let found = walked(&body, version).unwrap();
            assert_eq!(found.3.len(), 3);
            assert_eq!(found.3[0].2, [(3, Some(&b"some records"[..])), (-4, None)]);
            assert_eq!(Ok(found), decoded(&body, version));
        }
        assert_eq!(walked(&[], 99), Err(DecodeError::UnsupportedVersion));
    }

    #[test]
    fn a_walk_refuses_what_decoding_refuses() {
        for version in produce::VERSIONS {
            let whole = body(version);
            for length in 0..whole.len() {
                let expected = decoded(&whole[..length], version);
                assert!(expected.is_err());
                assert_eq!(walked(&whole[..length], version), expected, "version {version}, {length} bytes");
            }
            for at in 0..whole.len() {
                for value in [0, 1, 2, 0x7f, 0x80, 0xff] {
                    let mut changed = whole.clone();
                    changed[at] = value;
                    let (found, expected) = (walked(&changed, version), decoded(&changed, version));
                    assert_eq!(found.is_ok(), expected.is_ok(), "version {version}, byte {at} is {value}");
                    assert_eq!(found.err(), expected.err(), "version {version}, byte {at} is {value}");
                }
            }
        }
    }

    #[test]
    fn partitions_that_nobody_asks_for_are_passed_over() {
        let body = body(9);
        let mut walk = ProduceWalk::begin(&body, 9).unwrap();
        let mut names = Vec::new();
        while let Some(head) = walk.next_topic().unwrap() {
            names.push(head.name);
        }
        assert_eq!(names, ["first", "none", "last one"]);
    }
}
