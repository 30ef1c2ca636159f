//! The control shard's part of the metadata: one command after another is decided against the image,
//! committed, applied and published.

use super::command::{MetadataCommand, MetadataError};
use super::metadata_log::{MetadataLog, MetadataLogError};
use crate::runtime::Runtime;
use logmill_state::metadata::{AlterConfigsContext, BrokerRegistration, CreateTopicsContext, Image, Record};
use logmill_state::settings::{BrokerSettings, TopicSettings};
use logmill_wire::ids::{NodeId, Uuid};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

/// Hands an image to all shards; ready when every one of them works with it.
pub type Publish = Rc<dyn Fn(Arc<Image>) -> Pin<Box<dyn Future<Output = ()>>>>;

/// Decides on changes of the metadata.
pub struct Controller<R: Runtime> {
    runtime: R,
    node_id: NodeId,
    settings: Arc<BrokerSettings>,
    log: MetadataLog<R>,
    image: Image,
    publish: Publish,
}

impl<R: Runtime> Controller<R> {
    /// Replays the metadata log.
    ///
    /// # Errors
    /// If it cannot be replayed.
    pub async fn open(
        runtime: R,
        node_id: NodeId,
        settings: Arc<BrokerSettings>,
        log: MetadataLog<R>,
        publish: Publish,
    ) -> Result<Self, MetadataLogError> {
        let image = log.replay().await?;
        Ok(Self { runtime, node_id, settings, log, image, publish })
    }

    /// The image as of the last committed change.
    #[must_use]
    pub const fn image(&self) -> &Image {
        &self.image
    }

    fn random_uuid(&self) -> Uuid {
        Uuid::from_random(self.random_u128())
    }

    fn random_u128(&self) -> u128 {
        (u128::from(self.runtime.random_u64()) << 64) | u128::from(self.runtime.random_u64())
    }

    /// Registers this process as a new incarnation of its broker, in a cluster that is made if there is none.
    /// The epochs of all partitions that it leads rise with it, before anything is appended.
    ///
    /// # Errors
    /// If the change cannot be committed, or the registration is refused.
    pub async fn register(&mut self, mut registration: BrokerRegistration) -> Result<Uuid, MetadataError> {
        let cluster_id = match self.image.cluster_id() {
            Some(id) => id,
            None => {
                let id = if registration.cluster_id.is_zero() {
                    self.random_uuid()
                } else {
                    registration.cluster_id
                };
                self.change(vec![Record::ClusterIdMinted { cluster_id: id }]).await?;
                id
            }
        };
        registration.cluster_id = cluster_id;
        registration.incarnation = self.random_uuid();
        // The log directory's lock proves that no other process of this node lives.
        let record = self
            .image
            .decide_register_broker(&registration, false)
            .map_err(|error| MetadataError::NotCommitted(error.to_string()))?;
        self.change(vec![record]).await?;
        Ok(cluster_id)
    }

    async fn change(&mut self, records: Vec<Record>) -> Result<(), MetadataError> {
        if records.is_empty() {
            return Ok(());
        }
        // What cannot be applied must not be committed: every later start would stumble over it.
        let mut next = self.image.clone();
        for record in &records {
            next.apply(record).map_err(|error| MetadataError::NotCommitted(error.to_string()))?;
        }
        self.log.commit(&records, &self.runtime).await?;
        self.image = next;
        (self.publish)(Arc::new(self.image.clone())).await;
        Ok(())
    }

    /// Publishes the image as it is.
    pub async fn publish(&self) {
        (self.publish)(Arc::new(self.image.clone())).await;
    }

    /// Carries out one command.
    pub async fn handle(&mut self, command: MetadataCommand) {
        match command {
            MetadataCommand::CreateTopics { topics, validate_only, reply } => {
                let random_bits: Vec<u128> = topics.iter().map(|_| self.random_u128()).collect();
                let settings = self.image.effective_settings(self.node_id, &self.settings);
                let check_configs = |configs: &BTreeMap<String, String>| -> Result<(), String> {
                    TopicSettings::resolve(configs, &settings).map(drop).map_err(|error| error.kafka_text())
                };
                let context = CreateTopicsContext {
                    default_partition_count: settings.cluster.num_partitions,
                    default_replication_factor: settings.cluster.default_replication_factor,
                    check_configs: &check_configs,
                    random_bits: &random_bits,
                };
                let plan = self.image.decide_create_topics(&topics, validate_only, &context);
                let changed = self.change(plan.records).await;
                reply.send(changed.map(|()| plan.results));
            }
            MetadataCommand::CreatePartitions { topics, validate_only, reply } => {
                let random_bits: Vec<u128> = topics.iter().map(|_| self.random_u128()).collect();
                let plan = self.image.decide_create_partitions(&topics, validate_only, &random_bits);
                let changed = self.change(plan.records).await;
                reply.send(changed.map(|()| plan.results));
            }
            MetadataCommand::AlterConfigs { resources, validate_only, reply } => {
                let context = AlterConfigsContext { settings: &self.settings, node_id: self.node_id };
                let plan = self.image.decide_alter_configs(&resources, validate_only, &context);
                let changed = self.change(plan.records).await;
                reply.send(changed.map(|()| plan.results));
            }
            MetadataCommand::DeleteTopics { selectors, reply } => {
                let plan = self.image.decide_delete_topics(&selectors);
                let changed = self.change(plan.records).await;
                reply.send(changed.map(|()| plan.results));
            }
            MetadataCommand::AllocateProducerIds { reply } => {
                match self.image.decide_allocate_producer_ids(self.node_id) {
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
