//! `logmill-sim [--from SEED] [--count N]`: runs seeds one after another and says which failed.

use logmill_sim::run::{Outcome, run};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let (mut from, mut count) = (0, 1);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|text| text.parse::<u64>().ok());
        match (name.as_str(), value) {
            ("--from" | "--seed", Some(value)) => from = value,
            ("--count", Some(value)) => count = value,
            _ => {
                let _ = writeln!(std::io::stderr(), "error: usage: logmill-sim [--from SEED] [--count N]");
                return ExitCode::from(2);
            }
        }
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
