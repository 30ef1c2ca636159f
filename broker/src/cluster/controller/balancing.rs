//! Replicas move by themselves, while this node is the active controller: how often that is looked at, and what is told
//! of it. What moves is decided by `Image::decide_balance_replicas`, and moves as if somebody had asked for it.

use super::decide::{Decider, Decision};
use super::{ControllerCommand, State};
use crate::runtime::Runtime;
use logmill_state::metadata::{BalanceHold, BalanceLimits, Image, ReplicaBalance};
use logmill_wire::ids::{MonotonicNs, NodeId, TopicPartition};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::mem::discriminant;
use std::rc::Rc;
use std::time::Duration;

/// How often it is looked whether more can begin, while something moves.
const LOOK_WHILE_MOVING: Duration = Duration::from_millis(500);

/// What a look goes out from: the term, the last entry of the log that is applied, who is gone. With the same there is
/// the same to decide.
pub(super) type Premises = (u64, u64, BTreeSet<NodeId>);

/// What the last look came to.
#[derive(Default)]
pub(super) struct Balancing {
    /// From what nothing followed.
    at_rest: RefCell<Option<Premises>>,
    moving: Cell<usize>,
    hold: Cell<Option<BalanceHold>>,
    stuck: Cell<usize>,
}

impl Balancing {
    fn interval(&self, usual: Duration) -> Duration {
        if self.moving.get() > 0 { LOOK_WHILE_MOVING.min(usual) } else { usual }
    }

    fn is_at_rest(&self, premises: &Premises) -> bool {
        self.at_rest.borrow().as_ref() == Some(premises)
    }

    /// A look was committed, if anything came of it.
    fn settle(&self, premises: Premises, found: &Found) {
        self.at_rest.replace((found.begun.is_empty()).then_some(premises));
        if !found.begun.is_empty() {
            let first = found.begun.first();
            tracing::info!(
                partitions = found.begun.len(),
                moving = found.moving,
                ?first,
                "partitions begin to move, so that brokers hold what they should"
            );
        }
        if self.moving.replace(found.moving) > 0 && found.moving == 0 && found.hold.is_none() {
            tracing::info!("no partition moves any more");
        }
        let known = self.hold.replace(found.hold);
        if let Some(hold) =
            found.hold.filter(|hold| known.map(|known| discriminant(&known)) != Some(discriminant(hold)))
        {
            tracing::info!(cause = %hold, "partitions do not begin to move by themselves for now");
        }
        if self.stuck.replace(found.stuck) != found.stuck && found.stuck > 0 {
            tracing::warn!(
                replicas = found.stuck,
                "replicas should leave a broker that is drained or gone, and cannot: all others have one of the same \
                 partition, or nobody leads it; add a broker"
            );
        }
    }
}

/// What is told of a look.
struct Found {
    begun: Vec<(TopicPartition, Vec<NodeId>)>,
    moving: usize,
    stuck: usize,
    hold: Option<BalanceHold>,
}

impl Found {
    fn of(decided: ReplicaBalance) -> Self {
        let ReplicaBalance { moves, moving, stuck, hold, plan: _ } = decided;
        let begun = moves.into_iter().map(|one| (one.partition, one.replicas)).collect();
        Self { begun, moving, stuck, hold }
    }
}

/// For how long brokers are fenced, as far as this node has led meanwhile. The time between two looks counts for no more
/// than twice what it should be: a controller that was paused has not listened.
#[derive(Default)]
struct Absences {
    term: u64,
    looked_at: MonotonicNs,
    fenced: BTreeMap<NodeId, Duration>,
}

impl Absences {
    fn note(&mut self, term: u64, image: &Image, now: MonotonicNs, interval: Duration) {
        let step = Duration::from_nanos(now.since(self.looked_at)).min(interval * 2);
        self.looked_at = now;
        if std::mem::replace(&mut self.term, term) != term {
            self.fenced.clear();
        }
        let fenced: BTreeSet<NodeId> =
            image.brokers().filter(|broker| broker.fenced).map(|broker| broker.id).collect();
        self.fenced.retain(|node, _| fenced.contains(node));
        self.fenced.values_mut().for_each(|absent| *absent += step);
        for node in fenced {
            self.fenced.entry(node).or_default();
        }
    }

    fn longer_than(&self, bound_ms: Option<u64>) -> BTreeSet<NodeId> {
        let Some(bound) = bound_ms.map(Duration::from_millis) else { return BTreeSet::new() };
        self.fenced.iter().filter(|(_, absent)| **absent >= bound).map(|(&node, _)| node).collect()
    }
}

