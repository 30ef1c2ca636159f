//! DeleteTopics.

use std::collections::BTreeMap;

use logmill_wire::ids::TopicId;

use super::image::Image;
use super::record::Record;

/// How a request names a topic.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TopicSelector {
    /// By its name.
    Name(String),
    /// By its id (KIP-516).
    Id(TopicId),
}

/// Why a topic is not deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeleteTopicError {
    /// UNKNOWN_TOPIC_OR_PARTITION: there is no topic of this name.
    UnknownTopicName,
    /// UNKNOWN_TOPIC_ID: there is no topic with this id.
    UnknownTopicId,
    /// INVALID_REQUEST: the request names the topic more than once.
    Repeated,
    /// INVALID_REQUEST: the id is zero.
    NoTopicId,
}

/// The answer for one topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeleteTopicResult {
    /// Its name, if the request says it or it is deleted.
    pub name: Option<String>,
    /// Its id, if the request says it or it is deleted; otherwise zero.
    pub topic_id: TopicId,
    /// Whether it is deleted.
    pub result: Result<(), DeleteTopicError>,
}

/// What DeleteTopics does.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeleteTopicsPlan {
    /// To be committed together.
    pub records: Vec<Record>,
    /// One for each topic of the request, in its order; a topic that is named repeatedly is answered once.
    pub results: Vec<DeleteTopicResult>,
}

impl Image {
    /// Decides on a request to delete topics. A topic that is named twice, be it once by name and once by id,
    /// is not deleted.
    #[must_use]
    pub fn decide_delete_topics(&self, selectors: &[TopicSelector]) -> DeleteTopicsPlan {
        let mut selected: BTreeMap<&TopicSelector, usize> = BTreeMap::new();
        let mut found: BTreeMap<TopicId, usize> = BTreeMap::new();
        for selector in selectors {
            *selected.entry(selector).or_default() += 1;
            if let Some(topic) = self.find(selector) {
                *found.entry(topic).or_default() += 1;
            }
        }
        let mut plan = DeleteTopicsPlan::default();
        for selector in selectors {
            let Some(times) = selected.remove(selector) else { continue };
            let id = self.find(selector);
            let result = match (selector, id) {
                (TopicSelector::Id(id), _) if id.is_zero() => Err(DeleteTopicError::NoTopicId),
                _ if times > 1 => Err(DeleteTopicError::Repeated),
                (TopicSelector::Name(_), None) => Err(DeleteTopicError::UnknownTopicName),
                (TopicSelector::Id(_), None) => Err(DeleteTopicError::UnknownTopicId),
                (_, Some(id)) if found.get(&id).is_some_and(|&times| times > 1) => {
                    Err(DeleteTopicError::Repeated)
                }
                (_, Some(topic_id)) => {
                    plan.records.push(Record::TopicDeleted { topic_id });
                    Ok(())
                }
            };
            let deleted = id.filter(|_| result.is_ok());
            let (name, topic_id) = match selector {
                TopicSelector::Name(name) => (Some(name.clone()), deleted.unwrap_or_default()),
                TopicSelector::Id(topic_id) => {
                    let topic = deleted.and_then(|id| self.topic_by_id(id));
                    (topic.map(|topic| topic.name.to_string()), *topic_id)
                }
            };
            plan.results.push(DeleteTopicResult { name, topic_id, result });
        }
        plan
    }

    fn find(&self, selector: &TopicSelector) -> Option<TopicId> {
        match selector {
            TopicSelector::Name(name) => self.topic_by_name(name).map(|topic| topic.id),
            TopicSelector::Id(id) => self.topic_by_id(*id).map(|topic| topic.id),
        }
    }
}
