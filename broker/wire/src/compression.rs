//! The record batch codecs: gzip, Snappy (Xerial-framed), LZ4 (KIP-57) and zstd (KIP-110).
//!
//! What is decompressed comes from strangers, so no buffer is sized by a length that the compressed bytes
//! merely claim: memory grows with the output that was really produced, or with the most that the
//! compressed bytes could yield, and stops at the caller's limit. The batch's CRC-32C already covers the
//! compressed bytes, so the checksums inside LZ4 frames are passed over.

use core::fmt;
use std::io::{Read, Write};

use zstd::zstd_safe;

/// How the records of a batch are compressed (`compression.type`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Codec {
    /// Not compressed.
    #[default]
    None,
    /// gzip members (RFC 1952).
    Gzip,
    /// Raw Snappy chunks in the frames of the Xerial library.
    Snappy,
    /// LZ4 frames of independent blocks (KIP-57).
    Lz4,
    /// zstd frames (KIP-110); needs Produce 7 and Fetch 10.
    Zstd,
}

impl Codec {
    /// Every codec, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The codec of this number in a batch's attributes; `None` if there is none.
    #[must_use]
    pub const fn from_id(id: u8) -> Option<Self> {
        Some(match id {
            0 => Self::None,
            1 => Self::Gzip,
            2 => Self::Snappy,
            3 => Self::Lz4,
            4 => Self::Zstd,
            _ => return None,
        })
    }

    /// The number in a batch's attributes.
    #[must_use]
    pub const fn id(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// The value of `compression.type` that means this codec. As a topic's setting Kafka also takes
    /// `uncompressed` for "none", and `producer`, which is no codec.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// The codec of this name; `None` if there is none.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        if name == "uncompressed" {
            return Some(Self::None);
        }
        Self::ALL.into_iter().find(|codec| codec.name() == name)
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why bytes could not be compressed or decompressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CompressionError {
    /// The bytes are not what the codec produces.
    Corrupt(Codec),
    /// Decompressing yields more than the limit.
    TooLarge {
        /// The most that may come out.
        limit_bytes: usize,
    },
    /// The codec's library could not compress.
    Failed(Codec),
}

impl fmt::Display for CompressionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt(codec) => {
                write!(f, "the records are not valid {codec} data; check the producer's compression library")
            }
            Self::TooLarge { limit_bytes } => {
                write!(f, "the records decompress to more than {limit_bytes} bytes; send smaller batches")
            }
            Self::Failed(codec) => write!(f, "the {codec} library could not compress the records"),
        }
    }
}

impl core::error::Error for CompressionError {}

/// Decompresses `compressed` into a new buffer.
///
/// # Errors
/// As [`decompress_into`].
pub fn decompress(codec: Codec, compressed: &[u8], limit_bytes: usize) -> Result<Vec<u8>, CompressionError> {
    let mut output = Vec::new();
    decompress_into(codec, compressed, limit_bytes, &mut output)?;
    Ok(output)
}

/// Replaces the contents of `output` by the decompressed bytes; its allocation is used again.
///
/// # Errors
/// [`CompressionError::Corrupt`], or [`CompressionError::TooLarge`] if the output has more than
/// `limit_bytes`; `output` then holds an unspecified part of it.
pub fn decompress_into(
    codec: Codec,
    compressed: &[u8],
    limit_bytes: usize,
    output: &mut Vec<u8>,
) -> Result<(), CompressionError> {
    output.clear();
    match codec {
        Codec::None => {
            if compressed.len() > limit_bytes {
                return Err(CompressionError::TooLarge { limit_bytes });
            }
            output.extend_from_slice(compressed);
            Ok(())
        }
        Codec::Gzip => gunzip(compressed, limit_bytes, output),
        Codec::Snappy => unsnappy(compressed, limit_bytes, output),
        Codec::Lz4 => unlz4(compressed, limit_bytes, output),
        Codec::Zstd => unzstd(compressed, limit_bytes, output),
    }
}

