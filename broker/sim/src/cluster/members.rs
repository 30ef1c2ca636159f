//! Members of a group: they join, share partitions, commit offsets and read them back, leave, and sometimes just vanish.

use super::checkers::SharedImages;
use super::client::{Client, Place};
use super::clients::{Progress, coordinator_of, count};
use super::generations::Synced;
use super::history::Commit;
use logmill_wire::api::{heartbeat, join_group, leave_group, offset_commit, offset_fetch, sync_group};
use logmill_wire::error_codes::ErrorCode;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// How long a member may be silent.
const SESSION_MS: i32 = 1_500;

/// How long a rebalance waits for a member; a client waits for an answer for longer.
const REBALANCE_MS: i32 = 2_500;

/// The name of the only way to assign that the members know.
const PROTOCOL: &str = "range";

/// A member.
pub struct Member {
    client: Client,
    group: String,
    /// What the nodes know, to tell what one of them had to know.
    images: SharedImages,
    coordinator: Option<i32>,
    id: String,
    generation: i32,
    /// The partitions that it is assigned, with the offset that was committed last.
    owned: BTreeMap<i32, i64>,
}

/// What a member was told by a coordinator, in one call.
enum Told<T> {
    Well(T),
    Error(ErrorCode),
}

fn told<T>(code: i16, value: T) -> Option<Told<T>> {
    match ErrorCode::from_code(code)? {
        ErrorCode::None => Some(Told::Well(value)),
        error => Some(Told::Error(error)),
    }
}

/// A subscription to the lasting topic, as consumers write it.
fn subscription() -> Vec<u8> {
    let name = super::run::LASTING_TOPIC.as_bytes();
    let parts: [&[u8]; 4] = [&[0, 0, 0, 0, 0, 1], &(name.len() as u16).to_be_bytes(), name, &[255; 4]];
    parts.concat()
}

fn partitions_of(assignment: &[u8]) -> BTreeSet<i32> {
    assignment
        .chunks_exact(4)
        .filter_map(|part| part.first_chunk().copied())
        .map(i32::from_be_bytes)
        .collect()
}

impl Member {
    /// One that has never joined.
    #[must_use]
    pub const fn new(client: Client, group: String, images: SharedImages) -> Self {
        Self {
            client,
            group,
            images,
            coordinator: None,
            id: String::new(),
            generation: -1,
            owned: BTreeMap::new(),
        }
    }

    /// Belongs to the group, now and then, until the end.
    pub async fn run(mut self, progress: Rc<Progress>) {
        while !progress.is_ending.get() {
            self.client.pause(300).await;
            if self.client.places().next().is_none() {
                self.client.refresh().await;
                continue;
            }
            let Some(node) = self.coordinator else {
                self.coordinator = coordinator_of(&mut self.client, &self.group).await;
                continue;
            };
            if self.join(node).await.is_none() {
                self.coordinator = None;
                continue;
            }
            let rounds = self.client.chance.below(60);
            for _ in 0..rounds {
                if self.generation < 0 || progress.is_ending.get() {
                    break;
                }
                self.client.pause(300).await;
                match self.take_part(node).await {
                    Some(()) => count(&progress.member_rounds),
                    // The next coordinator may know the member.
                    None => (self.generation, self.coordinator) = (-1, None),
                }
            }
            self.part(node).await;
        }
        progress.left.set(progress.left.get() - 1);
    }

    /// Joins again soon, leaves, or is not heard of any more.
    async fn part(&mut self, node: i32) {
        self.generation = -1;
        match self.client.chance.below(4) {
            0 => {
                let identity = leave_group::MemberIdentity {
                    member_id: self.id.as_str().into(),
                    ..leave_group::MemberIdentity::default()
                };
                let request = leave_group::Request {
                    group_id: self.group.as_str().into(),
                    members: vec![identity].into(),
                    ..leave_group::Request::default()
                };
                let _ = self.client.call(node, &request, 5).await;
                self.id.clear();
            }
            1 => self.id.clear(),
            _ => {}
        }
    }

