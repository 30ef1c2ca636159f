"""The last reads, once everything is healed: by a fresh client from the leaders, and of every replica as it is."""

import contextlib
import time
import zlib

import protocol
from confluent_kafka import Consumer, KafkaException, TopicPartition
from history_file import HistoryFile, identity_of

PATIENCE_S = 60
ELECTION_S = 20
NOT_LEADER_OR_FOLLOWER = 6


class Finale:
    def __init__(self, cluster, topic, partitions, groups, path):
        self.cluster, self.topic, self.partitions, self.groups = cluster, topic, partitions, groups
        self.history = HistoryFile(path, "finale")
        # Brokers that do not serve what they follow; their replicas are not compared.
        self.unread = set()
        self.problems = []

    def consumer(self, group):
        return Consumer(
            {
                "bootstrap.servers": self.cluster.bootstrap,
                "group.id": group,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "check.crcs": True,
                "log_level": 0,
            }
        )

    def run(self):
        ends = self.read_leaders()
        for broker in self.cluster.brokers:
            for partition in range(self.partitions):
                self.read_replica(broker, partition, ends.get(partition, 0))
        for group in self.groups:
            self.read_committed(group)
        for broker in [one for one in self.cluster.brokers if one.number in self.unread]:
            if self.let_lead(broker):
                self.unread.discard(broker.number)
                for partition in range(self.partitions):
                    self.read_replica(broker, partition, ends.get(partition, 0))

    def read_leaders(self):
        consumer, partitions = (
            self.consumer("finale"),
            [TopicPartition(self.topic, one, 0) for one in range(self.partitions)],
        )
        deadline, starts, ends, position = time.monotonic() + PATIENCE_S, {}, {}, {}
        for one in partitions:
            while one.partition not in ends:
                try:
                    starts[one.partition], ends[one.partition] = consumer.get_watermark_offsets(one, timeout=5)
                except KafkaException as failure:
                    if time.monotonic() > deadline:
                        self.problems.append(f"no end of {self.topic}-{one.partition}: {failure}")
                        break
        self.history.of_client("ends", offsets=[[self.topic, *one] for one in ends.items()])
        for partition, end in ends.items():
            self.history.write(
                "final",
                broker=None,
                topic=self.topic,
                partition=partition,
                start=starts[partition],
                end=end,
                records=[],
            )
        consumer.assign(partitions)
        while any(position.get(partition, 0) < end for partition, end in ends.items()):
            if time.monotonic() > deadline:
                self.problems.append(f"read {position} of {ends}")
                break
            records = {}
            for message in consumer.consume(500, 0.5):
                if message.error() is None:
                    value = message.value() or b""
                    record = [message.offset(), identity_of(value), zlib.crc32(value), message.timestamp()[1]]
                    records.setdefault(message.partition(), []).append(record)
            for partition, found in records.items():
                position[partition] = found[-1][0] + 1
                self.history.write(
                    "final",
                    broker=None,
                    topic=self.topic,
                    partition=partition,
                    start=starts[partition],
                    end=ends[partition],
                    records=found,
                )
        consumer.close()
        return ends

    def read_replica(self, broker, partition, end):
        """What this broker has of the partition, leader or not, as any consumer may ask of a follower (KIP-392)."""
        records, position, begin, high, deadline = [], 0, 0, 0, time.monotonic() + PATIENCE_S
        try:
            with protocol.Connection(broker.address) as connection:
                while position < end and time.monotonic() < deadline:
                    begin, high, found = connection.fetch(self.topic, partition, position)
                    position = max(position, begin)
                    for one in found:
                        # A batch is served as a whole, from before the offset that was asked for.
                        if position <= one[0] < high:
                            records.append(protocol.describe(*one))
                            position = one[0] + 1
        except protocol.Refused as refusal:
            if refusal.code == NOT_LEADER_OR_FOLLOWER:
                self.unread.add(broker.number)
            else:
                self.problems.append(f"broker {broker.number}: {refusal}")
            return
        except (OSError, ValueError) as failure:
            self.problems.append(f"broker {broker.number}, {self.topic}-{partition}: {failure}")
            return
        self.history.write(
            "final",
            broker=broker.number,
            topic=self.topic,
            partition=partition,
            start=begin,
            end=position,
            records=records,
        )

    def let_lead(self, broker):
        """Makes a broker that serves only what it leads the leader of all partitions that it has a replica of."""
        deadline, wanted = time.monotonic() + ELECTION_S, {}
        for (_, partition), state in self.cluster.any_state([self.topic]).items():
            if broker.number not in state.replicas:
                return False
            wanted[partition] = [broker.number, *sorted(state.replicas - {broker.number})]
        while time.monotonic() < deadline:
            for one in self.cluster.brokers:
                # Any of them may have to pass it on, or be unable to.
                with (
                    contextlib.suppress(OSError, ValueError, protocol.Refused),
                    protocol.Connection(one.address) as connection,
                ):
                    connection.reassign(self.topic, wanted)
                    connection.elect_preferred(self.topic, list(wanted))
                    break
            until = time.monotonic() + 2
            while time.monotonic() < until:
                states = self.cluster.states([self.topic])
                if len(states) == len(self.cluster.brokers) and all(
                    state.leader == broker.number for one in states.values() for state in one.values()
                ):
                    return self.cluster.has_begun(self.topic)
                time.sleep(0.1)
        return False

    def read_committed(self, group):
        consumer, deadline = self.consumer(group), time.monotonic() + PATIENCE_S
        partitions = [TopicPartition(self.topic, one) for one in range(self.partitions)]
        while time.monotonic() < deadline:
            begun = self.history.begin("committed", group=group)
            with contextlib.suppress(KafkaException):
                found = consumer.committed(partitions, timeout=10)
                if all(one.error is None for one in found):
                    offsets = [[one.topic, one.partition, one.offset if one.offset >= 0 else None] for one in found]
                    self.history.end(begun, "ok", offsets=offsets)
                    break
            self.history.end(begun, "fail")
        else:
            self.problems.append(f"nobody tells what {group} has committed")
        consumer.close()
