//! What the operator sees when a node starts.

use super::Node;
use logmill_wire::ids::Uuid;
use std::io::Write;
use std::path::PathBuf;

/// Sends the broker's own log to standard error.
pub fn begin_logging(filter: &str) {
    let level = filter.split(',').find_map(|item| item.trim().parse::<tracing::Level>().ok());
    // A second initialisation in one process (tests) changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level.unwrap_or(tracing::Level::INFO))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // It would say on standard error that standard error is closed, which panics.
        .log_internal_errors(false)
        .try_init();
}

/// What became known while starting.
pub struct Facts {
    /// The cluster's id.
    pub cluster_id: Uuid,
    /// The log directories that work.
    pub data: Vec<PathBuf>,
    /// Bound addresses, as `NAME://host:port`.
    pub listeners: Vec<String>,
    /// Whether files bypass the page cache.
    pub direct_io: bool,
    /// What had to be accepted, each with its remedy.
    pub degradations: Vec<String>,
    /// Topics and partitions in the metadata.
    pub topics: (usize, u64),
}

/// The block's text.
pub fn text(node: &Node, facts: &Facts) -> String {
    let mut text = format!(
        "Logmill {} · node {} · cluster {}\n",
        env!("CARGO_PKG_VERSION"),
        node.config.settings.node.node_id,
        facts.cluster_id
    );
    let mut line = |name: &str, value: &str| text.push_str(&format!("  {name:<11}{value}\n"));
    line("listeners", &facts.listeners.join(", "));
    let data: Vec<_> = facts.data.iter().map(|path| path.display().to_string()).collect();
    line("data", &data.join(", "));
    line("topics", &format!("{} with {} partitions", facts.topics.0, facts.topics.1));
    line("shards", &node.shards.to_string());
    line(
        "memory",
        &format!(
            "{} MiB, of which {} MiB keep records",
            node.memory.total_bytes >> 20,
            (node.memory.cache_bytes_per_shard * usize::from(node.shards)) >> 20
        ),
    );
    let durability = if facts.direct_io {
        "acknowledged means on disk (direct I/O, durable journal writes)"
    } else {
        "acknowledged means on disk (buffered writes, each followed by fdatasync)"
    };
    line("durability", durability);
    for passed in &node.config.passed_over {
        line("passed over", &format!("{} ({})", passed.key, passed.origin));
    }
    for notice in node.config.notices.iter().chain(&node.config.topology.notices).chain(&facts.degradations) {
        line("notice", notice);
    }
    text
}

/// Prints the block.
pub fn print(block: &str) {
    // Nobody may be listening; that is no reason to stop.
    let _ = std::io::stdout().write_all(block.as_bytes());
    let _ = std::io::stdout().flush();
}
