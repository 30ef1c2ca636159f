//! How many bytes the logs of a shard have, by log directory.

use super::command::{DirectorySizes, PartitionError};
use super::hosted::storage_error;
use super::table::PartitionTable;
use crate::log::NumberedStore;
use crate::runtime::Runtime;
use logmill_wire::ids::TopicPartition;
use std::collections::BTreeSet;
use std::rc::Rc;

impl<R: Runtime> PartitionTable<R> {
    /// What each log directory holds of some partitions, or of all; of those that are offline only that.
    pub(super) async fn sizes(&self, partitions: Option<Vec<TopicPartition>>) -> Vec<DirectorySizes> {
        let wanted: BTreeSet<_> = match partitions {
            Some(partitions) => partitions.into_iter().collect(),
            None => self.all_logs(),
        };
        let mut all = Vec::new();
        for member in self.stores.all() {
            let sizes = self.sizes_in(member, &wanted).await;
            all.push(DirectorySizes { directory: member.number, sizes });
        }
        let offline = self.stores.offline().iter();
        all.extend(offline.map(|directory| {
            let sizes = Err(PartitionError::Storage(directory.cause.clone()));
            DirectorySizes { directory: directory.number, sizes }
        }));
        all
    }

    async fn sizes_in(
        &self,
        NumberedStore { store, .. }: &NumberedStore<R>,
        wanted: &BTreeSet<TopicPartition>,
    ) -> Result<Vec<(TopicPartition, u64)>, PartitionError> {
        if let Some(cause) = store.health().cause() {
            return Err(PartitionError::Storage(cause));
        }
        let mut sizes = Vec::new();
        for &key in wanted {
            let hosted = self.in_use(key).map(|partition| Rc::clone(partition.log()));
            let hosted = hosted.filter(|log| log.is_in(store));
            let size = match (hosted, store.state_of(key)) {
                (Some(log), _) => log.size_bytes().await,
                (None, Some(state)) => store.size_of(&state).await,
                (None, None) => continue,
            };
            sizes.push((key, size.map_err(storage_error)?));
            if self.runtime.should_yield() {
                self.runtime.yield_now().await;
            }
        }
        Ok(sizes)
    }
}
