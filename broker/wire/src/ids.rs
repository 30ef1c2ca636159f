//! Newtypes for everything that is counted or named: an offset is never mistaken for a position.

use core::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

number! {
    /// The logical number of a record in its partition; the first record of a fresh partition has 0.
    Offset(i64)
}
number! {
    /// The term of a partition's leader; it rises with every change of leader or incarnation (KIP-101).
    LeaderEpoch(i32)
}
number! {
    /// Identifies an idempotent producer (KIP-98); -1 means "none".
    ProducerId(i64)
}
number! {
    /// Fences older instances of one producer id (KIP-98); -1 means "none".
    ProducerEpoch(i16)
}
number! {
    /// The number of a broker or controller in its cluster (`node.id`).
    NodeId(i32)
}
number! {
    /// The number of a partition within its topic, from 0.
    PartitionIndex(i32)
}
number! {
    /// Milliseconds since the Unix epoch, as Kafka's record timestamps; -1 means "none".
    TimestampMs(i64)
}
number! {
    /// Nanoseconds of a monotonic clock with an arbitrary start; comparable only within one process.
    MonotonicNs(u64)
}
number! {
    /// The number of a shard (one pinned core) within a broker, from 0.
    ShardIndex(u16)
}

impl Offset {
    /// The offset `count` records later.
    #[must_use]
    pub const fn plus(self, count: i64) -> Self {
        Self(self.0 + count)
    }
}

impl ProducerId {
    /// The value that means "not an idempotent producer".
    pub const NONE: Self = Self(-1);
}

impl LeaderEpoch {
    /// The value that means "unknown" (KIP-320).
    pub const NONE: Self = Self(-1);
}

impl MonotonicNs {
    /// The instant `duration_ns` later, saturating.
    #[must_use]
    pub const fn plus_ns(self, duration_ns: u64) -> Self {
        Self(self.0.saturating_add(duration_ns))
    }

    /// Nanoseconds from `earlier` to `self`, or 0 if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A 128-bit identifier as Kafka uses for topics, directories and incarnations (KIP-516); it prints as
/// base64url without padding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Uuid(pub [u8; 16]);

/// The identity of one life of a topic: a topic deleted and created again has another one.
pub type TopicId = Uuid;

impl Uuid {
    /// All bits zero: "none" on the wire.
    pub const ZERO: Self = Self([0; 16]);

    /// A version 4 UUID from 128 random bits. Printed, it does not begin with `-`, as none of Kafka's does
    /// (`org.apache.kafka.common.Uuid.randomUuid`): command lines take what does for an option.
    #[must_use]
    pub const fn from_random(bits: u128) -> Self {
        let mut bytes = bits.to_be_bytes();
        // 62 is the digit `-`; the first digit is the first six bits.
        if bytes[0] >> 2 == 62 {
            bytes[0] &= 0x7f;
        }
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Self(bytes)
    }

    /// Whether this is [`Uuid::ZERO`].
    #[must_use]
    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }

    /// Parses the 22 characters that `Display` prints; `None` if `text` is anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 22 {
            return None;
        }
        let mut bits: u128 = 0;
        let mut last = 0;
        for (position, byte) in text.bytes().enumerate() {
            let digit = BASE64URL.iter().position(|&symbol| symbol == byte)? as u128;
            if position == 21 {
                last = digit;
            } else {
                bits = (bits << 6) | digit;
            }
        }
        // 21 digits carry 126 bits; the last digit carries the remaining two, then four zero bits.
        if last & 0x0f != 0 {
            return None;
        }
        Some(Self(((bits << 2) | (last >> 4)).to_be_bytes()))
    }
}

const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = u128::from_be_bytes(self.0);
        for digit in 0..21 {
            let shift = 128 - 6 * (digit + 1);
            let index = ((bits >> shift) & 0x3f) as usize;
            fmt::Write::write_char(f, char::from(BASE64URL[index]))?;
        }
        let index = ((bits & 0x3) << 4) as usize;
        fmt::Write::write_char(f, char::from(BASE64URL[index]))
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One partition of one life of a topic: the key of everything that is stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TopicPartition {
    /// Which topic, in which of its lives.
    pub topic_id: TopicId,
    /// Which of its partitions.
    pub partition: PartitionIndex,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic_id, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuid_text_round_trips() {
        for bits in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef] {
            let id = Uuid(bits.to_be_bytes());
            let text = id.to_string();
            assert_eq!(text.len(), 22);
            assert_eq!(Uuid::parse(&text), Some(id));
        }
        assert_eq!(Uuid::ZERO.to_string(), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(Uuid::parse("AAAAAAAAAAAAAAAAAAAAAB"), None);
        assert_eq!(Uuid::parse("A"), None);
    }

    #[test]
    fn new_ids_do_not_look_like_options() {
        for first in 0..=255_u128 {
            let text = Uuid::from_random(first << 120 | 5).to_string();
            assert!(!text.starts_with('-'), "{text}");
        }
    }
}
