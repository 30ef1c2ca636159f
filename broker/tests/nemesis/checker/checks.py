"""The rules: what no client may ever see. Each function yields the anomalies of one kind that a history has."""

import bisect
from dataclasses import dataclass
from operator import itemgetter

from history import INFINITE, Ends

OFFSET, ID, CHECKSUM, TIMESTAMP = range(4)


@dataclass(frozen=True)
class Anomaly:
    kind: str
    detail: str


def place(partition, offset=None):
    name = f"{partition[0]}-{partition[1]}"
    return name if offset is None else f"{name}@{offset}"


class Evidence:
    """What the reads of a history, by anyone at any time, say is at each offset."""

    def __init__(self, history):
        self.history = history
        # Partition to offset to the first record that was read there.
        self.read = {}
        # Id to the places at which it was read: the first one, or a list once there is a second.
        self.places = {}
        self.conflicts = []
        for observations in history.seen.values():
            for seen in observations:
                if seen is not None and not isinstance(seen, Ends):
                    self.add(seen.partition, seen.records, seen.client)
        for partition, replicas in history.finals.items():
            for broker, final in replicas.items():
                self.add(partition, final.records, reader_name(broker))

    def add(self, partition, records, reader):
        known = self.read.setdefault(partition, {})
        for record in records:
            offset = record[OFFSET]
            first = known.get(offset)
            if first is None:
                known[offset] = record
                self.add_place(record[ID], (partition, offset))
            elif first != record:
                self.conflicts.append((partition, first, record, reader))
                if first[ID] != record[ID]:
                    self.add_place(record[ID], (partition, offset))

    def add_place(self, identity, where):
        first = self.places.setdefault(identity, where)
        if first is where or first == where:
            return
        if not isinstance(first, list):
            self.places[identity] = [first, where]
        elif where not in first:
            first.append(where)


def reader_name(broker):
    return "the final read" if broker is None else f"the final read of broker {broker}"


def final_of(history, partition):
    """The final read by an ordinary client, or else that of any replica."""
    replicas = history.finals.get(partition, {})
    return replicas.get(None) or next(iter(replicas.values()), None)


def two_values(history, evidence):
    """An offset has one value, for every reader, for ever."""
    for partition, first, second, reader in evidence.conflicts:
        if first[ID] != second[ID]:
            detail = f"{first[ID]} and, to {reader}, {second[ID]}"
            yield Anomaly("two-values", f"{place(partition, first[OFFSET])}: {detail}")
    for send in history.sends.values():
        # What acks=1 acknowledged may be lost, and its offset given again.
        if not send.is_promised() or send.offset is None:
            continue
        record = evidence.read.get(send.partition, {}).get(send.offset)
        if record is not None and record[ID] != send.id:
            yield Anomaly(
                "two-values",
                f"{place(send.partition, send.offset)}: {send.id} was acknowledged there, {record[ID]} read",
            )


def changed(history, evidence):
    """What is read is what was sent, to the byte, and its timestamp stays."""
    for partition, first, second, reader in evidence.conflicts:
        if first[ID] == second[ID]:
            yield Anomaly(
                "changed",
                f"{place(partition, first[OFFSET])}: {first[ID]} with checksum and timestamp {first[2:]}, "
                f"to {reader} {second[2:]}",
            )
    for partition, records in evidence.read.items():
        for record in records.values():
            send = history.sends.get(record[ID])
            if send is not None and send.checksum != record[CHECKSUM]:
                yield Anomaly(
                    "changed",
                    f"{place(partition, record[OFFSET])}: {record[ID]} was sent with checksum {send.checksum}, "
                    f"read with {record[CHECKSUM]}",
                )


def never_sent(history, evidence):
    """Nothing is read that nobody sent there, nor what a client knows was refused."""
    for partition, records in evidence.read.items():
        for record in records.values():
            send = history.sends.get(record[ID])
            if send is None:
                yield Anomaly("never-sent", f"{place(partition, record[OFFSET])}: {record[ID]}")
            elif send.partition is not None and send.partition != partition:
                yield Anomaly(
                    "never-sent",
                    f"{place(partition, record[OFFSET])}: {record[ID]} was sent to {place(send.partition)}",
                )
            elif send.outcome == "fail":
                yield Anomaly("refused-but-read", f"{place(partition, record[OFFSET])}: {record[ID]}")


