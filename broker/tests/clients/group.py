#!/usr/bin/env python3
"""A group of three, of which one is killed and one is added, under load. README.md describes the clients' modes.

    group.py BOOTSTRAP (-- NAME PROTOCOL COMMAND...)...

Plays every case given, two at a time, and prints the counts in the form of Rust's test runner.
"""

import collections
import os
import random
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

PARTITIONS = 6
# How long the group may take for a change: a session of 6 s, a rebalance, and a slow machine.
PATIENCE_S = 60
# Between the name of a member and the number of the time that it could not commit.
LOST = ", lost "

Delivery = collections.namedtuple("Delivery", "member generation partition offset value")


class Client:
    """A process of the client's program whose output is read as it comes."""

    def __init__(self, name, command):
        self.name = name
        self.lines = []
        self.owned = None
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.errors = collections.deque(maxlen=40)
        self.readers = [
            threading.Thread(target=self.read, daemon=True),
            threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True),
        ]
        for reader in self.readers:
            reader.start()

    def read(self):
        for line in self.process.stdout:
            if not line.endswith("\n"):
                return  # cut short by its death
            words = line.split()
            if words[:1] == ["owns"]:
                self.owned = {int(word) for word in words[1:]}
            self.lines.append(words)

    def of(self, kind):
        return [words[1:] for words in list(self.lines) if words[:1] == [kind]]

    def check_alive(self):
        if self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended with {self.process.returncode}: {self.end_of_errors()}")

    def end_of_errors(self):
        return "".join(self.errors)

    def finish(self):
        """Closes its standard input and expects a good end."""
        self.process.stdin.close()
        self.process.wait(PATIENCE_S)
        self.join()
        assert self.process.returncode == 0, f"{self.name}: {self.process.returncode}: {self.end_of_errors()}"

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.join()

    def join(self):
        for reader in self.readers:
            reader.join(PATIENCE_S)


class Play:
    def __init__(self, bootstrap, name, protocol, command):
        self.bootstrap, self.protocol, self.command = bootstrap, protocol, command
        self.topic = f"group-{name}-{protocol}"
        self.group = f"three-{name}-{protocol}"
        self.members = []
        self.all = []

    def start(self, name, mode, *arguments):
        client = Client(name, [*self.command, mode, self.bootstrap, self.topic, *arguments])
        self.all.append(client)
        return client

    def join(self):
        member = self.start(f"member {len(self.members)}", "member", self.group, self.protocol)
        self.members.append(member)
        return member

    def until(self, what, condition, *alive):
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            for client in alive:
                client.check_alive()
            if time.monotonic() > deadline:
                state = {client.name: (client.owned, len(client.lines), client.end_of_errors()[-600:]) for client in alive}
                raise AssertionError(f"no sign of this within {PATIENCE_S} s: {what}; {state}")
            time.sleep(0.05)

    def until_spread(self, members, each):
        def spread():
            owned = [member.owned or set() for member in members]
            return set().union(*owned) == set(range(PARTITIONS)) and all(len(one) == each for one in owned)

        self.until(f"{len(members)} members own {each} partitions each", spread, *members)

    def run(self):
        try:
            return self.play()
        finally:
            for client in self.all:
                if client.process.poll() is None:
                    client.kill()

    def play(self):
        producer = self.start("producer", "produce")
        self.until("the first record", lambda: producer.of("sent"), producer)
        first, second, third = (self.join() for _ in range(3))
        self.until_spread([first, second, third], 2)
        self.until("records for all", lambda: all(member.of("got") for member in self.members), *self.members)
        time.sleep(1)
        victim = random.choice([first, second, third])
        rest = [member for member in self.members if member is not victim]
        victim.kill()
        self.until_spread(rest, 3)
        time.sleep(0.5)
        fourth = self.join()
        self.until_spread([*rest, fourth], 2)
        self.until("a record for the fourth", lambda: fourth.of("got"), *rest, fourth)
        time.sleep(0.5)
        producer.finish()
        sent = {int(value): (int(partition), int(offset)) for partition, offset, value in producer.of("sent")}
        self.until("the end of the records", lambda: sent.keys() <= {d.value for d in self.deliveries()}, *rest, fourth)
        for member in [*rest, fourth]:
            member.finish()
            assert member.of("left") == [[]], f"{member.name} did not say that it left"
        ends = collections.Counter()
        for partition, offset in sent.values():
            ends[partition] = max(ends[partition], offset + 1)
        reader = self.start("reader", "committed", self.group)
        reader.finish()
        committed = {int(partition): int(offset) for partition, offset in reader.of("committed")}
        deliveries = self.deliveries()
        excused = {victim.name} | {delivery.member for delivery in deliveries if LOST in delivery.member}
        problems = judge(sent, deliveries, excused)
        if committed != dict(ends):
            problems.append(f"committed is {committed}, and the ends are {dict(ends)}")
        return len(sent), problems

    def deliveries(self):
        return [delivery for member in self.members for delivery in deliveries_of(member.name, list(member.lines))]


