"""Daily use with aiokafka, each call run to its end."""

import asyncio

import scenario
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import CommitFailedError, IllegalStateError, RebalanceInProgressError

LOOP = asyncio.new_event_loop()
asyncio.set_event_loop(LOOP)


def run(awaitable):
    return LOOP.run_until_complete(awaitable)


class ProducerOf:
    def __init__(self, settings):
        self.producer, self.waiting = run(self.started(settings)), []

    @staticmethod
    async def started(settings):
        producer = AIOKafkaProducer(**settings)
        await producer.start()
        return producer

    def send(self, topic, partition, record, on_delivered):
        future = run(
            self.producer.send(
                topic, record.value, record.key, partition, timestamp_ms=record.timestamp, headers=record.headers
            )
        )
        self.waiting.append((future, on_delivered))

    def flush(self):
        for future, on_delivered in self.waiting:
            delivered = run(future)
            # With acks=0 there is none to tell.
            on_delivered(*((delivered.partition, delivered.offset) if delivered else (-1, -1)))
        self.waiting = []

    def close(self):
        self.flush()
        run(self.producer.stop())


class Listener(ConsumerRebalanceListener):
    def __init__(self, consumer, on_assigned, on_revoked):
        self.consumer, self.assigned, self.revoked = consumer, on_assigned, on_revoked

    async def on_partitions_assigned(self, assigned):
        self.assigned({partition.partition for partition in assigned})

    async def on_partitions_revoked(self, revoked):
        if offsets := self.revoked({partition.partition for partition in revoked}):
            await self.consumer.consumer.commit(self.consumer.wanted(offsets))


class ConsumerOf:
    def __init__(self, base, settings):
        self.base, self.settings, self.topic = base, settings, None
        # Made inside of the loop, with what it is to read.
        self.consumer = None

    def of(self, partition):
        return TopicPartition(self.topic, partition)

    def subscribe(self, topic, on_assigned, on_revoked):
        self.topic = topic

        async def start():
            self.consumer = AIOKafkaConsumer(**self.base, **self.settings)
            self.consumer.subscribe([topic], listener=Listener(self, on_assigned, on_revoked))
            await self.consumer.start()

        run(start())

    def assign(self, topic, partitions):
        self.topic = topic

        async def start():
            self.consumer = AIOKafkaConsumer(**self.base, **self.settings)
            await self.consumer.start()
            self.consumer.assign([self.of(partition) for partition in partitions])

        run(start())

    def poll(self):
        found = run(self.consumer.getmany(timeout_ms=50))
        return [
            scenario.Record(record.partition, record.offset, record.key, record.value, list(record.headers), record.timestamp)
            for records in found.values()
            for record in records
        ]

    def owned(self):
        return {partition.partition for partition in self.consumer.assignment()}

    def generation(self):
        # Records of the generation before may still be in a poll's result when the next one is known.
        return -1

    def wanted(self, offsets):
        return {self.of(partition): offset for partition, offset in offsets.items()}

    def commit(self, offsets):
        try:
            run(self.consumer.commit(self.wanted(offsets)))
        except (CommitFailedError, IllegalStateError, RebalanceInProgressError) as failure:
            # The group may also change between two calls, and then what is to be committed is not assigned any more.
            raise scenario.Rebalancing from failure

    def committed(self, partition):
        async def ask():
            admin = AIOKafkaAdminClient(**self.base)
            await admin.start()
            found = await admin.list_consumer_group_offsets(self.settings["group_id"], partitions=[self.of(partition)])
            await admin.close()
            return found[self.of(partition)]

        # The consumer's own way does not tell the metadata; both must tell the same offset.
        found, offset = run(ask()), run(self.consumer.committed(self.of(partition)))
        scenario.equal(found.offset, -1 if offset is None else offset)
        return (found.offset, found.metadata) if found.offset >= 0 else None

    def seek(self, partition, offset):
        self.consumer.seek(self.of(partition), offset)

    def offset_for(self, partition, timestamp):
        [found] = run(self.consumer.offsets_for_times({self.of(partition): timestamp})).values()
        return found.offset if found is not None else None

    def pause(self, partitions):
        async def pause():
            self.consumer.pause(*(self.of(partition) for partition in partitions))

        run(pause())

    def resume(self, partitions):
        self.consumer.resume(*(self.of(partition) for partition in partitions))

    def close(self):
        run(self.consumer.stop())


class Client:
    name = "aiokafka"
    has_null_headers = True
    codecs = ["none", "gzip", "snappy", "lz4", "zstd"]

    def __init__(self, bootstrap):
        self.base = {"bootstrap_servers": bootstrap}

    def create(self, topic, partitions):
        async def create():
            admin = AIOKafkaAdminClient(**self.base)
            await admin.start()
            created = await admin.create_topics([NewTopic(topic, partitions, 1)])
            await admin.close()
            assert created.topic_errors[0][1] == 0, created

        run(create())

    def producer(self, codec, acks):
        codec = None if codec == "none" else codec
        return ProducerOf({**self.base, "compression_type": codec, "acks": acks, "linger_ms": 5})

    def consumer(self, group, protocol):
        return ConsumerOf(self.base, {
            "group_id": group,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "session_timeout_ms": 6000,
            "heartbeat_interval_ms": 1000,
        })


scenario.main(Client)