def lost(history, evidence):
    """What was acknowledged, or once read, is there at the end."""
    present = {}
    for partition in {send.partition for send in history.sends.values()} | set(evidence.read):
        final = final_of(history, partition)
        if final is not None:
            present[partition] = {record[ID] for record in final.records}
    for send in history.sends.values():
        if not send.is_acknowledged():
            continue
        if send.partition not in present:
            yield Anomaly("no-final-read", f"{place(send.partition)}: {send.id} was acknowledged there")
        elif send.id not in present[send.partition]:
            kind = "lost" if send.acks == -1 else "lost-acks-1"
            where = place(send.partition, "?" if send.offset is None else send.offset)
            yield Anomaly(kind, f"{where}: {send.id} of {send.client}, acknowledged at {send.done}")
    for identity, where in evidence.places.items():
        for partition, offset in where if isinstance(where, list) else [where]:
            if partition not in present or offset < final_of(history, partition).start:
                continue
            if identity not in present[partition]:
                yield Anomaly("vanished", f"{place(partition, offset)}: {identity} was read, and is gone")


def duplicates(history, evidence):
    """An idempotent producer's record is at one place."""
    for identity, where in evidence.places.items():
        send = history.sends.get(identity)
        if send is None:
            continue
        places = set(where) if isinstance(where, list) else {where}
        if send.offset is not None and send.is_promised():
            places.add((send.partition, send.offset))
        if len(places) > 1:
            kind = "duplicate" if send.idempotent else "duplicate-at-least-once"
            yield Anomaly(kind, f"{identity}: {', '.join(place(*one) for one in sorted(places))}")


def reordered(history, evidence):
    """An idempotent producer's records of a partition are in the order in which it sent them."""
    for partition in history.finals:
        last = {}
        for record in sorted(final_of(history, partition).records, key=itemgetter(OFFSET)):
            send = history.sends.get(record[ID])
            if send is None or not send.idempotent:
                continue
            before = last.get(send.client)
            # The same record again is a duplicate.
            if before is not None and before.number > send.number:
                yield Anomaly(
                    "reordered", f"{place(partition, record[OFFSET])}: {send.id} of {send.client} is behind {before.id}"
                )
            else:
                last[send.client] = send


def polls(history, evidence):
    """A client that does not seek reads every offset once, forwards."""
    for client, observations in history.seen.items():
        position = {}
        for seen in observations:
            if seen is None:
                position.clear()
            elif not isinstance(seen, Ends):
                yield from steps(evidence, client, position, seen)


def steps(evidence, client, position, poll):
    partition, known = poll.partition, evidence.read.get(poll.partition, {})
    last = position.get(partition)
    for record in poll.records:
        offset = record[OFFSET]
        if last is not None and offset <= last:
            yield Anomaly("poll-went-back", f"{place(partition)}: {client} read {offset} after {last}")
        elif last is not None and offset > last + 1:
            # Offsets at which nobody ever read anything may be empty.
            skipped = [one for one in range(last + 1, offset) if one in known]
            if skipped:
                yield Anomaly(
                    "gap",
                    f"{place(partition)}: {client} read {offset} after {last}; {known[skipped[0]][ID]} is between",
                )
        last = offset
    position[partition] = last


def ends(history, evidence):
    """The end of a partition never goes back for a client, nor, once all is healed, for anyone."""
    highest = {}
    for client, observations in history.seen.items():
        own = {}
        for seen in observations:
            if seen is None:
                continue
            if isinstance(seen, Ends):
                for partition, end in seen.offsets:
                    if end < own.get(partition, 0):
                        yield Anomaly(
                            "end-went-back",
                            f"{place(partition)}: {client} was told {end} after {own[partition]} at {seen.time}",
                        )
                    own[partition] = max(end, own.get(partition, 0))
            elif seen.records:
                last = max(record[OFFSET] for record in seen.records)
                own[seen.partition] = max(last + 1, own.get(seen.partition, 0))
        for partition, end in own.items():
            if end > highest.get(partition, (0, None))[0]:
                highest[partition] = (end, client)
    for partition, replicas in history.finals.items():
        end, client = highest.get(partition, (0, None))
        final = replicas.get(None)
        if final is not None and final.end < end:
            yield Anomaly("end-went-back", f"{place(partition)}: {final.end} at last, {end} had been seen by {client}")