def deliveries_of(member, lines):
    """What a member says it got. What it could not commit, as it was no member any more, is told under another name:
    that is delivered again, to whom it may be."""
    found = []
    times_lost = 0
    for kind, *words in lines:
        if kind == "got":
            found.append(Delivery(member, *(int(word) for word in words)))
        elif kind == "lost":
            partition, first, last = (int(word) for word in words)
            times_lost += 1
            for at, delivery in enumerate(found):
                if delivery.member == member and delivery.partition == partition and first <= delivery.offset <= last:
                    found[at] = delivery._replace(member=f"{member}{LOST}{times_lost}")
    return found


def judge(sent, deliveries, excused):
    """What is wrong with the deliveries; those of each member are in its own order. Those to the excused, of which one
    is killed, may come again."""
    problems = []
    places = collections.defaultdict(list)
    positions = {}
    for delivery in deliveries:
        member, _, partition, offset, value = delivery
        places[value].append(delivery)
        if value in sent and sent[value] != (partition, offset):
            problems.append(f"{value} was acknowledged at {sent[value]}: {delivery}")
        if positions.get((member, partition), -1) >= offset:
            problems.append(f"after offset {positions[member, partition]} comes {delivery}")
        positions[member, partition] = offset
    problems += [f"{value} at {sent[value]} is missed" for value in sent.keys() - places.keys()]
    for found in places.values():
        by_survivors = [delivery for delivery in found if delivery.member not in excused]
        if len(by_survivors) > 1:
            problems.append(f"delivered twice: {by_survivors}")
        generations = [(delivery.generation, delivery.partition) for delivery in found if delivery.generation >= 0]
        if len(set(generations)) != len(generations):
            problems.append(f"delivered twice in a generation: {found}")
    return problems


def judge_sees_what_is_wrong():
    sent = {0: (0, 0), 1: (0, 1), 2: (1, 0)}
    good = [Delivery("a", 1, 0, 0, 0), Delivery("b", 2, 0, 0, 0), Delivery("b", 2, 0, 1, 1), Delivery("b", 2, 1, 0, 2)]
    assert judge(sent, good, {"a"}) == []
    for deliveries, excused, what in [
        (good, "c", "delivered twice: "),
        (good[:-1], "a", "is missed"),
        ([good[0]._replace(generation=2), *good[1:]], "a", "in a generation"),
        ([good[0], good[2], good[1], good[3]], "a", "after offset 1"),
        ([*good[:-1], good[-1]._replace(offset=7)], "a", "was acknowledged at"),
    ]:
        problems = judge(sent, deliveries, {excused})
        assert any(what in problem for problem in problems), (what, problems)
    lines = [line.split() for line in ["got 1 0 0 0", "got 1 0 1 1", "lost 0 1 1", "owns 0", "got 2 0 1 1"]]
    lost = deliveries_of("a", lines)
    assert [delivery.member for delivery in lost] == ["a", "a, lost 1", "a"], lost
    assert judge(sent, [*lost, Delivery("a", 2, 1, 0, 2)], {"a, lost 1"}) == []
    assert judge(sent, [*deliveries_of("a", lines[:2] + lines[3:]), Delivery("a", 2, 1, 0, 2)], set()) != []


def cases(arguments):
    found = []
    for argument in arguments:
        if argument == "--":
            found.append([])
        else:
            found[-1].append(argument)
    return [(name, protocol, command) for name, protocol, *command in found]


def main():
    bootstrap, *rest = sys.argv[1:]
    judge_sees_what_is_wrong()
    counts = collections.Counter()
    begin = time.monotonic()

    def test(case):
        name, protocol, command = case
        begin = time.monotonic()
        try:
            records, problems = Play(bootstrap, name, protocol, command).run()
            assert not problems, f"{len(problems)} problems, such as\n" + "\n".join(problems[:10])
            verdict, more = "ok", f" ({records} records, {time.monotonic() - begin:.1f} s)"
        except Exception:
            verdict, more = "FAILED", "\n" + traceback.format_exc()
        counts[verdict] += 1
        print(f"test a group of three, {name}, {protocol} ... {verdict}{more}", flush=True)

    with ThreadPoolExecutor(int(os.environ.get("LOGMILL_CI_GROUPS_AT_ONCE", 2))) as pool:
        list(pool.map(test, cases(rest)))
    verdict = "FAILED" if counts["FAILED"] else "ok"
    seconds = time.monotonic() - begin
    print(f"test result: {verdict}. {counts['ok']} passed; {counts['FAILED']} failed; 0 ignored; finished in {seconds:.1f}s")
    sys.exit(1 if counts["FAILED"] or not counts["ok"] else 0)


if __name__ == "__main__":
    main()
