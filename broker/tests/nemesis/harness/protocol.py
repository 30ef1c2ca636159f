"""As much of Kafka's protocol as it takes to look at a cluster from outside: metadata, and what a replica serves.

The versions are the last ones without tagged fields, which every broker of today still speaks.
"""

import socket
import struct
import zlib
from dataclasses import dataclass

METADATA, FETCH, ELECT_LEADERS, ALTER_REASSIGNMENTS = 3, 1, 43, 45
DESCRIBE_QUORUM, ADD_VOTER, REMOVE_VOTER = 55, 80, 81
METADATA_TOPIC = "__cluster_metadata"
PREFERRED = 0
CONSUMER = -1
MAXIMUM_FRAME = 64 << 20


class Refused(Exception):
    """A broker answered with an error code."""

    def __init__(self, code, where):
        super().__init__(f"error {code} for {where}")
        self.code = code


class Cursor:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        if count < 0 or self.at + count > len(self.data):
            raise ValueError(f"{count} bytes at {self.at} of {len(self.data)}")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form):
        return struct.unpack(">" + form, self.take(struct.calcsize(">" + form)))[0]

    def string(self):
        length = self.number("h")
        return None if length < 0 else self.take(length).decode()

    def array(self, read):
        return [read() for _ in range(max(self.number("i"), 0))]

    def numbers(self):
        return self.array(lambda: self.number("i"))

    def unsigned(self):
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def varint(self):
        value = self.unsigned()
        return (value >> 1) ^ -(value & 1)

    def compact_string(self):
        length = self.unsigned()
        return self.take(length - 1).decode() if length else None

    def compact_array(self, read):
        return [read() for _ in range(self.unsigned() - 1)]

    def tags(self):
        for _ in range(self.unsigned()):
            self.unsigned()
            self.take(self.unsigned())


def string(text):
    data = text.encode()
    return struct.pack(">h", len(data)) + data


def compact_string(text):
    data = text.encode()
    return bytes([len(data) + 1]) + data


