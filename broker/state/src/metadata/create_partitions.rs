//! CreatePartitions, with Kafka's checks in Kafka's order (KIP-195).

use std::collections::{BTreeMap, BTreeSet};

use logmill_wire::ids::NodeId;
use logmill_wire::limits::TOPIC_PARTITIONS_MAX;

use super::image::{Image, Topic};
use super::placement::{PlacementRun, runs_of};
use super::record::Record;
use super::topic_name::is_internal_topic;

/// One topic of a CreatePartitions request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MorePartitions {
    /// The topic.
    pub name: String,
    /// How many partitions it shall have in all.
    pub count: i32,
    /// The replicas of each new partition, the preferred leader first; `None` to let the cluster choose.
    pub assignments: Option<Vec<Vec<NodeId>>>,
}

/// The error that a topic is answered with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CreatePartitionsErrorKind {
    /// UNKNOWN_TOPIC_OR_PARTITION.
    UnknownTopic,
    /// INVALID_PARTITIONS.
    InvalidPartitions,
    /// INVALID_REPLICA_ASSIGNMENT.
    InvalidReplicaAssignment,
    /// INVALID_REPLICATION_FACTOR.
    InvalidReplicationFactor,
    /// INVALID_REQUEST.
    InvalidRequest,
}

/// Why a topic gets no more partitions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreatePartitionsError {
    /// The error.
    pub kind: CreatePartitionsErrorKind,
    /// What to tell the user; `None` for the error's usual text.
    pub message: Option<String>,
}

/// The answer for one topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreatePartitionsResult {
    /// Its name.
    pub name: String,
    /// Whether it has, or would have, as many partitions as asked for.
    pub result: Result<(), CreatePartitionsError>,
}

/// What CreatePartitions does.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CreatePartitionsPlan {
    /// To be committed together; none if the request only asks whether it would work.
    pub records: Vec<Record>,
    /// One for each name of the request, in its order; a name that is there twice is answered once.
    pub results: Vec<CreatePartitionsResult>,
}

fn refuse<T>(
    kind: CreatePartitionsErrorKind,
    message: impl Into<String>,
) -> Result<T, CreatePartitionsError> {
    Err(CreatePartitionsError { kind, message: Some(message.into()) })
}

impl Image {
    /// Decides on a request to add partitions; each topic succeeds or fails by itself. With `validate_only` the
    /// answers are the same and there are no records. `random_bits` has 128 bits for each topic of the request;
    /// a topic without any is spread from the first broker on.
    #[must_use]
    pub fn decide_create_partitions(
        &self,
        topics: &[MorePartitions],
        validate_only: bool,
        random_bits: &[u128],
    ) -> CreatePartitionsPlan {
        let mut times: BTreeMap<&str, usize> = BTreeMap::new();
        for topic in topics {
            *times.entry(&topic.name).or_default() += 1;
        }
        let mut plan = CreatePartitionsPlan::default();
        for (index, wanted) in topics.iter().enumerate() {
            let decided = match times.remove(wanted.name.as_str()) {
                None => continue,
                Some(1) => {
                    self.decide_more_partitions(wanted, random_bits.get(index).copied().unwrap_or_default())
                }
                Some(_) => refuse(CreatePartitionsErrorKind::InvalidRequest, "Duplicate topic name."),
            };
            let result = decided.map(|records| plan.records.extend(records));
            plan.results.push(CreatePartitionsResult { name: wanted.name.clone(), result });
        }
        if validate_only {
            plan.records.clear();
        }
        plan
    }

    fn decide_more_partitions(
        &self,
        wanted: &MorePartitions,
        random_bits: u128,
    ) -> Result<Vec<Record>, CreatePartitionsError> {
        use CreatePartitionsErrorKind::{
            InvalidPartitions, InvalidReplicaAssignment, InvalidRequest, UnknownTopic,
        };
        let unknown = CreatePartitionsError { kind: UnknownTopic, message: None };
        let topic = self.topic_by_name(&wanted.name).ok_or(unknown)?;
        let count = topic.partition_count();
        if wanted.count == count {
            return refuse(InvalidPartitions, format!("Topic already has {count} partition(s)."));
        }
        if wanted.count < count {
            let (name, wanted) = (&wanted.name, wanted.count);
            return refuse(
                InvalidPartitions,
                format!(
                    "The topic {name} currently has {count} partition(s); {wanted} would not be an increase."
                ),
            );
        }
        if wanted.count > TOPIC_PARTITIONS_MAX {
            return refuse(
                InvalidPartitions,
                format!("A topic has at most {TOPIC_PARTITIONS_MAX} partitions, not {}.", wanted.count),
            );
        }
        // The number is part of how a key finds its partition in them.
        if is_internal_topic(&wanted.name) {
            return refuse(
                InvalidRequest,
                format!("The number of partitions of the internal topic {} cannot be changed.", wanted.name),
            );
        }
        let additional = wanted.count.abs_diff(count);
        let placement = match &wanted.assignments {
            Some(assignments) if assignments.len() != additional as usize => {
                let given = assignments.len();
                return refuse(
                    InvalidReplicaAssignment,
                    format!(
                        "Attempted to add {additional} additional partition(s), but only {given} \
                         assignment(s) were specified."
                    ),
                );
            }
            Some(assignments) => self.check_new_assignments(topic, assignments)?,
            None => self.place_more(topic, additional, random_bits)?,
        };
        let states = self.begin_without_inactive(topic.id, count, &placement);
        let Some(states) = states else {
            return refuse(
                InvalidReplicaAssignment,
                "All brokers of a partition are fenced or in controlled shutdown.",
            );
        };
        let added = Record::PartitionsAdded { topic_id: topic.id, first_partition: count, placement };
        Ok(std::iter::once(added).chain(states).collect())
    }

