//! What the machine has to give.

use logmill_state::settings::BrokerSettings;
use logmill_wire::ids::Uuid;

/// The share of the machine's memory that is taken if nothing is configured, in percent.
const DEFAULT_SHARE_PERCENT: u64 = 40;

/// The share of the broker's memory that keeps records, in percent.
const CACHE_SHARE_PERCENT: u64 = 50;

/// How much memory the broker works with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Everything that grows with load, in bytes.
    pub total_bytes: u64,
    /// Of that, for records of each shard.
    pub cache_bytes_per_shard: usize,
    /// Of that, for requests and replies of each shard.
    pub request_bytes_per_shard: usize,
}

impl Memory {
    /// Divides what is configured, or a share of what the machine or the container has.
    #[must_use]
    pub fn plan(settings: &BrokerSettings, shards: u16) -> Self {
        let total_bytes = settings.resources.memory_bytes.unwrap_or_else(|| {
            let machine = available_bytes().unwrap_or(2 << 30);
            (machine / 100 * DEFAULT_SHARE_PERCENT).max(256 << 20)
        });
        let cache = settings
            .resources
            .cache_bytes
            .unwrap_or(total_bytes / 100 * CACHE_SHARE_PERCENT)
            .min(total_bytes);
        let per_shard = |bytes: u64| usize::try_from(bytes / u64::from(shards.max(1))).unwrap_or(usize::MAX);
        Self {
            total_bytes,
            cache_bytes_per_shard: per_shard(cache),
            request_bytes_per_shard: per_shard(total_bytes - cache),
        }
    }
}

/// The id that the kernel drew when the host was started; `None` if it does not tell.
pub fn boot_id() -> Option<Uuid> {
    boot_id_in(&std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?)
}

fn boot_id_in(text: &str) -> Option<Uuid> {
    let digits: String = text.trim().chars().filter(|&character| character != '-').collect();
    let bits = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32)?;
    Some(Uuid(bits.to_be_bytes()))
}

/// The memory of the machine, or of the control group if that is less.
fn available_bytes() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_of(&text));
    let group =
        std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    match (machine, group) {
        (Some(machine), Some(group)) => Some(machine.min(group)),
        (machine, group) => machine.or(group),
    }
}

fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_boot_is_told_from_others() {
        let text = "0a0b0c0d-1111-4222-8333-4444555566ff\n";
        assert_eq!(boot_id_in(text).map(|id| (id.0[0], id.0[15])), Some((0x0A, 0xFF)));
        for wrong in
            ["", "\n", "0a0b", "0a0b0c0d-1111-4222-8333-4444555566fg", "+a0b0c0d111142228333444455556"]
        {
            assert_eq!(boot_id_in(wrong), None, "{wrong}");
        }
        assert_eq!(boot_id(), boot_id());
    }

    #[test]
    fn memory_is_divided_without_a_rest_to_invent() {
        assert_eq!(total_of("MemFree: 1 kB\nMemTotal:       24000 kB\n"), Some(24_000 * 1024));
        assert_eq!(total_of("nonsense"), None);
        let values = BTreeMap::from([("logmill.memory.bytes".to_owned(), (1u64 << 30).to_string())]);
        let settings = BrokerSettings::from_values(values).unwrap();
        let memory = Memory::plan(&settings, 4);
        assert_eq!(memory.total_bytes, 1 << 30);
        assert!((memory.cache_bytes_per_shard + memory.request_bytes_per_shard) * 4 <= 1 << 30);
    }
}
