//! Forgetting idempotent producers that have been idle for `producer.id.expiration.ms` (KIP-360).

use super::role::Role;
use super::table::PartitionTable;
use crate::runtime::Runtime;
use std::rc::Rc;
use std::time::Duration;

/// How often idle producers are looked for, as Kafka's `producer.id.expiration.check.interval.ms` has it.
const CHECK_INTERVAL_MS: u64 = 600_000;

impl<R: Runtime> PartitionTable<R> {
    /// Looks for idle producers for as long as the table is there: every ten minutes, or more often where the
    /// expiration is short.
    pub(super) fn start_expiring_producers(self: &Rc<Self>) {
        let (runtime, table) = (self.runtime.clone(), Rc::downgrade(self));
        self.runtime.spawn(async move {
            while let Some(table) = table.upgrade().filter(|table| !table.stores.is_ending()) {
                table.expire_producers().await;
                let interval = (table.producer_expiration_ms() / 16).clamp(1, CHECK_INTERVAL_MS);
                drop(table);
                runtime.sleep(Duration::from_millis(interval)).await;
            }
        });
    }

    /// Forgets the producers that have been idle for too long, of partitions in use and of others. How long a producer
    /// has been idle is part of the checkpoints, so an orderly restart does not begin its time anew.
    async fn expire_producers(&self) {
        let expiration_ms = i64::try_from(self.producer_expiration_ms()).unwrap_or(i64::MAX);
        let now = self.runtime.wall_clock();
        for key in self.all_logs() {
            if let Some(partition) = self.in_use(key) {
                match &mut *partition.role.borrow_mut() {
                    Role::Leads(leader) => leader.expire_producers(now, expiration_ms),
                    Role::Follows(follower) => follower.expire_producers(now, expiration_ms),
                };
            }
            self.stores.expire_producers(key, now, expiration_ms);
            if self.runtime.should_yield() {
                self.runtime.yield_now().await;
            }
        }
    }
}
