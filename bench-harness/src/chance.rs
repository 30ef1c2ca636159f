//! Repeatable chance: the same seed gives the same load.

/// `SplitMix64` (Steele, Lea, Flood 2014): small, and enough to keep records apart.
#[derive(Clone, Debug)]
pub struct Chance {
    state: u64,
}

impl Chance {
    /// The sequence that belongs to the seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// An exponentially distributed time with the given mean, in the mean's unit: the gap between two events of a
    /// Poisson process.
    pub fn gap(&mut self, mean: f64) -> f64 {
        // 53 bits, moved off 0, whose logarithm is none.
        let uniform = ((self.bits() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -uniform.ln() * mean
    }

    /// Hexadecimal digits, so that codecs find about what they find in text.
    pub fn digits(&mut self, length: usize) -> Vec<u8> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        core::iter::repeat_with(|| DIGITS[(self.bits() & 0x0f) as usize]).take(length).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_exponential() {
        let mut chance = Chance::new(1);
        let gaps: Vec<f64> = (0..100_000).map(|_| chance.gap(10.0)).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean - 10.0).abs() < 0.2, "{mean}");
        // An exponential distribution's standard deviation is its mean.
        assert!((variance.sqrt() - 10.0).abs() < 0.3, "{variance}");
        assert!(gaps.iter().all(|gap| *gap > 0.0));
    }
}
