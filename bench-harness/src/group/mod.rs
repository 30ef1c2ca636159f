//! A consumer group whose members come and go (KIP-848): what a rebalance takes while there is other load. The members
//! fetch nothing.

mod member;

use crate::clock::Clock;
use crate::cluster::Topic;
use crate::connection::Connection;
use crate::consume::Ending;
use crate::failure::Failure;
use crate::meter::Meter;
use crate::workload::Workload;
use logmill_wire::api::find_coordinator;
use logmill_wire::error_codes::ErrorCode;
use member::Member;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often the coordinator is looked for while there is none.
const COORDINATOR_ATTEMPTS: u32 = 100;
const COORDINATOR_PAUSE_NS: u64 = 100_000_000;

/// The longest sleep, so that the end of the run is noticed.
const SLEEP_NS_MAX: u64 = 100_000_000;

/// A group with its members' connections.
pub(crate) struct Group {
    name: String,
    coordinator: String,
    topic: Topic,
    timeout: Duration,
    heartbeat_ns: u64,
    members: Vec<Member>,
    /// Members that there have been, which gives each its id.
    count: u64,
    run: u64,
    pub(crate) meter: Meter,
}

impl Group {
    /// Finds the coordinator and connects the members, which join when [`Group::run`] begins. `None` if the workload
    /// has no group.
    ///
    /// # Errors
    /// [`Failure::Refused`]; those of the connections.
    pub(crate) fn connect(
        workload: &Workload,
        topic: &Topic,
        bootstrap: &mut Connection,
        (clock, run): (&Clock, u64),
        timeout: Duration,
    ) -> Result<Option<Self>, Failure> {
        if workload.group_members == 0 {
            return Ok(None);
        }
        let name = format!("{}-group-{run:x}", topic.name);
        let mut group = Self {
            coordinator: coordinator(&name, bootstrap, clock)?,
            name,
            topic: topic.clone(),
            timeout,
            heartbeat_ns: workload.heartbeat_ms * 1_000_000,
            members: Vec::new(),
            count: 0,
            run,
            meter: Meter::default(),
        };
        for _ in 0..workload.group_members {
            group.add_member()?;
        }
        Ok(Some(group))
    }

    fn add_member(&mut self) -> Result<(), Failure> {
        let connection = Connection::open(&self.coordinator, self.timeout)?;
        self.count += 1;
        // Any UUID will do as long as no other member has it (KIP-1082).
        let id = format!("{:08x}-0000-4000-8000-{:012x}", self.run & 0xffff_ffff, self.count);
        self.members.push(Member::new(connection, id));
        Ok(())
    }

    /// Lets a member leave or join at each due time until the run ends. A rebalance counts from its due time until
    /// all partitions have their new owners and the coordinator knows that they do.
    pub(crate) fn run(
        &mut self,
        workload: &Workload,
        clock: &Clock,
        ending: &Ending,
        measure_from_ns: u64,
    ) -> Result<(), Failure> {
        let every_ns = workload.rebalance_every_ms * 1_000_000;
        let mut changed_ns = clock.now_ns();
        let mut next_ns = None;
        let mut is_settled = false;
        while !is_over(ending, clock) {
            self.beat(clock)?;
            let now_ns = clock.now_ns();
            if !is_settled && self.is_settled() {
                is_settled = true;
                // The first one is the group's beginning.
                if next_ns.is_some() && changed_ns >= measure_from_ns {
                    let mut tally = self.meter.tally();
                    tally.latency(now_ns - changed_ns);
                    tally.answered(true, 0, 0, now_ns);
                }
                next_ns = Some(next_ns.map_or(now_ns + every_ns, |due_ns: u64| due_ns));
            } else if !is_settled && now_ns - changed_ns > self.timeout.as_nanos() as u64 {
                let seconds = self.timeout.as_secs();
                self.meter.tally().error(format!("a rebalance was not done within {seconds} s"));
                break;
            }
            if let Some(due_ns) = next_ns.filter(|due_ns| is_settled && now_ns >= *due_ns) {
                self.change(workload.group_members as usize)?;
                (changed_ns, is_settled) = (due_ns, false);
                next_ns = Some(due_ns + every_ns);
                continue;
            }
            let beat_ns = self.members.iter().map(|member| member.next_beat_ns).min().unwrap_or(u64::MAX);
            let event_ns = next_ns.filter(|_| is_settled).unwrap_or(u64::MAX);
            clock.sleep_until_ns(beat_ns.min(event_ns).min(now_ns + SLEEP_NS_MAX));
        }
        for member in &mut self.members {
            member.leave(&self.name)?;
        }
        Ok(())
    }

