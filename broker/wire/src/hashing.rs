//! Hash maps whose order is the same in every run: the standard ones are seeded at random, which would
//! make two simulated runs of one seed differ.

use std::hash::{BuildHasherDefault, Hasher};

/// FNV-1a, eight bytes at a time as far as there are so many, with a final mix: deterministic; not for keys that strangers choose in bulk.
#[derive(Default, Clone, Copy)]
pub struct StableHasher(u64);

impl Hasher for StableHasher {
    fn finish(&self) -> u64 {
        let mut mixed = self.0;
        mixed ^= mixed >> 33;
        mixed = mixed.wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^= mixed >> 33;
        mixed
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut state = self.0 ^ 0xcbf2_9ce4_8422_2325;
        let (words, rest) = bytes.as_chunks();
        for word in words {
            // High bits of one word must reach the low bits that the next one meets.
            state = (state ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
        for &byte in rest {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self.0 = state;
    }
}

/// A hash map with a deterministic order.
#[expect(clippy::disallowed_types, reason = "this is the one place that gives the map its fixed hasher")]
pub type HashMap<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<StableHasher>>;

/// A hash set with a deterministic order.
#[expect(clippy::disallowed_types, reason = "this is the one place that gives the set its fixed hasher")]
pub type HashSet<K> = std::collections::HashSet<K, BuildHasherDefault<StableHasher>>;
