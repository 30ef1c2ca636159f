//! What is left of a broker's replicas when it starts without a log directory that it had (KIP-858).
//!
//! | its log is | then the replica |
//! |---|---|
//! | in one directory, which the broker's registration knew | has all that it had |
//! | in one directory, which it did not know | may be of an earlier time: a later log was in a directory that is missing |
//! | in none | may have been in a directory that is missing |
//! | in two, of which the registration did not know one | is out of service, and nobody remembers which log was the later one |
//!
//! The first three count only if a directory is missing. A registration knows the directories that the broker had in its run
//! before: a log that lies in one of them, and in no other, is the one by which the replica counts, for a broker begins
//! a log only if it is in none of its directories.

use std::collections::BTreeSet;

use logmill_wire::ids::{TopicPartition, Uuid};

use super::broker_lifecycle::BrokerStart;

/// The logs in one of a broker's log directories.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectoryLogs {
    /// The directory's id.
    pub directory: Uuid,
    /// The logs that were found in it.
    pub logs: Vec<TopicPartition>,
}

/// Which replicas of a broker that starts may lack what they had.
pub(super) struct FoundLogs {
    /// Whether a directory is missing.
    pub has_lost_directory: bool,
    /// Replicas that have all that they had, whatever is missing.
    kept: BTreeSet<TopicPartition>,
    /// Replicas that may not have it although nothing is missing.
    doubtful: BTreeSet<TopicPartition>,
}

impl FoundLogs {
    /// Of a start, by the directories that the registration before it knew.
    pub(super) fn new(start: &BrokerStart, known: &[Uuid]) -> Self {
        let has_lost_directory = known.iter().any(|id| !start.directories.contains(id));
        let (mut seen, mut twice) = (BTreeSet::new(), BTreeSet::new());
        let (mut of_known, mut of_others) = (BTreeSet::new(), BTreeSet::new());
        for DirectoryLogs { directory, logs } in &start.logs {
            let side = if known.contains(directory) { &mut of_known } else { &mut of_others };
            for &log in logs {
                side.insert(log);
                if !seen.insert(log) {
                    twice.insert(log);
                }
            }
        }
        let kept = of_known.into_iter().filter(|log| !twice.contains(log)).collect();
        twice.retain(|log| of_others.contains(log));
        Self { has_lost_directory, kept, doubtful: twice }
    }

    /// Whether all replicas have all that they had.
    pub(super) fn is_whole(&self) -> bool {
        !self.has_lost_directory && self.doubtful.is_empty()
    }

    /// Whether a replica may lack something that it had.
    pub(super) fn may_lack(&self, replica: TopicPartition) -> bool {
        self.doubtful.contains(&replica) || (self.has_lost_directory && !self.kept.contains(&replica))
    }
}
