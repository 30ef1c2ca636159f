"""Whether brokers that get little of the processors are taken for dead; ../run --saturation."""

import argparse
import contextlib
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import brokers
import protocol
from confluent_kafka.admin import AdminClient, NewTopic
from hosts import Network
from workload import PYTHON, Client

TOPIC = "saturation"
PARTITIONS = 6
PATIENCE_S = 120
BUSY = [sys.executable, "-c", "while True: pass"]
# A broker that nothing is the matter with answers within this even here; one that does not is asked again.
ANSWER_S = 20.0


class Saturation:
    def __init__(self, options, network):
        self.options = options
        self.folder = pathlib.Path(options.work) / "saturation"
        self.histories = self.folder / "histories"
        self.histories.mkdir(parents=True)
        settings = {**brokers.replication(3), **dict(one.split("=", 1) for one in options.setting)}
        # Leaders that go back to the first replica would raise epochs, too.
        settings["auto.leader.rebalance.enable"] = "false"
        self.cluster = brokers.Cluster(options, self.folder, network.hosts[:3], settings)
        self.host = network.hosts[3]
        self.topic, self.seed = TOPIC, options.seed
        options.partitions = PARTITIONS
        self.loops = []

    def standing(self):
        """The leadership of the quorum, and the leader, its epoch and the in-sync replicas of each partition."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError):
                with protocol.Connection(self.cluster.brokers[0].address, ANSWER_S) as connection:
                    states = connection.metadata([TOPIC])
                    led = {at: (state.leader, state.epoch) for at, state in states.items()}
                    return connection.quorum_leader(), led, {at: state.in_sync for at, state in states.items()}
        raise RuntimeError(f"a broker does not say within {PATIENCE_S} s who leads")

    def play(self):
        self.cluster.make()
        self.cluster.start()
        admin = AdminClient({"bootstrap.servers": self.cluster.bootstrap})
        admin.create_topics([NewTopic(TOPIC, PARTITIONS, 3)], operation_timeout=20)[TOPIC].result(30)
        self.cluster.wait("all replicas are in sync", lambda: self.cluster.is_whole([TOPIC], PARTITIONS), PATIENCE_S)
        sending = {"acks": -1, "idempotent": True, "rate": self.options.rate, "timeout_ms": 120_000, "linger_ms": 0}
        client = Client(self, self.host, "librdkafka", PYTHON, "producer", **sending)
        time.sleep(3)
        quorum, led, _ = self.standing()
        self.loops = [subprocess.Popen(BUSY) for _ in range(self.options.loops)]
        begin, left = time.monotonic(), set()
        while time.monotonic() - begin < self.options.seconds:
            time.sleep(1)
            _, _, in_sync = self.standing()
            left |= {at for at, replicas in in_sync.items() if len(replicas) < 3}
        quorum_now, led_now, _ = self.standing()
        self.end_loops()
        client.finish()
        if problem := client.wait(time.monotonic() + PATIENCE_S):
            raise RuntimeError(problem)
        return self.report((quorum, led), (quorum_now, led_now), left)

    def report(self, before, now, left):
        moved = {at: (led, now[1].get(at)) for at, led in before[1].items() if now[1].get(at) != led}
        elections = now[0][1] - before[0][1]
        print(
            f"{self.options.broker}: {self.options.seconds:.0f} s beside {self.options.loops} busy loops: "
            f"{elections} terms of the quorum, {len(moved)} of {PARTITIONS} partitions led anew, "
            f"{len(left)} of them seen with a replica out of sync",
            flush=True,
        )
        for (_, partition), (led, later) in sorted(moved.items()):
            print(f"    partition {partition}: leader and epoch were {led}, and are {later}")
        return elections == 0 and not moved

    def end_loops(self):
        for loop in self.loops:
            loop.kill()
            loop.wait()
        self.loops = []


def parse():
    parser = argparse.ArgumentParser(prog="run --saturation", description=__doc__)
    parser.add_argument("--broker", choices=sorted(brokers.KINDS), default="logmill")
    parser.add_argument("--seconds", type=float, default=60, help="600 is the long form")
    parser.add_argument("--loops", type=int, default=8, help="processes that do nothing but compute")
    parser.add_argument("--rate", type=float, default=100, help="records a second of the producer")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=VALUE", help="of every broker")
    for name in ("work", "binary", "jars", "java", "histories", "again"):
        parser.add_argument(f"--{name}", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.quick = False
    return options


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    saturation = Saturation(parse(), Network(["b1", "b2", "b3", "c1"]))
    try:
        return 0 if saturation.play() else 1
    except RuntimeError as failure:
        print(f"error: {failure}", flush=True)
        return 1
    finally:
        saturation.end_loops()
        saturation.cluster.remove()
        shutil.rmtree(saturation.folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
