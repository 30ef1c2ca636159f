"""Daily use with kafka-python."""

import scenario
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import OffsetSpec
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.errors import CommitFailedError, RebalanceInProgressError
from kafka.structs import OffsetAndMetadata

TIMEOUT_S = 30


class ProducerOf:
    def __init__(self, settings):
        self.producer, self.waiting = KafkaProducer(**settings), []

    def send(self, topic, partition, record, on_delivered):
        future = self.producer.send(
            topic, record.value, record.key, record.headers, partition=partition, timestamp_ms=record.timestamp
        )
        self.waiting.append((future, on_delivered))

    def flush(self):
        self.producer.flush(TIMEOUT_S)
        for future, on_delivered in self.waiting:
            delivered = future.get(TIMEOUT_S)
            on_delivered(delivered.partition, delivered.offset)
        self.waiting = []

    def close(self):
        self.flush()
        self.producer.close()


class Listener(AsyncConsumerRebalanceListener):
    def __init__(self, consumer, on_assigned, on_revoked):
        self.consumer, self.assigned, self.revoked = consumer, on_assigned, on_revoked

    async def on_partitions_assigned(self, assigned):
        self.assigned({partition.partition for partition in assigned})

    async def on_partitions_revoked(self, revoked):
        if offsets := self.revoked({partition.partition for partition in revoked}):
            await self.consumer.consumer.commit_async(self.consumer.wanted(offsets))


class ConsumerOf:
    def __init__(self, settings):
        self.consumer, self.topic = KafkaConsumer(**settings), None

    def of(self, partition):
        return TopicPartition(self.topic, partition)

    def subscribe(self, topic, on_assigned, on_revoked):
        self.topic = topic
        self.consumer.subscribe([topic], listener=Listener(self, on_assigned, on_revoked))
        # A member that leads the group without knowing the topic assigns nothing, and joins again when it has heard of
        # it. If a poll ends while it waits for its part of that generation, version 3.0.12 loses it: the next poll finds
        # the metadata to be those that were assigned by, so no join to be waited for, and the member is without
        # partitions and heartbeats for ever. So the topic is known before the first poll.
        assert self.consumer.partitions_for_topic(topic), f"there is no topic {topic}"

    def assign(self, topic, partitions):
        self.topic = topic
        self.consumer.assign([self.of(partition) for partition in partitions])

    def poll(self):
        # Not shorter than a rebalance takes, as each poll that ends meanwhile may begin another one.
        found = self.consumer.poll(1000)
        return [
            scenario.Record(record.partition, record.offset, record.key, record.value, list(record.headers), record.timestamp)
            for records in found.values()
            for record in records
        ]

    def owned(self):
        return {partition.partition for partition in self.consumer.assignment()}

    def generation(self):
        return self.consumer.group_metadata().generation_id

    def wanted(self, offsets):
        return {self.of(at): OffsetAndMetadata(offset, metadata, -1) for at, (offset, metadata) in offsets.items()}

    def commit(self, offsets):
        try:
            self.consumer.commit(self.wanted(offsets), TIMEOUT_S * 1000)
        except (CommitFailedError, RebalanceInProgressError) as failure:
            raise scenario.Rebalancing from failure

    def committed(self, partition):
        found = self.consumer.committed(self.of(partition), metadata=True)
        return (found.offset, found.metadata) if found is not None and found.offset >= 0 else None

    def seek(self, partition, offset):
        self.consumer.seek(self.of(partition), offset)

    def offset_for(self, partition, timestamp):
        [found] = self.consumer.offsets_for_times({self.of(partition): timestamp}).values()
        return found.offset if found is not None else None

    def pause(self, partitions):
        self.consumer.pause(*(self.of(partition) for partition in partitions))

    def resume(self, partitions):
        self.consumer.resume(*(self.of(partition) for partition in partitions))

    def close(self):
        self.consumer.close(autocommit=False)


class Client:
    name = "kafka-python"
    has_null_headers = False
    codecs = ["none", "gzip", "snappy", "lz4", "zstd"]

    def __init__(self, bootstrap):
        self.base = {"bootstrap_servers": bootstrap}

    def create(self, topic, partitions):
        admin = KafkaAdminClient(**self.base)
        admin.create_topics({topic: {"num_partitions": partitions, "replication_factor": 1}}, wait_for_metadata=True)
        # README.md, "A new topic".
        admin.list_partition_offsets({TopicPartition(topic, at): OffsetSpec.LATEST for at in range(partitions)})
        admin.close()

    def producer(self, codec, acks):
        codec = None if codec == "none" else codec
        # The default, idempotence, asks for acks=all.
        return ProducerOf(
            {**self.base, "compression_type": codec, "acks": acks, "linger_ms": 5, "enable_idempotence": acks == "all"}
        )

    def consumer(self, group, protocol):
        return ConsumerOf({
            **self.base,
            "group_id": group,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "session_timeout_ms": 6000,
            "heartbeat_interval_ms": 1000,
        })


scenario.main(Client)
