"""What a Python program does with one node: topics, produce, fetch by offset and by timestamp.

The client is confluent-kafka; partitions are assigned by hand, as the broker has no consumer groups yet.
"""

import sys
import time
import traceback

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

BOOTSTRAP = sys.argv[1]
ADMIN = AdminClient({"bootstrap.servers": BOOTSTRAP})
TIMEOUT_S = 30


def create(name, partitions=1, config=None):
    futures = ADMIN.create_topics([NewTopic(name, partitions, 1, config=config or {})], request_timeout=TIMEOUT_S)
    futures[name].result(TIMEOUT_S)


def produce(topic, records, **settings):
    """Produces (key, value, partition, headers, timestamp) and returns the delivered (partition, offset)s."""
    delivered, errors = [], []

    def report(error, message):
        if error is not None:
            errors.append(error)
        else:
            delivered.append((message.partition(), message.offset()))

    producer = Producer({"bootstrap.servers": BOOTSTRAP, "linger.ms": 5, **settings})
    for key, value, partition, headers, timestamp in records:
        more = {"timestamp": timestamp} if timestamp else {}
        producer.produce(topic, value, key, partition, on_delivery=report, headers=headers, **more)
    left = producer.flush(TIMEOUT_S)
    assert left == 0, f"{left} records are not delivered"
    assert not errors, errors
    return delivered


def plain(values, partition=0):
    return [(None, value, partition, None, None) for value in values]


def consumer(**settings):
    return Consumer({
        "bootstrap.servers": BOOTSTRAP,
        "group.id": "not-used",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
        "check.crcs": True,
        **settings,
    })


def consume(topic, partitions=(0,), offset=OFFSET_BEGINNING):
    """Every message from the offset to the end of every partition."""
    client = consumer()
    client.assign([TopicPartition(topic, partition, offset) for partition in partitions])
    messages, at_end, deadline = [], set(), time.monotonic() + TIMEOUT_S
    while len(at_end) < len(partitions):
        assert time.monotonic() < deadline, f"{len(messages)} messages, and no end of {topic}"
        message = client.poll(0.5)
        if message is None:
            continue
        if message.error() is None:
            messages.append(message)
        elif message.error().code() == KafkaError._PARTITION_EOF:
            at_end.add(message.partition())
        else:
            raise KafkaException(message.error())
    client.close()
    return messages


def values(messages):
    return [message.value() for message in messages]


def test_topics_are_created_listed_and_deleted():
    create("admin", 3)
    topic = ADMIN.list_topics(timeout=TIMEOUT_S).topics["admin"]
    assert sorted(topic.partitions) == [0, 1, 2]
    assert all(partition.leader >= 0 for partition in topic.partitions.values())
    try:
        create("admin", 1)
        raise AssertionError("a topic was created twice")
    except KafkaException as failure:
        assert failure.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS, failure
    produce("admin", plain([b"of the first topic"]))
    ADMIN.delete_topics(["admin"])["admin"].result(TIMEOUT_S)
    assert "admin" not in ADMIN.list_topics(timeout=TIMEOUT_S).topics
    # What had its name before is not seen in the new one.
    create("admin", 1)
    assert values(consume("admin")) == []


def test_wrong_requests_get_their_errors():
    for name, partitions, replicas, code in [
        ("bad name!", 1, 1, KafkaError.TOPIC_EXCEPTION),
        ("none", 0, 1, KafkaError.INVALID_PARTITIONS),
        ("copies", 1, 3, KafkaError.INVALID_REPLICATION_FACTOR),
    ]:
        try:
            ADMIN.create_topics([NewTopic(name, partitions, replicas)])[name].result(TIMEOUT_S)
            raise AssertionError(f"{name} was created")
        except KafkaException as failure:
            assert failure.args[0].code() == code, failure
        except ValueError:
            assert partitions == 0, "the client itself refuses only this"
    try:
        ADMIN.delete_topics(["missing"])["missing"].result(TIMEOUT_S)
        raise AssertionError("a topic that is not there was deleted")
    except KafkaException as failure:
        assert failure.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART, failure


def test_every_codec_and_every_acks():
    expected = [b"%d " % number * 20 for number in range(2000)]
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"]:
        for acks in [0, 1, "all"]:
            topic = f"codec-{codec}-{acks}"
            create(topic)
            settings = {"compression.type": codec, "acks": acks, "message.send.max.retries": 5}
            delivered = produce(topic, plain(expected), **settings)
            assert len(delivered) == len(expected)
            if acks != 0:
                assert delivered == [(0, offset) for offset in range(len(expected))]
            # Without an acknowledgement the records may still be on their way.
            deadline = time.monotonic() + TIMEOUT_S
            while values(found := consume(topic)) != expected:
                assert acks == 0 and time.monotonic() < deadline, f"{topic}: {len(found)} records"
            assert [message.offset() for message in found] == list(range(len(expected)))


def test_idempotent_producer():
    create("idempotent", 4)
    records = [(b"%d" % (n % 50), b"%d" % n, -1, None, None) for n in range(20000)]
    delivered = produce("idempotent", records, **{"enable.idempotence": True, "batch.size": 4096})
    assert len(set(delivered)) == len(records)
    messages = consume("idempotent", range(4))
    assert sorted(int(value) for value in values(messages)) == list(range(len(records)))
    for key in range(50):
        of_key = [int(message.value()) for message in messages if message.key() == b"%d" % key]
        assert of_key == sorted(of_key), f"the order of key {key}"


