//! The control shard's part of the metadata: one command after another is decided against the image,
//! committed by the quorum, applied and published.

use super::command::{MetadataCommand, MetadataError};
use super::publisher::Publisher;
use super::quorum::Quorum;
use crate::runtime::Runtime;
use logmill_state::metadata::{AlterConfigsContext, BrokerRegistration, CreateTopicsContext, Image, Record};
use logmill_state::settings::{BrokerSettings, TopicSettings};
use logmill_wire::ids::{NodeId, Uuid};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Decides on changes of the metadata.
pub struct Controller<R: Runtime> {
    runtime: R,
    node_id: NodeId,
    settings: Arc<BrokerSettings>,
    quorum: Quorum,
    publisher: Publisher,
}

impl<R: Runtime> Controller<R> {
    /// A controller that decides while this node leads the quorum.
    #[must_use]
    pub const fn new(
        runtime: R,
        node_id: NodeId,
        settings: Arc<BrokerSettings>,
        quorum: Quorum,
        publisher: Publisher,
    ) -> Self {
        Self { runtime, node_id, settings, quorum, publisher }
    }

    /// The image as of the last change that is applied here.
    #[must_use]
    pub fn image(&self) -> Image {
        self.quorum.image()
    }

    fn random_uuid(&self) -> Uuid {
        Uuid::from_random(self.random_u128())
    }

    fn random_u128(&self) -> u128 {
        (u128::from(self.runtime.random_u64()) << 64) | u128::from(self.runtime.random_u64())
    }

    /// Registers this process as a new incarnation of its broker, once this node leads. The cluster's id is that of the
    /// quorum. The epochs of all partitions that the broker leads rise with it, before anything is appended.
    ///
    /// # Errors
    /// If the change cannot be committed, or the registration is refused.
    pub async fn register(&mut self, mut registration: BrokerRegistration) -> Result<Uuid, MetadataError> {
        if !self.quorum.wait_until(|status| status.is_current).await {
            return Err(MetadataError::NotCommitted(self.quorum.failure().unwrap_or_default()));
        }
        let cluster_id = self.quorum.status().cluster_id;
        if self.image().cluster_id().is_none() {
            self.change(vec![Record::ClusterIdMinted { cluster_id }]).await?;
        }
        registration.cluster_id = cluster_id;
        registration.incarnation = self.random_uuid();
        // The log directory's lock proves that no other process of this node lives.
        let record = self
            .image()
            .decide_register_broker(&registration, false)
            .map_err(|error| MetadataError::NotCommitted(error.to_string()))?;
        self.change(vec![record]).await?;
        Ok(cluster_id)
    }

    /// Commits records, and waits until all shards work with them. What was decided rests on the image as it is: one
    /// change is under way at a time, and the quorum refuses what contradicts the image on every node alike.
    async fn change(&self, records: Vec<Record>) -> Result<(), MetadataError> {
        if records.is_empty() {
            return Ok(());
        }
        let index = self.quorum.propose(records).await?;
        self.publisher.until_published(index).await;
        Ok(())
    }

    /// Whether this node may decide.
    fn check_active(&self) -> Result<(), MetadataError> {
        let status = self.quorum.status();
        if let Some(failure) = self.quorum.failure() {
            return Err(MetadataError::NotCommitted(failure));
        }
        if status.is_current { Ok(()) } else { Err(MetadataError::NotController(status.leader)) }
    }

    /// Carries out one command.
    pub async fn handle(&mut self, command: MetadataCommand) {
        if let Err(error) = self.check_active() {
            return command.refuse(error);
        }
        let image = self.image();
        match command {
            MetadataCommand::CreateTopics { topics, validate_only, reply } => {
                let random_bits: Vec<u128> = topics.iter().map(|_| self.random_u128()).collect();
                let settings = image.effective_settings(self.node_id, &self.settings);
                let check_configs = |configs: &BTreeMap<String, String>| -> Result<(), String> {
                    TopicSettings::resolve(configs, &settings).map(drop).map_err(|error| error.kafka_text())
                };
                let context = CreateTopicsContext {
                    default_partition_count: settings.cluster.num_partitions,
                    default_replication_factor: settings.cluster.default_replication_factor,
                    check_configs: &check_configs,
                    random_bits: &random_bits,
                };
                let plan = image.decide_create_topics(&topics, validate_only, &context);
                let changed = self.change(plan.records).await;
                reply.send(changed.map(|()| plan.results));
            }
            MetadataCommand::CreatePartitions { topics, validate_only, reply } => {
                let random_bits: Vec<u128> = topics.iter().map(|_| self.random_u128()).collect();
                let plan = image.decide_create_partitions(&topics, validate_only, &random_bits);
                let changed = self.change(plan.records).await;
                reply.send(changed.map(|()| plan.results));
            }
            MetadataCommand::AlterConfigs { resources, validate_only, reply } => {
                let context = AlterConfigsContext { settings: &self.settings, node_id: self.node_id };
                let plan = image.decide_alter_configs(&resources, validate_only, &context);
                let changed = self.change(plan.records).await;
                reply.send(changed.map(|()| plan.results));
            }
            MetadataCommand::DeleteTopics { selectors, reply } => {
                let plan = image.decide_delete_topics(&selectors);
                let changed = self.change(plan.records).await;
                reply.send(changed.map(|()| plan.results));
            }
            MetadataCommand::AllocateProducerIds { reply } => {
                match image.decide_allocate_producer_ids(self.node_id) {
                    Ok((record, block)) => {
                        let changed = self.change(vec![record]).await;
                        reply.send(changed.map(|()| Ok(block)));
                    }
                    Err(error) => reply.send(Ok(Err(error))),
                }
            }
        }
    }
}
