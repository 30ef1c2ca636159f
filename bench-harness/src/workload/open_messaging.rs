//! The workload files of `OpenMessaging` Benchmark: flat YAML, whose keys are the fields of its `Workload` class.

use super::keys::{boolean, number, unknown, wrong};
use super::{Workload, assign};

/// Every key that is understood.
const KEYS: &[&str] = &[
    "name",
    "topics",
    "partitionsPerTopic",
    "keyDistributor",
    "messageSize",
    "useRandomizedPayloads",
    "randomBytesRatio",
    "randomizedPayloadPoolSize",
    "payloadFile",
    "subscriptionsPerTopic",
    "consumerPerSubscription",
    "producersPerTopic",
    "producerRate",
    "consumerBacklogSizeGB",
    "backlogDrainRatio",
    "testDurationMinutes",
    "warmupDurationMinutes",
];

/// Bytes of the keys that its distributors make.
const KEY_BYTES: &str = "8";

/// Reads a file. What only shapes payloads is accepted and has no effect: values are always made here, of random
/// hexadecimal digits.
pub(super) fn read(text: &str) -> Result<Workload, String> {
    let mut workload = Workload::default();
    // Its own defaults where they are others than ours.
    let (mut warm_up_minutes, mut duration_minutes, mut has_subscriptions) = (1, 0, true);
    (workload.producers, workload.fan_out) = (0, 1);
    workload.description = "a workload of OpenMessaging Benchmark".to_owned();
    for (line, content) in (1..).zip(text.lines()) {
        let at_line = |problem: String| format!("line {line}: {problem}");
        let Some((key, value)) = entry(content).map_err(at_line)? else { continue };
        match key {
            "subscriptionsPerTopic" if value == "0" => has_subscriptions = false,
            "warmupDurationMinutes" => warm_up_minutes = number(key, value, 0..=10_000).map_err(at_line)?,
            "testDurationMinutes" => duration_minutes = number(key, value, 1..=10_000).map_err(at_line)?,
            _ => take(&mut workload, key, value).map_err(at_line)?,
        }
    }
    if duration_minutes == 0 {
        return Err("`testDurationMinutes` is missing; give a whole number from 1".to_owned());
    }
    if !has_subscriptions {
        workload.consumers = 0;
    }
    workload.warm_up = warm_up_minutes * 60;
    // There the warm-up comes before the test, here it is a part of the duration.
    workload.duration = (warm_up_minutes + duration_minutes) * 60;
    Ok(workload)
}

fn take(workload: &mut Workload, key: &str, value: &str) -> Result<(), String> {
    // Problems of the values are told with the name that stands in the file.
    let mut give = |own: &str, value: &str| {
        assign(workload, own, value).map_err(|problem| problem.replacen(own, key, 1))
    };
    match key {
        "name" => give("name", value),
        "topics" => give("topics", value),
        "partitionsPerTopic" => give("partitions", value),
        "messageSize" => give("record_size", value),
        "subscriptionsPerTopic" => give("fan_out", value),
        "consumerPerSubscription" => give("consumers", value),
        "producersPerTopic" => give("producers", value),
        "producerRate" => give("rate", value),
        "consumerBacklogSizeGB" => {
            let gigabytes: u64 = number(key, value, 0..=100_000)?;
            workload.backlog_mb = gigabytes * 1000;
            workload.from_beginning = gigabytes > 0;
            Ok(())
        }
        "keyDistributor" => match value {
            "NO_KEY" => give("key_size", "0"),
            "KEY_ROUND_ROBIN" | "RANDOM_NANO" => give("key_size", KEY_BYTES),
            _ => Err(wrong(key, value, "NO_KEY, KEY_ROUND_ROBIN or RANDOM_NANO")),
        },
        "useRandomizedPayloads" => boolean(key, value).map(|_| ()),
        "randomizedPayloadPoolSize" => number(key, value, 0..=u64::MAX).map(|_| ()),
        "randomBytesRatio" | "backlogDrainRatio" => match value.parse::<f64>() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(()),
            _ => Err(wrong(key, value, "a number from 0 to 1")),
        },
        "payloadFile" => Ok(()),
        _ => Err(unknown(key, KEYS)),
    }
}

/// The key and the value of a line; `None` if it has neither.
fn entry(line: &str) -> Result<Option<(&str, &str)>, String> {
    let is_nested = line.starts_with([' ', '\t', '-']);
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') || line == "---" {
        return Ok(None);
    }
    let not_flat = || format!("`{line}` is not `key: value`; only flat YAML is understood");
    let (key, rest) = line.split_once(':').filter(|_| !is_nested).ok_or_else(not_flat)?;
    let rest = rest.trim();
    let value = match rest.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            rest[1..].split_once(quote).map(|(value, _)| value).ok_or_else(not_flat)?
        }
        Some(_) => rest.split_once(" #").map_or(rest, |(value, _)| value.trim_end()),
        None => return Err(format!("`{}` has no value; give one, or remove the line", key.trim())),
    };
    Ok(Some((key.trim(), value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# a comment\n\nname: 1 producer / 1 consumer\ntopics: 2\npartitionsPerTopic: 16\n\
        messageSize: 1000\npayloadFile: \"payload/payload-1Kb.data\"\nsubscriptionsPerTopic: 3\n\
        consumerPerSubscription: 4\nproducersPerTopic: 5\nproducerRate: 50000 # a second\n\
        consumerBacklogSizeGB: 2\nkeyDistributor: \"RANDOM_NANO\"\nuseRandomizedPayloads: true\n\
        randomBytesRatio: 0.5\nrandomizedPayloadPoolSize: 100\ntestDurationMinutes: 15\n";

    #[test]
    fn its_keys_are_understood() {
        let workload = read(FILE).unwrap();
        let expected = Workload {
            name: "1 producer / 1 consumer".to_owned(),
            description: workload.description.clone(),
            topics: 2,
            partitions: 16,
            record_size: 1000,
            key_size: 8,
            fan_out: 3,
            consumers: 4,
            producers: 5,
            rate: 50_000,
            backlog_mb: 2000,
            from_beginning: true,
            warm_up: 60,
            duration: 960,
            ..Workload::default()
        };
        assert_eq!(workload, expected);
        workload.check().unwrap();
        let silent = read(&FILE.replace("subscriptionsPerTopic: 3", "subscriptionsPerTopic: 0")).unwrap();
        assert_eq!(silent.consumers, 0);
    }

    #[test]
    fn what_is_wrong_is_named_with_line_and_remedy() {
        let refusal = |line: &str| read(&format!("topics: 1\n{line}\ntestDurationMinutes: 1")).unwrap_err();
        assert_eq!(
            refusal("partitionPerTopic: 1"),
            "line 2: the key `partitionPerTopic` is unknown; perhaps `partitionsPerTopic` is meant"
        );
        assert!(refusal("messageSize: big").contains("line 2: `messageSize` is `big`; give a whole number"));
        assert!(refusal("keyDistributor: ZIPF").contains("KEY_ROUND_ROBIN"));
        assert!(refusal("randomBytesRatio: 2").contains("from 0 to 1"));
        assert!(refusal("nested:").contains("`nested` has no value"));
        assert!(refusal("  deep: 1").contains("only flat YAML"));
        assert!(refusal("- item").contains("only flat YAML"));
        assert!(read("topics: 1").unwrap_err().contains("`testDurationMinutes` is missing"));
    }
}