impl<R: Runtime> State<R> {
    /// Looks whether replicas are to move, while this node leads and there is another broker.
    pub(super) async fn balance_replicas(&self) {
        let balancing = Rc::new(Balancing::default());
        let mut absences = Absences::default();
        let usual = Duration::from_millis(self.started_with.cluster.balancing_interval_ms);
        while !self.is_stopping.get() {
            if !self.until_leading_others().await {
                return;
            }
            let interval = balancing.interval(usual);
            self.runtime.sleep(interval).await;
            let (status, image) = (self.quorum.status(), self.quorum.image());
            absences.note(status.term, &image, self.runtime.monotonic(), interval);
            let settings = image.effective_settings(self.node, &self.started_with).cluster;
            let premises = (status.term, status.applied, absences.longer_than(settings.balancing_gone_ms));
            if !settings.balancing || balancing.is_at_rest(&premises) {
                continue;
            }
            let balancing = Rc::clone(&balancing);
            self.queue
                .borrow_mut()
                .push_back(ControllerCommand::BalanceReplicas(Look { premises, balancing }));
            self.work.notify_all();
        }
    }
}

/// A look that is to be decided.
pub(in crate::cluster) struct Look {
    premises: Premises,
    balancing: Rc<Balancing>,
}

impl Decider<'_> {
    /// Has replicas begin to move that should be elsewhere.
    pub(super) fn balance_replicas(&self, look: Look) -> Decision {
        let settings = &self.rules.settings.cluster;
        let limits = BalanceLimits {
            moves: settings.balancing_moves,
            moves_per_broker: settings.balancing_moves_per_broker,
            threshold_percent: settings.balancing_threshold_percent,
            leaders: settings.auto_leader_rebalance,
        };
        let Look { premises, balancing } = look;
        let mut decided = self
            .rules
            .with_context(|context| self.draft.decide_balance_replicas(&premises.2, &limits, context));
        let plan = std::mem::take(&mut decided.plan);
        let found = Found::of(decided);
        Decision::for_broker(plan, move |outcome| match outcome {
            Ok(_) => balancing.settle(premises, &found),
            Err(error) => tracing::warn!(%error, "partitions could not begin to move"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logmill_state::metadata::{Endpoint, Record};
    use logmill_wire::ids::Uuid;

    fn image(fenced: &[i32]) -> Image {
        let mut image = Image::default();
        for node in 0..3 {
            let endpoint =
                Endpoint { listener: "L".to_owned(), host: "h".to_owned(), port: 1, security_protocol: 0 };
            let registered = Record::BrokerRegistered {
                broker_id: NodeId(node),
                incarnation: Uuid([1; 16]),
                leader_epoch_base: 0,
                rack: None,
                endpoints: vec![endpoint],
            };
            image.apply(&registered).unwrap();
            let changed = Record::BrokerChanged {
                broker_id: NodeId(node),
                fenced: fenced.contains(&node),
                in_controlled_shutdown: false,
                directories: Vec::new(),
            };
            image.apply(&changed).unwrap();
        }
        image
    }

    #[test]
    fn who_is_gone_was_missed_for_long_by_one_controller_that_listened() {
        let mut absences = Absences::default();
        let look = |absences: &mut Absences, term, fenced: &[i32], second: u64| {
            absences.note(term, &image(fenced), MonotonicNs(second * 1_000_000_000), Duration::from_secs(1));
            absences.longer_than(Some(3_000)).into_iter().map(|node| node.0).collect::<Vec<i32>>()
        };
        let nobody: [i32; 0] = [];
        assert_eq!(look(&mut absences, 1, &[1], 100), nobody);
        assert_eq!(look(&mut absences, 1, &[1, 2], 101), nobody);
        assert_eq!(look(&mut absences, 1, &[1, 2], 102), nobody);
        assert_eq!(look(&mut absences, 1, &[1, 2], 103), [1]);
        assert_eq!(look(&mut absences, 1, &[1], 104), [1], "the other one was back");
        assert_eq!(look(&mut absences, 1, &[1, 2], 900), [1]);
        assert_eq!(look(&mut absences, 1, &[1, 2], 1_800), [1], "a pause counts for two seconds");
        assert_eq!(look(&mut absences, 1, &[1, 2], 1_801), [1, 2]);
        assert_eq!(absences.longer_than(None), BTreeSet::new());
        assert_eq!(look(&mut absences, 2, &[1, 2], 1_802), nobody, "another leadership begins anew");
    }
}
