//! `logmill-sim [--follower | --replicas | --quorum | --cluster | --cluster-alone] [--from SEED] [--count N] [--first]`: runs
//! seeds one after another and says which failed, with `--first` until one has. Without a name it is the storage of one broker
//! that is simulated; `--cluster-alone` is a cluster whose operator comes late to a disk that has failed. With `LOGMILL_SIM_LOG`, a level, the brokers' own log goes to standard error.

use logmill_sim::{cluster, follower, quorum, replicas, run};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// What a seed came to: the promise that was broken, if one was, and what was counted.
type Ran = (Option<String>, Vec<(&'static str, u64)>);

/// A simulation: the argument that asks for it, and what runs one seed of it.
type Simulation = (&'static str, fn(u64) -> Ran);

const SIMULATIONS: [Simulation; 6] = [
    ("", of_storage),
    ("--follower", of_follower),
    ("--replicas", of_replicas),
    ("--quorum", of_quorum),
    ("--cluster", of_cluster),
    ("--cluster-alone", of_cluster_alone),
];

fn of_storage(seed: u64) -> Ran {
    let outcome = run::run(seed);
    let counts = vec![
        ("appends acknowledged", outcome.appends),
        ("refused", outcome.refused),
        ("repeated", outcome.duplicates),
        ("records read", outcome.reads),
        ("deletions", outcome.deletions),
        ("records compacted", outcome.compacted),
        ("power cuts", outcome.crashes),
        ("kills", outcome.kills),
        ("stops", outcome.stops),
        ("files rotted", outcome.rotted),
        ("starts stopped by them", outcome.reported),
    ];
    (outcome.broken, counts)
}

fn of_follower(seed: u64) -> Ran {
    let outcome = follower::run(seed);
    let counts = vec![
        ("appends", outcome.appends),
        ("cuts", outcome.cuts),
        ("resets", outcome.resets),
        ("refused by the disk", outcome.refused),
        ("interrupted", outcome.interrupted),
        ("of them made", outcome.made),
    ];
    (outcome.broken, counts)
}

fn of_replicas(seed: u64) -> Ran {
    (replicas::run(seed).err(), Vec::new())
}

fn of_quorum(seed: u64) -> Ran {
    let outcome = quorum::run(seed);
    let counts = vec![
        ("changes acknowledged", outcome.acknowledged),
        ("terms", outcome.terms),
        ("falls", outcome.falls),
        ("disks wiped", outcome.wiped),
        ("replaced", outcome.replaced),
    ];
    (outcome.broken, counts)
}

fn of_cluster(seed: u64) -> Ran {
    counted(cluster::run(seed))
}

fn of_cluster_alone(seed: u64) -> Ran {
    counted(cluster::run_plan(seed, cluster::Plan { spares_operator: true, ..cluster::Plan::default() }))
}

fn counted(outcome: cluster::Outcome) -> Ran {
    let counts = vec![
        ("milliseconds simulated", outcome.milliseconds),
        ("answers", outcome.operations),
        ("records acknowledged", outcome.acknowledged),
        ("read", outcome.read),
        ("commits", outcome.committed),
        ("faults", outcome.faults),
        ("starts", outcome.starts),
        ("disks replaced for rot", outcome.rotted),
        ("replicas offline", outcome.offline),
    ];
    let deeds = outcome.deeds.join("\n  ");
    (outcome.broken.map(|broken| format!("{broken}\n  {deeds}")), counts)
}

/// Runs a seed; what panics has broken a promise, too.
fn run_caught(simulation: Simulation, seed: u64) -> Ran {
    catch_unwind(AssertUnwindSafe(|| simulation.1(seed))).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
        (Some(format!("NoPanic: {text}")), Vec::new())
    })
}

/// Which simulation, the first seed, how many, and whether the first that fails is the last.
fn parse(arguments: impl Iterator<Item = String>) -> Option<(Simulation, u64, u64, bool)> {
    let (mut simulation, mut from, mut count, mut stops_at_first) = (SIMULATIONS[0], 0, 1, false);
    let mut arguments = arguments.peekable();
    while let Some(name) = arguments.next() {
        match name.as_str() {
            "--from" | "--seed" => from = arguments.next()?.parse().ok()?,
            "--count" => count = arguments.next()?.parse().ok()?,
            "--first" => stops_at_first = true,
            name => simulation = *SIMULATIONS.iter().find(|(of, _)| *of == name && !of.is_empty())?,
        }
    }
    Some((simulation, from, count, stops_at_first))
}

/// Has the brokers tell what they do, if the environment asks for it.
fn begin_logging() {
    let level = std::env::var("LOGMILL_SIM_LOG")
        .ok()
        .and_then(|text| text.parse::<tracing_subscriber::filter::LevelFilter>().ok());
    if let Some(level) = level {
        let _ = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .try_init();
    }
}

fn main() -> ExitCode {
    begin_logging();
    let mut output = std::io::stdout();
    let Some((simulation, from, count, stops_at_first)) = parse(std::env::args().skip(1)) else {
        let names: Vec<&str> = SIMULATIONS.iter().skip(1).map(|(name, _)| *name).collect();
        let names = names.join(" | ");
        let _ = writeln!(
            std::io::stderr(),
            "error: usage: logmill-sim [{names}] [--from SEED] [--count N] [--first]"
        );
        return ExitCode::from(2);
    };
    let (mut ran, mut failed) = (0, 0);
    let mut total: Vec<(&str, u64)> = Vec::new();
    for seed in from..from.saturating_add(count) {
        let (broken, counts) = run_caught(simulation, seed);
        ran += 1;
        for (place, (name, number)) in counts.into_iter().enumerate() {
            match total.get_mut(place) {
                Some((_, sum)) => *sum += number,
                None => total.push((name, number)),
            }
        }
        if let Some(broken) = broken {
            failed += 1;
            let name = if simulation.0.is_empty() { String::new() } else { format!("{} ", simulation.0) };
            let _ = writeln!(output, "seed {seed}: {broken}\n  again: logmill-sim {name}--seed {seed}");
            if stops_at_first {
                break;
            }
        }
    }
    let total: Vec<String> = total.iter().map(|(name, number)| format!("{number} {name}")).collect();
    let _ = writeln!(
        output,
        "seeds {from}..{}: {}\n{} passed, {failed} failed",
        from + ran,
        total.join(", "),
        ran - failed
    );
    ExitCode::from(u8::from(failed > 0))
}
