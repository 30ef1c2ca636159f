//! `logmill cluster`: brokers are drained, and taken back.

use super::connect::{Connect, write_json};
use super::topic::counted;
use super::{Failure, Format};
use crate::client::{Cluster, Timer};
use clap::Subcommand;
use serde::Serialize;
use std::io::{self, Write};
use std::time::Duration;

/// How often it is looked whether a broker still holds anything.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Subcommand, Clone, Debug)]
pub(super) enum ClusterCommand {
    /// Move the replicas of a broker to others, and give it no new ones; it need not run
    Drain {
        /// Its node.id
        #[arg(value_name = "BROKER", value_parser = clap::value_parser!(i32).range(0..))]
        broker: i32,
        /// Return only when it holds nothing any more
        #[arg(long)]
        wait: bool,
    },
    /// Let a broker that is drained hold replicas again
    Undrain {
        /// Its node.id
        #[arg(value_name = "BROKER", value_parser = clap::value_parser!(i32).range(0..))]
        broker: i32,
    },
}

#[derive(Serialize)]
struct Outcome {
    broker: i32,
    drained: bool,
    replicas: usize,
    leads: usize,
}

/// Does what the command line says.
pub(super) fn run(
    command: &ClusterCommand,
    connect: &Connect,
    output: &mut dyn Write,
) -> Result<(), Vec<Failure>> {
    carry_out(command, connect, output).map_err(|failure| vec![failure])
}

fn carry_out(command: &ClusterCommand, connect: &Connect, output: &mut dyn Write) -> Result<(), Failure> {
    let mut cluster = connect.cluster()?;
    let format = connect.output.format;
    let (broker, drained, waits) = match *command {
        ClusterCommand::Drain { broker, wait } => (broker, true, wait),
        ClusterCommand::Undrain { broker } => (broker, false, false),
    };
    cluster.set_drained(broker, drained)?;
    let mut held = tell(&mut cluster, broker, drained, format, output, !waits)?;
    while waits && held > 0 {
        Timer::wait(LOOK);
        let left = cluster.held_by(broker)?.replicas;
        if left == 0 {
            tell(&mut cluster, broker, drained, format, output, true)?;
        } else if format == Format::Text && left != held {
            writeln!(output, "{} left", counted(left as i64, "replica"))?;
            output.flush()?;
        }
        held = left;
    }
    Ok(())
}

/// Says how things are, and returns how many replicas the broker holds. What is not the last is told to people only.
fn tell(
    cluster: &mut Cluster,
    broker: i32,
    drained: bool,
    format: Format,
    output: &mut dyn Write,
    is_last: bool,
) -> Result<usize, Failure> {
    let held = cluster.held_by(broker)?;
    let outcome = Outcome { broker, drained, replicas: held.replicas, leads: held.leads };
    match format {
        Format::Json if is_last || held.replicas == 0 => write_json(output, &outcome)?,
        Format::Json => {}
        Format::Text => describe(&outcome, output)?,
    }
    Ok(held.replicas)
}

fn describe(outcome: &Outcome, output: &mut dyn Write) -> io::Result<()> {
    let Outcome { broker, drained, replicas, .. } = *outcome;
    let held = counted(replicas as i64, "replica");
    match (drained, replicas) {
        (true, 0) => writeln!(output, "broker {broker} is drained and holds nothing"),
        (true, _) => writeln!(output, "broker {broker} is drained; {held} to move to others"),
        (false, _) => writeln!(output, "broker {broker} may hold replicas again; it has {held}"),
    }?;
    output.flush()
}
