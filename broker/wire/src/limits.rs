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
///
/// A client has five batches in flight to a broker, and the bound is its own per connection: while a leader that is paused or cut
/// off still owes it five answers, it sends five more to the next one, and as many to a third. Kafka remembers five; those that
/// are then sent again are out of order there until their delivery times out, although they were appended.
pub const PRODUCER_BATCHES_KEPT: usize = 15;

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

/// Bytes of batches with which a push leaves; only a single batch may be larger.
pub const REPLICATION_PUSH_BYTES: usize = 1 << 20;

/// The same of the first push on a link.
pub const REPLICATION_PUSH_FIRST_BYTES: usize = 64 << 10;

/// Bytes of batches that one partition adds to a push while others wait.
pub const REPLICATION_PARTITION_BYTES: usize = 256 << 10;

/// Partitions in one replication frame that is sent.
pub const REPLICATION_ENTRIES_MAX: usize = 4096;

/// Partitions of one follower that are read from disk together; their bytes leave in one push.
pub const REPLICATION_READS_MAX: usize = 8;

/// How long a high watermark may wait for a push that it can ride on, in milliseconds.
pub const REPLICATION_RIDE_MS: u64 = 5;

/// Both ends of a link between brokers say something at least so often, in milliseconds.
pub const REPLICATION_KEEPALIVE_MS: u64 = 250;

/// After so much silence of the other end a link is cut, in milliseconds.
pub const REPLICATION_SILENCE_MS: u64 = 1_000;

/// How long a peer may take nothing of what is sent to it before the link is cut, in milliseconds.
pub const REPLICATION_STALL_MS: u64 = 10_000;

/// How long connecting to a broker and the hellos may take, in milliseconds.
pub const REPLICATION_CONNECT_MS: u64 = 3_000;

/// The pause before a lost link is tried again, doubled with each failure up to the second, in milliseconds.
pub const REPLICATION_BACKOFF_MS: (u64, u64) = (50, 1_000);

/// After so long without anything from disk the link for it ends, in milliseconds.
pub const REPLICATION_CATCH_UP_IDLE_MS: u64 = 10_000;

/// Characters of a topic's name (Kafka's own bound).
pub const TOPIC_NAME_CHARACTERS_MAX: usize = 249;

/// Bytes that decompressing one batch may yield.
pub const DECOMPRESSED_BATCH_BYTES_MAX: usize = 128 << 20;

/// Bytes of a log that compaction reads and looks through at a time, unless one batch has more.
pub const CLEANER_READ_BYTES: usize = 256 << 10;

const _: () = assert!(FETCH_SESSION_PARTITIONS_MAX <= SHARD_SESSION_PARTITIONS_MAX);
const _: () = assert!(REPLICATION_PUSH_BYTES <= REPLICATION_PAYLOAD_BYTES_MAX as usize);
const _: () = assert!(REPLICATION_PARTITION_BYTES <= REPLICATION_PUSH_BYTES);
const _: () = assert!(REPLICATION_ENTRIES_MAX * 64 <= REPLICATION_HEADER_BYTES_MAX as usize);
const _: () = assert!(REPLICATION_KEEPALIVE_MS * 3 < REPLICATION_SILENCE_MS);
const _: () = assert!(PAGE_BYTES.is_multiple_of(SECTOR_BYTES));
const _: () = assert!(CHUNK_BYTES_MAX.is_multiple_of(PAGE_BYTES));
const _: () = assert!(JOURNAL_GROUP_BYTES_MAX.is_multiple_of(PAGE_BYTES));
const _: () = assert!(SEGMENT_SPACE_MIN_BYTES.is_multiple_of(PAGE_BYTES as u64));
const _: () = assert!(REQUEST_HEADER_BYTES_MAX <= REQUEST_FRAME_BYTES_MAX);
