//! Groups are listed, described and deleted.

use super::cluster::{Cluster, To};
use super::failure::Failure;
use logmill_wire::api::consumer_protocol_assignment::ConsumerProtocolAssignment;
use logmill_wire::api::{Message, consumer_group_describe, delete_groups, describe_groups, list_groups};
use logmill_wire::error_codes::ErrorCode;
use logmill_wire::primitives::Reader;

/// A group as its coordinator lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedGroup {
    /// Its name.
    pub group: String,
    /// `classic`, `consumer` or another of Kafka's; empty if the broker does not say.
    pub kind: String,
    /// Such as `Stable` or `Empty`; empty if the broker does not say.
    pub state: String,
    /// The node that coordinates it.
    pub coordinator: i32,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedMember {
    /// Its id.
    pub id: String,
    /// Its `group.instance.id`, if it has one.
    pub instance_id: Option<String>,
    /// What its client calls itself.
    pub client_id: String,
    /// Where it connects from.
    pub host: String,
    /// The partitions that it has, by topic.
    pub assigned: Vec<(String, Vec<i32>)>,
}

/// A group as its coordinator describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedGroup {
    /// Its name.
    pub group: String,
    /// `classic` or `consumer`.
    pub kind: &'static str,
    /// Such as `Stable` or `Empty`.
    pub state: String,
    /// The assignor that it uses; empty if there is none yet.
    pub assignor: String,
    /// The node that coordinates it.
    pub coordinator: i32,
    /// Its members.
    pub members: Vec<DescribedMember>,
}

impl Cluster {
    /// All groups of all coordinators, by name.
    ///
    /// # Errors
    /// [`Failure::Refused`]; those of the connections.
    pub fn groups(&mut self) -> Result<Vec<ListedGroup>, Failure> {
        let mut groups = Vec::new();
        self.topics(Some(&[]), false)?;
        let brokers: Vec<i32> = self.brokers.keys().copied().collect();
        for coordinator in brokers {
            let answer = self.call(To::Broker(coordinator), &list_groups::Request::default())?;
            let response: list_groups::Response<'_> = answer.decode()?;
            let what = || format!("the groups of node {coordinator}");
            Failure::check(response.error_code, None, what)?;
            groups.extend(response.groups.iter().map(|listed| ListedGroup {
                group: listed.group_id.into_owned(),
                kind: listed.group_type.to_lowercase(),
                state: listed.group_state.into_owned(),
                coordinator,
            }));
        }
        groups.sort_by(|left, right| left.group.cmp(&right.group));
        Ok(groups)
    }

    /// Describes a group of either kind.
    ///
    /// # Errors
    /// [`Failure::Refused`], with GROUP_ID_NOT_FOUND if there is none; those of the connection.
    pub fn group(&mut self, group: &str) -> Result<DescribedGroup, Failure> {
        match self.consumer_group(group) {
            // It is of the other kind, or the broker knows only that one.
            Err(failure)
                if failure.code() == Some(ErrorCode::GroupIdNotFound)
                    || matches!(failure, Failure::NoCommonVersion { .. }) =>
            {
                self.classic_group(group)
            }
            outcome => outcome,
        }
    }

    fn consumer_group(&mut self, group: &str) -> Result<DescribedGroup, Failure> {
        let request =
            consumer_group_describe::Request { group_ids: vec![group.into()].into(), ..Default::default() };
        let mut described = self.coordinated(group, &request, |answer| {
            let response: consumer_group_describe::Response<'_> = answer.decode()?;
            let found = response.groups.iter().next();
            let found = found.ok_or_else(|| answer.protocol("ConsumerGroupDescribe answered nothing"))?;
            let message = found.error_message.as_deref();
            Failure::check(found.error_code, message, || format!("group {group}"))?;
            Ok(DescribedGroup {
                group: group.to_owned(),
                kind: "consumer",
                state: found.group_state.into_owned(),
                assignor: found.assignor_name.into_owned(),
                coordinator: -1,
                members: found.members.iter().map(consumer_member).collect(),
            })
        })?;
        described.coordinator = self.coordinator(group)?;
        Ok(described)
    }

