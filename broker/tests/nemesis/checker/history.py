"""Reads the histories of a run into one model. README.md describes the lines of a history.

Nothing here knows a broker: only what clients said they did and saw.
"""

import json
import pathlib
from dataclasses import dataclass, field

INFINITE = float("inf")


class BadHistory(Exception):
    """The history contradicts its own format: nothing can be said about the broker."""


class Send:
    """One record that a producer handed to its client, and what became of it."""

    __slots__ = (
        "acks",
        "checksum",
        "client",
        "done",
        "id",
        "idempotent",
        "invoked",
        "number",
        "offset",
        "outcome",
        "partition",
    )

    def __init__(self, line, number):
        self.id = line["id"]
        self.client = line["client"]
        # The count of the client's sends before this one: the order in which it meant them.
        self.number = number
        self.partition = None if line.get("partition") is None else (line["topic"], line["partition"])
        self.checksum = line["checksum"]
        self.acks = line["acks"]
        self.idempotent = line.get("idempotent", False)
        self.invoked = line["t"]
        self.done = INFINITE
        # Without another word from the client, nobody knows.
        self.outcome = "unknown"
        self.offset = None

    def is_acknowledged(self):
        return self.outcome == "ok" and self.acks != 0

    def is_promised(self):
        """Whether the broker has said that no single failure loses it."""
        return self.outcome == "ok" and self.acks == -1


@dataclass(slots=True)
class Poll:
    client: str
    time: int
    partition: tuple
    # [offset, id, checksum, timestamp] of each record, in the order of delivery.
    records: list


@dataclass(slots=True)
class Ends:
    client: str
    time: int
    # (topic, partition) and the offset behind the last one that may be read, as a broker said it.
    offsets: list


@dataclass(slots=True)
class GroupOperation:
    """A commit of a group's offsets, or a fetch of them."""

    client: str
    group: str
    invoked: int
    offsets: list
    done: float = INFINITE
    outcome: str = "unknown"


@dataclass(slots=True)
class FinalRead:
    """All that one replica served of a partition once everything was healed."""

    start: int
    end: int
    records: list = field(default_factory=list)


@dataclass
class History:
    sends: dict = field(default_factory=dict)
    # Per client, its polls, ends and "assign" marks in the order in which they happened.
    seen: dict = field(default_factory=dict)
    commits: list = field(default_factory=list)
    fetches: list = field(default_factory=list)
    # (topic, partition) to the broker's id (None: whichever leads) to what it served.
    finals: dict = field(default_factory=dict)
    # What the run allows, of anomalies that its settings bring about.
    allowed: set = field(default_factory=set)
    operations: int = 0


class Reader:
    """Adds the lines of one client's file to a history."""

    def __init__(self, history):
        self.history = history
        self.sent = {}
        self.open = {}

    def add(self, line):
        operation = line["op"]
        try:
            handler = getattr(self, f"add_{operation}")
        except AttributeError:
            raise BadHistory(f"an operation that this checker does not know: {operation}") from None
        handler(line)

    def add_run(self, line):
        self.history.allowed.update(line.get("allow", []))

    def add_note(self, line):
        """What the run did, for readers of the history."""

    def add_produce(self, line):
        sends, event, identity = self.history.sends, line["ev"], line["id"]
        if event == "invoke":
            if identity in sends:
                raise BadHistory(f"the value {identity} is sent twice; every value has to be unique")
            client = line["client"]
            number = self.sent[client] = self.sent.get(client, -1) + 1
            sends[identity] = Send(line, number)
            self.history.operations += 1
            return
        send = sends.get(identity)
        if send is None:
            raise BadHistory(f"{identity} has the outcome {event} before it was sent")
        if send.done != INFINITE:
            raise BadHistory(f"{identity} has two outcomes, {send.outcome} and {event}")
        send.outcome, send.done = event, line["t"]
        if event == "ok":
            if "partition" in line:
                send.partition = (line["topic"], line["partition"])
            # A client does not learn the offset of a batch that the broker had already.
            send.offset = line["offset"] if line["offset"] >= 0 else None
        elif event not in ("fail", "unknown"):
            raise BadHistory(f"{identity} has the outcome {event}, which is none")

    def see(self, client, what):
        self.history.seen.setdefault(client, []).append(what)
        self.history.operations += 1

    def add_assign(self, line):
        self.see(line["client"], None)

    def add_poll(self, line):
        self.see(line["client"], Poll(line["client"], line["t"], (line["topic"], line["partition"]), line["records"]))

    def add_ends(self, line):
        offsets = [((topic, partition), offset) for topic, partition, offset in line["offsets"]]
        self.see(line["client"], Ends(line["client"], line["t"], offsets))

    def add_group_operation(self, line, operations):
        key = (line["op"], line["client"], line["n"])
        if line["ev"] == "invoke":
            operation = GroupOperation(line["client"], line["group"], line["t"], line.get("offsets", []))
            self.open[key] = operation
            operations.append(operation)
            self.history.operations += 1
            return
        operation = self.open.pop(key, None)
        if operation is None:
            raise BadHistory(f"{key} ends without a beginning")
        operation.outcome = line["ev"]
        # What is unknown may still happen at any later time.
        if operation.outcome != "unknown":
            operation.done = line["t"]
        if "offsets" in line:
            operation.offsets = line["offsets"]

    def add_commit(self, line):
        self.add_group_operation(line, self.history.commits)

    def add_committed(self, line):
        self.add_group_operation(line, self.history.fetches)

    def add_final(self, line):
        replicas = self.history.finals.setdefault((line["topic"], line["partition"]), {})
        read = replicas.get(line["broker"])
        if read is None:
            replicas[line["broker"]] = read = FinalRead(line["start"], line["end"])
        read.records.extend(line["records"])


def parse(text, name):
    try:
        return json.loads(text)
    except ValueError as failure:
        raise BadHistory(f"{name}: {failure}: {text[:200]!r}") from None


def read_lines(history, lines, name="a history"):
    reader, number = Reader(history), 0
    try:
        for number, line in enumerate(lines, 1):
            reader.add(line)
    except (KeyError, TypeError, ValueError) as failure:
        raise BadHistory(f"{name}, line {number}: {type(failure).__name__}: {failure}") from None


def read_folder(folder):
    """All files *.jsonl of the folder, each the history of one client."""
    paths = sorted(pathlib.Path(folder).glob("*.jsonl"))
    if not paths:
        raise BadHistory(f"{folder} has no file *.jsonl")
    history = History()
    for path in paths:
        with path.open(encoding="utf-8") as file:
            # A client that is killed leaves its last line without an end.
            read_lines(history, (parse(text, path.name) for text in file if text.endswith("\n")), path.name)
    return history
