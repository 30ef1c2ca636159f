//! Why links end, and a log of it that strangers cannot fill.

use logmill_wire::frame::FrameError;
use logmill_wire::ids::MonotonicNs;
use std::cell::Cell;
use std::fmt;

/// Why a link ended, or did not come to stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The other end closed it.
    Finished,
    /// The machine or the network failed; the text says how.
    Failed(String),
    /// Nothing was heard for longer than a live peer is silent.
    Silent,
    /// The other end took nothing, or did not get on with a frame.
    Stalled,
    /// What came is no frame, or not one that belongs there.
    Malformed(FrameError),
    /// Who is at the other end is not who it should be; the text says why.
    Refused(String),
    /// The metadata have changed: the broker is gone, or is another process.
    Outdated,
}

impl Cut {
    pub(super) fn failed(cause: impl fmt::Display) -> Self {
        Self::Failed(cause.to_string())
    }

    /// Whether the other end did what no broker of this cluster does.
    #[must_use]
    pub const fn is_misconduct(&self) -> bool {
        matches!(self, Self::Malformed(_) | Self::Refused(_))
    }
}

impl From<FrameError> for Cut {
    fn from(error: FrameError) -> Self {
        Self::Malformed(error)
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("the other end closed it"),
            Self::Failed(cause) | Self::Refused(cause) => f.write_str(cause),
            Self::Silent => f.write_str("nothing was heard of the other end"),
            Self::Stalled => f.write_str("the other end did not get on with a frame"),
            Self::Malformed(error) => write!(f, "a frame is malformed: {error:?}"),
            Self::Outdated => f.write_str("the metadata name another process, or none"),
        }
    }
}

/// Lets something be logged now and then.
#[derive(Default)]
pub(super) struct Complaints {
    last: Cell<Option<MonotonicNs>>,
    passed_over: Cell<u64>,
}

/// How often one is logged.
const EVERY_NS: u64 = 10_000_000_000;

impl Complaints {
    /// How many were passed over since the last one that was logged, if this one is to be.
    pub fn may_say(&self, now: MonotonicNs) -> Option<u64> {
        if self.last.get().is_some_and(|last| now.since(last) < EVERY_NS) {
            self.passed_over.set(self.passed_over.get() + 1);
            return None;
        }
        self.last.set(Some(now));
        Some(self.passed_over.replace(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_complaints_are_one_line() {
        let complaints = Complaints::default();
        let said: Vec<_> =
            (1..=25).filter_map(|second| complaints.may_say(MonotonicNs(second * 1_000_000_000))).collect();
        assert_eq!(said, [0, 9, 9]);
    }
}