    fn classic_group(&mut self, group: &str) -> Result<DescribedGroup, Failure> {
        let request = describe_groups::Request { groups: vec![group.into()].into(), ..Default::default() };
        let mut described = self.coordinated(group, &request, |answer| {
            let response: describe_groups::Response<'_> = answer.decode()?;
            let found = response.groups.iter().next();
            let found = found.ok_or_else(|| answer.protocol("DescribeGroups answered nothing"))?;
            let message = found.error_message.as_deref();
            Failure::check(found.error_code, message, || format!("group {group}"))?;
            // Before version 6 a group that does not exist is a dead one.
            if found.group_state == "Dead" {
                let code = ErrorCode::GroupIdNotFound.code();
                Failure::check(code, None, || format!("group {group}"))?;
            }
            Ok(DescribedGroup {
                group: group.to_owned(),
                kind: "classic",
                state: found.group_state.into_owned(),
                assignor: found.protocol_data.into_owned(),
                coordinator: -1,
                members: found.members.iter().map(classic_member).collect(),
            })
        })?;
        described.coordinator = self.coordinator(group)?;
        Ok(described)
    }

    /// Deletes an empty group and its offsets (KIP-229).
    ///
    /// # Errors
    /// [`Failure::Refused`]; those of the connection.
    pub fn delete_group(&mut self, group: &str) -> Result<(), Failure> {
        let request = delete_groups::Request { groups_names: vec![group.into()].into() };
        self.coordinated(group, &request, |answer| {
            let response: delete_groups::Response<'_> = answer.decode()?;
            let result = response.results.iter().next();
            let result = result.ok_or_else(|| answer.protocol("DeleteGroups answered nothing"))?;
            let message = result.error_message.as_deref();
            Failure::check(result.error_code, message, || format!("group {group} cannot be deleted"))
        })
    }
}

fn consumer_member(member: consumer_group_describe::Member<'_>) -> DescribedMember {
    let topics = member.assignment.topic_partitions.iter();
    DescribedMember {
        id: member.member_id.into_owned(),
        instance_id: member.instance_id.map(|id| id.into_owned()),
        client_id: member.client_id.into_owned(),
        host: member.client_host.into_owned(),
        assigned: topics.map(|topic| (topic.topic_name.into_owned(), topic.partitions.into_vec())).collect(),
    }
}

fn classic_member(member: describe_groups::DescribedGroupMember<'_>) -> DescribedMember {
    DescribedMember {
        // What is no consumer's assignment, such as that of a connector, is nobody's partitions.
        assigned: assignment(&member.member_assignment).unwrap_or_default(),
        id: member.member_id.into_owned(),
        instance_id: member.group_instance_id.map(|id| id.into_owned()),
        client_id: member.client_id.into_owned(),
        host: member.client_host.into_owned(),
    }
}

/// The partitions in what a classic consumer was assigned: a version, and the message in it.
fn assignment(bytes: &[u8]) -> Option<Vec<(String, Vec<i32>)>> {
    let mut reader = Reader::new(bytes);
    let version = reader.i16().ok()?.min(*ConsumerProtocolAssignment::VERSIONS.end());
    let assignment = ConsumerProtocolAssignment::decode(&mut reader, version).ok()?;
    let topics = assignment.assigned_partitions.iter();
    Some(topics.map(|topic| (topic.topic.into_owned(), topic.partitions.into_vec())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_classic_assignment_is_read_and_nonsense_is_not() {
        let bytes = [0, 0, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0, 0];
        assert_eq!(assignment(&bytes), Some(vec![("t".to_owned(), vec![4, 9])]));
        assert_eq!(assignment(&bytes[..12]), None);
        assert_eq!(assignment(&[]), None);
        assert_eq!(assignment(&[0xff; 20]), None);
    }
}
