"""How long a partition has no leader, and a client no acknowledgement, when the leader is killed, or falls silent.

../run --failover starts it.
"""

import argparse
import bisect
import json
import pathlib
import random
import shutil
import signal
import statistics
import sys
import threading
import time

import brokers
import protocol
from confluent_kafka.admin import AdminClient, NewTopic
from hosts import Network
from workload import PYTHON, Client

TOPIC = "failover"
PATIENCE_S = 120


class Watch(threading.Thread):
    """Asks one broker for its metadata, again and again, until that names another leader."""

    def __init__(self, broker, old):
        super().__init__(daemon=True)
        self.broker, self.old, self.seen_at = broker, old, None
        self.start()

    def run(self):
        deadline = time.monotonic() + PATIENCE_S
        with protocol.Connection(self.broker.address, PATIENCE_S) as connection:
            while time.monotonic() < deadline:
                state = connection.metadata([TOPIC]).get((TOPIC, 0))
                if state is not None and state.leader >= 0 and state.leader != self.old:
                    self.seen_at = time.monotonic_ns()
                    return
                time.sleep(0.002)


class Failover:
    def __init__(self, options, network):
        self.options, self.network = options, network
        self.folder = pathlib.Path(options.work) / "failover"
        self.histories = self.folder / "histories"
        self.histories.mkdir(parents=True)
        # Its timers are its own, or what --setting says.
        settings = {**brokers.replication(3), **dict(one.split("=", 1) for one in options.setting)}
        self.cluster = brokers.Cluster(options, self.folder, network.hosts[:3], settings)
        self.host = network.hosts[3]
        # What the clients' processes ask for.
        self.topic, self.seed = TOPIC, options.seed
        options.partitions = 1
        self.random = random.Random(options.seed)
        self.kills = []
        self.failed = False

    def wait_until_whole(self):
        self.cluster.wait("all replicas are in sync", lambda: self.cluster.is_whole([TOPIC], 1), PATIENCE_S)

    def strike(self, victim):
        """Ends it, or lets it fall silent: its host resets no connection and refuses none."""
        if self.options.way == "killed":
            victim.kill()
        elif self.options.way == "paused":
            victim.pause()
        else:
            self.cut(victim, self.network.cut)

    def put_right(self, victim):
        if self.options.way == "killed":
            victim.start()
        elif self.options.way == "paused":
            victim.resume()
        else:
            self.cut(victim, self.network.heal)

    def cut(self, victim, change):
        """Off from the other brokers and from the clients, in both ways; only the observer hears it."""
        for host in self.network.hosts:
            if host is not victim.host:
                change(victim.host, host)
                change(host, victim.host)

    def lose_the_leader(self):
        old = self.cluster.any_state([TOPIC])[TOPIC, 0].leader
        victim = self.cluster.brokers[old - 1]
        with protocol.Connection(victim.address) as connection:
            led_quorum = connection.quorum_leader()[0] == old
        watches = [Watch(broker, old) for broker in self.cluster.brokers if broker is not victim]
        time.sleep(0.1)
        begin = time.monotonic_ns()
        self.strike(victim)
        dead = time.monotonic_ns()
        for watch in watches:
            watch.join(PATIENCE_S)
            if watch.seen_at is None:
                raise RuntimeError(f"{watch.broker.host.name} names no other leader within {PATIENCE_S} s")
        elected_s = (max(watch.seen_at for watch in watches) - begin) / 1e9
        self.kills.append((begin, dead, elected_s))
        if self.options.verbose:
            also = ", which led the quorum, too" if led_quorum else ""
            print(f"  {len(self.kills)}: another leader after {elected_s * 1000:.0f} ms{also}", flush=True)
        # The clients need some time of their own.
        time.sleep(self.random.uniform(1, 2))
        self.put_right(victim)
        self.cluster.wait(f"the broker that was {self.options.way} serves again", victim.serves, PATIENCE_S)
        self.wait_until_whole()
        time.sleep(self.random.uniform(0.5, 1.5))

    def play(self):
        self.cluster.make()
        self.cluster.start()
        admin = AdminClient({"bootstrap.servers": self.cluster.bootstrap})
        admin.create_topics([NewTopic(TOPIC, 1, 3)], operation_timeout=20)[TOPIC].result(30)
        self.wait_until_whole()
        self.cluster.wait("the leader leads", lambda: self.cluster.has_begun(TOPIC), PATIENCE_S)
        sending = {"acks": -1, "idempotent": True, "rate": self.options.rate, "timeout_ms": 120_000, "linger_ms": 0}
        clients = [Client(self, self.host, "librdkafka", PYTHON, "producer", **sending)]
        if self.options.java:
            clients.append(Client(self, self.host, "java", json.loads(self.options.java), "producer", **sending))
        time.sleep(5)
        try:
            self.kill_again_and_again()
        except RuntimeError as failure:
            # What was measured until then counts.
            print(f"error: {failure}", flush=True)
            self.failed = True
        for client in clients:
            client.finish()
        for client in clients:
            if problem := client.wait(time.monotonic() + PATIENCE_S):
                raise RuntimeError(problem)
        if not self.kills:
            raise RuntimeError("nothing was measured")
        elected = [elected_s for _, _, elected_s in self.kills]
        self.report("metadata of all brokers", elected)
        if self.options.within_ms is not None and max(elected) * 1000 > self.options.within_ms:
            print(f"error: another leader was to be named within {self.options.within_ms:.0f} ms", flush=True)
            self.failed = True
        for client in clients:
            self.report(f"acknowledgement, {client.name}", self.outages(client.name))

    def kill_again_and_again(self):
        for _ in range(self.options.kills):
            self.lose_the_leader()

    def outages(self, name):
        """For each kill, how long it took until a record that was sent after it was acknowledged."""
        sent, acknowledged = {}, []
        with (self.histories / f"{name}.jsonl").open(encoding="utf-8") as file:
            for line in map(json.loads, file):
                if line["op"] == "produce" and line["ev"] == "invoke":
                    sent[line["id"]] = line["t"]
                elif line["op"] == "produce" and line["ev"] == "ok":
                    acknowledged.append((sent[line["id"]], line["t"]))
        acknowledged.sort()
        found = []
        for begin, dead, _ in self.kills:
            # The first ones sent after it; those are not always the first to be acknowledged.
            after = acknowledged[bisect.bisect_left(acknowledged, (dead, 0)) :][:1000]
            if not after:
                raise RuntimeError(f"{name}: nothing that was sent after a kill is acknowledged")
            found.append((min(done for _, done in after) - begin) / 1e9)
        return found

    def report(self, what, seconds):
        p50, longest = statistics.median(seconds), max(seconds)
        print(
            f"{self.options.broker}: leader {self.options.way} to {what}: p50 {p50 * 1000:.0f} ms, max {longest * 1000:.0f} ms, "
            f"{len(seconds)} times",
            flush=True,
        )


