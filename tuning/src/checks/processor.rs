//! Processors and their clock.

use super::{Check, Level, Measurement, Place};

/// Clocks that cost a trip to slow hardware at every look.
const SLOW_CLOCKS: &[&str] = &["hpet", "acpi_pm", "jiffies", "refined-jiffies"];

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "processor.governor",
        level: Level::Recommended,
        wanted: "the performance governor on every core, where there are governors",
        reason: "a shard sleeps when it has nothing to do, and wakes at once when a request comes",
        risk: "a core that has clocked down answers its first requests slowly",
        remedy: "cpupower frequency-set -g performance",
        look: governor,
    },
    Check {
        name: "processor.clock",
        level: Level::Recommended,
        wanted: "a clock that is read without the kernel, such as tsc or kvm-clock",
        reason: "a shard looks at the clock in every turn",
        risk: "every look costs a microsecond instead of some nanoseconds",
        remedy: "boot with clocksource=tsc tsc=reliable where the processor has an invariant counter",
        look: clock,
    },
];

fn governor(place: &Place<'_>) -> Measurement {
    let directory = "/sys/devices/system/cpu";
    let Ok(names) = place.host.list(directory) else { return Measurement::ok("none") };
    let governors: Vec<String> = names
        .iter()
        .filter(|name| name.strip_prefix("cpu").is_some_and(|rest| rest.parse::<u32>().is_ok()))
        .filter_map(|name| place.host.read(&format!("{directory}/{name}/cpufreq/scaling_governor")).ok())
        .map(|text| text.trim().to_owned())
        .collect();
    let others: Vec<&String> = governors.iter().filter(|governor| *governor != "performance").collect();
    match others.first() {
        None if governors.is_empty() => Measurement::ok("none"),
        None => Measurement::ok("performance"),
        Some(other) => {
            Measurement::missing(format!("{other} on {} of {} cores", others.len(), governors.len()))
        }
    }
}

fn clock(place: &Place<'_>) -> Measurement {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    match place.host.read(path) {
        Ok(text) => Measurement::judged(text.trim(), !SLOW_CLOCKS.contains(&text.trim())),
        Err(error) => Measurement::unknown(format!("{path}: {error}")),
    }
}