    /// Joins and syncs; `None` if the coordinator is another one, or says nothing.
    async fn join(&mut self, node: i32) -> Option<()> {
        let known = self.client.history.borrow().generations.last(&self.group).cloned();
        let epochs = self.epochs_of(node);
        let joined = self.client.call(node, &self.join_request(), 9).await?;
        let joined: join_group::Response<'_> = joined.decode()?;
        match told(joined.error_code, ())? {
            Told::Error(ErrorCode::MemberIdRequired) => {
                self.id = joined.member_id.to_string();
                return Some(());
            }
            Told::Error(ErrorCode::UnknownMemberId) => {
                self.id.clear();
                return Some(());
            }
            Told::Error(_) => return None,
            Told::Well(()) => self.id = joined.member_id.to_string(),
        }
        let mut assignments = Vec::new();
        if joined.leader == joined.member_id {
            let members: Vec<String> =
                joined.members.iter().map(|member| member.member_id.to_string()).collect();
            assignments = self.assign(members);
        }
        let request = sync_group::Request {
            group_id: self.group.as_str().into(),
            generation_id: joined.generation_id,
            member_id: self.id.as_str().into(),
            protocol_type: Some("consumer".into()),
            protocol_name: Some(PROTOCOL.into()),
            assignments: assignments
                .iter()
                .map(|(member, bytes)| sync_group::SyncGroupRequestAssignment {
                    member_id: member.as_str().into(),
                    assignment: Cow::Borrowed(bytes.as_slice()),
                })
                .collect(),
            ..sync_group::Request::default()
        };
        let answer = self.client.call(node, &request, 5).await?;
        let response: sync_group::Response<'_> = answer.decode()?;
        match told(response.error_code, partitions_of(&response.assignment))? {
            Told::Error(ErrorCode::RebalanceInProgress | ErrorCode::IllegalGeneration) => {}
            Told::Error(ErrorCode::UnknownMemberId) => self.id.clear(),
            Told::Error(_) => return None,
            Told::Well(partitions) => {
                self.generation = joined.generation_id;
                self.owned.clear();
                self.owned.extend(partitions.iter().map(|partition| (*partition, -1)));
                let synced = Synced { generation: self.generation, node, epochs };
                let mut history = self.client.history.borrow_mut();
                let broken =
                    history.generations.sync(&self.group, &self.id, &partitions, synced, known.as_ref());
                if let Err((checker, what)) = broken {
                    history.break_promise(checker, what);
                }
            }
        }
        Some(())
    }

