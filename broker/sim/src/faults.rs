//! What the disk does to a generation under load.

use logmill::runtime::simulated::{Chance, Fault, Host, Operation, World};
use std::time::Duration;

/// `ENOSPC`.
const NO_SPACE: i32 = 28;

fn fault(operation: Operation, error: i32, after: u64, times: u64) -> Fault {
    let mut fault = Fault::always(operation);
    (fault.error, fault.after, fault.times) = (error, after, times);
    fault
}

/// Draws what goes wrong; often nothing does.
pub fn draw(world: &World, host: &Host, chance: &mut Chance) {
    const INPUT_OUTPUT: i32 = 5;
    match chance.below(20) {
        0 | 1 => host.inject(fault(Operation::Flush, INPUT_OUTPUT, chance.below(20), 1)),
        2 | 3 => {
            host.inject(fault(Operation::Length, NO_SPACE, chance.below(10), 1 + chance.below(20)));
        }
        4 | 5 => host.set_slowness(1 + chance.below(20)),
        6..=8 => fill_up(world, host, chance),
        9 | 10 => host.inject(fault(Operation::Read, INPUT_OUTPUT, chance.below(30), 1 + chance.below(10))),
        11 => host.inject(fault(Operation::Write, INPUT_OUTPUT, chance.below(100), 1)),
        12 => host.inject(fault(Operation::Open, INPUT_OUTPUT, chance.below(20), 1 + chance.below(3))),
        13 => {
            let error = if chance.one_in(2) { NO_SPACE } else { INPUT_OUTPUT };
            host.inject(fault(Operation::Names, error, chance.below(10), 1 + chance.below(3)));
        }
        _ => {}
    }
}

/// A moment in which something is about to be done to files: lets the world go on until then, for at most `limit`.
/// True if it came.
pub fn await_moment(world: &World, host: &Host, chance: &mut Chance, limit: Duration) -> bool {
    let (operation, most) = match chance.below(4) {
        0 | 1 => (Operation::Names, 80),
        2 => (Operation::Flush, 60),
        _ => (Operation::Length, 40),
    };
    let number = host.operations(operation) + 1 + chance.below(most);
    world.run_until_within(limit, || !host.is_up() || host.operations(operation) >= number)
}

/// Leaves little space on the disk, and sometimes gives more after a while.
fn fill_up(world: &World, host: &Host, chance: &mut Chance) {
    let magnitude = 12 + chance.below(9);
    host.set_capacity(Some(host.used_bytes() + chance.below(1 << magnitude)));
    if chance.one_in(2) {
        let (host, delay) = (host.clone(), Duration::from_millis(chance.below(400)));
        world.after(delay, move || host.set_capacity(None));
    }
}

/// Ends everything that [`draw`] began.
pub fn end(host: &Host) {
    host.clear_faults();
    host.set_capacity(None);
    host.set_slowness(1);
}
