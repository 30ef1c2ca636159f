"""Daily use (../../README.md) over what each client's module provides as a class `Client`:

    Client(bootstrap)
    .name, .codecs, .has_null_headers
    .create(topic, partitions)
    .producer(codec, acks)     -> send(topic, partition | None, record, on_delivered(partition, offset)), flush(), close()
    .consumer(group, protocol) -> subscribe(topic, on_assigned, on_revoked), assign(topic, partitions), poll() -> [Record],
                                  owned(), generation(), commit({partition: (offset, metadata)}),
                                  committed(partition) -> (offset, metadata) | None, seek(partition, offset),
                                  offset_for(partition, timestamp), pause(partitions), resume(partitions), close()

Callbacks get sets of partition numbers; what on_revoked returns is to be committed before the partitions are handed
over, {partition: (offset, metadata)}. `commit` raises Rebalancing if the group is about to have another generation.
"""

import collections
import sys
import threading
import time
import traceback

PARTITIONS = 6
PATIENCE_S = 30
RECORDS_PER_S = 150
COMMIT_INTERVAL_S = 0.5
# In the past, but not by so much that the records were to be deleted at once.
BASE_MS = time.time_ns() // 1_000_000 - 3_600_000

Record = collections.namedtuple("Record", "partition offset key value headers timestamp", defaults=(None,) * 6)


class Rebalancing(Exception):
    pass


def plain(key, value, headers=(), timestamp=None):
    return Record(None, None, key, value, list(headers), timestamp)


def produce(client, topic, records, codec="none", acks="all", partition=0):
    delivered = []
    producer = client.producer(codec, acks)
    for record in records:
        producer.send(topic, partition, record, lambda at, offset: delivered.append((at, offset)))
    producer.flush()
    producer.close()
    return delivered


def read(consumer, count):
    """That many records, and not one more for a moment."""
    found, deadline = [], time.monotonic() + PATIENCE_S
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} records of {count}"
        found += consumer.poll()
    assert len(found) == count, f"{len(found)} records, {count} expected"
    return found


def read_topic(client, topic, count):
    consumer = client.consumer(None, None)
    consumer.assign(topic, {0})
    found = read(consumer, count)
    consumer.close()
    return found


def equal(found, expected):
    assert found == expected, f"{str(found)[:500]} is not {str(expected)[:500]}"


def codecs_and_acks(client):
    records = [plain(b"%d" % n if n % 2 else None, b"%d " % n * 20) for n in range(200)]
    for codec in client.codecs:
        for acks in [0, 1, "all"]:
            topic = f"{client.name}-{codec}-{acks}"
            client.create(topic, 1)
            delivered = produce(client, topic, records, codec, acks)
            equal(len(delivered), 200)
            if acks != 0:
                equal(delivered, [(0, offset) for offset in range(200)])
            found = read_topic(client, topic, 200)
            equal([(record.key, record.value) for record in found], [(record.key, record.value) for record in records])
            equal([record.offset for record in found], list(range(200)))


def records(client):
    topic = f"{client.name}-records"
    client.create(topic, 1)
    headers = [("a", b"1"), ("a", b"2"), ("b", None), ("c", b""), ("", b"4"), ("a", b"3")]
    if not client.has_null_headers:
        headers.remove(("b", None))
    expected = [
        plain(b"key", b"value", headers),
        plain(None, b"value"),
        plain(b"", b""),
        plain(b"deleted", None),
        plain(b"\x00\xff", b"\x00" * 500_000, timestamp=BASE_MS + 123),
    ]
    produce(client, topic, expected)
    found = read_topic(client, topic, len(expected))
    for at, (got, put) in enumerate(zip(found, expected)):
        equal((at, got.key, got.value, got.headers), (at, put.key, put.value, put.headers))
    equal(found[4].timestamp, BASE_MS + 123)


def numbered(count):
    return [plain(b"%d" % n, b"%d" % n, timestamp=BASE_MS + 10 * n) for n in range(count)]


def joined(client, topic, group, protocol, partitions=1):
    """A consumer that owns the topic, and what it has read by then."""
    consumer = client.consumer(group, protocol)
    consumer.subscribe(topic, lambda _: None, lambda _: {})
    found, deadline = [], time.monotonic() + PATIENCE_S
    while len(consumer.owned()) < partitions:
        assert time.monotonic() < deadline, f"the group {group} assigns nothing"
        found += consumer.poll()
    return consumer, found


def commits(client, protocol):
    topic, group = f"{client.name}-commits-{protocol}", f"{client.name}-commits-{protocol}"
    client.create(topic, 1)
    produce(client, topic, numbered(300))
    for position, metadata in [(100, "after the first hundred: ä"), (50, "")]:
        consumer, found = joined(client, topic, group, protocol)
        first = 0 if position == 100 else 100
        found += read(consumer, 300 - first - len(found))
        equal([int(record.value) for record in found], list(range(first, 300)))
        if position == 100:
            equal(consumer.committed(0), None)
        consumer.commit({0: (position, metadata)})
        consumer.close()
        fresh, found = joined(client, topic, group, protocol)
        equal(fresh.committed(0), (position, metadata))
        found += read(fresh, 300 - position - len(found))
        equal([record.offset for record in found], list(range(position, 300)))
        # Leaves without a commit, so that the offset stays.
        fresh.close()


