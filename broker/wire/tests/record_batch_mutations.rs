//! Damaged and hostile batches: nothing panics, and memory stays in proportion to what was really sent.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use logmill_wire::compression::{Codec, CompressionError, compress, decompress};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::{Offset, ProducerEpoch, ProducerId, TimestampMs};
use logmill_wire::record_batch::{
    BatchBuilder, BatchError, BatchView, ContentRules, HEADER_BYTES, batches, first_record_at_or_after,
    max_timestamp_record, set_max_timestamp, validate_contents, validate_header, validate_records,
    validate_stored_header, whole_batches,
};

/// Counts the bytes that the current thread holds, and the most it held. What zstd's C code takes is not
/// seen; it is a context of fixed size, as no window is asked for.
struct Counting;

thread_local! {
    static HELD_BYTES: Cell<isize> = const { Cell::new(0) };
    static PEAK_BYTES: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // While a thread ends its counters are gone already; nothing is measured then.
    let _ = HELD_BYTES.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK_BYTES.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that `work` held beyond those held before.
fn peak_bytes(work: impl FnOnce()) -> usize {
    let before = HELD_BYTES.with(Cell::get);
    PEAK_BYTES.with(|peak| peak.set(before));
    work();
    (PEAK_BYTES.with(Cell::get) - before).unsigned_abs()
}

/// xorshift64*, so that every run is the same.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// What a decoder may hold besides its output: the inflate state and its window, mostly.
const FIXED_BYTES_MAX: usize = 96 << 10;

/// The limit that the mutated batches are decompressed with.
const LIMIT_BYTES: usize = 64 << 10;

fn sample(codec: Codec, records: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new().codec(codec).producer(ProducerId(5), ProducerEpoch(0), 9);
    for n in 0..records {
        let text = format!("the value of record {n} of the sample");
        let headers = [("trace", Some(text.as_bytes())), ("trace", None)];
        builder.append(TimestampMs(n as i64), Some(b"key"), Some(text.as_bytes()), &headers[..n % 3]);
    }
    builder.finish().unwrap()
}

/// Runs everything that reads a record set; returns how many batches passed every level.
fn read_everything(bytes: &[u8]) -> usize {
    let mut accepted = 0;
    for batch in batches(bytes).chain(whole_batches(bytes)) {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => {
                assert!(!error.to_string().is_empty() && ErrorCode::from(&error).is_error());
                continue;
            }
        };
        let rules = ContentRules { keys_required: true, limit_bytes: LIMIT_BYTES };
        let levels = [
            validate_header(&batch),
            validate_stored_header(&batch),
            validate_records(&batch).map(drop),
            validate_contents(&batch, rules).map(drop),
        ];
        accepted += usize::from(levels.iter().all(Result::is_ok));
        if let Ok(contents) = batch.contents(LIMIT_BYTES) {
            for record in contents.records().map_while(Result::ok) {
                assert_eq!(record.headers().count(), record.headers().len());
                let _ = (record.offset(batch.header()), record.timestamp(batch.header()));
            }
            let _ = first_record_at_or_after(&batch, TimestampMs(1));
            let _ = max_timestamp_record(&batch);
        }
        let header = batch.header();
        let _ = (header.last_offset(), header.next_offset(), header.last_sequence());
    }
    accepted
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes[at] = [0, 0x7f, 0x80, 0xff][random.below(4)],
            3 => bytes.truncate(at.max(1)),
            4 => bytes.insert(at, random.next() as u8),
            _ => {
                let end = (at + random.below(20)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
}

/// Makes lengths and checksum right again, so that the damage gets past the first checks.
fn mend(bytes: &mut [u8]) {
    if bytes.len() >= HEADER_BYTES {
        let length = bytes.len() as i32 - 12;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[16] = 2;
        set_max_timestamp(bytes, TimestampMs(70));
    }
}

#[test]
fn mutated_batches_neither_panic_nor_take_memory() {
    let mut random = Random(0x1097_0a11);
    let mut refused = 0;
    for codec in Codec::ALL {
        for records in [1, 3, 70] {
            let good = sample(codec, records);
            assert_eq!(read_everything(&good), 2, "the sample itself passes, in both kinds of iteration");
            for round in 0..2000 {
                let mut bytes = good.clone();
                mutate(&mut bytes, &mut random);
                if round % 4 != 0 {
                    mend(&mut bytes);
                }
                let mut accepted = 0;
                let peak = peak_bytes(|| accepted = read_everything(&bytes));
                // A growing vector may have twice the room that it needs, and decoders do not ask less.
                let allowed = 4 * LIMIT_BYTES + FIXED_BYTES_MAX;
                assert!(peak <= allowed, "{codec}, round {round}: {peak} bytes for {}", bytes.len());
                refused += usize::from(accepted == 0);
            }
        }
    }
    assert!(refused > 20_000, "most of the damage is found, not only {refused} of 30000");
}

#[test]
fn random_bytes_are_no_batch() {
    let mut random = Random(77);
    for _ in 0..5000 {
        let length = random.below(300);
        let bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        assert_eq!(read_everything(&bytes), 0);
        for codec in Codec::ALL {
            let peak = peak_bytes(|| drop(decompress(codec, &bytes, LIMIT_BYTES)));
            assert!(peak <= 2 * LIMIT_BYTES + FIXED_BYTES_MAX, "{codec}: {peak}");
        }
    }
}

#[test]
fn claimed_sizes_take_no_memory() {
    const PLENTY_BYTES: usize = 1 << 30;
    // A frame of 8 GiB in one segment, by its header; a frame with a window of 128 MiB; both end there.
    let zstd_claims: [&[u8]; 2] =
        [b"\x28\xb5\x2f\xfd\xe0\0\0\0\0\x02\0\0\0\x01\0\0", b"\x28\xb5\x2f\xfd\0\x88\x01\0\0"];
    // Blocks of up to 4 MiB, of which one has two bytes.
    let lz4_claim = b"\x04\x22\x4d\x18\x60\x70\x73\x02\0\0\0\x10a\0\0\0\0";
    let snappy_claim = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\0\0\0\x06\x80\x80\x80\x80\x02\0";
    let cases = [
        (Codec::Zstd, zstd_claims[0]),
        (Codec::Zstd, zstd_claims[1]),
        (Codec::Lz4, lz4_claim),
        (Codec::Snappy, snappy_claim),
    ];
    for (codec, bytes) in cases {
        let peak = peak_bytes(|| drop(decompress(codec, bytes, PLENTY_BYTES)));
        assert!(peak <= 32 << 10, "{codec} {bytes:x?}: {peak} bytes");
    }
}

#[test]
fn bombs_stop_at_the_limit() {
    let zeros = vec![0; 64 << 20];
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let bomb = compress(codec, None, &zeros).unwrap();
        assert!(bomb.len() < zeros.len() / 15, "{codec}: {}", bomb.len());
        let limit_bytes = 1 << 20;
        let mut result = Ok(Vec::new());
        let peak = peak_bytes(|| result = decompress(codec, &bomb, limit_bytes));
        assert_eq!(result, Err(CompressionError::TooLarge { limit_bytes }), "{codec}");
        // A vector that grows is copied, so for a moment both copies are held.
        assert!(peak <= 3 * limit_bytes + FIXED_BYTES_MAX, "{codec}: {peak}");
    }
}

#[test]
fn a_count_of_records_takes_no_memory() {
    for codec in Codec::ALL {
        let mut bytes = sample(codec, 1);
        bytes[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
        bytes[23..27].copy_from_slice(&(i32::MAX - 1).to_be_bytes());
        set_max_timestamp(&mut bytes, TimestampMs(0));
        let batch = BatchView::only(&bytes).unwrap();
        let record_count = i32::MAX;
        let refused = Err(BatchError::InvalidRecordCount { record_count });
        assert_eq!(validate_header(&batch), refused);
        assert_eq!(validate_stored_header(&batch), refused);
        let rules = ContentRules { keys_required: false, limit_bytes: LIMIT_BYTES };
        let peak = peak_bytes(|| assert!(validate_contents(&batch, rules).is_err()));
        assert!(peak <= 2 * LIMIT_BYTES + FIXED_BYTES_MAX, "{codec}: {peak}");
    }
}

#[test]
fn extreme_headers_do_not_overflow() {
    for (base_offset, base_timestamp, sequence) in
        [(i64::MAX, i64::MAX, i32::MAX), (i64::MIN, i64::MIN, i32::MIN), (-1, -1, -1)]
    {
        let mut builder = BatchBuilder::new()
            .base_offset(Offset(base_offset))
            .base_timestamp(TimestampMs(base_timestamp))
            .last_offset_delta(i32::MAX)
            .producer(ProducerId(i64::MIN), ProducerEpoch(i16::MIN), sequence);
        for timestamp in [i64::MIN, 0, i64::MAX] {
            builder.append(TimestampMs(timestamp), None, None, &[]);
        }
        assert_eq!(read_everything(&builder.finish().unwrap()), 0);
    }
}
