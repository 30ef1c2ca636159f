//! Messages for tests: every field set to something that differs from its default, or to null, or a random
//! mixture. Only with the feature `samples`.

use crate::api::Message;
use crate::ids::Uuid;
use crate::primitives::{Array, Format, Records};
use bytes::Bytes;
use std::borrow::Cow;

/// What a sample's fields are set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Every field that the version has differs from its default and is not null.
    Full,
    /// Like `Full`, but every field that the version allows to be null is null.
    Null,
    /// Every field has its default.
    Default,
    /// Each field by chance.
    Mixed,
}

/// Draws the values of a sample, the same ones for the same seed.
#[derive(Clone, Debug)]
pub struct Pattern {
    shape: Shape,
    state: u64,
    depth: u32,
}

/// A type of which samples can be made.
pub trait Sample {
    /// A value that the format can carry.
    fn sample(pattern: &mut Pattern, format: Format) -> Self;
}

/// A message that `version` can carry; the same one for the same arguments.
#[must_use]
pub fn message<'a, M: Message<'a> + Sample>(shape: Shape, seed: u64, version: i16) -> M {
    let format = Format { version, flexible: version >= M::FLEXIBLE_FROM };
    M::sample(&mut Pattern::new(shape, seed), format)
}

impl Pattern {
    /// A pattern of the given shape.
    #[must_use]
    pub const fn new(shape: Shape, seed: u64) -> Self {
        Self { shape, state: seed, depth: 0 }
    }

    /// The next random bits (SplitMix64).
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Whether the next field keeps its default.
    pub fn keeps_default(&mut self) -> bool {
        match self.shape {
            Shape::Full | Shape::Null => false,
            Shape::Default => true,
            Shape::Mixed => self.bits().is_multiple_of(3),
        }
    }

    /// The next field's value, null if the shape says so and the version allows it.
    pub fn nullable<T: Sample>(&mut self, may_be_null: bool, format: Format) -> Option<T> {
        let wants_null = match self.shape {
            Shape::Full => false,
            Shape::Null | Shape::Default => true,
            Shape::Mixed => self.bits().is_multiple_of(3),
        };
        if wants_null && may_be_null { None } else { Some(T::sample(self, format)) }
    }

    /// How many elements or bytes the next value has.
    fn length(&mut self, max: u64) -> usize {
        match self.shape {
            Shape::Mixed => (self.bits() % (max + 1)) as usize,
            _ => 2,
        }
    }
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Sample for $type {
            // Between 2 and the type's maximum: no default is among these but for those at the maximum, and a
            // length that is misread as a value is easily told apart.
            fn sample(pattern: &mut Pattern, _: Format) -> Self {
                let span = (<$type>::MAX - 3) as u64;
                (pattern.bits() % span) as $type + 2
            }
        }
    )*};
}

integers!(i8, i16, u16, i32, u32, i64);

impl Sample for bool {
    fn sample(pattern: &mut Pattern, _: Format) -> Self {
        pattern.shape != Shape::Mixed || pattern.bits().is_multiple_of(2)
    }
}

impl Sample for f64 {
    fn sample(pattern: &mut Pattern, _: Format) -> Self {
        (pattern.bits() % 1_000_000) as f64 + 0.5
    }
}

impl Sample for Uuid {
    fn sample(pattern: &mut Pattern, _: Format) -> Self {
        Self::from_random(u128::from(pattern.bits()) << 64 | u128::from(pattern.bits()))
    }
}

impl Sample for Cow<'_, str> {
    fn sample(pattern: &mut Pattern, _: Format) -> Self {
        // Long enough at times for a compact length of two bytes; "ü" takes two bytes.
        let repeats = pattern.length(80);
        Cow::Owned(format!("ü{}", "ab".repeat(repeats)))
    }
}

impl Sample for Cow<'_, [u8]> {
    fn sample(pattern: &mut Pattern, _: Format) -> Self {
        let length = 1 + pattern.length(300);
        Cow::Owned((0..length).map(|_| pattern.bits() as u8).collect())
    }
}

impl Sample for Records<'_> {
    fn sample(pattern: &mut Pattern, format: Format) -> Self {
        let parts = 1 + pattern.length(2);
        (0..parts)
            .map(|_| Bytes::from(Cow::<[u8]>::sample(pattern, format).into_owned()))
            .collect::<Vec<_>>()
            .into()
    }
}

impl<T: Sample> Sample for Array<'_, T> {
    fn sample(pattern: &mut Pattern, format: Format) -> Self {
        // Deeper arrays are shorter, so that a sample stays small.
        let length = pattern.length(u64::from(6_u32.saturating_sub(2 * pattern.depth)).max(1));
        pattern.depth += 1;
        let elements = (0..length).map(|_| T::sample(pattern, format)).collect();
        pattern.depth -= 1;
        elements
    }
}