/// Compresses `plain`. `level` is that of `compression.gzip.level` or `compression.zstd.level` (KIP-390);
/// without one the codec's default holds, and levels beyond the codec's range count as its nearest one.
/// Snappy has no levels, and LZ4 has a single one here.
///
/// # Errors
/// [`CompressionError::Failed`] if the codec's library fails.
pub fn compress(codec: Codec, level: Option<i32>, plain: &[u8]) -> Result<Vec<u8>, CompressionError> {
    match codec {
        Codec::None => Ok(plain.to_vec()),
        Codec::Gzip => gzip(plain, level),
        Codec::Snappy => snappy(plain),
        Codec::Lz4 => lz4(plain),
        Codec::Zstd => {
            let range = zstd::compression_level_range();
            let level = level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL);
            let level = level.clamp(*range.start(), *range.end());
            zstd::bulk::compress(plain, level).map_err(|_| CompressionError::Failed(codec))
        }
    }
}

fn gunzip(compressed: &[u8], limit_bytes: usize, output: &mut Vec<u8>) -> Result<(), CompressionError> {
    let one_too_many = (limit_bytes as u64).saturating_add(1);
    // The vector grows with what was read, so that a bomb costs at most twice the limit.
    let mut bounded = flate2::read::MultiGzDecoder::new(compressed).take(one_too_many);
    let result = bounded.read_to_end(output);
    if output.len() > limit_bytes {
        return Err(CompressionError::TooLarge { limit_bytes });
    }
    result.map(drop).map_err(|_| CompressionError::Corrupt(Codec::Gzip))
}

fn gzip(plain: &[u8], level: Option<i32>) -> Result<Vec<u8>, CompressionError> {
    let level = match level {
        // -1 is zlib's own name for its default.
        None | Some(..0) => flate2::Compression::default(),
        Some(level) => flate2::Compression::new(level.unsigned_abs().clamp(1, 9)),
    };
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
    let failed = |_| CompressionError::Failed(Codec::Gzip);
    encoder.write_all(plain).map_err(failed)?;
    encoder.finish().map_err(failed)
}

const XERIAL_MAGIC: [u8; 8] = *b"\x82SNAPPY\0";
const XERIAL_HEADER_BYTES: usize = 16;
const XERIAL_CHUNK_BYTES: usize = 32 << 10;

/// No element of the Snappy format yields more than 64 bytes from 3, that is 21⅓ from one.
const SNAPPY_RATIO_MAX: usize = 22;

fn unsnappy(compressed: &[u8], limit_bytes: usize, output: &mut Vec<u8>) -> Result<(), CompressionError> {
    const CORRUPT: CompressionError = CompressionError::Corrupt(Codec::Snappy);
    let mut decoder = snap::raw::Decoder::new();
    if !compressed.starts_with(&XERIAL_MAGIC) {
        return unsnappy_chunk(&mut decoder, compressed, limit_bytes, output);
    }
    let mut rest = compressed;
    while !rest.is_empty() {
        // Streams that were joined have a header in the middle, too.
        if rest.starts_with(&XERIAL_MAGIC) {
            rest = rest.get(XERIAL_HEADER_BYTES..).ok_or(CORRUPT)?;
            continue;
        }
        let (length, after) = rest.split_first_chunk().ok_or(CORRUPT)?;
        let chunk_bytes = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| CORRUPT)?;
        let (chunk, after) = after.split_at_checked(chunk_bytes).ok_or(CORRUPT)?;
        unsnappy_chunk(&mut decoder, chunk, limit_bytes, output)?;
        rest = after;
    }
    Ok(())
}

fn unsnappy_chunk(
    decoder: &mut snap::raw::Decoder,
    chunk: &[u8],
    limit_bytes: usize,
    output: &mut Vec<u8>,
) -> Result<(), CompressionError> {
    const CORRUPT: CompressionError = CompressionError::Corrupt(Codec::Snappy);
    let claimed_bytes = snap::raw::decompress_len(chunk).map_err(|_| CORRUPT)?;
    if claimed_bytes > chunk.len().saturating_mul(SNAPPY_RATIO_MAX) {
        return Err(CORRUPT);
    }
    let start = output.len();
    if claimed_bytes > limit_bytes.saturating_sub(start) {
        return Err(CompressionError::TooLarge { limit_bytes });
    }
    output.resize(start + claimed_bytes, 0);
    let written_bytes = decoder.decompress(chunk, &mut output[start..]).map_err(|_| CORRUPT)?;
    output.truncate(start + written_bytes);
    Ok(())
}

