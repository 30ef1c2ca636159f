//! The same records in another codec (`compression.type` of a topic).

use super::error::BatchError;
use super::{Attributes, BatchView, HEADER_BYTES, LENGTH_PREFIX_BYTES, seal};
use crate::compression::{self, Codec};

const LENGTH_AT: usize = 8;
const ATTRIBUTES_AT: usize = 21;
const CODEC_BITS: i16 = 0x07;

/// The batch with its records in `codec`, at its `level` (as [`compression::compress`] has it); everything else of
/// the batch stays as it is, bit for bit. The records may take at most `limit_bytes` uncompressed.
///
/// # Errors
/// [`BatchError::UnknownCodec`], [`BatchError::Compression`], or [`BatchError::TooLarge`] if the length does not fit
/// its field.
pub fn recompress(
    batch: &BatchView<'_>,
    codec: Codec,
    level: Option<i32>,
    limit_bytes: usize,
) -> Result<Vec<u8>, BatchError> {
    let contents = batch.contents(limit_bytes)?;
    let payload = compression::compress(codec, level, contents.bytes())?;
    let length = HEADER_BYTES - LENGTH_PREFIX_BYTES + payload.len();
    let length = i32::try_from(length).map_err(|_| BatchError::TooLarge)?;
    let Attributes(attributes) = batch.header().attributes;
    let attributes = (attributes & !CODEC_BITS) | i16::from(codec.id());
    let mut changed = Vec::with_capacity(HEADER_BYTES + payload.len());
    changed.extend_from_slice(batch.bytes().get(..HEADER_BYTES).ok_or(BatchError::TooLarge)?);
    changed[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&length.to_be_bytes());
    changed[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&attributes.to_be_bytes());
    changed.extend_from_slice(&payload);
    seal(&mut changed);
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compression::CompressionError;
    use crate::ids::{ProducerEpoch, ProducerId, TimestampMs};
    use crate::record_batch::{BatchBuilder, BatchHeader, validate_contents, validate_header};
    use crate::record_batch::{ContentRules, crc_matches};

    const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    fn batch(codec: Codec) -> Vec<u8> {
        let mut builder = BatchBuilder::new().codec(codec).producer(ProducerId(7), ProducerEpoch(2), 40);
        for index in 0..100_i64 {
            builder.append(TimestampMs(1000 + index), Some(b"key"), Some(&[index as u8; 50]), &[]);
        }
        builder.finish().unwrap()
    }

    #[test]
    fn only_the_codec_changes() {
        let limit_bytes = 1 << 20;
        for from in CODECS {
            let original = batch(from);
            let original = BatchView::only(&original).unwrap();
            let records = original.contents(limit_bytes).unwrap().bytes().to_vec();
            for to in CODECS {
                let changed = recompress(&original, to, None, limit_bytes).unwrap();
                assert!(crc_matches(&changed));
                let view = BatchView::only(&changed).unwrap();
                validate_header(&view).unwrap();
                validate_contents(&view, ContentRules { keys_required: true, limit_bytes }).unwrap();
                assert_eq!(
                    (view.codec().unwrap(), view.contents(limit_bytes).unwrap().bytes()),
                    (to, &*records)
                );
                let same = |header: &BatchHeader| BatchHeader {
                    batch_length: 0,
                    crc: 0,
                    attributes: Attributes(header.attributes.0 & !CODEC_BITS),
                    ..*header
                };
                assert_eq!(same(view.header()), same(original.header()));
            }
        }
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let mut builder = BatchBuilder::new().codec(Codec::Zstd);
        builder.append(TimestampMs(1), None, Some(&vec![0; 1 << 20]), &[]);
        let bomb = builder.finish().unwrap();
        let refused = recompress(&BatchView::only(&bomb).unwrap(), Codec::None, None, 1000).unwrap_err();
        assert_eq!(refused, BatchError::Compression(CompressionError::TooLarge { limit_bytes: 1000 }));
    }
}
