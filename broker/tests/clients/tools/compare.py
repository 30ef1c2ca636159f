#!/usr/bin/env python3
"""Compares what the tools have printed, Logmill's with the peer's, line by line and field by field.

    compare.py STEPS DIFFERENCES LOGMILL PEER RECORDS

A line of several fields (a topic's description, a table of a group) is compared as one line for each field, after what
differs by nature (ids, times, addresses) has been replaced. What is left is a failure, unless DIFFERENCES justifies it;
and a justification that justifies nothing is one, too.
"""

import collections
import fnmatch
import json
import pathlib
import re
import sys
import tomllib

REPLACEMENTS = [
    (r"127\.0\.0\.1:\d+", "<address>"),
    (r"\blocalhost:\d+", "<address>"),
    (r"TopicId: [\w-]{22}", "TopicId: <id>"),
    (r'"topicId":"[\w-]{22}"', '"topicId":"<id>"'),
    # The tools leave no line's end behind a record of the groups.
    (r'\}(?=\{"key":)', "}\n"),
    (r"/tmp/\S*?/(?:data|peer-node/data)\b", "<log.dirs>"),
    (r"/127\.0\.0\.1\b", "/<host>"),
    (r"\bconsole-consumer-[\w-]+", "<member>"),
    (r"\b\d{13}\b", "<time>"),
    (r"(?m)^\s*at .*\n?", ""),
    (r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\] ", ""),
]
# What depends on how the producer has cut its batches, by the name of the step.
VARYING = {
    "offsets-max-timestamp": (r":\d+$", ":<offset>"),
    "perf-offsets": (r":\d+$", ":<offset>"),
    "log-dirs": (r"\| size: [1-9]\d*$", "| size: <bytes>"),
}
# Of measurements only the counts can be the same.
MEASURED = re.compile(r"^perf-(produce|consume)$")


def lines(folder, step):
    """The output of a step as a multiset of lines, each with its fields."""
    text = {kind: (folder / f"{step}.{kind}").read_text() for kind in ["out", "err", "status"]}
    found = [f"status: {text['status'].strip()}"]
    if MEASURED.match(step):
        return found
    for kind in ["out", "err"]:
        plain = text[kind]
        for pattern, replacement in REPLACEMENTS:
            plain = re.sub(pattern, replacement, plain)
        varying = VARYING.get(step, ("$^", ""))
        found += [f"{kind}: {re.sub(*varying, line)}" for line in fields(step, plain)]
    return found


def fields(step, text):
    found, header = [], None
    for line in text.splitlines():
        words = line.split()
        if not words:
            header = None
        elif step == "api-versions":
            found.append(line.strip().rstrip(","))
        elif "\t" in line and ": " in line:
            # Topic: a \t Partition: 0 \t Leader: 1
            parts = [part.strip() for part in line.split("\t") if part.strip()]
            name = " ".join(part for part in parts if re.match(r"(?i)(topic|partition):", part))
            for part in parts:
                label, _, value = part.partition(":")
                for one in configs(value) if label == "Configs" else [value.strip()]:
                    found.append(f"{name} | {label}: {one}")
        elif words[0] in ("GROUP", "TOPIC"):
            header = [column.strip() for column in re.split(r"\s{2,}|\s(?=[A-Z])", line.strip())]
        elif header and len(words) == len(header):
            row = dict(zip(header, words))
            name = " ".join(row[column] for column in header if column in ("GROUP", "TOPIC", "PARTITION"))
            found += [f"{name} | {column}: {value}" for column, value in row.items()]
        elif line.startswith('{"version"') or line.startswith('{"brokers"'):
            found += log_dirs(line)
        else:
            found.append(line.rstrip())
    return found


def configs(text):
    """A list like "a=1,b=2,3,c=4", whose values may have commas."""
    return re.split(r",(?=[\w.]+=)", text.strip())


def log_dirs(line):
    found = []
    for broker in json.loads(line)["brokers"]:
        for directory in broker["logDirs"]:
            found.append(f"broker {broker['broker']} | error: {directory.get('error')}")
            for partition in directory["partitions"]:
                name = partition.pop("partition")
                found += [f"{name} | {key}: {value}" for key, value in sorted(partition.items())]
    return found


class Justified:
    def __init__(self, entry, unsupported):
        unknown = entry.keys() - {"steps", "logmill", "peer", "reason", "unless"}
        assert not unknown and entry.get("reason") and entry.get("steps"), f"{entry}"
        # As soon as Logmill serves the API, nothing is justified any more, and nothing has to be.
        self.entry, self.used = entry, "unless" in entry and entry["unless"] not in unsupported
        self.steps = [] if self.used else entry["steps"]

    def covers(self, step, side, line):
        pattern = self.entry.get(side)
        if pattern is None or not any(fnmatch.fnmatch(step, glob) for glob in self.steps):
            return False
        covered = re.fullmatch(pattern, line) is not None
        self.used = self.used or covered
        return covered