    fn join_request(&self) -> join_group::Request<'static> {
        let protocol =
            join_group::JoinGroupRequestProtocol { name: PROTOCOL.into(), metadata: subscription().into() };
        join_group::Request {
            group_id: self.group.clone().into(),
            session_timeout_ms: SESSION_MS,
            rebalance_timeout_ms: REBALANCE_MS,
            member_id: self.id.clone().into(),
            protocol_type: "consumer".into(),
            protocols: vec![protocol].into(),
            ..join_group::Request::default()
        }
    }

    /// Every partition to one member, by turns.
    fn assign(&mut self, members: Vec<String>) -> Vec<(String, Vec<u8>)> {
        let partitions: BTreeSet<i32> = self.places().map(|place| place.key.1).collect();
        let count = members.len().max(1);
        let shift = self.client.chance.index(count);
        let mut assigned: Vec<(String, Vec<u8>)> = members.into_iter().map(|id| (id, Vec::new())).collect();
        for (at, partition) in partitions.into_iter().enumerate() {
            if let Some((_, bytes)) = assigned.get_mut((at + shift) % count) {
                bytes.extend_from_slice(&partition.to_be_bytes());
            }
        }
        assigned
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.client.places().filter(|place| &*place.topic == super::run::LASTING_TOPIC)
    }

    /// One heartbeat, commit, or look at what is committed. `None` if the member is to join again, maybe elsewhere.
    async fn take_part(&mut self, node: i32) -> Option<()> {
        let unread = self.owned.iter().find(|(_, offset)| **offset < 0).map(|(partition, _)| *partition);
        if unread.is_some() || self.client.chance.one_in(4) {
            return self.look(node, false).await;
        }
        let chosen = self.client.chance.index(self.owned.len().max(1));
        let chosen = self.owned.iter().nth(chosen).map(|(partition, offset)| (*partition, *offset + 1));
        match chosen {
            Some((partition, _)) if self.client.chance.one_in(12) => {
                // As a member would that has missed a rebalance: it is refused, and nothing comes of it.
                let former = self.generation - 1;
                self.commit(node, partition, 0, former).await;
                Some(())
            }
            Some((partition, offset)) if !self.client.chance.one_in(3) => {
                self.commit(node, partition, offset, self.generation).await
            }
            _ => self.beat(node).await,
        }
    }

    async fn beat(&mut self, node: i32) -> Option<()> {
        let asked = self.asked(node);
        let known = self.client.history.borrow().generations.last(&self.group).cloned();
        let request = heartbeat::Request {
            group_id: self.group.as_str().into(),
            generation_id: self.generation,
            member_id: self.id.as_str().into(),
            ..heartbeat::Request::default()
        };
        let answer = self.client.call(node, &request, 4).await?;
        let response: heartbeat::Response = answer.decode()?;
        match told(response.error_code, ())? {
            Told::Well(()) => {
                let mut history = self.client.history.borrow_mut();
                if let Err((checker, what)) = history.generations.beat(&self.group, &asked, known.as_ref()) {
                    history.break_promise(checker, what);
                }
                Some(())
            }
            Told::Error(ErrorCode::UnknownMemberId) => {
                self.id.clear();
                None
            }
            Told::Error(_) => None,
        }
    }

    async fn commit(&mut self, node: i32, partition: i32, offset: i64, generation: i32) -> Option<()> {
        let known = self.client.history.borrow().generations.last(&self.group).cloned();
        let of_partition = offset_commit::OffsetCommitRequestPartition {
            partition_index: partition,
            committed_offset: offset,
            committed_leader_epoch: -1,
            ..offset_commit::OffsetCommitRequestPartition::default()
        };
        let topic = offset_commit::OffsetCommitRequestTopic {
            name: super::run::LASTING_TOPIC.into(),
            partitions: vec![of_partition].into(),
            ..offset_commit::OffsetCommitRequestTopic::default()
        };
        let request = offset_commit::Request {
            group_id: self.group.as_str().into(),
            generation_id_or_member_epoch: generation,
            member_id: self.id.as_str().into(),
            topics: vec![topic].into(),
            ..offset_commit::Request::default()
        };
        let answer = self.client.call(node, &request, 9).await?;
        let response: offset_commit::Response<'_> = answer.decode()?;
        let code = response.topics.iter().flat_map(|topic| topic.partitions.into_vec()).next()?.error_code;
        let Told::Well(()) = told(code, ())? else { return None };
        self.owned.insert(partition, offset);
        let commit = Commit { offset, node, epochs: self.epochs_of(node) };
        let mut history = self.client.history.borrow_mut();
        history.commit(self.at(partition), commit);
        if let Err((checker, what)) = history.generations.commit(&self.group, generation, known.as_ref()) {
            history.break_promise(checker, what);
        }
        Some(())
    }

    fn at(&self, partition: i32) -> (String, String, i32) {
        (self.group.clone(), super::run::LASTING_TOPIC.to_owned(), partition)
    }

    fn asked(&self, node: i32) -> Synced {
        Synced { generation: self.generation, node, epochs: self.epochs_of(node) }
    }

    fn epochs_of(&self, node: i32) -> Vec<i32> {
        self.images.leader_epochs(node as usize - 1, "__consumer_offsets")
    }

    /// Reads what is committed for its partitions, or, once all is settled, for all of them.
    async fn look(&mut self, node: i32, is_settled: bool) -> Option<()> {
        let partitions: Vec<i32> = match is_settled {
            true => self.places().map(|place| place.key.1).collect(),
            false => self.owned.keys().copied().collect(),
        };
        let topic = offset_fetch::OffsetFetchRequestTopics {
            name: super::run::LASTING_TOPIC.into(),
            partition_indexes: partitions.into(),
            ..offset_fetch::OffsetFetchRequestTopics::default()
        };
        let group = offset_fetch::OffsetFetchRequestGroup {
            group_id: self.group.as_str().into(),
            member_epoch: -1,
            topics: Some(vec![topic].into()),
            ..offset_fetch::OffsetFetchRequestGroup::default()
        };
        let request =
            offset_fetch::Request { groups: vec![group].into(), ..offset_fetch::Request::default() };
        let epochs = self.epochs_of(node);
        let answer = self.client.call(node, &request, 9).await?;
        let response: offset_fetch::Response<'_> = answer.decode()?;
        let group = response.groups.iter().next().filter(|group| group.error_code == 0)?;
        for of_partition in group.topics.iter().flat_map(|topic| topic.partitions.into_vec()) {
            if of_partition.error_code != 0 {
                return None;
            }
            let (partition, offset) = (of_partition.partition_index, of_partition.committed_offset);
            let told = Commit { offset, node, epochs: epochs.clone() };
            self.client.history.borrow_mut().see_commit(&self.at(partition), &told, is_settled);
            if let Some(known) = self.owned.get_mut(&partition) {
                *known = offset.max(*known).max(0);
            }
        }
        Some(())
    }

    /// Looks what is committed in a cluster without faults.
    pub async fn settle(mut self) {
        loop {
            if self.places().next().is_none() {
                self.client.refresh().await;
            }
            if let Some(node) = coordinator_of(&mut self.client, &self.group).await
                && self.look(node, true).await.is_some()
            {
                return;
            }
            self.client.pause(200).await;
        }
    }
}
