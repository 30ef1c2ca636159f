//! Every bound of the system, in one place, so that the relations between them can be checked when the
//! project is compiled. Sizes are bytes unless the name says otherwise.

/// The unit of direct I/O, of journal groups and of segment allocation.
pub const PAGE_BYTES: usize = 4096;

/// The unit that a crash leaves old, new or garbage as a whole.
pub const SECTOR_BYTES: usize = 512;

/// The largest request frame, its size prefix excluded (`socket.request.max.bytes` cannot exceed it).
pub const REQUEST_FRAME_BYTES_MAX: usize = 256 << 20;

/// The largest request frame of a connection that has not yet been heard: before authentication nobody needs more.
pub const REQUEST_HEADER_BYTES_MAX: usize = 64 << 10;

/// Elements of one request that are kept each on its own while it is answered: partitions, topics, keys.
pub const REQUEST_ELEMENTS_MAX: usize = 250_000;

/// Requests of one connection that are decoded but not yet answered.
pub const CONNECTION_IN_FLIGHT_MAX: usize = 64;

/// Shards of one broker.
pub const SHARDS_MAX: usize = 256;

/// Messages that one shard may have under way to another.
pub const MAILBOX_MESSAGES_MAX: usize = 1024;

/// The first space that a segment takes, and the step from which its growth doubles.
pub const SEGMENT_SPACE_MIN_BYTES: u64 = 64 << 10;

/// The largest step in which a segment takes space.
pub const SEGMENT_SPACE_STEP_MAX_BYTES: u64 = 16 << 20;

/// The largest chunk of memory that holds the tail of a log.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;

/// The largest group that the journal commits in one write.
pub const JOURNAL_GROUP_BYTES_MAX: usize = 1 << 20;

/// Log bytes between two entries of the sparse index.
pub const INDEX_INTERVAL_BYTES: u64 = 4096;

/// Batches that are remembered per producer for the detection of duplicates (KIP-98).
pub const PRODUCER_BATCHES_KEPT: usize = 5;

/// Producers that one partition remembers; beyond it the least recently active ones are forgotten.
pub const PARTITION_PRODUCERS_MAX: usize = 16_384;

/// Leader epochs that one partition remembers; beyond it the oldest are forgotten.
pub const PARTITION_LEADER_EPOCHS_MAX: usize = 1024;

/// Partitions that one fetch session may hold (KIP-227); a larger fetch goes without a session.
pub const FETCH_SESSION_PARTITIONS_MAX: usize = 100_000;

/// Partitions in all fetch sessions of one shard.
pub const SHARD_SESSION_PARTITIONS_MAX: usize = 400_000;

/// Partitions of one topic.
pub const TOPIC_PARTITIONS_MAX: i32 = 1_000_000;

/// The largest payload of a frame between control shards, in bytes: a frame of the quorum, or a client's request that is
/// forwarded to the active controller.
pub const CONTROL_LINK_PAYLOAD_BYTES_MAX: u32 = 20 << 20;

/// The largest header of a replication frame: some ten thousand partitions.
pub const REPLICATION_HEADER_BYTES_MAX: u32 = 1 << 20;

/// The largest payload of a replication frame; a push with more than one batch is far smaller.
pub const REPLICATION_PAYLOAD_BYTES_MAX: u32 = REQUEST_FRAME_BYTES_MAX as u32;

/// The largest message between a broker and the active controller; a client's request that is forwarded is within it.
pub const CONTROL_MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Characters of a topic's name (Kafka's own bound).
pub const TOPIC_NAME_CHARACTERS_MAX: usize = 249;

/// Bytes that decompressing one batch may yield.
pub const DECOMPRESSED_BATCH_BYTES_MAX: usize = 128 << 20;

/// Bytes of a log that compaction reads and looks through at a time, unless one batch has more.
pub const CLEANER_READ_BYTES: usize = 256 << 10;

const _: () = assert!(FETCH_SESSION_PARTITIONS_MAX <= SHARD_SESSION_PARTITIONS_MAX);
const _: () = assert!(PAGE_BYTES.is_multiple_of(SECTOR_BYTES));
const _: () = assert!(CHUNK_BYTES_MAX.is_multiple_of(PAGE_BYTES));
const _: () = assert!(JOURNAL_GROUP_BYTES_MAX.is_multiple_of(PAGE_BYTES));
const _: () = assert!(SEGMENT_SPACE_MIN_BYTES.is_multiple_of(PAGE_BYTES as u64));
const _: () = assert!(REQUEST_HEADER_BYTES_MAX <= REQUEST_FRAME_BYTES_MAX);
