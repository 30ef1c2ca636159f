//! Which partition a record goes to, as Kafka's own producer decides it.

use super::chance::Chance;

/// How many bytes go to one partition before the next one has its turn (`batch.size`, KIP-794).
const STICKY_BYTES: usize = 16 << 10;

/// Kafka's default partitioner: by the key's hash, and without a key to one partition for a while (KIP-480, KIP-794).
#[derive(Debug)]
pub(super) struct Partitioner {
    chance: Chance,
    current: Option<usize>,
    bytes: usize,
}

impl Partitioner {
    pub(super) const fn new(chance: Chance) -> Self {
        Self { chance, current: None, bytes: 0 }
    }

    /// The place, among `count` partitions in the order of their numbers, of a record of `bytes` bytes.
    pub(super) fn place(&mut self, key: Option<&[u8]>, bytes: usize, count: usize) -> usize {
        let count = count.max(1);
        match key {
            Some(key) => (murmur2(key) & 0x7fff_ffff) as usize % count,
            None => {
                if self.bytes >= STICKY_BYTES {
                    self.current = None;
                    self.bytes = 0;
                }
                self.bytes += bytes;
                let current = self.current.filter(|current| *current < count);
                let place = current.unwrap_or_else(|| (self.chance.next() % count as u64) as usize);
                self.current = Some(place);
                place
            }
        }
    }
}

/// The 32-bit `MurmurHash2` of a key with the seed that Kafka's clients use.
fn murmur2(key: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const FACTOR: u32 = 0x5bd1_e995;
    let mut hash = SEED ^ key.len() as u32;
    let (words, tail) = key.as_chunks::<4>();
    for word in words {
        let mut mixed = u32::from_le_bytes(*word).wrapping_mul(FACTOR);
        mixed ^= mixed >> 24;
        hash = hash.wrapping_mul(FACTOR) ^ mixed.wrapping_mul(FACTOR);
    }
    if !tail.is_empty() {
        let mut last = [0; 4];
        last[..tail.len()].copy_from_slice(tail);
        hash = (hash ^ u32::from_le_bytes(last)).wrapping_mul(FACTOR);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(FACTOR);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_hash_as_in_kafkas_clients() {
        let hash = |key: &str| murmur2(key.as_bytes()).cast_signed();
        assert_eq!(hash("21"), -973_932_308);
        assert_eq!(hash("foobar"), -790_332_482);
        assert_eq!(hash("a-little-bit-long-string"), -985_981_536);
        assert_eq!(hash("a-little-bit-longer-string"), -1_486_304_829);
        assert_eq!(hash("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8"), -58_897_971);
        assert_eq!(hash("abc"), 479_470_107);
    }

    #[test]
    fn a_key_has_one_place_and_records_without_keys_stay_for_a_while() {
        let mut partitioner = Partitioner::new(Chance::new());
        assert_eq!(partitioner.place(Some(b"21"), 10, 7), (-973_932_308_i32 & 0x7fff_ffff) as usize % 7);
        for _ in 0..20 {
            let place = partitioner.place(None, STICKY_BYTES / 4, 5);
            assert!(place < 5);
            for _ in 0..3 {
                assert_eq!(partitioner.place(None, STICKY_BYTES / 4, 5), place);
            }
        }
        let places: std::collections::BTreeSet<usize> =
            (0..200).map(|_| partitioner.place(None, STICKY_BYTES, 5)).collect();
        assert_eq!(places.len(), 5);
    }
}
