//! `logmill-sim [--follower] [--from SEED] [--count N]`: runs seeds one after another and says which failed; with
//! `--follower` those of a follower's log.

use logmill_sim::follower;
use logmill_sim::run::{Outcome, run};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let (mut from, mut count) = (0, 1);
    let mut arguments = std::env::args().skip(1).peekable();
    let is_follower = arguments.next_if(|name| name == "--follower").is_some();
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|text| text.parse::<u64>().ok());
        match (name.as_str(), value) {
            ("--from" | "--seed", Some(value)) => from = value,
            ("--count", Some(value)) => count = value,
            _ => {
                let _ = writeln!(
                    std::io::stderr(),
                    "error: usage: logmill-sim [--follower] [--from SEED] [--count N]"
                );
                return ExitCode::from(2);
            }
        }
    }
    if is_follower {
        return run_followers(from, count);
    }
    let mut total = Outcome::default();
    let mut failed = 0;
    for seed in from..from.saturating_add(count) {
        let outcome = run(seed);
        if let Some(broken) = &outcome.broken {
            failed += 1;
            let _ = writeln!(std::io::stdout(), "seed {seed}: {broken}\n  again: logmill-sim --seed {seed}");
        }
        total.appends += outcome.appends;
        total.refused += outcome.refused;
        total.duplicates += outcome.duplicates;
        total.reads += outcome.reads;
        total.deletions += outcome.deletions;
        total.compacted += outcome.compacted;
        total.crashes += outcome.crashes;
        total.kills += outcome.kills;
        total.stops += outcome.stops;
        total.rotted += outcome.rotted;
        total.reported += outcome.reported;
        if count == 1 {
            let _ = writeln!(std::io::stdout(), "{outcome:?}");
        }
    }
    let _ = writeln!(
        std::io::stdout(),
        "seeds {from}..{}: {} appends acknowledged, {} refused, {} repeated, {} records read, {} deletions, {} compacted; {} power cuts, {} kills, {} stops; {} files rotted, {} of them stopped a start\n{} passed, {failed} failed",
        from + count,
        total.appends,
        total.refused,
        total.duplicates,
        total.reads,
        total.deletions,
        total.compacted,
        total.crashes,
        total.kills,
        total.stops,
        total.rotted,
        total.reported,
        count - failed
    );
    ExitCode::from(u8::from(failed > 0))
}

fn run_followers(from: u64, count: u64) -> ExitCode {
    let mut total = follower::Outcome::default();
    let mut failed = 0;
    for seed in from..from.saturating_add(count) {
        let outcome = follower::run(seed);
        if let Some(broken) = &outcome.broken {
            failed += 1;
            let _ = writeln!(
                std::io::stdout(),
                "seed {seed}: {broken}\n  again: logmill-sim --follower --seed {seed}"
            );
        }
        total.add(&outcome);
    }
    let _ = writeln!(
        std::io::stdout(),
        "seeds {from}..{}: {} appends, {} cuts, {} resets, {} refused by the disk, {} interrupted, {} of them made\n{} passed, {failed} failed",
        from + count,
        total.appends,
        total.cuts,
        total.resets,
        total.refused,
        total.interrupted,
        total.made,
        count - failed
    );
    ExitCode::from(u8::from(failed > 0))
}
