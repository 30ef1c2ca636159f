//! `logmill-bench compare` and `logmill-bench sweep`.

use super::output::{self, OutputOptions};
use super::run_command::WorkloadOptions;
use crate::clock::Clock;
use crate::compare::{Comparison, compare};
use crate::failure::Failure;
use crate::probe::disk::{self, DiskOptions};
use crate::report::{Report, page};
use crate::run::{self, Outcome, Progress, TargetOptions};
use crate::sides::{Side, Turns};
use crate::sweep::{self, Limit, Search};
use crate::workload::Workload;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The brokers that are compared.
#[derive(Clone, Debug, clap::Args)]
pub struct SidesOptions {
    /// A broker: NAME=HOST:PORT[,pid=PID][,note=TEXT]. Its processes, which must be yours, are stopped (SIGSTOP) while
    /// another side is measured; the costs are those of the first. `note` says what an acknowledgement promises
    #[arg(long = "side", value_name = "SIDE", value_parser = Side::parse, required_unless_present = "with_null_broker")]
    pub sides: Vec<Side>,
    /// Start a null broker as one more side: the limit of client, kernel and host
    #[arg(long)]
    pub with_null_broker: bool,
}

impl SidesOptions {
    fn turns(&self) -> Result<Turns, Failure> {
        Turns::new(self.sides.clone(), self.with_null_broker)
    }
}

/// Options of `compare`.
#[derive(Clone, Debug, clap::Args)]
pub struct CompareOptions {
    /// What load to put on.
    #[command(flatten)]
    pub workload: WorkloadOptions,
    /// On whom.
    #[command(flatten)]
    pub sides: SidesOptions,
    /// How often each side has its turn
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Compare at each of these rates (records per second), in place of the workload's
    #[arg(long, value_name = "RATE", value_delimiter = ',')]
    pub rates: Vec<u64>,
    /// Measure raw writes on this folder's disk before each comparison's first and after its last round
    #[arg(long, value_name = "FOLDER")]
    pub disk_probe: Option<PathBuf>,
    /// How the runs are done.
    #[command(flatten)]
    pub target: TargetOptions,
    /// Where the results go.
    #[command(flatten)]
    pub output: OutputOptions,
}

/// Options of `sweep`.
#[derive(Clone, Debug, clap::Args)]
pub struct SweepOptions {
    /// What load to put on; its rate is what changes.
    #[command(flatten)]
    pub workload: WorkloadOptions,
    /// On whom.
    #[command(flatten)]
    pub sides: SidesOptions,
    /// The first rate, in records per second
    #[arg(long, value_name = "RATE", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub start: u64,
    /// Each rate is so many times the one before
    #[arg(long, value_name = "FACTOR", default_value_t = 1.6)]
    pub factor: f64,
    /// No rate is higher
    #[arg(long, value_name = "RATE", default_value_t = 10_000_000)]
    pub rate_max: u64,
    /// A rate is not carried if so many runs in a row fail
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub attempts: u32,
    /// How often the gap around the knee is halved
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    pub refine: u32,
    /// A rate is carried if its p99 (end to end if there are consumers) is at most so long, and the run valid
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 20.0)]
    pub p99_limit_ms: f64,
    /// How the runs are done.
    #[command(flatten)]
    pub target: TargetOptions,
    /// Where the results go.
    #[command(flatten)]
    pub output: OutputOptions,
}

fn shower(output: &OutputOptions) -> fn(Progress<'_>) {
    if output.quiet { |_| {} } else { output::show }
}

/// Writes a run's files, if files are wanted.
fn keep(options: &OutputOptions, stem: &str, outcome: &Outcome) -> Result<(), Failure> {
    match &options.output {
        Some(folder) => output::keep(folder, &output::file_stem(stem), outcome),
        None => Ok(()),
    }
}

fn write(folder: &Path, name: &str, text: &str) -> Result<(), Failure> {
    let path = folder.join(name);
    fs::write(&path, text).map_err(|cause| Failure::File { path: path.display().to_string(), cause })
}

/// Compares without printing; each comparison comes with the name of its workload.
///
/// # Errors
/// Those of [`compare`].
pub fn comparisons(options: &CompareOptions, clock: &Clock) -> Result<Vec<(String, Comparison)>, Failure> {
    let workload = options.workload.workload()?;
    let turns = options.sides.turns()?;
    let rates = if options.rates.is_empty() { vec![workload.rate] } else { options.rates.clone() };
    let mut show = shower(&options.output);
    let mut all = Vec::new();
    for rate in rates {
        let name = match options.rates.len() {
            0 => workload.name.clone(),
            _ => format!("{}-{rate}", workload.name),
        };
        let workload = Workload { rate, name: name.clone(), ..workload.clone() };
        probe_disk(options, clock)?;
        let mut keep_run = |round: u32, outcome: &Outcome| {
            keep(&options.output, &format!("{name}-{round}-{}", outcome.report.broker_name), outcome)
        };
        let compared =
            compare(&workload, &turns, options.rounds, &options.target, clock, &mut show, &mut keep_run)?;
        probe_disk(options, clock)?;
        all.push((name, compared));
    }
    Ok(all)
}