fn snappy(plain: &[u8]) -> Result<Vec<u8>, CompressionError> {
    let mut output = Vec::with_capacity(XERIAL_HEADER_BYTES + plain.len() / 2);
    output.extend_from_slice(&XERIAL_MAGIC);
    // The version of the framing, and the oldest one that can read it.
    output.extend_from_slice(&1_i32.to_be_bytes());
    output.extend_from_slice(&1_i32.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for chunk in plain.chunks(XERIAL_CHUNK_BYTES) {
        let length_at = output.len();
        let start = length_at + size_of::<i32>();
        output.resize(start + snap::raw::max_compress_len(chunk.len()), 0);
        let written_bytes = encoder
            .compress(chunk, &mut output[start..])
            .map_err(|_| CompressionError::Failed(Codec::Snappy))?;
        output.truncate(start + written_bytes);
        // At most 32 KiB and a sixth, so the cast is exact.
        output[length_at..start].copy_from_slice(&(written_bytes as i32).to_be_bytes());
    }
    Ok(output)
}

const LZ4_MAGIC: u32 = 0x184d_2204;
const LZ4_STORED_BIT: u32 = 1 << 31;
const LZ4_WINDOW_BYTES: usize = 64 << 10;

/// A byte of an LZ4 block yields at most 255 bytes (as a continued length), the first few a little more.
const LZ4_RATIO_MAX: usize = 255;
const LZ4_RATIO_SLACK_BYTES: usize = 64;

/// What the header of an LZ4 frame says about the blocks that follow.
struct Lz4Frame {
    linked: bool,
    block_checksums: bool,
    content_checksum: bool,
    block_bytes_max: usize,
}

impl Lz4Frame {
    /// Reads the header (magic, FLG, BD, optional content size, checksum) and returns what follows it.
    fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (magic, rest) = bytes.split_first_chunk()?;
        let (&[flags, descriptor], rest) = rest.split_first_chunk()?;
        let has_dictionary = flags & 0x01 != 0;
        if u32::from_le_bytes(*magic) != LZ4_MAGIC || flags >> 6 != 1 || has_dictionary {
            return None;
        }
        let block_bytes_max = match (descriptor >> 4) & 0x07 {
            4 => 64 << 10,
            5 => 256 << 10,
            6 => 1 << 20,
            7 => 4 << 20,
            _ => return None,
        };
        let content_size_bytes = if flags & 0x08 == 0 { 0 } else { 8 };
        let rest = rest.get(content_size_bytes + 1..)?;
        let frame = Self {
            linked: flags & 0x20 == 0,
            block_checksums: flags & 0x10 != 0,
            content_checksum: flags & 0x04 != 0,
            block_bytes_max,
        };
        Some((frame, rest))
    }
}

fn unlz4(compressed: &[u8], limit_bytes: usize, output: &mut Vec<u8>) -> Result<(), CompressionError> {
    const CORRUPT: CompressionError = CompressionError::Corrupt(Codec::Lz4);
    let mut rest = compressed;
    loop {
        let (frame, blocks) = Lz4Frame::parse(rest).ok_or(CORRUPT)?;
        let frame_start = output.len();
        rest = blocks;
        loop {
            let (length, after) = rest.split_first_chunk().ok_or(CORRUPT)?;
            let length = u32::from_le_bytes(*length);
            if length == 0 {
                rest = after;
                break;
            }
            let block_bytes = (length & !LZ4_STORED_BIT) as usize;
            let (block, after) = after.split_at_checked(block_bytes).ok_or(CORRUPT)?;
            if length & LZ4_STORED_BIT == 0 {
                unlz4_block(&frame, block, frame_start, limit_bytes, output)?;
            } else if block_bytes > frame.block_bytes_max {
                return Err(CORRUPT);
            } else if block_bytes > limit_bytes.saturating_sub(output.len()) {
                return Err(CompressionError::TooLarge { limit_bytes });
            } else {
                output.extend_from_slice(block);
            }
            rest = after.get(if frame.block_checksums { 4 } else { 0 }..).ok_or(CORRUPT)?;
        }
        rest = rest.get(if frame.content_checksum { 4 } else { 0 }..).ok_or(CORRUPT)?;
        if rest.is_empty() {
            return Ok(());
        }
    }
}

