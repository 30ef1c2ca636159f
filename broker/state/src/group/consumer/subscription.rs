//! Which topics a group's members want: names as they are, regular expressions as they were resolved, and whether
//! the cluster's topics have changed since.

use super::record::{ConsumerRecord, ResolvedRegex};
use super::{Arc, ConsumerGroup, Context, Effects, MemberMetadata, regex};
use crate::group::request::VisibleTopics;
use crate::metadata::{Image, TopicsMark};
use logmill_wire::hashing::StableHasher;
use logmill_wire::ids::{MonotonicNs, TopicId};
use std::collections::BTreeSet;
use std::hash::Hasher;

/// The least time between two resolutions of a group's regular expressions because of new topics: while many
/// topics are made, not each of them shall cost a look at all.
const RESOLUTION_INTERVAL_NS: u64 = 1_000_000_000;

/// The cluster's topics as a group has last seen them.
#[derive(Debug, Default)]
pub struct Seen {
    /// When the hash of the subscribed topics was made.
    hashed: Option<TopicsMark>,
    /// When the regular expressions were resolved.
    resolved: Option<(TopicsMark, MonotonicNs)>,
}

impl ConsumerGroup {
    /// Whether topics have been made, changed or deleted since the group's metadata was hashed.
    pub(super) fn metadata_may_have_changed(&self, cx: &Context<'_>) -> bool {
        self.seen.hashed.as_ref().is_none_or(|mark| !cx.image.has_topics_of(mark))
    }

    /// A hash of the topics that any member wants: their ids, names and partitions; 0 if there is none.
    pub(super) fn hash_metadata(&mut self, cx: &Context<'_>) -> i64 {
        self.seen.hashed = Some(cx.image.topics_mark());
        let resolved = self.regexes.values().flat_map(|regex| regex.topics.iter());
        let names: BTreeSet<&Arc<str>> = self.topic_names.keys().chain(resolved).collect();
        let mut hasher = StableHasher::default();
        let mut is_any = false;
        for topic in names.into_iter().filter_map(|name| cx.image.topic_by_name(name)) {
            is_any = true;
            hasher.write(&topic.id.0);
            hasher.write(topic.name.as_bytes());
            hasher.write(&topic.partition_count().to_be_bytes());
        }
        if is_any { i64::from_ne_bytes(hasher.finish().to_ne_bytes()) } else { 0 }
    }

    /// Resolves the regular expressions that have not been, or all of them if the topics have changed, to topics that
    /// the sender of the request may see; whether any stands for other topics than before. As in Kafka, an expression
    /// stands for the same topics for all members: those that the one may see whose request came first.
    pub(super) fn resolve_regexes(
        &mut self,
        visible: Option<&VisibleTopics>,
        cx: &Context<'_>,
        out: &mut Effects,
    ) -> bool {
        if self.regex_subscribers.is_empty() && self.regexes.is_empty() {
            return false;
        }
        let mut changed = self.forget_regexes(out);
        let Some(visible) = visible else { return changed };
        let is_current = self.seen.resolved.as_ref().is_some_and(|(mark, at)| {
            cx.image.has_topics_of(mark) || cx.now.monotonic.since(*at) < RESOLUTION_INTERVAL_NS
        });
        let due: Vec<Arc<str>> = self
            .regex_subscribers
            .keys()
            .filter(|regex| !is_current || !self.regexes.contains_key(*regex))
            .cloned()
            .collect();
        for regex in due {
            let topics = matching(&regex, visible, cx.image);
            if self.regexes.get(&regex).is_some_and(|known| known.topics == topics) {
                continue;
            }
            let value = Some(Arc::new(ResolvedRegex { topics, version: 0, timestamp: cx.now.wall }));
            self.write(ConsumerRecord::Regex { regex, value }, out);
            changed = true;
        }
        if !is_current {
            self.seen.resolved = Some((cx.image.topics_mark(), cx.now.monotonic));
        }
        changed
    }

    /// Takes back the regular expressions that no member has any more.
    pub(super) fn forget_regexes(&mut self, out: &mut Effects) -> bool {
        let unused = |regex: &&Arc<str>| !self.regex_subscribers.contains_key(*regex);
        let unused: Vec<Arc<str>> = self.regexes.keys().filter(unused).cloned().collect();
        for regex in &unused {
            self.write(ConsumerRecord::Regex { regex: Arc::clone(regex), value: None }, out);
        }
        !unused.is_empty()
    }

    /// The topics of the cluster that a member wants.
    pub(super) fn subscribed_topics(&self, metadata: &MemberMetadata, image: &Image) -> BTreeSet<TopicId> {
        let resolved = metadata.regex().and_then(|regex| self.regexes.get(regex));
        let resolved = resolved.map_or(&[][..], |regex| regex.topics.as_slice());
        let names = metadata.subscribed_topics.iter().chain(resolved);
        names.filter_map(|name| image.topic_by_name(name)).map(|topic| topic.id).collect()
    }
}

/// The visible names that an expression matches, sorted; none for one that only another coordinator could read.
fn matching(pattern: &str, visible: &VisibleTopics, image: &Image) -> Vec<Arc<str>> {
    match regex::compile(pattern) {
        Ok(regex) => {
            let names = image.topics().map(|topic| &topic.name);
            names.filter(|name| regex.is_match(name) && visible.has(name)).cloned().collect()
        }
        Err(_) => Vec::new(),
    }
}
