//! What is done to the logs of a follower.

use super::replica::{Following, Replica};
use logmill::log::{CleanerBudget, LogError};
use logmill::runtime::Runtime;
use logmill::runtime::simulated::Chance;
use logmill_state::log_plan::{Compaction, CompactionRules};
use logmill_state::partition::LogChange;
use logmill_wire::ids::Offset;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// Starts the tasks of all logs.
pub fn begin(replica: &Rc<Replica>, chance: &mut Chance) {
    for log in &replica.logs {
        let (of_replica, of_log, own) = (Rc::clone(replica), Rc::clone(log), Chance::new(chance.next_u64()));
        replica.runtime.spawn(async move { follow(of_replica, of_log, own).await });
        let (of_replica, of_log, own) = (Rc::clone(replica), Rc::clone(log), Chance::new(chance.next_u64()));
        replica.runtime.spawn(async move { look(of_replica, of_log, own).await });
        if chance.one_in(2) {
            let (of_replica, of_log) = (Rc::clone(replica), Rc::clone(log));
            replica.runtime.spawn(async move { compact(of_replica, of_log).await });
        }
    }
}

fn is_over(replica: &Replica, log: &Following) -> bool {
    replica.ending.get() || log.log.health().is_failed()
}

/// Appends what leaders send, and changes the log.
async fn follow(replica: Rc<Replica>, log: Rc<Following>, mut chance: Chance) {
    let changes_often = chance.one_in(2);
    while !is_over(&replica, &log) {
        if let Some(change) = log.promise(|promise| promise.pending) {
            // It met an error; nothing else is done before it is made.
            if log.change(change).await.is_err() {
                log.rest(Duration::from_millis(5)).await;
            }
            continue;
        }
        match chance.below(if changes_often { 30 } else { 120 }) {
            0..=2 => {
                let change = draw_cut(&log, &mut chance);
                let _ = log.change(change).await;
            }
            3 => {
                let end = log.promise(|promise| promise.end());
                let start = Offset(chance.below((end.0 as u64).min(5_000) * 2 + 20) as i64);
                let _ = log.change(LogChange::Reset { start }).await;
            }
            4 => {
                // Somebody moves the start on, of what was acknowledged.
                let (start, end) = log.promise(|promise| (promise.start, promise.acknowledged));
                let to = Offset(start.0 + chance.below((end.0 - start.0).max(0) as u64 + 1) as i64);
                log.promise(|promise| {
                    promise.start_asked = promise.start_asked.max(to);
                    promise.is_whole = false;
                });
                let _ = log.log.advance_start(to);
            }
            5 | 6 => log.rest(Duration::from_micros(chance.below(30_000))).await,
            7 => log.promise(|promise| promise.epoch += 1 + chance.below(2) as i32),
            8 => drop(log.compare_all().await),
            _ => {
                let bytes = if chance.one_in(8) {
                    chance.below(replica.sizes.batch_bytes_max)
                } else {
                    chance.below(400)
                };
                let gap = if chance.one_in(12) { 1 + chance.below(20) as i64 } else { 0 };
                let records = 1 + chance.below(5) as i32;
                if log.append((records, bytes as usize), gap, &replica.sizes).await.is_err() {
                    log.rest(Duration::from_millis(5)).await;
                }
            }
        }
        if chance.one_in(6) {
            log.rest(Duration::from_micros(chance.below(3_000))).await;
        }
    }
}

/// Mostly near the end, as divergence is.
fn draw_cut(log: &Following, chance: &mut Chance) -> LogChange {
    let (start, end) = log.promise(|promise| (promise.start, promise.end()));
    let span = (end.0 - start.0).max(0) as u64;
    let back = if chance.one_in(3) { chance.below(span + 6) } else { chance.below(span.min(30) + 3) };
    LogChange::Cut { to: Offset((end.0 + 2 - back as i64).max(0)) }
}

/// Reads somewhere.
async fn look(replica: Rc<Replica>, log: Rc<Following>, mut chance: Chance) {
    while !is_over(&replica, &log) {
        log.rest(Duration::from_micros(chance.below(8_000))).await;
        let (start, end) = log.promise(|promise| (promise.start, promise.end()));
        let offset = Offset(start.0 + chance.below((end.0 - start.0).max(0) as u64 + 2) as i64);
        log.look(offset, 1 + chance.below(50_000) as usize).await;
    }
}

/// Compacts what may be. Every key is there once, so small segments become larger ones and nothing goes.
async fn compact(replica: Rc<Replica>, log: Rc<Following>) {
    while !is_over(&replica, &log) {
        log.rest(Duration::from_millis(10)).await;
        let Ok(segments) = log.log.closed_segments().await else { continue };
        let (Some(first), Some(last)) = (segments.first(), segments.last()) else { continue };
        let compaction =
            Compaction { first_dirty: log.log.cleaned_to().max(first.base), end: last.next_offset };
        if compaction.first_dirty >= compaction.end {
            continue;
        }
        let rules = CompactionRules {
            now: replica.runtime.wall_clock(),
            delete_retention_ms: i64::MAX,
            last_of_producers: BTreeSet::new(),
        };
        let budget = CleanerBudget {
            map_bytes: 1 << 16,
            io_bytes_per_second: 50e6,
            segment_bytes: replica.sizes.segment_bytes * 2,
        };
        match log.log.compact(compaction, rules, budget).await {
            Err(LogError::Damaged(what)) => log.break_promise(&format!("NoRotSeen: {what}")),
            _ => log.rest(Duration::from_millis(5)).await,
        }
    }
}
