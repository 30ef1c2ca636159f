//! The keys of workload files, and what each accepts.

use super::{Acks, Workload};
use crate::schedule::Arrivals;
use core::ops::RangeInclusive;
use core::str::FromStr;
use logmill_wire::compression::Codec;

/// Every key, in the order of [`Workload`]'s fields.
const KEYS: &[&str] = &[
    "name",
    "description",
    "topics",
    "partitions",
    "replication_factor",
    "record_size",
    "batch_size",
    "key_size",
    "distinct_keys",
    "codec",
    "acks",
    "idempotent",
    "producers",
    "in_flight",
    "rate",
    "arrivals",
    "consumers",
    "fan_out",
    "from_beginning",
    "fetch_size",
    "fetch_wait_ms",
    "check_crc",
    "backlog_mb",
    "backlog_readers",
    "group_members",
    "rebalance_every_ms",
    "heartbeat_ms",
    "warm_up",
    "duration",
    "records",
    "realtime",
    "lag_limit_us",
];

const LARGEST: u32 = 64 << 20;

/// Gives a key its value, both as text.
///
/// # Errors
/// Which key or value is wrong, and what would be right.
pub fn assign(workload: &mut Workload, key: &str, value: &str) -> Result<(), String> {
    let w = workload;
    match key {
        "name" => value.clone_into(&mut w.name),
        "description" => value.clone_into(&mut w.description),
        "topics" => w.topics = number(key, value, 1..=100_000)?,
        "partitions" => w.partitions = number(key, value, 1..=100_000)?,
        "replication_factor" => w.replication_factor = number(key, value, -1..=1000)?,
        "record_size" => w.record_size = number(key, value, 0..=LARGEST)?,
        "batch_size" => w.batch_size = number(key, value, 1..=LARGEST)?,
        "key_size" => w.key_size = number(key, value, 0..=LARGEST)?,
        "distinct_keys" => w.distinct_keys = number(key, value, 1..=u32::MAX)?,
        "codec" => {
            w.codec =
                Codec::from_name(value).ok_or_else(|| wrong(key, value, "none, gzip, snappy, lz4 or zstd"))?
        }
        "acks" => w.acks = acks(value)?,
        "idempotent" => w.idempotent = boolean(key, value)?,
        "producers" => w.producers = number(key, value, 0..=10_000)?,
        "in_flight" => w.in_flight = number(key, value, 1..=100_000)?,
        "rate" => w.rate = number(key, value, 0..=1_000_000_000)?,
        "arrivals" => w.arrivals = arrivals(value)?,
        "consumers" => w.consumers = number(key, value, 0..=10_000)?,
        "fan_out" => w.fan_out = number(key, value, 1..=10_000)?,
        "from_beginning" => w.from_beginning = boolean(key, value)?,
        "fetch_size" => w.fetch_size = number(key, value, 1..=1 << 30)?,
        "fetch_wait_ms" => w.fetch_wait_ms = number(key, value, 0..=60_000)?,
        "check_crc" => w.check_crc = boolean(key, value)?,
        "backlog_mb" => w.backlog_mb = number(key, value, 0..=100_000_000)?,
        "backlog_readers" => w.backlog_readers = number(key, value, 0..=10_000)?,
        "group_members" => w.group_members = number(key, value, 0..=10_000)?,
        "rebalance_every_ms" => w.rebalance_every_ms = number(key, value, 1..=3_600_000)?,
        "heartbeat_ms" => w.heartbeat_ms = number(key, value, 1..=60_000)?,
        "warm_up" => w.warm_up = number(key, value, 0..=86_400)?,
        "duration" => w.duration = number(key, value, 0..=604_800)?,
        "records" => w.records = number(key, value, 0..=u64::MAX)?,
        "realtime" => w.realtime = boolean(key, value)?,
        "lag_limit_us" => w.lag_limit_us = number(key, value, 0..=u64::MAX)?,
        _ => return Err(unknown(key, KEYS)),
    }
    Ok(())
}

/// A whole number within bounds; digits may be grouped by underscores.
pub(super) fn number<N>(key: &str, value: &str, bounds: RangeInclusive<N>) -> Result<N, String>
where
    N: FromStr + PartialOrd + core::fmt::Display,
{
    let parsed = value.replace('_', "").parse().ok().filter(|number| bounds.contains(number));
    parsed.ok_or_else(|| {
        wrong(key, value, &format!("a whole number from {} to {}", bounds.start(), bounds.end()))
    })
}

pub(super) fn boolean(key: &str, value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| wrong(key, value, "true or false"))
}

fn acks(value: &str) -> Result<Acks, String> {
    match value {
        "0" => Ok(Acks::None),
        "1" => Ok(Acks::Leader),
        "all" | "-1" => Ok(Acks::All),
        _ => Err(wrong("acks", value, "0, 1 or all")),
    }
}

fn arrivals(value: &str) -> Result<Arrivals, String> {
    match value {
        "constant" => Ok(Arrivals::Constant),
        "poisson" => Ok(Arrivals::Poisson),
        _ => Err(wrong("arrivals", value, "constant or poisson")),
    }
}

pub(super) fn wrong(key: &str, value: &str, wanted: &str) -> String {
    format!("`{key}` is `{value}`; give {wanted}")
}

/// Names the key, and the known one that looks like it.
pub(super) fn unknown(key: &str, known: &[&str]) -> String {
    let nearest = known.iter().min_by_key(|candidate| distance(key, candidate));
    match nearest {
        Some(nearest) if distance(key, nearest) <= 1 + key.len() / 3 => {
            format!("the key `{key}` is unknown; perhaps `{nearest}` is meant")
        }
        _ => format!("the key `{key}` is unknown; remove it, or use one of: {}", known.join(", ")),
    }
}

/// How many characters to insert, remove or replace to make one text the other (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (line, from) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, to) in right.chars().enumerate() {
            let replaced = diagonal + usize::from(!from.eq_ignore_ascii_case(&to));
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_a_key_and_takes_its_own_value() {
        let defaults = serde_json::to_value(Workload::default()).unwrap();
        let fields: Vec<&String> = defaults.as_object().unwrap().keys().collect();
        let mut keys = KEYS.to_vec();
        keys.sort_unstable();
        assert_eq!(fields, keys);
        let mut workload = Workload::default();
        for (key, value) in defaults.as_object().unwrap() {
            let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
            assign(&mut workload, key, &text).unwrap();
        }
        assert_eq!(workload, Workload::default());
    }

    #[test]
    fn wrong_keys_and_values_are_named_with_the_remedy() {
        let refusal = |key, value| assign(&mut Workload::default(), key, value).unwrap_err();
        assert_eq!(
            refusal("partitons", "1"),
            "the key `partitons` is unknown; perhaps `partitions` is meant"
        );
        assert!(refusal("colour", "red").contains("use one of: name, description, topics"));
        assert_eq!(refusal("topics", "0"), "`topics` is `0`; give a whole number from 1 to 100000");
        assert!(refusal("rate", "fast").contains("`rate` is `fast`; give a whole number"));
        assert_eq!(refusal("acks", "2"), "`acks` is `2`; give 0, 1 or all");
        assert_eq!(refusal("idempotent", "yes"), "`idempotent` is `yes`; give true or false");
        assert!(refusal("codec", "rar").contains("lz4"));
        assert!(refusal("arrivals", "bursty").contains("poisson"));
        let mut workload = Workload::default();
        assign(&mut workload, "rate", "1_000_000").unwrap();
        assert_eq!(workload.rate, 1_000_000);
    }
}