def seek(client, protocol):
    topic = f"{client.name}-seek-{protocol}"
    client.create(topic, 1)
    produce(client, topic, numbered(1000))
    consumer, _ = joined(client, topic, topic, protocol)
    for offset in [990, 7, 999, 0, 500]:
        consumer.seek(0, offset)
        equal(first(consumer), (offset, b"%d" % offset))
    for at, offset in [(0, 0), (1, 1), (10, 1), (4995, 500), (9990, 999)]:
        equal(consumer.offset_for(0, BASE_MS + at), offset)
        consumer.seek(0, offset)
        equal(first(consumer), (offset, b"%d" % offset))
    equal(consumer.offset_for(0, BASE_MS + 9991), None)
    consumer.close()


def first(consumer):
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if found := consumer.poll():
            return found[0].offset, found[0].value
    raise AssertionError("no record")


def pause_and_resume(client, protocol):
    topic = f"{client.name}-pause-{protocol}"
    client.create(topic, 2)
    consumer, found = joined(client, topic, topic, protocol, partitions=2)
    equal(found, [])
    consumer.pause({0})
    for partition in [0, 1]:
        produce(client, topic, numbered(100), partition=partition)
    found = read(consumer, 100)
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        found += consumer.poll()
    equal([(record.partition, record.offset) for record in found], [(1, offset) for offset in range(100)])
    consumer.resume({0})
    equal([(record.partition, record.offset) for record in read(consumer, 100)], [(0, offset) for offset in range(100)])
    consumer.close()


def run_plain(client, protocols):
    tests = [(test.__name__, test, ()) for test in [codecs_and_acks, records]]
    for protocol in protocols:
        tests += [(f"{test.__name__}, {protocol}", test, (protocol,)) for test in [commits, seek, pause_and_resume]]
    begin, failed = time.monotonic(), 0
    for name, test, arguments in tests:
        begin_of_test, verdict = time.monotonic(), "ok"
        try:
            test(client, *arguments)
        except Exception:
            failed += 1
            verdict = "FAILED"
            traceback.print_exc(file=sys.stdout)
        print(f"test {client.name}: {name} ... {verdict} ({time.monotonic() - begin_of_test:.1f} s)", flush=True)
    verdict, seconds = "FAILED" if failed else "ok", time.monotonic() - begin
    print(f"test result: {verdict}. {len(tests) - failed} passed; {failed} failed; 0 ignored; finished in {seconds:.1f}s")
    return failed == 0


def say(*words):
    print(*words, flush=True)


def end_of_input():
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    return ended


def run_producer(client, topic):
    client.create(topic, PARTITIONS)
    producer, ended, value, begin = client.producer("none", "all"), end_of_input(), 0, time.monotonic()

    def send(value):
        record = plain(b"key %d" % value, b"%d" % value)
        producer.send(topic, None, record, lambda partition, offset: say("sent", partition, offset, value))

    while not ended.is_set():
        while value < (time.monotonic() - begin) * RECORDS_PER_S:
            send(value)
            value += 1
        producer.flush()
        ended.wait(0.02)
    producer.close()


def run_member(client, topic, group, protocol):
    ended, consumer, done, committed = end_of_input(), client.consumer(group, protocol), {}, {}

    def uncommitted(partitions):
        wanted = {partition: done[partition] for partition in partitions if partition in done}
        return {partition: (offset, "") for partition, offset in wanted.items() if committed.get(partition) != offset}

    def commit():
        """Whether it has worked; if not, it comes again, at the latest when partitions are handed over."""
        wanted = uncommitted(done)
        try:
            if wanted:
                consumer.commit(wanted)
        except Rebalancing:
            return False
        committed.update((partition, offset) for partition, (offset, _) in wanted.items())
        return True

    def assigned(_):
        say("owns", *sorted(consumer.owned()))

    def revoked(partitions):
        wanted = uncommitted(partitions)
        for partition in partitions:
            done.pop(partition, None)
            committed.pop(partition, None)
        say("owns", *sorted(consumer.owned() - partitions))
        return wanted

    consumer.subscribe(topic, assigned, revoked)
    next_commit, left = time.monotonic(), False
    while not left:
        leaving = ended.is_set()
        found, generation = consumer.poll(), consumer.generation()
        for record in found:
            print("got", generation, record.partition, record.offset, int(record.value))
            done[record.partition] = record.offset + 1
        sys.stdout.flush()
        if leaving or time.monotonic() >= next_commit:
            next_commit = time.monotonic() + COMMIT_INTERVAL_S
            left = commit() and leaving
    consumer.close()
    say("left")


def run_committed(client, topic, group):
    consumer = client.consumer(group, "classic")
    consumer.assign(topic, set(range(PARTITIONS)))
    for partition in range(PARTITIONS):
        found = consumer.committed(partition)
        if found is not None:
            say("committed", partition, found[0])
    consumer.close()


def main(make_client):
    mode, bootstrap, *arguments = sys.argv[1:]
    client = make_client(bootstrap)
    if mode == "plain":
        sys.exit(0 if run_plain(client, arguments) else 1)
    {"produce": run_producer, "member": run_member, "committed": run_committed}[mode](client, *arguments)
