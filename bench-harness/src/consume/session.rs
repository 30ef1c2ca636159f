//! Fetch sessions (KIP-227): after the first request, only what has changed is named.

use super::Position;
use logmill_wire::api::fetch;
use logmill_wire::error_codes::ErrorCode;
use std::collections::{BTreeMap, BTreeSet};

/// The epoch that asks for a new session.
const NEW_SESSION: i32 = 0;

/// What the broker knows of a reader's wishes.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// 0 until the broker has given one, and for good if it never does.
    id: i32,
    epoch: i32,
    /// Partitions whose position the broker does not know.
    changed: BTreeSet<i32>,
    /// Partitions that are not to be read any more.
    forgotten: BTreeSet<i32>,
}

impl Session {
    /// Notes that a partition's position has moved.
    pub(super) fn moved(&mut self, partition: i32) {
        self.changed.insert(partition);
    }

    /// Notes that a partition is not to be read any more.
    pub(super) fn forget(&mut self, partition: i32) {
        self.changed.remove(&partition);
        self.forgotten.insert(partition);
    }

    /// The partitions to name in the next request.
    pub(super) fn to_name(&self, positions: &BTreeMap<i32, Position>) -> Vec<(i32, i64)> {
        let all = self.id == 0 || self.epoch == NEW_SESSION;
        let named = positions.iter().filter(|(partition, _)| all || self.changed.contains(partition));
        named.map(|(partition, position)| (*partition, position.next)).collect()
    }

    /// Fills in what is the session's in a request; `forgotten` makes the entry for partitions.
    pub(super) fn fill<'a>(
        &self,
        request: &mut fetch::Request<'a>,
        forgotten: impl FnOnce(Vec<i32>) -> fetch::ForgottenTopic<'a>,
    ) {
        (request.session_id, request.session_epoch) = (self.id, self.epoch);
        if self.id != 0 && !self.forgotten.is_empty() {
            request.forgotten_topics_data = vec![forgotten(self.forgotten.iter().copied().collect())].into();
        }
    }

    /// Takes the broker's answer; false if the session is lost and the request has to be made anew.
    pub(super) fn answered(&mut self, error_code: i16, session_id: i32) -> bool {
        let is_lost = [ErrorCode::FetchSessionIdNotFound, ErrorCode::InvalidFetchSessionEpoch]
            .iter()
            .any(|lost| lost.code() == error_code);
        if is_lost && self.id != 0 {
            *self = Self::default();
            return false;
        }
        self.changed.clear();
        self.forgotten.clear();
        if error_code == 0 && session_id != 0 {
            // Epochs wrap past 0, which would ask for a new session.
            self.epoch = if self.id == session_id { self.epoch.checked_add(1).unwrap_or(1) } else { 1 };
            self.id = session_id;
        } else {
            (self.id, self.epoch) = (0, NEW_SESSION);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_changed_is_named() {
        let position = |next| Position { next, first: 0, end: None };
        let mut positions = BTreeMap::from([(1, position(10)), (2, position(20))]);
        let mut session = Session::default();
        assert_eq!(session.to_name(&positions), [(1, 10), (2, 20)]);
        assert!(session.answered(0, 7));
        assert_eq!(session.to_name(&positions), []);
        positions.insert(2, position(25));
        session.moved(2);
        assert_eq!(session.to_name(&positions), [(2, 25)]);
        let mut request = fetch::Request::default();
        session.forget(1);
        session.fill(&mut request, |partitions| fetch::ForgottenTopic {
            partitions: partitions.into(),
            ..Default::default()
        });
        assert_eq!((request.session_id, request.session_epoch), (7, 1));
        assert_eq!(request.forgotten_topics_data.len(), 1);
        assert!(session.answered(0, 7));
        assert_eq!(session.epoch, 2);
        assert!(!session.answered(ErrorCode::FetchSessionIdNotFound.code(), 0));
        assert_eq!(session.to_name(&positions).len(), 2);
        // A broker without sessions is told everything each time.
        assert!(session.answered(0, 0));
        assert_eq!(session.to_name(&positions).len(), 2);
    }
}
