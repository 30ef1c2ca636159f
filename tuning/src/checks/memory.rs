//! Memory.

use super::{Check, Level, Measurement, Place, number};

const PAGE_WANTED_BYTES: u64 = 4096;
const SWAPPINESS_MAX: u64 = 10;

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "memory.page",
        level: Level::Recommended,
        wanted: "pages of 4096 bytes",
        reason: "the broker's unit of direct I/O is 4096 bytes",
        risk: "more memory per buffer; the broker is tried with pages of 4096 bytes only",
        remedy: "choose a kernel with pages of 4 KiB",
        look: page,
    },
    Check {
        name: "memory.huge-pages",
        level: Level::Recommended,
        wanted: "transparent huge pages on madvise or never",
        reason: "with always, the kernel merges and splits pages behind the broker's back",
        risk: "pauses of milliseconds, and more memory than was asked for",
        remedy: "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, and at boot transparent_hugepage=madvise",
        look: huge_pages,
    },
    Check {
        name: "memory.swap",
        level: Level::Recommended,
        wanted: "no swap, or vm.swappiness of at most 10",
        reason: "the broker's memory is in use all the time",
        risk: "a page that was swapped out stops a core until the disk has brought it back",
        remedy: "swapoff -a, or sysctl vm.swappiness=1, and put it into /etc/sysctl.d to keep it",
        look: swap,
    },
];

fn page(place: &Place<'_>) -> Measurement {
    let bytes = place.host.page_bytes();
    Measurement::judged(bytes.to_string(), bytes == PAGE_WANTED_BYTES)
}

fn huge_pages(place: &Place<'_>) -> Measurement {
    match place.host.read("/sys/kernel/mm/transparent_hugepage/enabled") {
        // A kernel without them has nothing to turn off.
        Err(_) => Measurement::ok("not built in"),
        Ok(text) => match text.split_once('[').and_then(|(_, rest)| rest.split_once(']')) {
            Some((chosen, _)) => Measurement::judged(chosen, chosen != "always"),
            None => Measurement::unknown(text.trim()),
        },
    }
}

fn swap(place: &Place<'_>) -> Measurement {
    let areas = match place.host.read("/proc/swaps") {
        // The first line is a heading.
        Ok(text) => text.lines().skip(1).filter(|line| !line.trim().is_empty()).count(),
        Err(_) => 0,
    };
    if areas == 0 {
        return Measurement::ok("none");
    }
    match number(place, "/proc/sys/vm/swappiness") {
        Ok(swappiness) => {
            Measurement::judged(format!("swappiness {swappiness}"), swappiness <= SWAPPINESS_MAX)
        }
        Err(unknown) => unknown,
    }
}
