//! Where a run goes, and how.

use crate::workload::Workload;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Producers that one thread drives before another is worth it.
const PRODUCERS_PER_THREAD: u32 = 64;

/// Distinguishes the topics of one process.
static TOPICS_NAMED: AtomicU64 = AtomicU64::new(0);

/// Options of every command that runs workloads.
#[derive(Clone, Debug, clap::Args)]
pub struct TargetOptions {
    /// Use this topic, which may be there already, and leave it there; by default each run has new topics, which
    /// are deleted afterwards
    #[arg(long, value_name = "NAME")]
    pub topic: Option<String>,
    /// Do not delete the topics of the run
    #[arg(long)]
    pub keep_topics: bool,
    /// Threads of all producers together; by default one for each 64, at most one per core
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Give up when nothing comes from the broker for so long
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout_seconds: u64,
}

/// Where a run goes.
#[derive(Clone, Debug)]
pub struct Target {
    /// What to call the broker.
    pub name: String,
    /// A broker of the cluster, as `HOST:PORT`.
    pub bootstrap_server: String,
    /// The processes of the broker, or of its whole cluster, on this host, for their CPU time, memory and I/O.
    pub pids: Vec<u32>,
    /// What an acknowledgement promises.
    pub durability: String,
    /// The first topic's name.
    pub topic: String,
    /// Whether the run's topics are deleted afterwards.
    pub deletes_topics: bool,
    /// Threads of all producers.
    pub threads: Option<usize>,
    /// How long a silent broker is waited for.
    pub timeout_seconds: u64,
}

impl Target {
    /// A target with a topic of its own, unless the options name one. `wall_ms` makes the name unlike those of other
    /// processes.
    #[must_use]
    pub fn new(
        options: &TargetOptions,
        (name, bootstrap_server): (&str, &str),
        pids: &[u32],
        durability: &str,
        wall_ms: i64,
    ) -> Self {
        let own = || format!("bench-{wall_ms:x}-{}", TOPICS_NAMED.fetch_add(1, Ordering::Relaxed));
        Self {
            name: name.to_owned(),
            bootstrap_server: bootstrap_server.to_owned(),
            pids: pids.to_vec(),
            durability: durability.to_owned(),
            topic: options.topic.clone().unwrap_or_else(own),
            deletes_topics: options.topic.is_none() && !options.keep_topics,
            threads: options.threads.map(usize::from),
            timeout_seconds: options.timeout_seconds,
        }
    }

    /// How long a silent broker is waited for.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds)
    }

    pub(super) fn topic_names(&self, workload: &Workload) -> Vec<String> {
        match workload.topics {
            1 => vec![self.topic.clone()],
            count => (0..count).map(|index| format!("{}-{index}", self.topic)).collect(),
        }
    }

    pub(super) fn default_threads(workload: &Workload) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let wanted = workload.all_producers().div_ceil(PRODUCERS_PER_THREAD) as usize;
        wanted.clamp(1, cores)
    }
}
