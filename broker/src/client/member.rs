//! A member of a consumer group (KIP-848): the coordinator decides which partitions it reads.

use super::chance::Chance;
use super::clock::Timer;
use super::cluster::{Cluster, EARLIEST, LATEST};
use super::failure::Failure;
use super::fetcher::Fetcher;
use logmill_wire::api::consumer_group_heartbeat as heartbeat;
use logmill_wire::error_codes::ErrorCode;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a member may take to give up partitions, in milliseconds (`max.poll.interval.ms`).
const REBALANCE_TIMEOUT_MS: i32 = 300_000;

/// How often offsets are committed (`auto.commit.interval.ms`).
const COMMIT_INTERVAL: Duration = Duration::from_secs(5);

/// The epoch of a member that joins, and of one that leaves.
const JOINING: i32 = 0;
const LEAVING: i32 = -1;

/// Where a group starts that has committed nothing (`auto.offset.reset`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the first record that is there.
    Earliest,
    /// At the end: only what comes from now on.
    Latest,
}

/// A member.
#[derive(Debug)]
pub struct Member {
    group: String,
    id: String,
    epoch: i32,
    start: Start,
    interval: Duration,
    last_heartbeat: Option<Timer>,
    owned: BTreeSet<i32>,
    /// What the coordinator has assigned and was not looked at yet.
    assigned: Option<BTreeSet<i32>>,
    /// Whether the coordinator has yet to hear what is owned now.
    has_news: bool,
    last_commit: Timer,
    committed: BTreeMap<i32, i64>,
}

impl Member {
    /// A member that joins with its first [`Member::keep_up`].
    #[must_use]
    pub fn new(group: &str, start: Start) -> Self {
        Self {
            group: group.to_owned(),
            id: Chance::new().uuid().to_string(),
            epoch: JOINING,
            start,
            interval: Duration::ZERO,
            last_heartbeat: None,
            owned: BTreeSet::new(),
            assigned: None,
            has_news: true,
            last_commit: Timer::start(),
            committed: BTreeMap::new(),
        }
    }

    /// Does what is due: heartbeats, partitions that come and go, commits. `done` has the offsets up to which the
    /// work is done. True if the partitions are others now.
    ///
    /// # Errors
    /// [`Failure::Refused`] if the coordinator does not want the member; those of the connection.
    pub fn keep_up(
        &mut self,
        cluster: &mut Cluster,
        fetcher: &mut Fetcher,
        done: &BTreeMap<i32, i64>,
    ) -> Result<bool, Failure> {
        let mut has_changed = false;
        while self.has_news || self.last_heartbeat.is_none_or(|last| last.elapsed() >= self.interval) {
            self.beat(cluster, fetcher)?;
            if let Some(assigned) = self.assigned.take().filter(|assigned| *assigned != self.owned) {
                self.reconcile(cluster, fetcher, assigned, done)?;
                has_changed = true;
            }
        }
        // With other partitions, `done` is not up to date.
        if !has_changed && self.last_commit.elapsed() >= COMMIT_INTERVAL {
            self.commit(cluster, fetcher, done)?;
        }
        Ok(has_changed)
    }

