//! Record sets: every level of validation, the walk over the records and the lookups by timestamp.
#![no_main]

use libfuzzer_sys::fuzz_target;
use logmill_wire::compression::{Codec, decompress};
use logmill_wire::ids::TimestampMs;
use logmill_wire::record_batch::{
    ContentRules, HEADER_BYTES, LENGTH_PREFIX_BYTES, MAGIC, batches, first_record_at_or_after,
    max_timestamp_record, set_max_timestamp, validate_contents, validate_header, validate_records,
    validate_stored_header,
};

const LIMIT_BYTES: usize = 1 << 20;

fn read(bytes: &[u8]) {
    for batch in batches(bytes).map_while(Result::ok) {
        let _ = validate_stored_header(&batch);
        let valid = validate_header(&batch).is_ok();
        let rules = ContentRules { keys_required: false, limit_bytes: LIMIT_BYTES };
        let structure = validate_records(&batch);
        let summary = validate_contents(&batch, rules);
        if let Ok(Some(structure)) = structure {
            assert_eq!(summary, Ok(structure));
        }
        if let (true, Ok(summary)) = (valid, summary) {
            let latest = (summary.max_timestamp_offset, summary.max_timestamp);
            assert_eq!(max_timestamp_record(&batch), Ok(Some(latest)));
            let first = first_record_at_or_after(&batch, TimestampMs(i64::MIN)).expect("valid");
            assert_eq!(first.map(|(offset, _)| offset), Some(batch.header().base_offset));
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    // With length, format and checksum made right, the rest of the header and the records are reached.
    if bytes.len() >= HEADER_BYTES {
        let mut mended = bytes.to_vec();
        let length = (mended.len() - LENGTH_PREFIX_BYTES) as i32;
        mended[8..LENGTH_PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
        mended[16] = MAGIC as u8;
        set_max_timestamp(&mut mended, TimestampMs(0));
        read(&mended);
    }
    for codec in Codec::ALL {
        if let Ok(plain) = decompress(codec, bytes, LIMIT_BYTES) {
            assert!(plain.len() <= LIMIT_BYTES);
        }
    }
});