fn probe_disk(options: &CompareOptions, clock: &Clock) -> Result<(), Failure> {
    let Some(folder) = options.disk_probe.clone() else { return Ok(()) };
    let probe = DiskOptions { folder, write_size: 65_536, depth: 1, seconds: 2, file_mb: 256 };
    let findings = disk::measure(&probe, clock)?;
    let text: String = findings.iter().map(|finding| format!("raw disk: {}", finding.text())).collect();
    if let Some(folder) = &options.output.output {
        let path = folder.join("raw-disk.txt");
        let append = || {
            fs::create_dir_all(folder)?;
            fs::OpenOptions::new().create(true).append(true).open(&path)?.write_all(text.as_bytes())
        };
        append().map_err(|cause| Failure::File { path: path.display().to_string(), cause })?;
    }
    output::print(&text)
}

/// `logmill-bench compare`.
///
/// # Errors
/// Those of [`comparisons`]; [`Failure::Unusable`] if a side has no valid run.
pub fn run_compare(options: &CompareOptions, clock: &Clock) -> Result<(), Failure> {
    let all = comparisons(options, clock)?;
    let mut summary = String::new();
    for (name, comparison) in &all {
        summary += &format!("{name}, {} rounds\n{}\n", comparison.rounds.len(), comparison.text());
    }
    if let Some(folder) = &options.output.output {
        let reports: Vec<Report> =
            all.iter().flat_map(|(_, comparison)| comparison.rounds.iter().flatten().cloned()).collect();
        let lines: Vec<_> =
            all.iter().map(|(name, comparison)| (name, &comparison.names, comparison.lines())).collect();
        write(folder, "summary.txt", &summary)?;
        write(folder, "summary.json", &format!("{:#}\n", serde_json::to_value(&lines).unwrap_or_default()))?;
        write(folder, "report.html", &page("Comparison", &reports))?;
    }
    output::print(&summary)?;
    match all.iter().find(|(_, comparison)| !comparison.is_complete()) {
        Some((name, _)) => Err(Failure::Unusable(vec![format!("{name}: a side has no valid run")])),
        None => Ok(()),
    }
}

/// `logmill-bench sweep`.
///
/// # Errors
/// Whatever kept a run from being done; [`Failure::Usage`] for a factor that leads nowhere.
pub fn run_sweep(options: &SweepOptions, clock: &Clock) -> Result<(), Failure> {
    if options.factor <= 1.0 || !options.factor.is_finite() {
        return Err(Failure::Usage("--factor must be more than 1".to_owned()));
    }
    let workload = options.workload.workload()?;
    let turns = options.sides.turns()?;
    let limit = Limit { p99_ns: (options.p99_limit_ms * 1e6) as u64 };
    let start = Search::new(options.start, options.factor, options.rate_max, options.refine);
    let mut searches: Vec<(Search, Vec<Report>)> =
        turns.sides().iter().map(|_| (start.clone(), Vec::new())).collect();
    let mut show = shower(&options.output);
    // One rate of each side at a time: the sides see the same host.
    while searches.iter().any(|(search, _)| search.next().is_some()) {
        for (side, (search, reports)) in turns.sides().iter().zip(&mut searches) {
            let Some(rate) = search.next() else { continue };
            let workload = Workload { rate, ..workload.clone() };
            for attempt in 1..=options.attempts {
                let target = side.target(&options.target, clock);
                let outcome = turns.with(side, clock, || run::run(&workload, &target, clock, &mut show))?;
                let is_kept = limit.is_kept(&outcome.report);
                if is_kept || attempt == options.attempts {
                    keep(&options.output, &format!("{}-{rate}-{}", workload.name, side.name), &outcome)?;
                    search.tried(is_kept);
                    reports.push(outcome.report);
                    break;
                }
            }
        }
    }
    let text: String =
        searches.iter().map(|(search, reports)| sweep::text(reports, search.knee()) + "\n").collect();
    if let Some(folder) = &options.output.output {
        let reports: Vec<Report> = searches.into_iter().flat_map(|(_, reports)| reports).collect();
        write(folder, "sweep.txt", &text)?;
        write(folder, "report.html", &page("Rate sweep", &reports))?;
    }
    output::print(&text)
}