class Commits:
    """The commits of one group for one partition."""

    def __init__(self):
        self.of_offset = {}
        self.acknowledged = []

    def add(self, commit, offset):
        self.of_offset.setdefault(offset, []).append(commit)
        if commit.outcome == "ok":
            self.acknowledged.append((commit.done, commit.invoked, offset))

    def seal(self):
        """Makes the acknowledged ones searchable: by their end, with the latest beginning so far and its offset."""
        self.acknowledged.sort()
        self.ends = [done for done, _, _ in self.acknowledged]
        self.latest = []
        for _, invoked, offset in self.acknowledged:
            before = self.latest[-1] if self.latest else (-INFINITE, None)
            self.latest.append(max(before, (invoked, offset), key=itemgetter(0)))

    def settled_before(self, time):
        """When the last commit began that had been acknowledged by then, and its offset."""
        index = bisect.bisect_left(self.ends, time)
        return self.latest[index - 1] if index else (-INFINITE, None)


def committed_offsets(history, evidence):
    """A group's offset is what was committed last: a commit that was acknowledged counts until there is a later one."""
    commits = {}
    for commit in history.commits:
        if commit.outcome == "fail":
            continue
        for topic, partition, offset in commit.offsets:
            commits.setdefault((commit.group, topic, partition), Commits()).add(commit, offset)
    for of_partition in commits.values():
        of_partition.seal()
    nothing = Commits()
    nothing.seal()
    for fetch in history.fetches:
        if fetch.outcome != "ok":
            continue
        for topic, partition, offset in fetch.offsets:
            of_partition = commits.get((fetch.group, topic, partition), nothing)
            began, expected = of_partition.settled_before(fetch.invoked)
            if offset is None:
                possible = expected is None
            else:
                possible = any(
                    commit.invoked <= fetch.done and commit.done >= began
                    for commit in of_partition.of_offset.get(offset, [])
                )
            if not possible:
                detail = f"{fetch.group} of {place((topic, partition))}: {fetch.client} read {offset} at {fetch.done}"
                yield Anomaly("commit-lost", f"{detail}, {expected} had been committed")


def replicas_differ(history, evidence):
    """Below the lowest high watermark, all replicas have the same records."""
    for partition, replicas in history.finals.items():
        reads = {broker: final for broker, final in replicas.items() if broker is not None}
        if len(reads) < 2:
            continue
        start = max(final.start for final in reads.values())
        end = min(final.end for final in reads.values())
        contents = {
            broker: {record[OFFSET]: record for record in final.records if start <= record[OFFSET] < end}
            for broker, final in reads.items()
        }
        (one, expected), *others = sorted(contents.items())
        for other, records in others:
            if records == expected:
                continue
            offset = min(at for at in expected.keys() | records.keys() if expected.get(at) != records.get(at))
            yield Anomaly(
                "replicas-differ",
                f"{place(partition, offset)}: broker {one} has {expected.get(offset)}, "
                f"broker {other} {records.get(offset)}",
            )


RULES = (
    two_values,
    changed,
    never_sent,
    lost,
    duplicates,
    reordered,
    polls,
    ends,
    committed_offsets,
    replicas_differ,
)

# What a client that asks for no more may expect: it is counted, and no fault.
ALWAYS_ALLOWED = {"duplicate-at-least-once"}


def check(history):
    """All anomalies, those that the run allows included."""
    evidence = Evidence(history)
    return [anomaly for rule in RULES for anomaly in rule(history, evidence)]


def is_allowed(history, anomaly):
    return anomaly.kind in ALWAYS_ALLOWED or anomaly.kind in history.allowed
