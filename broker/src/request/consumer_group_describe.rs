//! ConsumerGroupDescribe: consumer groups and their members (KIP-848).

use super::call::{Call, Handled, decode};
use super::groups::{MISMATCHED, ask_for_each, authorized_operations, for_each_answer};
use crate::runtime::Runtime;
use logmill_state::group::{
    DescribedConsumerGroup, DescribedConsumerMember, GroupReply, GroupRequest, Refused, TopicPartitions,
};
use logmill_state::metadata::Image;
use logmill_wire::api::consumer_group_describe::{
    Assignment, DescribedGroup, Member, Request, Response, TopicPartitions as Described,
};
use logmill_wire::error_codes::ErrorCode;

/// How a member speaks (version 1, KIP-1099).
const CLASSIC_MEMBER: i8 = 0;
const CONSUMER_MEMBER: i8 = 1;

pub(super) fn handle<R: Runtime>(mut call: Call<R>) -> Handled {
    let request: Request<'_> = decode(&call.body, call.answer.version)?;
    call.answer.charge(request.group_ids.len())?;
    let with_operations = request.include_authorized_operations;
    let asked = ask_for_each(&call, request.group_ids.iter(), GroupRequest::DescribeConsumer);
    Ok(Box::pin(async move {
        let image = call.services.image();
        let describe = |group_id: &str, reply| {
            let described = match reply {
                Ok(GroupReply::DescribeConsumer(described)) => described,
                Ok(_) => Err(Refused::plain(MISMATCHED)),
                Err(error) => Err(Refused::plain(error)),
            };
            let mut group = match described {
                Ok(described) => known(&image, described),
                Err(refused) => DescribedGroup {
                    error_code: refused.code.code(),
                    error_message: Some(refused.message.into()),
                    ..DescribedGroup::default()
                },
            };
            if with_operations && group.error_code == ErrorCode::None.code() {
                group.authorized_operations = authorized_operations(&call, group_id);
            }
            DescribedGroup { group_id: group_id.to_owned().into(), ..group }
        };
        let groups = for_each_answer(&call, asked, describe).await;
        call.answer.reply(&Response { groups: groups.into(), ..Response::default() })
    }))
}

fn known(image: &Image, group: DescribedConsumerGroup) -> DescribedGroup<'static> {
    DescribedGroup {
        group_state: group.state.into(),
        group_epoch: group.group_epoch,
        assignment_epoch: group.assignment_epoch,
        assignor_name: group.assignor.to_string().into(),
        members: group.members.into_iter().map(|described| member(image, described)).collect(),
        ..DescribedGroup::default()
    }
}

fn member(image: &Image, member: DescribedConsumerMember) -> Member<'static> {
    Member {
        member_id: member.member_id.to_string().into(),
        instance_id: member.instance_id.map(|id| id.to_string().into()),
        rack_id: member.rack_id.map(|id| id.to_string().into()),
        member_epoch: member.member_epoch,
        client_id: member.client_id.to_string().into(),
        client_host: member.client_host.to_string().into(),
        subscribed_topic_names: member
            .subscribed_topics
            .into_iter()
            .map(|name| name.to_string().into())
            .collect(),
        subscribed_topic_regex: member.subscribed_regex.map(|regex| regex.to_string().into()),
        assignment: assignment(image, &member.assigned),
        target_assignment: assignment(image, &member.target),
        member_type: if member.is_classic { CLASSIC_MEMBER } else { CONSUMER_MEMBER },
    }
}

/// Topics that are gone have no name to be shown by.
fn assignment(image: &Image, topics: &[TopicPartitions]) -> Assignment<'static> {
    let topics = topics.iter().filter_map(|topic| {
        let name = &image.topic_by_id(topic.topic_id)?.name;
        Some(Described {
            topic_id: topic.topic_id,
            topic_name: name.to_string().into(),
            partitions: topic.partitions.iter().map(|partition| partition.0).collect(),
        })
    });
    Assignment { topic_partitions: topics.collect() }
}
