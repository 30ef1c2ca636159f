//! What a test leaves to chance, so that a seed repeats it.

use std::env;
use std::time::{SystemTime, UNIX_EPOCH};

/// Numbers that a seed decides (SplitMix64).
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from 0 to `bound`, that one excluded.
    pub const fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// The seed that LOGMILL_CI_SEED gives, or one of the moment.
#[must_use]
pub fn seed() -> u64 {
    number_from("LOGMILL_CI_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map(|time| time.subsec_nanos());
        u64::from(now.unwrap_or(0))
    })
}

/// The number in an environment variable.
///
/// # Panics
/// If it holds something else.
#[must_use]
pub fn number_from(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}
