"""Static members, subscriptions by expression, and groups that change their protocol, with confluent-kafka."""

import sys
import time
import traceback

from confluent_kafka import Consumer, ConsumerGroupType, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

PATIENCE_S = 60
bootstrap = sys.argv[1]
admin = AdminClient({"bootstrap.servers": bootstrap})


class Member:
    def __init__(self, group, protocol, topics, instance=None):
        settings = {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "topic.metadata.refresh.interval.ms": 500,
            "log_level": 0,
        }
        if protocol == "consumer":
            settings["group.protocol"] = "consumer"
        else:
            settings |= {
                "session.timeout.ms": 20000,
                "heartbeat.interval.ms": 500,
                "partition.assignment.strategy": "cooperative-sticky",
            }
        if instance is not None:
            settings["group.instance.id"] = instance
        self.errors, self.changes = [], 0
        self.consumer = Consumer(settings | {"error_cb": self.note})
        self.consumer.subscribe(topics, on_assign=self.changed, on_revoke=self.changed, on_lost=self.changed)

    def note(self, error):
        self.errors.append((error.name(), error.str()))

    def changed(self, _, partitions):
        self.changes += bool(partitions)

    def poll(self):
        message = self.consumer.poll(0.02)
        if message is not None and message.error() is not None:
            self.note(message.error())

    def owned(self):
        return {(partition.topic, partition.partition) for partition in self.consumer.assignment()}

    def close(self):
        self.consumer.close()


def until(what, members, condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        for member in members:
            member.poll()
        if time.monotonic() > deadline:
            state = [(sorted(member.owned()), member.errors[-2:]) for member in members]
            raise AssertionError(f"no sign of this within {PATIENCE_S} s: {what}; {state}")


def create(topic, partitions):
    admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(30)


def all_of(topic, partitions):
    return {(topic, partition) for partition in range(partitions)}


def until_spread(members, everything):
    def spread():
        owned = [member.owned() for member in members]
        counts = [len(one) for one in owned]
        return set().union(*owned) == everything and sum(counts) == len(everything) and max(counts) - min(counts) <= 1

    until(f"{len(members)} members own {len(everything)} partitions", members, spread)


def group_type(group):
    found = admin.list_consumer_groups().result(30).valid
    [listed] = [one for one in found if one.group_id == group]
    return listed.type


def a_static_member_comes_back_and_nobody_notices(protocol):
    topic = f"static-{protocol}"
    create(topic, 4)
    first, second = (Member(topic, protocol, [topic], instance) for instance in ("a", "b"))
    until_spread([first, second], all_of(topic, 4))
    had, second.changes = first.owned(), 0
    first.close()
    first = Member(topic, protocol, [topic], "a")
    until("what it had", [first, second], lambda: first.owned() == had)
    assert second.changes == 0 and len(second.owned()) == 2, (second.changes, second.owned())
    # Two processes with one instance id: the newcomer takes the place of a classic member, and gets none with KIP-848.
    other = Member(topic, protocol, [topic], "a")
    if protocol == "classic":
        refused, code, holder = first, KafkaError.FENCED_INSTANCE_ID, other
    else:
        refused, code, holder = other, KafkaError.UNRELEASED_INSTANCE_ID, first
    until(f"a member that is refused with {code}", [first, second, other], lambda: refused.errors)
    assert KafkaError(code).str() in refused.errors[0][1], refused.errors
    until("the place is held", [second, holder], lambda: holder.owned() == had)
    assert second.changes == 0, second.changes
    for member in (first, second, other):
        member.close()


def an_expression_stands_for_topics_that_are_there_and_that_come(protocol):
    name = f"expression-{protocol}"
    for topic in (f"{name}-1", f"{name}-2", f"other-{name}-1"):
        create(topic, 2)
    member = Member(name, protocol, [f"^{name}-.*"])
    expected = all_of(f"{name}-1", 2) | all_of(f"{name}-2", 2)
    until("the topics that are there", [member], lambda: member.owned() == expected)
    create(f"{name}-3", 2)
    expected |= all_of(f"{name}-3", 2)
    until("the topic that has come", [member], lambda: member.owned() == expected)
    member.close()


def a_group_goes_to_the_new_protocol_and_back():
    topic = "migration"
    create(topic, 6)
    everything = all_of(topic, 6)
    old = [Member(topic, "classic", [topic]) for _ in range(2)]
    until_spread(old, everything)
    old[0].consumer.commit(offsets=[TopicPartition(*at, 0, "kept") for at in old[0].owned()], asynchronous=False)
    noted = old[0].owned()
    assert group_type(topic) == ConsumerGroupType.CLASSIC
    new = Member(topic, "consumer", [topic])
    until_spread([*old, new], everything)
    assert group_type(topic) == ConsumerGroupType.CONSUMER
    for member in old:
        member.close()
    until_spread([new], everything)
    back = Member(topic, "classic", [topic])
    until_spread([new, back], everything)
    assert group_type(topic) == ConsumerGroupType.CONSUMER
    new.close()
    until_spread([back], everything)
    assert group_type(topic) == ConsumerGroupType.CLASSIC
    committed = back.consumer.committed([TopicPartition(*at) for at in sorted(everything)], 30)
    assert {(one.topic, one.partition) for one in committed if one.metadata == "kept"} == noted, committed
    back.close()


def main():
    tests = [
        (f"{test.__name__.replace('_', ' ')}, {protocol}", test, [protocol])
        for test in (
            a_static_member_comes_back_and_nobody_notices,
            an_expression_stands_for_topics_that_are_there_and_that_come,
        )
        for protocol in ("classic", "consumer")
    ]
    migration = a_group_goes_to_the_new_protocol_and_back
    tests.append((migration.__name__.replace("_", " "), migration, []))
    begin, failed = time.monotonic(), 0
    for name, test, arguments in tests:
        start, verdict = time.monotonic(), "ok"
        try:
            test(*arguments)
        except Exception:
            failed, verdict = failed + 1, "FAILED"
            traceback.print_exc(file=sys.stdout)
        print(f"test confluent-kafka: {name} ... {verdict} ({time.monotonic() - start:.1f} s)", flush=True)
    verdict, seconds = "FAILED" if failed else "ok", time.monotonic() - begin
    print(f"test result: {verdict}. {len(tests) - failed} passed; {failed} failed; 0 ignored; finished in {seconds:.1f}s")
    return 1 if failed else 0


sys.exit(main())