def served(step, logmill, peer):
    """Both, without the APIs that Logmill does not serve yet: broker/docs/compatibility.md lists those that it does."""
    if step != "api-versions":
        return logmill, peer
    missing = {line.split(": ")[1] for line in logmill if line.endswith(": UNSUPPORTED")}
    return [[line for line in side if line.split(": ")[1] not in missing] for side in (logmill, peer)]


def compare(step, logmill, peer, justified):
    logmill, peer = served(step, logmill, peer)
    ours, theirs = collections.Counter(logmill), collections.Counter(peer)
    problems = []
    for side, sign, rest in [("peer", "-", theirs - ours), ("logmill", "+", ours - theirs)]:
        for line in rest.elements():
            covering = [entry for entry in justified if entry.covers(step, side, line)]
            if not covering:
                problems.append(f"{sign} {line[:600]}")
    return problems


def measured(folder, step, records):
    """That the tool has counted all records."""
    text = (folder / f"{step}.out").read_text()
    if step == "perf-offsets":
        return sum(int(line.split(":")[2]) for line in text.splitlines()) == int(records)
    if step == "perf-produce":
        return re.search(rf"^{records} records sent, ", text, re.M) is not None
    rows = [line.split(", ") for line in text.splitlines()]
    head = next(row for row in rows if "data.consumed.in.nMsg" in row or "nMsg" in str(row))
    at = next(index for index, name in enumerate(head) if "in.nMsg" in name)
    return any(len(row) == len(head) and row[at] == str(records) for row in rows)


def compare_sees_what_is_wrong():
    entry = Justified({"steps": ["a*"], "logmill": "x=.*", "reason": "so"}, set())
    assert compare("abc", ["x=1", "y"], ["y"], [entry]) == [] and entry.used
    assert compare("b", ["x=1", "y"], ["y"], [entry]) == ["+ x=1"]
    assert compare("abc", ["y"], ["x=1", "y"], [entry]) == ["- x=1"]
    assert compare("abc", ["y"], ["y", "y"], []) == ["- y"]
    entry = {"steps": ["a*"], "logmill": "x=.*", "reason": "so", "unless": "Api"}
    assert compare("abc", ["x=1"], [], [Justified(entry, {"Api"})]) == []
    assert compare("abc", ["x=1"], [], [Justified(entry, set())]) == ["+ x=1"]
    described = "Topic: t\tTopicId: a\tConfigs: p=compact,delete,q=1\n\tTopic: t\tPartition: 0\tLeader: 1"
    assert fields("", described) == [
        "Topic: t | Topic: t", "Topic: t | TopicId: a", "Topic: t | Configs: p=compact,delete", "Topic: t | Configs: q=1",
        "Topic: t Partition: 0 | Topic: t", "Topic: t Partition: 0 | Partition: 0", "Topic: t Partition: 0 | Leader: 1",
    ]
    assert fields("", "GROUP  TOPIC  LAG\ng  t  5") == ["g t | GROUP: g", "g t | TOPIC: t", "g t | LAG: 5"]


def main():
    steps_file, differences, logmill, peer, records = sys.argv[1:]
    compare_sees_what_is_wrong()
    logmill, peer = pathlib.Path(logmill), pathlib.Path(peer)
    entries = tomllib.loads(pathlib.Path(differences).read_text()).get("difference", [])
    unsupported = set(re.findall(r"(?m)^\s*(\w+)\(\d+\): UNSUPPORTED", (logmill / "api-versions.out").read_text()))
    justified = [Justified(entry, unsupported) for entry in entries]
    steps = re.findall(r"(?m)^([\w-]+): ", pathlib.Path(steps_file).read_text())
    failed = 0
    for step in steps:
        try:
            problems = compare(step, lines(logmill, step), lines(peer, step), justified)
            if re.match("perf-(produce|offsets|consume)$", step) and not measured(logmill, step, records):
                problems.append(f"not {records} records:\n{(logmill / f'{step}.out').read_text()[-500:]}")
        except OSError as failure:
            problems = [str(failure)]
        failed += bool(problems)
        print(f"test {step} ... {'FAILED' if problems else 'ok'}")
        for problem in problems[:20]:
            print(f"  {problem}")
        if len(problems) > 20:
            print(f"  and {len(problems) - 20} more")
    stale = [entry.entry for entry in justified if not entry.used]
    print(f"test every justified difference is one ... {'FAILED' if stale else 'ok'}")
    for entry in stale:
        print(f"  {entry}")
    failed += bool(stale)
    print(f"test result: {'FAILED' if failed else 'ok'}. {len(steps) + 1 - failed} passed; {failed} failed; 0 ignored; -")
    sys.exit(1 if failed else 0)


main()