fn unlz4_block(
    frame: &Lz4Frame,
    block: &[u8],
    frame_start: usize,
    limit_bytes: usize,
    output: &mut Vec<u8>,
) -> Result<(), CompressionError> {
    let start = output.len();
    let possible_bytes = block.len().saturating_mul(LZ4_RATIO_MAX).saturating_add(LZ4_RATIO_SLACK_BYTES);
    let possible_bytes = possible_bytes.min(frame.block_bytes_max);
    let allowed_bytes = limit_bytes.saturating_sub(start);
    let room_bytes = possible_bytes.min(allowed_bytes);
    output.resize(start + room_bytes, 0);
    let (before, room) = output.split_at_mut(start);
    let result = if frame.linked {
        let window_start = start.saturating_sub(LZ4_WINDOW_BYTES).max(frame_start);
        lz4_flex::block::decompress_into_with_dict(block, room, &before[window_start..])
    } else {
        lz4_flex::block::decompress_into(block, room)
    };
    match result {
        Ok(written_bytes) => {
            output.truncate(start + written_bytes);
            Ok(())
        }
        Err(lz4_flex::block::DecompressError::OutputTooSmall { .. }) if allowed_bytes < possible_bytes => {
            Err(CompressionError::TooLarge { limit_bytes })
        }
        Err(_) => Err(CompressionError::Corrupt(Codec::Lz4)),
    }
}

fn lz4(plain: &[u8]) -> Result<Vec<u8>, CompressionError> {
    // Kafka's own reader refuses linked blocks (KIP-57).
    let frame = lz4_flex::frame::FrameInfo::new()
        .block_mode(lz4_flex::frame::BlockMode::Independent)
        .block_size(lz4_flex::frame::BlockSize::Max64KB);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, Vec::new());
    encoder.write_all(plain).map_err(|_| CompressionError::Failed(Codec::Lz4))?;
    encoder.finish().map_err(|_| CompressionError::Failed(Codec::Lz4))
}

/// The first buffer for zstd output, and the step by which it grows when it was too small.
const ZSTD_OUTPUT_MIN_BYTES: usize = 16 << 10;
const ZSTD_GROWTH: usize = 4;
const ZSTD_EXPECTED_RATIO: usize = 8;

