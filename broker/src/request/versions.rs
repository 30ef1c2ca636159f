//! The one declaration of what the broker advertises: ApiVersions answers with it, the router admits by it, and
//! the compatibility page is made of it.
//!
//! The versions are those of a Kafka 4.3 broker. A key stands here only if it works end to end.

use std::fmt::Write;

/// An advertised API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// The key that requests carry.
    pub key: i16,
    /// Kafka's name.
    pub name: &'static str,
    /// The first version that is advertised.
    pub min: i16,
    /// The first version that is answered; below it the connection is closed, as Kafka does.
    pub answered_from: i16,
    /// The last version.
    pub max: i16,
    /// What differs from Kafka, for the compatibility page.
    pub note: &'static str,
}

impl Advertised {
    /// Whether requests of this version are answered.
    #[must_use]
    pub const fn answers(&self, version: i16) -> bool {
        self.answered_from <= version && version <= self.max
    }
}

const fn api(key: i16, name: &'static str, min: i16, max: i16, note: &'static str) -> Advertised {
    Advertised { key, name, min, answered_from: min, max, note }
}

/// Every advertised API, by key.
pub const ADVERTISED: &[Advertised] = &[
    // Older librdkafka refuses to compress when 0 to 2 are missing from the list (KAFKA-18659).
    Advertised {
        key: 0,
        name: "Produce",
        min: 0,
        answered_from: 3,
        max: 13,
        note: "0 to 2 are advertised for the sake of librdkafka and refused, as in Kafka. \
               Transactional producers are refused.",
    },
    api(1, "Fetch", 4, 18, "Consumers only; followers have a protocol of their own."),
    api(2, "ListOffsets", 1, 11, "There is no tiered storage: its special timestamps find nothing."),
    api(3, "Metadata", 0, 13, "A topic that is created on demand is in the answer at once."),
    api(
        10,
        "FindCoordinator",
        0,
        6,
        "Groups and transactions have no coordinator yet, and the answer says so.",
    ),
    api(18, "ApiVersions", 0, 4, ""),
    api(19, "CreateTopics", 2, 7, ""),
    api(20, "DeleteTopics", 1, 6, ""),
    api(22, "InitProducerId", 0, 5, "Idempotent producers; transactional ones are refused."),
    api(23, "OffsetForLeaderEpoch", 2, 4, ""),
    api(
        37,
        "CreatePartitions",
        0,
        3,
        "The broker's internal topics keep the number of partitions that they were created with.",
    ),
    api(60, "DescribeCluster", 0, 2, "The list of controllers is not offered."),
    api(75, "DescribeTopicPartitions", 0, 0, ""),
];

/// The API with this key, if it is advertised.
#[must_use]
pub fn advertised(key: i16) -> Option<&'static Advertised> {
    ADVERTISED.iter().find(|api| api.key == key)
}

/// The compatibility page, `docs/compatibility.md`.
#[must_use]
pub fn compatibility_page() -> String {
    let mut page = String::from(
        "# Kafka APIs that Logmill speaks\n\nThe versions are those of a Kafka 4.3 broker; clients since \
         Kafka 2.1 work (KIP-896). A test keeps this page in step with `src/request/versions.rs`, which is what \
         ApiVersions answers.\n\n| key | API | versions | remarks |\n|---|---|---|---|\n",
    );
    for api in ADVERTISED {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "| {} | {} | {}–{} | {} |", api.key, api.name, api.min, api.max, api.note);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use logmill_wire::api;

    #[test]
    fn what_is_advertised_can_be_decoded() {
        for pair in ADVERTISED.windows(2) {
            assert!(pair[0].key < pair[1].key, "{} is out of order", pair[1].name);
        }
        for advertised in ADVERTISED {
            let known = api::by_key(advertised.key).expect(advertised.name);
            assert_eq!(known.name, advertised.name);
            assert!(known.min_version <= advertised.answered_from, "{}", advertised.name);
            assert!(known.max_version >= advertised.max, "{}", advertised.name);
            assert!(advertised.min <= advertised.answered_from, "{}", advertised.name);
        }
    }

    #[test]
    fn the_compatibility_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/compatibility.md");
        let page = compatibility_page();
        if std::env::var_os("LOGMILL_WRITE_DOCS").is_some() {
            std::fs::write(path, &page).expect("the page can be written");
        }
        let stored = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(stored, page, "run this test with LOGMILL_WRITE_DOCS=1 and commit the page");
    }
}
