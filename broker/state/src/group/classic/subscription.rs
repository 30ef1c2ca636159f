//! What consumers subscribe to: the one thing that a coordinator reads of what members tell each other.

use super::member::Members;
use logmill_wire::api::Message;
use logmill_wire::api::consumer_protocol_subscription::ConsumerProtocolSubscription;
use logmill_wire::primitives::Reader;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Every version of a subscription begins as this one does.
const PREFIX_VERSION: i16 = 0;

/// The topics that the members subscribe to under a protocol; `None` if one of them does not tell in a way that is
/// understood.
pub(super) fn topics_of(members: &Members, protocol: &str) -> Option<BTreeSet<Arc<str>>> {
    let mut topics = BTreeSet::new();
    for member in members.iter() {
        add_topics(member.metadata(protocol)?, &mut topics)?;
    }
    Some(topics)
}

fn add_topics(metadata: &[u8], topics: &mut BTreeSet<Arc<str>>) -> Option<()> {
    let (version, rest) = metadata.split_first_chunk()?;
    if i16::from_be_bytes(*version) < 0 {
        return None;
    }
    let subscription = ConsumerProtocolSubscription::decode(&mut Reader::new(rest), PREFIX_VERSION).ok()?;
    for topic in &subscription.topics {
        if !topics.contains(&*topic) {
            topics.insert(Arc::from(&*topic));
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(metadata: &[u8]) -> Option<Vec<String>> {
        let mut topics = BTreeSet::new();
        add_topics(metadata, &mut topics)?;
        Some(topics.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_subscription_of_any_version_is_read() {
        let bytes = [0, 0, 0, 0, 0, 1, 0, 1, b't', 0xff, 0xff, 0xff, 0xff];
        assert_eq!(topics(&bytes), Some(vec!["t".to_owned()]));
        // A version that does not exist yet has more behind.
        let later = [&[0, 99], &bytes[2..], b"more"].concat();
        assert_eq!(topics(&later), Some(vec!["t".to_owned()]));
    }

    #[test]
    fn what_is_no_subscription_is_unknown() {
        for bytes in [
            &b""[..],
            &[0],
            &[0, 0],
            &[0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
            &[0, 0, 0x7f, 0xff, 0xff, 0xff],
            &[0, 0, 0, 0, 0, 1, 0, 9, b't', 0xff, 0xff, 0xff, 0xff],
            &[0, 0, 0, 0, 0, 1, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0, 0, 0, 0, 0, 1, 0, 1, b't'],
        ] {
            assert_eq!(topics(bytes), None, "{bytes:?}");
        }
    }
}
