//! A partition as fetch sessions know it.

use logmill_wire::ids::TopicId;
use std::sync::Arc;

/// A topic as a client names it: by id since version 13 of Fetch, by name before. It need not exist (yet).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TopicKey {
    /// By id.
    Id(TopicId),
    /// By name.
    Name(Arc<str>),
}

/// A partition as a client names it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FetchKey {
    /// Its topic.
    pub topic: TopicKey,
    /// Its number.
    pub partition: i32,
}
