//! What a quorum promises, looked at whenever a node's status changes.

use logmill::cluster::quorum::{MemberKey, QuorumStatus, Role};
use logmill_state::metadata::Image;
use std::collections::{BTreeMap, BTreeSet};

/// Everything that was seen, and the first promise that was broken.
#[derive(Default)]
pub struct Checker {
    broken: Option<String>,
    leaders: BTreeMap<u64, MemberKey>,
    digests: BTreeMap<u64, u64>,
    terms: BTreeMap<MemberKey, u64>,
    acknowledged: Vec<(u64, String)>,
    refused: BTreeSet<String>,
}

impl Checker {
    /// The first promise that was broken.
    #[must_use]
    pub fn broken(&self) -> Option<String> {
        self.broken.clone()
    }

    /// Notes a broken promise.
    pub fn break_promise(&mut self, name: &str, what: impl std::fmt::Display) {
        self.broken.get_or_insert_with(|| format!("{name}: {what}"));
    }

    /// The highest term that ever had a leader.
    #[must_use]
    pub fn last_term_led(&self) -> u64 {
        self.leaders.last_key_value().map_or(0, |(&term, _)| term)
    }

    /// Changes that were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    /// The highest index of a change that was acknowledged.
    #[must_use]
    pub fn last_acknowledged(&self) -> u64 {
        self.acknowledged.iter().map(|(index, _)| *index).max().unwrap_or(0)
    }

    /// Looks at a node's status.
    pub fn look(&mut self, key: MemberKey, status: &QuorumStatus) {
        if status.role == Role::Leader {
            let leader = *self.leaders.entry(status.term).or_insert(key);
            if leader != key {
                self.break_promise(
                    "OneLeaderPerTerm",
                    format!("{leader} and {key} lead term {}", status.term),
                );
            }
            if status.members.get(key).is_none_or(|member| !member.is_voter) {
                self.break_promise("OnlyVotersLead", format!("{key} leads term {}", status.term));
            }
        }
        let digest = *self.digests.entry(status.applied).or_insert(status.digest);
        if digest != status.digest {
            let what =
                format!("{key} has applied {} entries, and not those that others have", status.applied);
            self.break_promise("OneHistory", what);
        }
        let known = self.terms.entry(key).or_insert(status.term);
        if *known > status.term {
            let (term, role) = (status.term, status.role);
            let what = format!("{key} was in term {known}, and is in term {term} as {role:?}");
            self.break_promise("TermsStay", what);
        } else {
            *known = status.term;
        }
    }

    /// A change was acknowledged.
    pub fn acknowledge(&mut self, index: u64, name: String) {
        self.acknowledged.push((index, name));
    }

    /// A change was refused for certain.
    pub fn refuse(&mut self, name: String) {
        self.refused.insert(name);
    }

    /// Looks at what a node has applied.
    pub fn look_at_image(&mut self, key: MemberKey, applied: u64, image: &Image) {
        let is_there = |name: &str| !image.group_configs(name).is_empty();
        let lost = self.acknowledged.iter().find(|(index, name)| *index <= applied && !is_there(name));
        if let Some((index, name)) = lost {
            let what =
                format!("{key} has applied {applied} entries, and {name} of entry {index} is not there");
            self.break_promise("CommittedStays", what);
        }
        if let Some(name) = self.refused.iter().find(|name| is_there(name)).cloned() {
            self.break_promise("RefusedIsNotThere", format!("{key} has {name}"));
        }
    }
}
