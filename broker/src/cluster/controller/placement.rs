//! Leaders and replicas of partitions, as somebody asks for them.

use super::decide::{Decider, Decision};
use crate::cluster::placement_command::PlacementCommand;

impl Decider<'_> {
    /// Has preferred leaders lead again, as many as are elected at once.
    pub(super) fn balance(&self) -> Decision {
        let decided = self.rules.with_context(|context| self.draft.decide_balance_leaders(context));
        let count = decided.plan.elected.len();
        Decision::for_broker(decided.plan, move |outcome| match outcome {
            Ok(_) if count > 0 => tracing::info!(count, "preferred leaders lead again"),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "preferred leaders could not be elected"),
        })
    }

    /// Decides on one command.
    pub(super) fn place(&self, command: PlacementCommand) -> Decision {
        let draft = self.draft;
        match command {
            PlacementCommand::ElectLeaders { partitions, election, reply } => {
                let decided = self.rules.with_context(|context| {
                    draft.decide_elect_leaders(partitions.as_deref(), election, context)
                });
                let (plan, results) = (decided.plan, decided.results);
                let decision = Decision::for_shard(plan.records, move |outcome| {
                    reply.send(outcome.map(|_| results));
                });
                Decision { elected: plan.elected, ..decision }
            }
            PlacementCommand::Reassign { partitions, allow_factor_change, reply } => {
                let decided = self
                    .rules
                    .with_context(|context| draft.decide_reassign(&partitions, allow_factor_change, context));
                let (plan, results) = (decided.plan, decided.results);
                let decision = Decision::for_shard(plan.records, move |outcome| {
                    reply.send(outcome.map(|_| results));
                });
                Decision { elected: plan.elected, ..decision }
            }
            PlacementCommand::UnregisterBroker { broker, reply } => {
                let decided =
                    self.rules.with_context(|context| draft.decide_unregister_broker(broker, context));
                let (plan, result) = match decided {
                    Ok(plan) => (plan, Ok(())),
                    Err(error) => (Default::default(), Err(error)),
                };
                let decision = Decision::for_shard(plan.records, move |outcome| {
                    if outcome.is_ok() && result.is_ok() {
                        tracing::info!(%broker, "a broker is forgotten, as somebody has asked");
                    }
                    reply.send(outcome.map(|_| result));
                });
                Decision { elected: plan.elected, ..decision }
            }
        }
    }
}