def test_keys_headers_and_nulls():
    create("records")
    headers = [("a", b"1"), ("a", b"2"), ("b", None), ("", b""), ("a", b"3")]
    records = [
        (b"key", b"value", 0, headers, None),
        (None, b"value", 0, None, None),
        (b"", b"", 0, None, None),
        (b"deleted", None, 0, None, None),
        (b"\x00\xff", b"\x00" * 500_000, 0, None, 1_700_000_000_123),
    ]
    produce("records", records)
    found = consume("records")
    assert [(message.key(), message.value()) for message in found] == [record[:2] for record in records]
    assert found[0].headers() == headers
    assert found[4].timestamp()[1] == 1_700_000_000_123


def test_keys_choose_the_partition():
    create("keyed", 8)
    keys = [b"key-%d" % number for number in range(500)]
    produce("keyed", [(key, key, -1, None, None) for key in keys], partitioner="murmur2_random")
    found = consume("keyed", range(8))
    assert sorted(values(found)) == sorted(keys)
    for message in found:
        assert message.partition() == (murmur2(message.key()) & 0x7FFFFFFF) % 8, message.key()


def murmur2(data):
    mask, multiplier = 0xFFFFFFFF, 0x5BD1E995
    mixed = 0x9747B28C ^ len(data)
    whole = len(data) // 4 * 4
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * multiplier & mask
        word = (word ^ word >> 24) * multiplier & mask
        mixed = mixed * multiplier & mask ^ word
    if whole < len(data):
        mixed = (mixed ^ int.from_bytes(data[whole:], "little")) * multiplier & mask
    mixed = (mixed ^ mixed >> 13) * multiplier & mask
    return mixed ^ mixed >> 15


def test_offsets():
    create("offsets")
    produce("offsets", plain(b"%d" % number for number in range(1000)))
    for offset in [0, 1, 499, 998, 999]:
        assert values(consume("offsets", offset=offset)) == [b"%d" % number for number in range(offset, 1000)]
    assert consume("offsets", offset=1000) == []
    client = consumer()
    assert client.get_watermark_offsets(TopicPartition("offsets", 0), timeout=TIMEOUT_S) == (0, 1000)
    client.assign([TopicPartition("offsets", 0, 900)])
    assert poll(client).offset() == 900
    client.seek(TopicPartition("offsets", 0, 17))
    assert poll(client).offset() == 17
    client.close()


def poll(client):
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        message = client.poll(0.5)
        if message is not None and message.error() is None:
            return message
    raise AssertionError("no message")


def test_timestamps():
    create("times")
    base = 1_700_000_000_000
    # In batches of several records, and with one time twice.
    times = [base + 10 * (number // 2) for number in range(1000)]
    produce("times", [(None, b"%d" % number, 0, None, at) for number, at in enumerate(times)])
    client = consumer()
    for at, offset in [(0, 0), (base, 0), (base + 1, 2), (base + 10, 2), (base + 2500, 500), (base + 4990, 998)]:
        [found] = client.offsets_for_times([TopicPartition("times", 0, at)], timeout=TIMEOUT_S)
        assert found.offset == offset, f"{found.offset} for {at - base}"
    [past_the_end] = client.offsets_for_times([TopicPartition("times", 0, base + 4991)], timeout=TIMEOUT_S)
    assert past_the_end.offset == -1
    client.close()
    partition = TopicPartition("times", 0)
    for spec, offset in [
        (OffsetSpec.earliest(), 0),
        (OffsetSpec.latest(), 1000),
        (OffsetSpec.for_timestamp(base + 2501), 502),
        (OffsetSpec.max_timestamp(), 998),
    ]:
        listed = ADMIN.list_offsets({partition: spec}, request_timeout=TIMEOUT_S)[partition].result(TIMEOUT_S)
        assert listed.offset == offset, f"{listed.offset}, not {offset}"


def test_cluster():
    cluster = ADMIN.describe_cluster(request_timeout=TIMEOUT_S).result(TIMEOUT_S)
    assert [f"{node.host}:{node.port}" for node in cluster.nodes] == [BOOTSTRAP]
    assert cluster.cluster_id
    assert cluster.controller.id == cluster.nodes[0].id


def main():
    passed = failed = 0
    begin = time.monotonic()
    for name, test in list(globals().items()):
        if not name.startswith("test_"):
            continue
        begin_of_test = time.monotonic()
        try:
            test()
            passed += 1
            print(f"test {name[5:]} ... ok ({time.monotonic() - begin_of_test:.1f} s)", flush=True)
        except Exception:
            failed += 1
            print(f"test {name[5:]} ... FAILED", flush=True)
            traceback.print_exc(file=sys.stdout)
    verdict = "FAILED" if failed else "ok"
    seconds = time.monotonic() - begin
    print(f"test result: {verdict}. {passed} passed; {failed} failed; 0 ignored; finished in {seconds:.1f}s")
    sys.exit(1 if failed or not passed else 0)


main()
