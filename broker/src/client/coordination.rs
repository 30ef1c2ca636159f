//! Requests to the coordinator of a group.

use super::cluster::{Cluster, PATIENCE, To, address_text};
use super::connection::Answer;
use super::failure::Failure;
use logmill_wire::api::{ApiRequest, find_coordinator};

impl Cluster {
    /// Asks the coordinator of a group, and looks for it anew if it has changed. `done` takes what it answers.
    ///
    /// # Errors
    /// Those of `done` and of the connection.
    pub(super) fn coordinated<'a, R: ApiRequest<'a>, T>(
        &mut self,
        group: &str,
        request: &R,
        mut done: impl FnMut(&Answer) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.retrying(PATIENCE, |cluster| {
            let coordinator = cluster.coordinator(group)?;
            let outcome = cluster.call(To::Broker(coordinator), request).and_then(|answer| done(&answer));
            if outcome.as_ref().is_err_and(Failure::is_retriable) {
                cluster.coordinators.remove(group);
            }
            outcome
        })
    }

    /// The node that coordinates a group (KIP-699).
    pub(super) fn coordinator(&mut self, group: &str) -> Result<i32, Failure> {
        if let Some(known) = self.coordinators.get(group) {
            return Ok(*known);
        }
        let node = self.with(To::Any, |connection| {
            let is_batched = connection.version::<find_coordinator::Request<'_>>()? >= 4;
            let request = if is_batched {
                let coordinator_keys = vec![group.into()].into();
                find_coordinator::Request { coordinator_keys, ..Default::default() }
            } else {
                find_coordinator::Request { key: group.into(), ..Default::default() }
            };
            let answer = connection.call(&request)?;
            let response: find_coordinator::Response<'_> = answer.decode()?;
            let what = || format!("the coordinator of group {group}");
            if !is_batched {
                Failure::check(response.error_code, response.error_message.as_deref(), what)?;
                return Ok((response.node_id, address_text(&response.host, response.port)));
            }
            let found = response.coordinators.iter().next();
            let found = found.ok_or_else(|| answer.protocol("FindCoordinator answered nothing"))?;
            Failure::check(found.error_code, found.error_message.as_deref(), what)?;
            Ok((found.node_id, address_text(&found.host, found.port)))
        })?;
        self.brokers.insert(node.0, node.1);
        self.coordinators.insert(group.to_owned(), node.0);
        Ok(node.0)
    }
}