/// Decompresses in one call into a buffer that is enlarged until it suffices. Streaming would allocate the
/// window that the frame claims (128 MiB from a few bytes, and valid: level 22 uses it); this allocates no
/// window at all, and the calls that fail cost together a third of the one that succeeds.
fn unzstd(compressed: &[u8], limit_bytes: usize, output: &mut Vec<u8>) -> Result<(), CompressionError> {
    const CORRUPT: CompressionError = CompressionError::Corrupt(Codec::Zstd);
    let expected_bytes = compressed.len().saturating_mul(ZSTD_EXPECTED_RATIO).max(ZSTD_OUTPUT_MIN_BYTES);
    let claimed_bytes = match zstd_safe::get_frame_content_size(compressed) {
        Ok(Some(claimed)) => usize::try_from(claimed).unwrap_or(usize::MAX),
        // One byte at least, or the buffer could not grow.
        Ok(None) | Err(_) => usize::MAX,
    };
    let mut room_bytes = expected_bytes.min(claimed_bytes).min(limit_bytes).max(1);
    loop {
        output.clear();
        output.reserve_exact(room_bytes);
        // The vector may have more room than was asked for, and only the limit matters.
        match zstd_safe::decompress(output, compressed) {
            Ok(_) if output.len() > limit_bytes => return Err(CompressionError::TooLarge { limit_bytes }),
            Ok(_) => return Ok(()),
            Err(code) if zstd_safe::get_error_name(code) != "Destination buffer is too small" => {
                return Err(CORRUPT);
            }
            Err(_) if output.capacity() >= limit_bytes => {
                return Err(CompressionError::TooLarge { limit_bytes });
            }
            Err(_) => room_bytes = output.capacity().saturating_mul(ZSTD_GROWTH).min(limit_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that compress somewhat: a repeating text with a counter in it.
    fn sample(length: usize) -> Vec<u8> {
        (0_u64..).flat_map(|n| format!("record {n} of the sample; ").into_bytes()).take(length).collect()
    }

    #[test]
    fn every_codec_round_trips() {
        for codec in Codec::ALL {
            for length in [0, 1, 100, 32 << 10, (64 << 10) + 1, 300_000] {
                let plain = sample(length);
                for level in [None, Some(-7), Some(1), Some(9), Some(1000)] {
                    let packed = compress(codec, level, &plain).unwrap();
                    assert_eq!(decompress(codec, &packed, length).unwrap(), plain, "{codec} {length}");
                }
            }
        }
    }

    #[test]
    fn output_stops_at_the_limit() {
        for codec in Codec::ALL {
            let packed = compress(codec, None, &sample(300_000)).unwrap();
            for limit_bytes in [0, 1, 70_000, 299_999] {
                assert_eq!(
                    decompress(codec, &packed, limit_bytes),
                    Err(CompressionError::TooLarge { limit_bytes }),
                    "{codec}"
                );
            }
        }
    }

    #[test]
    fn truncated_bytes_are_corrupt() {
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let packed = compress(codec, None, &sample(100_000)).unwrap();
            for cut in [1, 5, packed.len() / 2, packed.len() - 1] {
                assert_eq!(
                    decompress(codec, &packed[..cut], 1 << 20),
                    Err(CompressionError::Corrupt(codec)),
                    "{codec} cut at {cut}"
                );
            }
        }
    }

    #[test]
    fn gzip_members_follow_one_another() {
        let mut packed = compress(Codec::Gzip, None, b"first ").unwrap();
        packed.extend(compress(Codec::Gzip, None, b"second").unwrap());
        assert_eq!(decompress(Codec::Gzip, &packed, 100).unwrap(), b"first second");
    }

    #[test]
    fn snappy_without_frames_and_joined_frames() {
        let plain = sample(50_000);
        let raw = snap::raw::Encoder::new().compress_vec(&plain).unwrap();
        assert_eq!(decompress(Codec::Snappy, &raw, 50_000).unwrap(), plain);
        let mut joined = compress(Codec::Snappy, None, &plain).unwrap();
        assert_eq!(&joined[..16], b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01");
        joined.extend(compress(Codec::Snappy, None, b"more").unwrap());
        assert_eq!(decompress(Codec::Snappy, &joined, 50_004).unwrap().len(), 50_004);
    }

    #[test]
    fn snappy_claims_are_held_against_the_input() {
        // Four billion bytes, claimed by five.
        assert_eq!(
            decompress(Codec::Snappy, b"\xff\xff\xff\xff\x0f", usize::MAX),
            Err(CompressionError::Corrupt(Codec::Snappy))
        );
    }

    #[test]
    fn lz4_blocks_are_independent_in_what_is_written_and_may_be_linked_in_what_is_read() {
        let plain = sample(300_000);
        let packed = compress(Codec::Lz4, None, &plain).unwrap();
        assert_eq!(packed[4] & 0x20, 0x20);
        for mode in [lz4_flex::frame::BlockMode::Linked, lz4_flex::frame::BlockMode::Independent] {
            let info = lz4_flex::frame::FrameInfo::new()
                .block_mode(mode)
                .block_checksums(true)
                .content_checksum(true)
                .content_size(Some(plain.len() as u64));
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(&plain).unwrap();
            let packed = encoder.finish().unwrap();
            assert_eq!(decompress(Codec::Lz4, &packed, plain.len()).unwrap(), plain);
        }
    }

    #[test]
    fn zstd_of_unknown_size_and_huge_window() {
        let plain = sample(600_000);
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(27).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(&plain).unwrap();
        let packed = encoder.finish().unwrap();
        assert_eq!(zstd_safe::get_frame_content_size(&packed).unwrap(), None);
        assert_eq!(decompress(Codec::Zstd, &packed, plain.len()).unwrap(), plain);
        let zeros = compress(Codec::Zstd, None, &vec![0; 10 << 20]).unwrap();
        assert!(zeros.len() < 2000);
        assert_eq!(decompress(Codec::Zstd, &zeros, 10 << 20).unwrap().len(), 10 << 20);
    }

    #[test]
    fn names_and_numbers() {
        for (id, codec) in Codec::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(codec.id()), id);
            assert_eq!(Codec::from_id(id as u8), Some(codec));
            assert_eq!(Codec::from_name(codec.name()), Some(codec));
        }
        assert_eq!(Codec::from_id(5), None);
        assert_eq!(Codec::from_name("uncompressed"), Some(Codec::None));
        assert_eq!(Codec::from_name("producer"), None);
    }
}