class Connection:
    """One connection to one broker, one request at a time."""

    def __init__(self, address, timeout_s=3.0):
        self.socket = socket.create_connection(address, timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.correlation = 0

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def receive(self, count):
        parts = bytearray()
        while len(parts) < count:
            part = self.socket.recv(min(count - len(parts), 1 << 20))
            if not part:
                raise ConnectionError("the broker closed the connection")
            parts += part
        return bytes(parts)

    def ask(self, key, version, body, flexible=False):
        self.correlation += 1
        header = struct.pack(">hhi", key, version, self.correlation) + string("nemesis") + (b"\0" if flexible else b"")
        self.socket.sendall(struct.pack(">i", len(header) + len(body)) + header + body)
        size = struct.unpack(">i", self.receive(4))[0]
        if not 4 <= size <= MAXIMUM_FRAME:
            raise ConnectionError(f"a response of {size} bytes")
        cursor = Cursor(self.receive(size))
        if cursor.number("i") != self.correlation:
            raise ConnectionError("a response to another request")
        return cursor

    def metadata(self, topics):
        """Partition to what this broker says of it; absent if it knows no such topic."""
        names = b"".join(string(topic) for topic in topics)
        cursor = self.ask(METADATA, 8, struct.pack(">i", len(topics)) + names + bytes(3))
        return read_metadata(cursor)

    def fetch(self, topic, partition, offset, most=4 << 20):
        """The log's start, the high watermark, and the records from the offset on, as this very replica has them."""
        body = struct.pack(">iiiibii", CONSUMER, 200, 1, most, 0, 0, -1)
        body += struct.pack(">i", 1) + string(topic)
        body += struct.pack(">iiiqqi", 1, partition, -1, offset, -1, most)
        body += struct.pack(">i", 0) + string("")
        cursor = self.ask(FETCH, 11, body)
        cursor.number("i")
        if code := cursor.number("h"):
            raise Refused(code, f"a fetch of {topic}-{partition}")
        cursor.number("i")
        found = []

        def of_partition():
            cursor.number("i")
            code, high, _, start = (cursor.number(form) for form in "hqqq")
            cursor.array(lambda: cursor.take(16))
            cursor.number("i")
            data = cursor.take(max(cursor.number("i"), 0))
            if code:
                raise Refused(code, f"{topic}-{partition}")
            found.append((start, high, list(read_batches(data))))

        cursor.array(lambda: (cursor.string(), cursor.array(of_partition)))
        return found[0]

    def reassign(self, topic, replicas_of):
        """Asks the controller for other replicas of the partitions."""
        compact = topic.encode()
        body = struct.pack(">i", 30000) + bytes([2, len(compact) + 1]) + compact + bytes([len(replicas_of) + 1])
        for partition, replicas in replicas_of.items():
            body += struct.pack(">iB", partition, len(replicas) + 1)
            body += b"".join(struct.pack(">i", broker) for broker in replicas) + b"\0"
        cursor = self.ask(ALTER_REASSIGNMENTS, 0, body + b"\0\0", flexible=True)
        cursor.take(1)
        cursor.number("i")
        if code := cursor.number("h"):
            raise Refused(code, f"the reassignment of {topic}")

    def elect_preferred(self, topic, partitions):
        """Asks the controller to let the first of the replicas lead."""
        body = struct.pack(">bi", PREFERRED, 1) + string(topic)
        body += struct.pack(f">i{len(partitions)}i", len(partitions), *partitions) + struct.pack(">i", 10000)
        cursor = self.ask(ELECT_LEADERS, 1, body)
        cursor.number("i")
        if code := cursor.number("h"):
            raise Refused(code, f"an election for {topic}")

    def quorum(self):
        """The metadata quorum: its voters and its observers, each a set of (node, directory)."""
        return self.describe_quorum()[1:]

    def quorum_leader(self):
        """Who leads the metadata quorum, and the term."""
        return self.describe_quorum()[0]

    def describe_quorum(self):
        body = b"\2" + compact_string(METADATA_TOPIC) + b"\2" + struct.pack(">i", 0) + bytes(3)
        cursor = self.ask(DESCRIBE_QUORUM, 2, body, flexible=True)
        cursor.tags()
        code, _ = cursor.number("h"), cursor.compact_string()
        if code:
            raise Refused(code, "the metadata quorum")
        found = []

        def of_member():
            key = cursor.number("i"), cursor.take(16)
            cursor.take(24)
            cursor.tags()
            return key

        def of_partition():
            cursor.number("i")
            code, _ = cursor.number("h"), cursor.compact_string()
            if code:
                raise Refused(code, METADATA_TOPIC)
            leader = cursor.number("i"), cursor.number("i")
            cursor.take(8)
            found.append((leader, *(set(cursor.compact_array(of_member)) for _ in range(2))))
            cursor.tags()

        cursor.compact_array(lambda: (cursor.compact_string(), cursor.compact_array(of_partition), cursor.tags()))
        return found[0]

    def remove_voter(self, voter):
        node, directory = voter
        cursor = self.ask(REMOVE_VOTER, 0, b"\0" + struct.pack(">i", node) + directory + b"\0", flexible=True)
        self.check_change(cursor, f"the removal of voter {node}")

    def add_voter(self, voter, listener, host, port):
        node, directory = voter
        body = b"\0" + struct.pack(">ii", 10000, node) + directory
        body += b"\2" + compact_string(listener) + compact_string(host) + struct.pack(">H", port) + b"\0\0"
        self.check_change(self.ask(ADD_VOTER, 0, body, flexible=True), f"the addition of voter {node}")

    @staticmethod
    def check_change(cursor, what):
        cursor.tags()
        cursor.number("i")
        if code := cursor.number("h"):
            raise Refused(code, f"{what}: {cursor.compact_string()}")


@dataclass(frozen=True)
class PartitionState:
    leader: int
    epoch: int
    replicas: frozenset
    in_sync: frozenset


def read_metadata(cursor):
    cursor.number("i")
    cursor.array(lambda: (cursor.number("i"), cursor.string(), cursor.number("i"), cursor.string()))
    cursor.string()
    cursor.number("i")
    states = {}

    def of_topic():
        code, name = cursor.number("h"), cursor.string()
        cursor.take(1)

        def of_partition():
            cursor.number("h")
            index, leader, epoch = (cursor.number("i") for _ in range(3))
            replicas, in_sync, _ = (frozenset(cursor.numbers()) for _ in range(3))
            if not code:
                states[name, index] = PartitionState(leader, epoch, replicas, in_sync)

        cursor.array(of_partition)
        cursor.take(4)

    cursor.array(of_topic)
    return states


def read_batches(data):
    """(offset, value, timestamp) of each record of data; a batch cut short at the end is left out."""
    at = 0
    while at + 61 <= len(data):
        base, length = struct.unpack_from(">qi", data, at)
        end = at + 12 + length
        if end > len(data):
            return
        if data[at + 16] != 2:
            raise ValueError(f"a batch of format {data[at + 16]} at offset {base}")
        yield from read_records(base, data[at:end])
        at = end


def read_records(base, batch):
    attributes, _, first_timestamp, last_timestamp = struct.unpack_from(">hiqq", batch, 21)
    if attributes & 0x20:
        return  # a marker of a transaction
    if attributes & 7:
        raise ValueError(f"the batch at {base} is compressed, which the workloads' are not")
    cursor = Cursor(batch)
    cursor.at = 57
    for _ in range(cursor.number("i")):
        cursor.varint()
        cursor.take(1)
        timestamp, offset = cursor.varint(), cursor.varint()
        key = cursor.varint()
        cursor.take(max(key, 0))
        value = cursor.take(max(cursor.varint(), 0))
        for _ in range(cursor.varint()):
            cursor.take(cursor.varint())
            cursor.take(max(cursor.varint(), 0))
        yield base + offset, value, last_timestamp if attributes & 8 else first_timestamp + timestamp


def describe(offset, value, timestamp):
    """A record as the histories have it."""
    identity = value.split(b" ", 1)[0].decode("utf-8", "backslashreplace")
    return [offset, identity, zlib.crc32(value), timestamp]