    fn place_more(
        &self,
        topic: &Topic,
        additional: u32,
        random_bits: u128,
    ) -> Result<Vec<PlacementRun>, CreatePartitionsError> {
        let wanted = topic.placement.replication_factor();
        self.place(additional, wanted, random_bits)
            .or_else(|error| refuse(CreatePartitionsErrorKind::InvalidReplicationFactor, error.to_string()))
    }

    fn check_new_assignments(
        &self,
        topic: &Topic,
        assignments: &[Vec<NodeId>],
    ) -> Result<Vec<PlacementRun>, CreatePartitionsError> {
        let invalid = |message: String| refuse(CreatePartitionsErrorKind::InvalidReplicaAssignment, message);
        let expected = topic.placement.replication_factor();
        for replicas in assignments {
            if replicas.is_empty() {
                return invalid("The manual partition assignment includes an empty replica list.".to_owned());
            }
            let mut seen = BTreeSet::new();
            for replica in replicas {
                if self.broker(*replica).is_none() {
                    return invalid(format!(
                        "The manual partition assignment includes broker {replica}, but no such broker is \
                         registered."
                    ));
                }
                if !seen.insert(replica) {
                    return invalid(format!(
                        "The manual partition assignment includes the broker {replica} more than once."
                    ));
                }
            }
            if replicas.len() != expected {
                return invalid(format!(
                    "The manual partition assignment includes a partition with {} replica(s), but this is \
                     not consistent with previous partitions, which have {expected} replica(s).",
                    replicas.len()
                ));
            }
        }
        Ok(runs_of(assignments.iter().cloned()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BrokerRegistration, CreateTopicsContext, Endpoint, NewTopic, PartitionAssignment};
    use super::*;
    use logmill_wire::ids::{LeaderEpoch, PartitionIndex, Uuid};

    fn register(image: &mut Image, broker: i32, incarnation: u8) {
        let registration = BrokerRegistration {
            broker_id: NodeId(broker),
            cluster_id: Uuid([9; 16]),
            incarnation: Uuid([incarnation; 16]),
            rack: None,
            endpoints: vec![Endpoint {
                listener: "PLAINTEXT".to_owned(),
                host: "h".to_owned(),
                port: 1,
                security_protocol: 0,
            }],
        };
        let record = image.decide_register_broker(&registration, false).unwrap();
        image.apply(&record).unwrap();
    }

    /// Two brokers and topics of two partitions on the first of them.
    fn image_with(names: &[&str]) -> Image {
        let mut image = Image::default();
        image.apply(&Record::ClusterIdMinted { cluster_id: Uuid([9; 16]) }).unwrap();
        [1, 2].into_iter().for_each(|broker| register(&mut image, broker, 1));
        let assignments: Vec<_> =
            (0..2).map(|partition| PartitionAssignment { partition, replicas: vec![NodeId(1)] }).collect();
        let topics: Vec<_> = names
            .iter()
            .map(|name| NewTopic {
                name: (*name).to_owned(),
                partition_count: -1,
                replication_factor: -1,
                assignments: assignments.clone(),
                configs: Vec::new(),
            })
            .collect();
        let context = CreateTopicsContext {
            default_partition_count: 1,
            default_replication_factor: 1,
            check_configs: &|_| Ok(()),
            random_bits: &[1, 2, 3],
        };
        let plan = image.decide_create_topics(&topics, false, &context);
        plan.records.iter().for_each(|record| image.apply(record).unwrap());
        image
    }

    fn to(name: &str, count: i32, assignments: Option<&[&[i32]]>) -> MorePartitions {
        let replicas = |ids: &&[i32]| ids.iter().copied().map(NodeId).collect();
        let assignments = assignments.map(|all| all.iter().map(replicas).collect());
        MorePartitions { name: name.to_owned(), count, assignments }
    }

    fn refusal(image: &Image, wanted: MorePartitions) -> (CreatePartitionsErrorKind, String) {
        let plan = image.decide_create_partitions(&[wanted], false, &[]);
        assert!(plan.records.is_empty());
        let error = plan.results[0].result.clone().unwrap_err();
        (error.kind, error.message.unwrap_or_default())
    }

    #[test]
    fn more_partitions_follow_those_that_are_there() {
        let mut image = image_with(&["t"]);
        register(&mut image, 1, 2);
        let before = image.clone();
        let asked = [to("t", 4, Some(&[&[2], &[1]]))];
        assert!(image.decide_create_partitions(&asked, true, &[]).records.is_empty());
        let plan = image.decide_create_partitions(&asked, false, &[]);
        assert_eq!(plan.results[0].result, Ok(()));
        plan.records.iter().for_each(|record| image.apply(record).unwrap());
        let topic = image.topic_by_name("t").unwrap();
        let places: Vec<_> = (0..4)
            .map(|index| image.partition(topic, PartitionIndex(index)).unwrap())
            .map(|partition| (partition.leader.0, partition.leader_epoch))
            .collect();
        // The old ones keep their epochs, which the second start of broker 1 has raised.
        let raised = before.partition(before.topic_by_name("t").unwrap(), PartitionIndex(0)).unwrap();
        let (old, new) = ((1, raised.leader_epoch), LeaderEpoch(0));
        assert_eq!(places, [old, old, (2, new), (1, new)]);
        assert_eq!(image.partition_count(), 4);
        assert_eq!(before.topic_by_name("t").unwrap().partition_count(), 2, "a copy is not changed");
        let mut again = Image::default();
        image.to_records().for_each(|record| again.apply(&record).unwrap());
        let topic = again.topic_by_name("t").unwrap();
        assert_eq!(again.partition(topic, PartitionIndex(2)).unwrap().leader, NodeId(2));
        // A record that is applied twice contradicts the image.
        assert!(plan.records.iter().any(|record| image.apply(record).is_err()));
    }

    #[test]
    fn the_cluster_places_what_is_not_assigned() {
        let mut image = image_with(&["t", "u"]);
        let plan = image.decide_create_partitions(&[to("t", 6, None), to("u", 3, None)], false, &[0, 1]);
        plan.records.iter().for_each(|record| image.apply(record).unwrap());
        let topic = image.topic_by_name("t").unwrap();
        let mut leaders: Vec<_> =
            (2..6).map(|index| image.partition(topic, PartitionIndex(index)).unwrap().leader.0).collect();
        leaders.sort_unstable();
        assert_eq!(leaders, [1, 1, 2, 2]);
        assert_eq!(image.topic_by_name("u").unwrap().partition_count(), 3);
    }

    #[test]
    fn each_refusal_has_kafkas_text() {
        use CreatePartitionsErrorKind::{
            InvalidPartitions, InvalidReplicaAssignment, InvalidRequest, UnknownTopic,
        };
        let image = image_with(&["t", "__consumer_offsets"]);
        assert_eq!(refusal(&image, to("u", 3, None)), (UnknownTopic, String::new()));
        let cases: [(MorePartitions, CreatePartitionsErrorKind, &str); 9] = [
            (to("t", 2, None), InvalidPartitions, "Topic already has 2 partition(s)."),
            (
                to("t", 1, None),
                InvalidPartitions,
                "The topic t currently has 2 partition(s); 1 would not be an increase.",
            ),
            (to("t", i32::MAX, None), InvalidPartitions, "at most 1000000 partitions"),
            (
                to("t", 4, Some(&[&[1]])),
                InvalidReplicaAssignment,
                "Attempted to add 2 additional partition(s), but only 1 assignment(s) were specified.",
            ),
            (to("t", 3, Some(&[&[9]])), InvalidReplicaAssignment, "includes broker 9, but no such broker"),
            (to("t", 3, Some(&[&[1, 1]])), InvalidReplicaAssignment, "the broker 1 more than once."),
            (to("t", 3, Some(&[&[]])), InvalidReplicaAssignment, "an empty replica list."),
            (to("t", 3, Some(&[&[1, 2]])), InvalidReplicaAssignment, "which have 1 replica(s)."),
            (to("__consumer_offsets", 3, None), InvalidRequest, "__consumer_offsets cannot be changed."),
        ];
        for (wanted, kind, text) in cases {
            let (refused, message) = refusal(&image, wanted);
            assert_eq!(refused, kind, "{message}");
            assert!(message.contains(text), "{message}");
        }
        let twice = [to("t", 3, None), to("t", 4, None)];
        let plan = image.decide_create_partitions(&twice, false, &[]);
        assert_eq!(plan.results.len(), 1);
        assert_eq!(plan.results[0].result.clone().unwrap_err().message.unwrap(), "Duplicate topic name.");
        assert!(plan.records.is_empty());
    }
}
