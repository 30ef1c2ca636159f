"""Writes the history of one client (../README.md has its lines)."""

import json
import time
import zlib


class HistoryFile:
    def __init__(self, path, client):
        self.client = client
        self.numbers = 0
        # One write per line: a process that is killed has written all that it announced.
        self.file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115

    def write(self, op, **fields):
        line = {"op": op, "t": time.monotonic_ns(), **fields}
        self.file.write(json.dumps(line, separators=(",", ":")) + "\n")

    def of_client(self, op, **fields):
        self.write(op, client=self.client, **fields)

    def begin(self, op, **fields):
        self.numbers += 1
        self.of_client(op, ev="invoke", n=self.numbers, **fields)
        return {"op": op, "n": self.numbers}

    def end(self, begun, event, **fields):
        self.of_client(ev=event, **begun, **fields)


def value_of(identity, size):
    """The bytes of a record: its id, and a filling that depends on it."""
    head = identity.encode() + b" "
    return head + (b"%08x" % zlib.crc32(head) * (size // 8 + 1))[: max(size - len(head), 0)]


def identity_of(value):
    return (value or b"").split(b" ", 1)[0].decode("utf-8", "backslashreplace")
