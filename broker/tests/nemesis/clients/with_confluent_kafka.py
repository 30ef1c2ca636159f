"""A client process of the nemesis with confluent-kafka, that is librdkafka.

    with_confluent_kafka.py ROLE NAME HISTORY SETTINGS

ROLE is producer, consumer or member; SETTINGS a JSON object with bootstrap, topic, partitions and what the role needs.
It works until its standard input ends, brings to an end what it has begun, and ends.
"""

import json
import os
import random
import sys
import threading
import time
import zlib

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from history_file import HistoryFile, identity_of, value_of

FLUSH_S = 60
DRAIN_S = 40
# So many records may be on their way; an outage shall not pile up more.
MOST_OPEN = 1000

stopping = threading.Event()


def stop_at_end_of_input():
    # Not through sys.stdin, whose lock a thread may not hold when the process ends.
    while os.read(0, 4096):
        continue
    stopping.set()


class Sender:
    """A producer, and after a fatal error another one, which is another client to the history."""

    def __init__(self, name, history, settings):
        self.name, self.history, self.settings = name, history, settings
        self.random = random.Random(f"{settings['seed']} {name}")
        self.lives = self.sent = self.open = 0
        self.fatal = False
        self.start()

    def start(self):
        self.lives += 1
        self.fatal = False
        self.history.client = f"{self.name}.{self.lives}"
        acks = self.settings["acks"]
        self.producer = Producer(
            {
                "bootstrap.servers": self.settings["bootstrap"],
                "acks": acks,
                "enable.idempotence": self.settings["idempotent"],
                "linger.ms": self.settings["linger_ms"],
                "message.timeout.ms": self.settings["timeout_ms"],
                "retry.backoff.ms": 20,
                "reconnect.backoff.ms": 10,
                "reconnect.backoff.max.ms": 500,
                "socket.timeout.ms": 5000,
                "topic.metadata.refresh.interval.ms": 2000,
                "log_level": 0,
                "error_cb": self.note,
            }
        )

    def note(self, error):
        self.history.of_client("note", text=f"{error.name()}: {error.str()}", fatal=error.fatal())
        self.fatal = self.fatal or error.fatal()

    def send(self):
        identity = f"{self.history.client}-{self.sent}"
        self.sent += 1
        topic, partition = self.settings["topic"], self.random.randrange(self.settings["partitions"])
        value = value_of(identity, self.random.randint(20, 300))
        # Written before it is sent.
        self.history.of_client(
            "produce",
            ev="invoke",
            topic=topic,
            partition=partition,
            id=identity,
            checksum=zlib.crc32(value),
            acks=self.settings["acks"],
            idempotent=self.settings["idempotent"],
        )

        def report(error, message):
            self.open -= 1
            if error is None:
                # Of a batch that the broker has had before, librdkafka may not know the offset.
                offset = -1 if message.offset() is None else message.offset()
                self.history.write("produce", ev="ok", id=identity, offset=offset)
            else:
                # The library does not say whether a request had been sent: nobody knows.
                self.history.write("produce", ev="unknown", id=identity, error=error.name())

        try:
            self.producer.produce(topic, value, partition=partition, on_delivery=report)
            self.open += 1
        except (BufferError, KafkaException) as failure:
            self.history.write("produce", ev="fail", id=identity, error=str(failure))

    def run(self):
        pause = 1 / self.settings["rate"]
        due = time.monotonic()
        while not stopping.is_set():
            if self.fatal:
                self.producer.flush(FLUSH_S)
                self.start()
            if self.open < MOST_OPEN:
                self.send()
            due = max(due + pause, time.monotonic() - 1)
            self.producer.poll(max(due - time.monotonic(), 0))
            while (left := due - time.monotonic()) > 0:
                self.producer.poll(left)
        if left := self.producer.flush(FLUSH_S):
            self.history.of_client("note", text=f"{left} records are still on their way")


def consumer(settings, history, **more):
    return Consumer(
        {
            "bootstrap.servers": settings["bootstrap"],
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "check.crcs": True,
            "fetch.wait.max.ms": 100,
            "retry.backoff.ms": 20,
            "reconnect.backoff.ms": 10,
            "reconnect.backoff.max.ms": 500,
            "socket.timeout.ms": 5000,
            "topic.metadata.refresh.interval.ms": 2000,
            "log_level": 0,
            "error_cb": lambda error: history.of_client("note", text=f"{error.name()}: {error.str()}"),
            **more,
        }
    )