def parse():
    parser = argparse.ArgumentParser(prog="run --failover", description=__doc__)
    parser.add_argument("--broker", choices=sorted(brokers.KINDS), default="logmill")
    parser.add_argument("--kills", type=int, default=20, help="how often the leader is lost")
    way = parser.add_mutually_exclusive_group()
    way.add_argument(
        "--pause", dest="way", action="store_const", const="paused", default="killed", help="SIGSTOP instead of a kill"
    )
    way.add_argument(
        "--cut", dest="way", action="store_const", const="cut off", help="its host is cut off instead of a kill"
    )
    parser.add_argument("--within-ms", type=float, help="it fails if another leader is named later than this")
    parser.add_argument("--rate", type=float, default=100, help="records a second of each producer")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=VALUE", help="of every broker")
    parser.add_argument("--no-java", action="store_true", help="librdkafka only")
    parser.add_argument("--verbose", action="store_true", help="tells of every kill")
    for name in ("work", "binary", "jars", "java", "histories", "again"):
        parser.add_argument(f"--{name}", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.quick = False
    return options


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    failover = Failover(parse(), Network(["b1", "b2", "b3", "c1"]))
    try:
        failover.play()
        return 1 if failover.failed else 0
    except RuntimeError as failure:
        print(f"error: {failure}", flush=True)
        return 1
    finally:
        failover.cluster.remove()
        shutil.rmtree(failover.folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
