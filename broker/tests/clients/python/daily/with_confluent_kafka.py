"""Daily use with confluent-kafka."""

import scenario
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

TIMEOUT_S = 30
OF_A_REBALANCE = {KafkaError.REBALANCE_IN_PROGRESS, KafkaError.ILLEGAL_GENERATION, KafkaError.STALE_MEMBER_EPOCH}


class ProducerOf:
    def __init__(self, settings):
        self.producer, self.errors = Producer(settings), []

    def send(self, topic, partition, record, on_delivered):
        def report(error, message):
            if error is not None:
                self.errors.append(error)
            else:
                on_delivered(message.partition(), message.offset())

        more = {"timestamp": record.timestamp} if record.timestamp else {}
        self.producer.produce(
            topic, record.value, record.key, -1 if partition is None else partition,
            on_delivery=report, headers=record.headers, **more,
        )
        self.producer.poll(0)

    def flush(self):
        left = self.producer.flush(TIMEOUT_S)
        assert left == 0 and not self.errors, (left, self.errors)

    close = flush


class ConsumerOf:
    def __init__(self, settings):
        self.consumer, self.topic = Consumer(settings), None

    def of(self, partition, *more):
        return TopicPartition(self.topic, partition, *more)

    def subscribe(self, topic, on_assigned, on_revoked):
        self.topic = topic

        def numbers(partitions):
            return {partition.partition for partition in partitions}

        # The assignment is made before the callback is told, as the callbacks print what is owned.
        def assigned(consumer, partitions):
            consumer.incremental_assign(partitions)
            on_assigned(numbers(partitions))

        def revoked(_, partitions):
            if offsets := on_revoked(numbers(partitions)):
                self.commit(offsets)

        self.consumer.subscribe([topic], on_assign=assigned, on_revoke=revoked)

    def assign(self, topic, partitions):
        self.topic = topic
        self.consumer.assign([self.of(partition, OFFSET_BEGINNING) for partition in partitions])

    def poll(self):
        found = self.consumer.consume(500, 0.05)
        for message in found:
            if message.error() is not None and message.error().code() != KafkaError._PARTITION_EOF:
                raise KafkaException(message.error())
        return [
            scenario.Record(
                message.partition(), message.offset(), message.key(), message.value(),
                message.headers() or [], message.timestamp()[1],
            )
            for message in found
            if message.error() is None
        ]

    def owned(self):
        return {partition.partition for partition in self.consumer.assignment()}

    def generation(self):
        # The client keeps it to itself.
        return -1

    def commit(self, offsets):
        wanted = [TopicPartition(self.topic, at, offset, metadata) for at, (offset, metadata) in offsets.items()]
        try:
            done = self.consumer.commit(offsets=wanted, asynchronous=False)
            errors = [partition.error for partition in done if partition.error is not None]
        except KafkaException as failure:
            errors = [failure.args[0]]
        if any(error.code() in OF_A_REBALANCE for error in errors):
            raise scenario.Rebalancing(str(errors))
        assert not errors, errors

    def committed(self, partition):
        [found] = self.consumer.committed([self.of(partition)], TIMEOUT_S)
        if found.error is not None:
            raise KafkaException(found.error)
        return (found.offset, found.metadata or "") if found.offset >= 0 else None

    def seek(self, partition, offset):
        self.consumer.seek(self.of(partition, offset))

    def offset_for(self, partition, timestamp):
        [found] = self.consumer.offsets_for_times([self.of(partition, timestamp)], TIMEOUT_S)
        return found.offset if found.offset >= 0 else None

    def pause(self, partitions):
        self.consumer.pause([self.of(partition) for partition in partitions])

    def resume(self, partitions):
        self.consumer.resume([self.of(partition) for partition in partitions])

    def close(self):
        self.consumer.close()


class Client:
    name = "confluent-kafka"
    has_null_headers = True
    codecs = ["none", "gzip", "snappy", "lz4", "zstd"]

    def __init__(self, bootstrap):
        self.base = {"bootstrap.servers": bootstrap, "log_level": 4}

    def create(self, topic, partitions):
        admin = AdminClient(self.base)
        admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(TIMEOUT_S)

    def producer(self, codec, acks):
        return ProducerOf({**self.base, "compression.type": codec, "acks": acks, "linger.ms": 5})

    def consumer(self, group, protocol):
        settings = {
            **self.base,
            "group.id": group or "not-used",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "check.crcs": True,
        }
        if protocol == "consumer":
            settings |= {"group.protocol": "consumer"}
        else:
            settings |= {
                "session.timeout.ms": 6000,
                "heartbeat.interval.ms": 1000,
                "partition.assignment.strategy": "cooperative-sticky",
            }
        return ConsumerOf(settings)


scenario.main(Client)