class Watcher:
    """Reads all partitions from their beginning, assigned by hand, and asks for their ends."""

    def __init__(self, name, history, settings):
        self.history, self.settings = history, settings
        self.partitions = [TopicPartition(settings["topic"], one, 0) for one in range(settings["partitions"])]
        self.position = {}
        self.make()

    def make(self):
        self.consumer = consumer(self.settings, self.history, **{"group.id": "not-used"})
        self.history.of_client("assign")
        self.consumer.assign(self.partitions)

    def note_polled(self, messages):
        records = {}
        for message in messages:
            if message.error() is not None:
                self.history.of_client("note", text=f"{message.error().name()}: {message.error().str()}")
                continue
            value = message.value()
            record = [message.offset(), identity_of(value), zlib.crc32(value or b""), message.timestamp()[1]]
            records.setdefault((message.topic(), message.partition()), []).append(record)
        for (topic, partition), of_partition in records.items():
            self.history.of_client("poll", topic=topic, partition=partition, records=of_partition)
            self.position[topic, partition] = of_partition[-1][0] + 1

    def poll(self):
        self.note_polled(self.consumer.consume(200, 0.1))

    def ask_end(self, partition, timeout_s=2.0):
        try:
            _, end = self.consumer.get_watermark_offsets(partition, timeout=timeout_s)
        except KafkaException:
            return None
        self.history.of_client("ends", offsets=[[partition.topic, partition.partition, end]])
        return end

    def drain(self):
        """Reads up to the ends as they are now."""
        ends = {(one.topic, one.partition): self.ask_end(one, 10.0) for one in self.partitions}
        deadline = time.monotonic() + DRAIN_S
        while any(end is None or self.position.get(at, 0) < end for at, end in ends.items()):
            if time.monotonic() > deadline:
                self.history.of_client(
                    "note", text=f"stopped at {list(self.position.values())} of {list(ends.values())}"
                )
                return
            self.poll()

    def run(self):
        turn, due = 0, time.monotonic()
        while not stopping.is_set():
            self.poll()
            if time.monotonic() >= due:
                self.ask_end(self.partitions[turn % len(self.partitions)])
                turn, due = turn + 1, time.monotonic() + 0.5
        self.drain()
        self.consumer.close()


class Member(Watcher):
    """A member of a group, which commits what it has read."""

    def make(self):
        self.group, self.begins, self.dirty = self.settings["group"], {}, {}
        self.consumer = consumer(
            self.settings,
            self.history,
            **{
                "group.id": self.group,
                "session.timeout.ms": 6000,
                "heartbeat.interval.ms": 1000,
                **self.settings.get("more", {}),
            },
        )
        self.consumer.subscribe(
            [self.settings["topic"]], on_assign=self.assigned, on_revoke=self.revoked, on_lost=self.lost
        )

    def assigned(self, _, partitions):
        self.history.of_client("assign")
        self.position, self.dirty = {}, {}
        # Where it begins, so that a partition without anything new counts as read.
        self.begins = self.ask_committed(partitions)

    def revoked(self, _, partitions):
        self.commit()
        self.position = {}

    def lost(self, _, partitions):
        self.position, self.dirty = {}, {}

    def ask_committed(self, partitions):
        if not partitions:
            return {}
        begun = self.history.begin("committed", group=self.group)
        try:
            found = self.consumer.committed(partitions, timeout=10)
        except KafkaException as failure:
            self.history.end(begun, "fail", error=str(failure))
            return {}
        good = [one for one in found if one.error is None]
        offsets = [[one.topic, one.partition, one.offset if one.offset >= 0 else None] for one in good]
        self.history.end(begun, "ok", offsets=offsets)
        return {(topic, partition): offset or 0 for topic, partition, offset in offsets}

    def poll(self):
        super().poll()
        self.dirty = dict(self.position)

    def commit(self):
        if not self.dirty:
            return
        offsets = [[topic, partition, offset] for (topic, partition), offset in self.dirty.items()]
        begun, self.dirty = self.history.begin("commit", group=self.group, offsets=offsets), {}
        try:
            done = self.consumer.commit(offsets=[TopicPartition(*one) for one in offsets], asynchronous=False)
            good = all(one.error is None for one in done)
            self.history.end(begun, "ok" if good else "unknown")
        except KafkaException as failure:
            # Refused at last does not say that an earlier try was.
            self.history.end(begun, "unknown", error=str(failure))

    def run(self):
        due, deadline = time.monotonic(), None
        while True:
            self.poll()
            if time.monotonic() >= due:
                self.commit()
                self.ask_committed(self.consumer.assignment())
                due = time.monotonic() + 0.7
            if stopping.is_set():
                deadline = deadline or time.monotonic() + DRAIN_S
                if time.monotonic() > deadline or self.is_done():
                    break
        self.commit()
        self.consumer.close()

    def is_done(self):
        """Whether it has read all there is of what it owns."""
        for one in self.consumer.assignment():
            at, end = (one.topic, one.partition), self.ask_end(one, 5.0)
            if end is None or self.position.get(at, self.begins.get(at, 0)) < end:
                return False
        return True


ROLES = {"producer": Sender, "consumer": Watcher, "member": Member}


def main():
    role, name, path, settings = sys.argv[1:]
    threading.Thread(target=stop_at_end_of_input, daemon=True).start()
    ROLES[role](name, HistoryFile(path, name), json.loads(settings)).run()


main()
