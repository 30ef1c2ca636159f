//! Numbers that differ from one process to the next. They spread load and tell members apart; they keep no secret.

use super::clock;
use logmill_wire::ids::Uuid;

/// A generator of numbers (`SplitMix64`), seeded by the moment, the process and where its memory lies.
#[derive(Debug)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new() -> Self {
        let here = 0_u8;
        let place = std::ptr::from_ref(&here).addr() as u64;
        let moment = clock::wall_clock_ns() as u64;
        Self(moment ^ place.rotate_left(32) ^ (u64::from(std::process::id()) << 40))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn uuid(&mut self) -> Uuid {
        Uuid::from_random((u128::from(self.next()) << 64) | u128::from(self.next()))
    }
}
