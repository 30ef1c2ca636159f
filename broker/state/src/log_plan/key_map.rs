//! Where each key of a part of a log was last seen, in bounded memory.
//!
//! Keys are known by 128 bits of SipHash-2-4 under a secret that is drawn for each map: two keys of one log meet with
//! a chance of less than one in 10^20 even among a billion of them, and nobody can look for keys that do.

use logmill_wire::ids::Offset;

/// What an entry takes.
const SLOT_BYTES: usize = size_of::<Slot>();

/// The table is at most this full, in eighths.
const FULL_EIGHTHS: usize = 6;

/// The size of the first table, and the least of the largest, in entries.
const SLOTS_MIN: usize = 64;

/// The offset of a slot that is free.
const FREE: i64 = -1;

#[derive(Clone, Copy, Debug)]
struct Slot {
    fingerprint: [u64; 2],
    offset: i64,
}

const EMPTY: Slot = Slot { fingerprint: [0; 2], offset: FREE };

/// The table of keys.
#[derive(Debug)]
pub struct KeyTable {
    secret: [u64; 2],
    slots: Vec<Slot>,
    used: usize,
    slots_max: usize,
}

impl KeyTable {
    /// An empty table that takes at most `bytes_max` bytes, also while it grows; at least 64 entries. `secret` must be
    /// unpredictable.
    #[must_use]
    pub fn new(bytes_max: usize, secret: [u64; 2]) -> Self {
        // A table that grows is there twice for a moment, once in half its size.
        let slots_max = (bytes_max / SLOT_BYTES * 2 / 3).max(SLOTS_MIN);
        Self { secret, slots: vec![EMPTY; SLOTS_MIN], used: 0, slots_max }
    }

    /// Keys in the table.
    #[must_use]
    pub const fn keys(&self) -> usize {
        self.used
    }

    /// Notes that a key is at `offset`, which is beyond all that were noted before; false if the key is new and the
    /// table is full.
    pub fn put(&mut self, key: &[u8], offset: Offset) -> bool {
        let fingerprint = self.fingerprint(key);
        let at = find(&self.slots, fingerprint);
        if let Some(slot) = self.slots.get_mut(at)
            && slot.offset != FREE
        {
            slot.offset = offset.0;
            return true;
        }
        if self.is_full() && !self.grow() {
            return false;
        }
        let at = find(&self.slots, fingerprint);
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = Slot { fingerprint, offset: offset.0 };
            self.used += 1;
        }
        true
    }

    /// Where a key was last seen.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Offset> {
        let slot = self.slots.get(find(&self.slots, self.fingerprint(key)))?;
        (slot.offset != FREE).then_some(Offset(slot.offset))
    }

    const fn is_full(&self) -> bool {
        (self.used + 1) * 8 > self.slots.len() * FULL_EIGHTHS
    }

    fn grow(&mut self) -> bool {
        if self.slots.len() >= self.slots_max {
            return false;
        }
        let larger = vec![EMPTY; (self.slots.len() * 2).min(self.slots_max)];
        let before = std::mem::replace(&mut self.slots, larger);
        for slot in before.into_iter().filter(|slot| slot.offset != FREE) {
            let at = find(&self.slots, slot.fingerprint);
            if let Some(place) = self.slots.get_mut(at) {
                *place = slot;
            }
        }
        !self.is_full()
    }

    fn fingerprint(&self, key: &[u8]) -> [u64; 2] {
        sip_hash_128(self.secret, key)
    }
}

/// The place of a fingerprint, or the free one where it belongs; the table is never full.
fn find(slots: &[Slot], fingerprint: [u64; 2]) -> usize {
    let mut at = ((u128::from(fingerprint[0]) * slots.len() as u128) >> 64) as usize;
    loop {
        match slots.get(at) {
            Some(slot) if slot.offset == FREE || slot.fingerprint == fingerprint => return at,
            Some(_) => at += 1,
            None => at = 0,
        }
    }
}

/// SipHash-2-4 with 128 bits of output (Aumasson and Bernstein).
fn sip_hash_128(secret: [u64; 2], bytes: &[u8]) -> [u64; 2] {
    let mut state = [
        secret[0] ^ 0x736f_6d65_7073_6575,
        secret[1] ^ 0x646f_7261_6e64_6f6d ^ 0xee,
        secret[0] ^ 0x6c79_6765_6e65_7261,
        secret[1] ^ 0x7465_6462_7974_6573,
    ];
    let (words, rest) = bytes.as_chunks();
    for word in words {
        absorb(&mut state, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    last[7] = bytes.len() as u8;
    absorb(&mut state, u64::from_le_bytes(last));
    state[2] ^= 0xee;
    let first = squeeze(&mut state);
    state[1] ^= 0xdd;
    [first, squeeze(&mut state)]
}

fn absorb(state: &mut [u64; 4], word: u64) {
    state[3] ^= word;
    round(state);
    round(state);
    state[0] ^= word;
}

fn squeeze(state: &mut [u64; 4]) -> u64 {
    for _ in 0..4 {
        round(state);
    }
    state[0] ^ state[1] ^ state[2] ^ state[3]
}

const fn round(state: &mut [u64; 4]) {
    let [mut a, mut b, mut c, mut d] = *state;
    a = a.wrapping_add(b);
    c = c.wrapping_add(d);
    b = b.rotate_left(13) ^ a;
    d = d.rotate_left(16) ^ c;
    a = a.rotate_left(32).wrapping_add(d);
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    d = d.rotate_left(21) ^ a;
    *state = [a, b, c.rotate_left(32), d];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_the_paper() {
        let secret = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let of = |bytes: &[u8]| sip_hash_128(secret, bytes).map(u64::to_le_bytes).concat();
        let empty =
            [0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 2, 0x93];
        assert_eq!(of(&[]), empty);
        let one =
            [0xda, 0x87, 0xc1, 0xd8, 0x6b, 0x99, 0xaf, 0x44, 0x34, 0x76, 0x59, 0x11, 0x9b, 0x22, 0xfc, 0x45];
        assert_eq!(of(&[0]), one);
    }

    #[test]
    fn every_key_is_found_with_its_last_offset() {
        let mut table = KeyTable::new(1 << 20, [1, 2]);
        for offset in 0..20_000_i64 {
            assert!(table.put(&(offset % 7_000).to_le_bytes(), Offset(offset)));
        }
        assert_eq!(table.keys(), 7_000);
        for key in 0..7_000_i64 {
            let last = key + if key < 6_000 { 14_000 } else { 7_000 };
            assert_eq!(table.get(&key.to_le_bytes()), Some(Offset(last)));
        }
        assert_eq!(table.get(b"another"), None);
    }

    #[test]
    fn a_full_table_takes_known_keys_and_no_others_and_keeps_to_its_budget() {
        let mut table = KeyTable::new(64 << 10, [3, 4]);
        let mut taken = 0_i64;
        while table.put(&taken.to_le_bytes(), Offset(taken)) {
            taken += 1;
        }
        let bytes = table.slots.len() * SLOT_BYTES;
        assert!(bytes * 3 / 2 <= 64 << 10, "{bytes} bytes, and half as many before");
        assert!(taken > 1_200, "only {taken} keys");
        assert!(table.put(&0_i64.to_le_bytes(), Offset(99_999)));
        assert_eq!(table.get(&0_i64.to_le_bytes()), Some(Offset(99_999)));
        assert_eq!(table.get(&taken.to_le_bytes()), None);
    }
}
