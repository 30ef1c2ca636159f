//! The one declaration of what the broker advertises: ApiVersions answers with it, the router admits and dispatches
//! by it, and the compatibility page is made of it.
//!
//! The versions are those of a Kafka 4.3 broker. A key stands here only if it works end to end.

use super::call::{Call, Handled};
use crate::runtime::Runtime;
use logmill_wire::api;
use std::fmt::Write;

/// On which listeners an API is offered (KIP-919).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// On those of brokers.
    Brokers,
    /// On those of brokers and of controllers.
    Everywhere,
    /// On those of controllers.
    Controllers,
}

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
    /// Whether only the active controller can answer: another broker forwards the request to it (KIP-590).
    pub is_for_controller: bool,
    /// On which listeners it is offered.
    pub offered: Offered,
    /// What differs from Kafka, for the compatibility page.
    pub note: &'static str,
}

impl Advertised {
    /// Whether requests of this version are answered.
    #[must_use]
    pub const fn answers(&self, version: i16) -> bool {
        self.answered_from <= version && version <= self.max
    }

    /// Whether it is offered on a listener, of the controllers or (`is_of_controllers` is false) of brokers.
    #[must_use]
    pub const fn is_offered(&self, is_of_controllers: bool) -> bool {
        match self.offered {
            Offered::Brokers => !is_of_controllers,
            Offered::Everywhere => true,
            Offered::Controllers => is_of_controllers,
        }
    }
}

/// Declares the APIs: module (of the codec and of the handler alike), versions, the first one that is answered
/// where that is not the first one that is advertised, `=> controller` where the active controller answers, and `on` which
/// listeners it is offered if that is not those of brokers alone.
macro_rules! apis {
    ($($module:ident $min:literal..=$max:literal $(answered from $answered:literal)? $(=> $controller:ident)? $(on $offered:ident)? $note:literal;)*) => {
        /// Every advertised API, by key.
        pub const ADVERTISED: &[Advertised] = &[$(Advertised {
            key: api::$module::KEY,
            name: api::$module::API_NAME,
            min: $min,
            answered_from: apis!(@first $min $($answered)?),
            max: $max,
            is_for_controller: apis!(@controller $($controller)?),
            offered: apis!(@offered $($offered)?),
            note: $note,
        },)*];

        /// Calls the handler of a request whose API and version are advertised.
        pub(super) fn dispatch<R: Runtime>(call: Call<R>) -> Handled {
            match call.answer.key {
                $(api::$module::KEY => super::$module::handle(call),)*
                key => unreachable!("API {key} is advertised and has no handler"),
            }
        }
    };
    (@first $min:literal) => { $min };
    (@first $min:literal $answered:literal) => { $answered };
    (@controller) => { false };
    (@controller controller) => { true };
    (@offered) => { Offered::Brokers };
    (@offered everywhere) => { Offered::Everywhere };
    (@offered controllers) => { Offered::Controllers };
}

apis! {
    // Older librdkafka refuses to compress when 0 to 2 are missing from the list (KAFKA-18659).
    produce 0..=13 answered from 3
        "0 to 2 are advertised for the sake of librdkafka and refused, as in Kafka. \
         Transactional producers are refused.";
    fetch 4..=18 "Consumers only; followers have a protocol of their own.";
    list_offsets 1..=11 "There is no tiered storage: its special timestamps find nothing.";
    metadata 0..=13 "A topic that is created on demand is in the answer at once.";
    offset_commit 2..=10 "";
    offset_fetch 1..=10 "";
    find_coordinator 0..=6 "Transactions have no coordinator yet, and the answer says so.";
    join_group 0..=9 "";
    heartbeat 0..=4 "";
    leave_group 0..=5 "";
    sync_group 0..=5 "";
    describe_groups 0..=6 "";
    list_groups 0..=5 "";
    api_versions 0..=4 on everywhere "";
    create_topics 2..=7 => controller on everywhere "";
    delete_topics 1..=6 => controller on everywhere "";
    delete_records 0..=2 "";
    init_producer_id 0..=5 "Idempotent producers; transactional ones are refused.";
    offset_for_leader_epoch 2..=4 "";
    describe_configs 1..=4 on everywhere
        "Settings of Kafka's brokers that mean nothing here are not listed. There are no loggers to describe.";
    alter_configs 0..=2 => controller on everywhere
        "Settings of listeners and of TLS need a restart. Metrics of clients cannot be subscribed to.";
    describe_log_dirs 1..=5 "Of several directories, a partition is told of where it lies once it was written to; replicas do not move between directories.";
    create_partitions 0..=3 => controller on everywhere
        "The broker's internal topics keep the number of partitions that they were created with.";
    delete_groups 0..=2 "";
    elect_leaders 0..=2 => controller on everywhere "";
    incremental_alter_configs 0..=1 => controller on everywhere "As AlterConfigs.";
    alter_partition_reassignments 0..=1 => controller on everywhere "";
    list_partition_reassignments 0..=0 => controller on everywhere "";
    offset_delete 0..=0 "";
    describe_quorum 0..=2 => controller on everywhere "";
    update_features 0..=2 => controller on everywhere
        "Every feature that there is is on, at its one level: nothing else can be asked for.";
    describe_cluster 0..=2 on everywhere
        "Listeners of brokers tell of brokers, listeners of controllers of controllers, as in Kafka.";
    unregister_broker 0..=0 => controller on everywhere
        "What the broker still holds counts as lost: if it comes back it catches up from its peers.";
    consumer_group_heartbeat 0..=1 "";
    consumer_group_describe 0..=1 "";
    list_config_resources 0..=1 "";
    describe_topic_partitions 0..=0 "";
    add_raft_voter 0..=1 => controller on everywhere "";
    remove_raft_voter 0..=0 => controller on everywhere "";
    update_raft_voter 0..=0 => controller on controllers "On the controllers' listeners only, as in Kafka.";
}

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