    /// One heartbeat, and what the coordinator says to it.
    fn beat(&mut self, cluster: &mut Cluster, fetcher: &mut Fetcher) -> Result<(), Failure> {
        let (name, topic_id) = (fetcher.topic().name.clone(), fetcher.topic().id);
        let is_joining = self.epoch == JOINING;
        let partitions = self.owned.iter().copied().collect::<Vec<_>>();
        let owned = if self.owned.is_empty() {
            Vec::new()
        } else {
            vec![heartbeat::TopicPartitions { topic_id, partitions: partitions.into() }]
        };
        let request = heartbeat::Request {
            group_id: self.group.as_str().into(),
            member_id: self.id.as_str().into(),
            member_epoch: self.epoch,
            rebalance_timeout_ms: if is_joining { REBALANCE_TIMEOUT_MS } else { -1 },
            subscribed_topic_names: is_joining.then(|| vec![name.into()].into()),
            topic_partitions: (is_joining || self.has_news).then(|| owned.into()),
            ..Default::default()
        };
        let group = self.group.clone();
        let beaten = cluster.coordinated(&group, &request, |answer| {
            let response: heartbeat::Response<'_> = answer.decode()?;
            let message = response.error_message.as_deref();
            Failure::check(response.error_code, message, || format!("group {group}"))?;
            let assigned = response.assignment.map(|assignment| {
                let topics = assignment.topic_partitions.iter();
                let ours = topics.filter(|topic| topic.topic_id == topic_id);
                ours.flat_map(|topic| topic.partitions.into_vec()).collect::<BTreeSet<i32>>()
            });
            let id = response.member_id.map(|id| id.into_owned());
            Ok((id, response.member_epoch, response.heartbeat_interval_ms, assigned))
        });
        self.last_heartbeat = Some(Timer::start());
        self.has_news = false;
        match beaten {
            Ok((id, epoch, interval_ms, assigned)) => {
                self.id = id.unwrap_or_else(|| std::mem::take(&mut self.id));
                self.epoch = epoch;
                self.interval = Duration::from_millis(u64::try_from(interval_ms).unwrap_or(1000).max(100));
                self.assigned = assigned.or(self.assigned.take());
                Ok(())
            }
            Err(failure) if is_lost(&failure) && !is_joining => {
                self.lose(fetcher);
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    /// The coordinator no longer knows the member: its partitions may be others' by now, and it joins anew.
    fn lose(&mut self, fetcher: &mut Fetcher) {
        self.epoch = JOINING;
        self.owned.clear();
        self.assigned = None;
        self.committed.clear();
        self.has_news = true;
        fetcher.retain(|_| false);
    }

    /// Gives up what is no longer assigned, having committed it, and begins with what is.
    fn reconcile(
        &mut self,
        cluster: &mut Cluster,
        fetcher: &mut Fetcher,
        assigned: BTreeSet<i32>,
        done: &BTreeMap<i32, i64>,
    ) -> Result<(), Failure> {
        if !self.owned.is_subset(&assigned) {
            self.commit(cluster, fetcher, done)?;
        }
        fetcher.retain(|partition| assigned.contains(&partition));
        self.committed.retain(|partition, _| assigned.contains(partition));
        let added: Vec<i32> = assigned.difference(&self.owned).copied().collect();
        if !added.is_empty() {
            let positions = self.positions(cluster, &fetcher.topic().name, &added)?;
            fetcher.add(positions);
        }
        self.owned = assigned;
        self.has_news = true;
        Ok(())
    }

    fn positions(
        &self,
        cluster: &mut Cluster,
        topic: &str,
        partitions: &[i32],
    ) -> Result<BTreeMap<i32, i64>, Failure> {
        let committed = cluster.committed(&self.group)?;
        let position = |partition: &i32| {
            committed.get(&(topic.to_owned(), *partition)).map(|offset| (*partition, *offset))
        };
        let mut positions: BTreeMap<i32, i64> = partitions.iter().filter_map(position).collect();
        let fresh: Vec<i32> =
            partitions.iter().copied().filter(|partition| !positions.contains_key(partition)).collect();
        if !fresh.is_empty() {
            let timestamp = if self.start == Start::Earliest { EARLIEST } else { LATEST };
            positions.extend(cluster.offsets(topic, &fresh, timestamp)?);
        }
        Ok(positions)
    }

    /// Commits what is done and was not committed before.
    fn commit(
        &mut self,
        cluster: &mut Cluster,
        fetcher: &mut Fetcher,
        done: &BTreeMap<i32, i64>,
    ) -> Result<(), Failure> {
        self.last_commit = Timer::start();
        let is_new = |partition: &i32, offset: &i64| {
            self.owned.contains(partition) && self.committed.get(partition) != Some(offset)
        };
        let offsets: BTreeMap<i32, i64> =
            done.iter().filter(|(at, to)| is_new(at, to)).map(|(at, to)| (*at, *to)).collect();
        if offsets.is_empty() {
            return Ok(());
        }
        let topic = (fetcher.topic().name.clone(), fetcher.topic().id);
        let mut outcome = self.try_commit(cluster, &topic, &offsets);
        if outcome.as_ref().is_err_and(|failure| failure.code() == Some(ErrorCode::StaleMemberEpoch)) {
            // The epoch has moved on, and the heartbeat brings the new one.
            self.beat(cluster, fetcher)?;
            outcome = self.try_commit(cluster, &topic, &offsets);
        }
        match outcome {
            Ok(()) => self.committed.extend(offsets),
            Err(failure) if is_lost(&failure) => self.lose(fetcher),
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    fn try_commit(
        &self,
        cluster: &mut Cluster,
        (name, id): &(String, logmill_wire::ids::Uuid),
        offsets: &BTreeMap<i32, i64>,
    ) -> Result<(), Failure> {
        cluster.commit(&self.group, (&self.id, self.epoch), (name, *id), offsets)
    }

    /// Commits what is done and leaves the group, so that others have its partitions at once.
    ///
    /// # Errors
    /// Those of [`Member::keep_up`].
    pub fn leave(
        mut self,
        cluster: &mut Cluster,
        fetcher: &mut Fetcher,
        done: &BTreeMap<i32, i64>,
    ) -> Result<(), Failure> {
        if self.epoch == JOINING {
            return Ok(());
        }
        let committed = self.commit(cluster, fetcher, done);
        self.epoch = LEAVING;
        self.has_news = false;
        let left = self.beat(cluster, fetcher);
        committed.and(left)
    }
}

fn is_lost(failure: &Failure) -> bool {
    matches!(failure.code(), Some(ErrorCode::UnknownMemberId | ErrorCode::FencedMemberEpoch))
}
