//! What must always hold, checked after every step of the model.

use std::collections::BTreeMap;

use logmill_wire::ids::{NodeId, Uuid};

use super::broker::{Broker, Disk, Role};

/// What the model remembers of the whole run.
#[derive(Default)]
pub struct Truth {
    /// Everything that was below a high watermark once: offset → value.
    committed: Vec<u64>,
    /// Everything that was acknowledged with acks=all: offset → value.
    acknowledged: BTreeMap<i64, u64>,
    /// Leader epoch → who leads in it.
    leaders: BTreeMap<i32, (NodeId, Uuid)>,
    /// Leader epoch and offset → the value that the offset was given to in it.
    minted: BTreeMap<(i32, i64), u64>,
    /// How far each replica's high watermark was compared, and what a client has seen.
    compared: BTreeMap<NodeId, i64>,
    client: (i32, i64),
}

impl Truth {
    pub fn committed_end(&self) -> i64 {
        self.committed.len() as i64
    }

    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    pub fn on_minted(&mut self, epoch: i32, base: i64, end: i64, value: u64) {
        for offset in base..end {
            let before = self.minted.insert((epoch, offset), value);
            assert_eq!(before, None, "offset {offset} was minted twice in epoch {epoch}");
        }
    }

    pub fn on_acknowledged(&mut self, base: i64, end: i64, value: u64) {
        for offset in base..end {
            let before = self.acknowledged.insert(offset, value);
            assert!(before.is_none_or(|before| before == value), "offset {offset} was acknowledged twice");
        }
    }

    /// A broker begins to lead: nobody else does in this epoch, and it has everything that was committed, unless the
    /// epoch is over and it has not heard of that.
    pub fn on_leader(&mut self, epoch: i32, is_over: bool, broker: &Broker) {
        let who = (broker.node, broker.incarnation);
        let before = self.leaders.insert(epoch, who);
        assert!(before.is_none_or(|before| before == who), "{before:?} and {who:?} lead in epoch {epoch}");
        if is_over {
            return;
        }
        for (offset, value) in self.committed.iter().enumerate().skip(broker.disk.start as usize) {
            let here = broker.disk.value_at(offset as i64);
            assert_eq!(
                here,
                Some(*value),
                "the leader {who:?} of epoch {epoch} lacks committed offset {offset}"
            );
        }
        for (&offset, &value) in self.acknowledged.range(broker.disk.start..) {
            let here = broker.disk.value_at(offset);
            assert_eq!(
                here,
                Some(value),
                "the leader {who:?} of epoch {epoch} lacks acknowledged offset {offset}"
            );
        }
    }

    /// A process is gone, and with it its high watermark.
    pub fn on_down(&mut self, node: NodeId) {
        self.compared.remove(&node);
    }

    /// Below the high watermark all replicas are equal, whenever they are looked at.
    pub fn check_broker(&mut self, broker: &Broker, write_caching: bool) {
        let Some(high_watermark) = broker.high_watermark() else { return };
        let disk = &broker.disk;
        if broker.changing.is_none() {
            assert!(
                high_watermark <= disk.counted(write_caching),
                "{} tells {high_watermark} of {disk:?}",
                broker.node
            );
        }
        let compared = self.compared.entry(broker.node).or_insert(0);
        if high_watermark < *compared && matches!(broker.role, Role::Leader(_)) {
            panic!("the high watermark of {} went from {compared} to {high_watermark}", broker.node);
        }
        let from = (*compared).min(high_watermark).max(disk.start);
        *compared = high_watermark;
        for offset in from..high_watermark {
            let value = disk.value_at(offset);
            let value = value
                .unwrap_or_else(|| panic!("{} has no offset {offset} below {high_watermark}", broker.node));
            match self.committed.get(offset as usize) {
                Some(before) => {
                    assert_eq!(value, *before, "offset {offset} below the high watermark of {}", broker.node)
                }
                None => {
                    assert_eq!(
                        self.committed.len() as i64,
                        offset,
                        "{} commits what nobody has committed",
                        broker.node
                    );
                    self.committed.push(value);
                }
            }
        }
    }

    /// Every in-sync replica has what the leader says is committed.
    pub fn check_in_sync(&self, high_watermark: i64, member: NodeId, disk: &Disk, write_caching: bool) {
        let end = disk.counted(write_caching);
        assert!(
            high_watermark <= end,
            "{member} is in sync up to {end}; the high watermark is {high_watermark}"
        );
    }

    /// A client asks for the latest offset, and never goes back to an older epoch.
    pub fn on_client(&mut self, epoch: i32, high_watermark: i64) {
        if epoch >= self.client.0 {
            let before = self.client.1;
            assert!(high_watermark >= before, "a client saw {before} and in epoch {epoch} {high_watermark}");
            self.client = (epoch, high_watermark);
        }
    }
}
