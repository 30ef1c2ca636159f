#!/usr/bin/env python3
"""judge.py [--json] FOLDER: checks the histories of one run, the files *.jsonl of the folder.

Ends with 0 if nothing is wrong but what the run allows, with 1 if something is, with 2 if the history itself is bad.
"""

import argparse
import collections
import json
import sys

import checks
from history import BadHistory, read_folder

SHOWN = 5


def longest_without(times, begin, end):
    """The longest time without an event, and when it began; both in the unit of the times."""
    marks = [begin, *sorted(times), end]
    return max(((later - earlier, earlier) for earlier, later in zip(marks, marks[1:])), default=(0, begin))


def unavailability(history):
    """Seconds without an acknowledgement while something was asked for: of any partition, and of the worst."""
    acknowledged, begin, end = collections.defaultdict(list), {}, {}
    for send in history.sends.values():
        if send.acks == 0 or send.partition is None:
            continue
        begin[send.partition] = min(send.invoked, begin.get(send.partition, send.invoked))
        end[send.partition] = max(send.invoked, end.get(send.partition, send.invoked))
        if send.outcome == "ok":
            acknowledged[send.partition].append(send.done)
    if not begin:
        return {"all_s": 0.0, "partition_s": 0.0}
    everything = [time for times in acknowledged.values() for time in times]
    all_ns, _ = longest_without(everything, min(begin.values()), max(end.values()))
    one_ns = max(longest_without(acknowledged[one], begin[one], end[one])[0] for one in begin)
    return {"all_s": all_ns / 1e9, "partition_s": one_ns / 1e9}


def verdict(history):
    found = checks.check(history)
    outcomes = collections.Counter(send.outcome for send in history.sends.values())
    anomalies = collections.Counter(one.kind for one in found if not checks.is_allowed(history, one))
    allowed = collections.Counter(one.kind for one in found if checks.is_allowed(history, one))
    details = collections.defaultdict(list)
    for one in found:
        if len(details[one.kind]) < SHOWN:
            details[one.kind].append(one.detail)
    reads = sum(
        len(seen.records) for of_client in history.seen.values() for seen in of_client if hasattr(seen, "records")
    )
    return {
        "operations": history.operations,
        "sent": len(history.sends),
        "acknowledged": outcomes["ok"],
        "unknown": outcomes["unknown"],
        "failed": outcomes["fail"],
        "read": reads,
        "commits": len(history.commits),
        "committed_reads": len(history.fetches),
        "final_reads": sum(len(replicas) for replicas in history.finals.values()),
        "unavailable": unavailability(history),
        "anomalies": dict(anomalies),
        "allowed": dict(allowed),
        "details": dict(details),
    }


def print_text(result):
    counts = ("operations", "sent", "acknowledged", "unknown", "failed", "read", "commits", "final_reads")
    print(", ".join(f"{result[name]} {name.replace('_', ' ')}" for name in counts))
    longest = result["unavailable"]
    print(
        f"longest without an acknowledgement: {longest['all_s']:.2f} s; "
        f"of one partition: {longest['partition_s']:.2f} s"
    )
    for kinds, title in ((result["allowed"], "allowed"), (result["anomalies"], "ANOMALY")):
        for kind, count in kinds.items():
            print(f"{title} {kind}: {count}")
            for detail in result["details"][kind]:
                print(f"    {detail}")
    print("anomalies: " + (str(sum(result["anomalies"].values())) if result["anomalies"] else "none"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--json", action="store_true", help="the verdict as one JSON object")
    arguments = parser.parse_args()
    try:
        history = read_folder(arguments.folder)
        result = verdict(history)
    except (BadHistory, OSError) as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(result))
    else:
        print_text(result)
    return 1 if result["anomalies"] else 0


if __name__ == "__main__":
    sys.exit(main())
