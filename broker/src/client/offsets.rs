//! The offsets that groups have committed.

use super::cluster::Cluster;
use super::failure::Failure;
use logmill_wire::api::{offset_commit, offset_fetch};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::ids::Uuid;
use std::collections::BTreeMap;

/// A partition by its topic's name.
pub type NamedPartition = (String, i32);

impl Cluster {
    /// All offsets that a group has committed.
    ///
    /// # Errors
    /// [`Failure::Refused`]; those of the connection.
    pub fn committed(&mut self, group: &str) -> Result<BTreeMap<NamedPartition, i64>, Failure> {
        let names: BTreeMap<Uuid, String> =
            self.topics(None, false)?.into_iter().map(|topic| (topic.id, topic.name)).collect();
        let asked = offset_fetch::OffsetFetchRequestGroup { group_id: group.into(), ..Default::default() };
        let asked = offset_fetch::OffsetFetchRequestGroup { topics: None, ..asked };
        let request = offset_fetch::Request { groups: vec![asked].into(), ..Default::default() };
        self.coordinated(group, &request, |answer| {
            let response: offset_fetch::Response<'_> = answer.decode()?;
            let found = response.groups.iter().next();
            let found = found.ok_or_else(|| answer.protocol("OffsetFetch answered nothing"))?;
            let what = || format!("the offsets of group {group}");
            if ErrorCode::from_code(found.error_code) == Some(ErrorCode::GroupIdNotFound) {
                return Ok(BTreeMap::new());
            }
            Failure::check(found.error_code, None, what)?;
            let mut offsets = BTreeMap::new();
            for topic in &found.topics {
                // From version 10 on the answer names topics by id; those that are gone have no name.
                let name = match names.get(&topic.topic_id) {
                    Some(name) => name.clone(),
                    None if topic.name.is_empty() => continue,
                    None => topic.name.clone().into_owned(),
                };
                for partition in &topic.partitions {
                    Failure::check(partition.error_code, None, what)?;
                    if partition.committed_offset >= 0 {
                        offsets.insert((name.clone(), partition.partition_index), partition.committed_offset);
                    }
                }
            }
            Ok(offsets)
        })
    }

    /// Commits the offsets of one topic, as a member of a group.
    ///
    /// # Errors
    /// [`Failure::Refused`]; those of the connection.
    pub(super) fn commit(
        &mut self,
        group: &str,
        (member, epoch): (&str, i32),
        (topic, id): (&str, Uuid),
        offsets: &BTreeMap<i32, i64>,
    ) -> Result<(), Failure> {
        let partition = |(&partition_index, &committed_offset): (&i32, &i64)| {
            offset_commit::OffsetCommitRequestPartition {
                partition_index,
                committed_offset,
                committed_metadata: Some("".into()),
                ..Default::default()
            }
        };
        let topic = offset_commit::OffsetCommitRequestTopic {
            name: topic.into(),
            topic_id: id,
            partitions: offsets.iter().map(partition).collect(),
        };
        let request = offset_commit::Request {
            group_id: group.into(),
            generation_id_or_member_epoch: epoch,
            member_id: member.into(),
            topics: vec![topic].into(),
            ..Default::default()
        };
        self.coordinated(group, &request, |answer| {
            let response: offset_commit::Response<'_> = answer.decode()?;
            for partition in response.topics.iter().flat_map(|topic| topic.partitions.into_vec()) {
                let what =
                    || format!("group {group} cannot commit for partition {}", partition.partition_index);
                Failure::check(partition.error_code, None, what)?;
            }
            Ok(())
        })
    }
}
