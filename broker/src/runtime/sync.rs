//! The atomics under [`doorbell`](super::doorbell), in one place so that its test can put a model checker's
//! versions of the same names in their stead.

pub(crate) use std::sync::atomic::{AtomicU8, Ordering, fence};
