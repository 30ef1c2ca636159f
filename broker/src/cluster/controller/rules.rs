//! The settings by which the controller decides on partitions.

use logmill_state::metadata::{ControllerContext, Image, Topic};
use logmill_state::settings::{BrokerSettings, TopicSettings};
use logmill_wire::ids::{NodeId, TopicId};
use std::cell::RefCell;
use std::collections::BTreeMap;

#[derive(Clone, Copy)]
struct TopicRules {
    min_in_sync: u32,
    unclean_election: bool,
    write_caching: bool,
}

/// Settings of topics, each read once for one decision.
pub(super) struct Rules {
    pub settings: BrokerSettings,
    topics: RefCell<BTreeMap<TopicId, TopicRules>>,
}

impl Rules {
    /// The rules by an image, on the node that was started with these settings.
    pub fn new(image: &Image, node: NodeId, started_with: &BrokerSettings) -> Self {
        Self { settings: image.effective_settings(node, started_with), topics: RefCell::default() }
    }

    fn of(&self, topic: &Topic) -> TopicRules {
        let read = || {
            // What an older or newer broker has stored and is not understood counts as not set.
            let settings = TopicSettings::resolve(&topic.configs, &self.settings)
                .or_else(|_| TopicSettings::resolve(&BTreeMap::new(), &self.settings));
            settings.map_or(
                TopicRules { min_in_sync: 1, unclean_election: false, write_caching: true },
                |settings| TopicRules {
                    min_in_sync: settings.min_insync_replicas,
                    unclean_election: settings.unclean_leader_election,
                    write_caching: settings.write_caching,
                },
            )
        };
        *self.topics.borrow_mut().entry(topic.id).or_insert_with(read)
    }

    /// Calls `decide` with what decisions about partitions need.
    pub fn with_context<T>(&self, decide: impl FnOnce(&ControllerContext<'_>) -> T) -> T {
        decide(&ControllerContext {
            min_in_sync: &|topic| self.of(topic).min_in_sync,
            unclean_election: &|topic| self.of(topic).unclean_election,
            write_caching: &|topic| self.of(topic).write_caching,
        })
    }
}
