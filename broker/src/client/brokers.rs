//! Brokers are drained, and taken back.

use super::cluster::Cluster;
use super::failure::Failure;
use logmill_wire::api::incremental_alter_configs::{
    AlterConfigsResource, AlterableConfig, Request, Response,
};

/// Kafka's number of brokers among the resources that have configs (`ConfigResource.Type`).
const BROKER: i8 = 4;

/// Kafka's numbers of what is done to a config (KIP-339).
const SET: i8 = 0;
const DELETE: i8 = 1;

/// What a broker holds of all partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Its replicas.
    pub replicas: usize,
    /// Those of them that lead.
    pub leads: usize,
}

impl Cluster {
    /// Has a broker's replicas move to others and gives it no new ones, or ends that. The broker need not run.
    ///
    /// # Errors
    /// [`Failure::Refused`]; those of the connection.
    pub fn set_drained(&mut self, broker: i32, drained: bool) -> Result<(), Failure> {
        let config = AlterableConfig {
            name: "logmill.broker.drained".into(),
            config_operation: if drained { SET } else { DELETE },
            value: drained.then(|| "true".into()),
        };
        let resource = AlterConfigsResource {
            resource_type: BROKER,
            resource_name: broker.to_string().into(),
            configs: vec![config].into(),
        };
        let request = Request { resources: vec![resource].into(), validate_only: false };
        let to = self.controller()?;
        let answer = self.call(to, &request)?;
        let response: Response<'_> = answer.decode()?;
        let result = response.responses.iter().next();
        let result = result.ok_or_else(|| answer.protocol("IncrementalAlterConfigs answered nothing"))?;
        let deed = if drained { "drained" } else { "taken back" };
        let what = || format!("broker {broker} cannot be {deed}");
        Failure::check(result.error_code, result.error_message.as_deref(), what)
    }

    /// What a broker holds, as far as anybody knows.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn held_by(&mut self, broker: i32) -> Result<Held, Failure> {
        let topics = self.topics(None, false)?;
        let mut held = Held::default();
        for partition in topics.iter().flat_map(|topic| &topic.partitions) {
            held.replicas += usize::from(partition.replicas.contains(&broker));
            held.leads += usize::from(partition.leader == Some(broker));
        }
        Ok(held)
    }
}