    /// The oldest member leaves if all are there, otherwise a new one joins.
    fn change(&mut self, wanted: usize) -> Result<(), Failure> {
        if self.members.len() < wanted.max(2) {
            return self.add_member();
        }
        self.members.remove(0).leave(&self.name)
    }

    /// All heartbeats that are due.
    fn beat(&mut self, clock: &Clock) -> Result<(), Failure> {
        for member in &mut self.members {
            while member.next_beat_ns <= clock.now_ns() {
                if let Err(error) = member.beat(&self.name, &self.topic)? {
                    self.meter.tally().error(format!("a heartbeat: {error}"));
                }
                let pause_ns = if member.is_in_a_hurry() { 0 } else { self.heartbeat_ns };
                member.next_beat_ns = clock.now_ns() + pause_ns;
            }
        }
        Ok(())
    }

    fn is_settled(&self) -> bool {
        let owned: Vec<&BTreeSet<i32>> = self.members.iter().map(Member::owned).collect();
        let is_told = self.members.iter().all(|member| !member.has_news() && member.has_joined());
        is_told && is_shared_evenly(&owned, self.topic.leaders.len())
    }
}

/// Whether each partition has exactly one owner, and no member has fewer than its share.
fn is_shared_evenly(owned: &[&BTreeSet<i32>], partitions: usize) -> bool {
    let all: BTreeSet<i32> = owned.iter().flat_map(|own| own.iter().copied()).collect();
    let share = partitions / owned.len().max(1);
    all.len() == partitions
        && owned.iter().map(|own| own.len()).sum::<usize>() == partitions
        && owned.iter().all(|own| own.len() >= share)
}

fn is_over(ending: &Ending, clock: &Clock) -> bool {
    ending.stop.load(Ordering::Relaxed)
        || ending.is_produced.load(Ordering::Relaxed)
        || ending.end_ns.is_some_and(|end_ns| clock.now_ns() >= end_ns)
}

/// Where the group's coordinator listens, as `HOST:PORT`.
fn coordinator(group: &str, bootstrap: &mut Connection, clock: &Clock) -> Result<String, Failure> {
    let version = bootstrap.version::<find_coordinator::Request<'_>>(i16::MAX)?;
    let mut request = find_coordinator::Request::default();
    // From version 4 on, several groups can be asked for (KIP-699).
    if version >= 4 {
        request.coordinator_keys = vec![group.into()].into();
    } else {
        request.key = group.into();
    }
    let mut last = ErrorCode::CoordinatorNotAvailable.code();
    for _ in 0..COORDINATOR_ATTEMPTS {
        let answer = bootstrap.call_in_version(&request, version)?;
        let response: find_coordinator::Response<'_> = bootstrap.decode(&answer)?;
        let found = response.coordinators.iter().next();
        let (code, host, port) = found.map_or_else(
            || (response.error_code, response.host.clone(), response.port),
            |found| (found.error_code, found.host.clone(), found.port),
        );
        if code == 0 {
            return Ok(format!("{host}:{port}"));
        }
        last = code;
        if !ErrorCode::from_code(code).is_some_and(ErrorCode::is_retriable) {
            break;
        }
        clock.sleep_until_ns(clock.now_ns() + COORDINATOR_PAUSE_NS);
    }
    Err(Failure::Refused { api: "FindCoordinator", code: last, subject: format!("group {group}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_settled_when_all_is_shared() {
        let set = |partitions: &[i32]| partitions.iter().copied().collect::<BTreeSet<i32>>();
        let is_even = |sets: &[BTreeSet<i32>]| is_shared_evenly(&sets.iter().collect::<Vec<_>>(), 5);
        assert!(is_even(&[set(&[0, 1, 2]), set(&[3, 4])]));
        assert!(!is_even(&[set(&[0, 1, 2]), set(&[3])]), "one has no owner");
        assert!(!is_even(&[set(&[0, 1, 2, 3]), set(&[3, 4])]), "one has two owners");
        assert!(!is_even(&[set(&[0, 1, 2, 3, 4]), set(&[])]), "one has joined and got nothing");
        assert!(!is_even(&[]));
    }
}
