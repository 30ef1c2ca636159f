"""Runs of the nemesis; ../run starts it, in namespaces of its own. ../README.md says what it does."""

import argparse
import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "clients"))

import brokers
import faults
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic
from finale import Finale
from history_file import HistoryFile
from hosts import Network
from workload import PYTHON, Client

# How long the cluster may take to be whole once everything is healed, and a client to finish what it has begun.
CONVERGE_S = 90
CLIENT_S = 130
JUDGE_S = 600
# What both brokers get: quick to notice a death, so that a short run sees many changes of leaders.
SETTINGS = {
    "group.initial.rebalance.delay.ms": 200,
    "broker.session.timeout.ms": 3000,
    "broker.heartbeat.interval.ms": 500,
    "replica.lag.time.max.ms": 4000,
}


class Run:
    def __init__(self, options, network, seed):
        self.options, self.network, self.seed = options, network, seed
        self.random = random.Random(seed)
        self.topic = f"nemesis-{seed}"
        self.folder = pathlib.Path(options.work) / f"run-{seed}"
        self.histories = self.folder / "histories"
        self.histories.mkdir(parents=True)
        hosts = network.hosts
        self.client_hosts = hosts[options.brokers :]
        settings = {
            **brokers.replication(options.brokers),
            **SETTINGS,
            **dict(one.split("=", 1) for one in options.setting),
        }
        self.cluster = brokers.Cluster(options, self.folder, hosts[: options.brokers], settings)
        self.history = HistoryFile(self.histories / "nemesis.jsonl", "nemesis")
        self.problems, self.clients = [], []
        self.over_at = 0
        self.count = 0
        self.pair = None

    def replicas(self):
        return min(3, self.options.brokers)

    def last_state(self):
        return self.cluster.any_state([self.topic])

    def is_over(self):
        return time.monotonic() >= self.over_at

    def note(self, text):
        self.history.write("note", text=text)
        if self.options.verbose:
            print(f"  {time.monotonic() - self.began:6.1f} {text}", flush=True)

    def wait_until_whole(self, patience_s):
        deadline = time.monotonic() + patience_s
        while not self.cluster.is_whole([self.topic], self.options.partitions):
            if time.monotonic() > deadline:
                return False
            self.pass_time(0.1)
        return True

    def pass_time(self, seconds):
        """Waits, and notices brokers that die by themselves."""
        deadline = time.monotonic() + seconds
        while True:
            for broker in self.cluster.brokers:
                if broker.note_death():
                    self.note(f"{broker.host.name} has ended by itself with {broker.process.returncode}")
            left = deadline - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.1))

    def create_topic(self):
        config = dict(one.split("=", 1) for one in self.options.topic_setting)
        admin = AdminClient({"bootstrap.servers": self.cluster.bootstrap})
        topic = NewTopic(self.topic, self.options.partitions, self.replicas(), config=config)
        for attempt in range(10):
            try:
                admin.create_topics([topic], operation_timeout=20)[self.topic].result(30)
                break
            except KafkaException as failure:
                if attempt == 9:
                    raise RuntimeError(f"the topic cannot be created: {failure}") from None
                time.sleep(1)
        whole = lambda: self.cluster.is_whole([self.topic], self.options.partitions)  # noqa: E731
        self.cluster.wait("the topic's replicas are in sync", whole, 30)
        self.cluster.wait("the topic's leaders lead", lambda: self.cluster.has_begun(self.topic), 30)

    def start_clients(self):
        options, one, other = self.options, self.client_hosts[0], self.client_hosts[-1]
        # A client that gives a record up sends what was behind it anew, as another producer, whether or not that had
        # arrived: only patient ones keep what idempotence promises.
        patient_ms = int(options.seconds + CONVERGE_S + CLIENT_S) * 1000
        sending = {"acks": options.acks, "rate": options.rate, "linger_ms": 5}
        patient = {**sending, "idempotent": options.idempotent, "timeout_ms": patient_ms}
        impatient = {**sending, "idempotent": False, "timeout_ms": 2500, "rate": options.rate / 3}
        self.clients = [
            Client(self, one, "rdkafka-producer", PYTHON, "producer", **patient),
            Client(self, one, "rdkafka-impatient-producer", PYTHON, "producer", **impatient),
            Client(self, one, "rdkafka-consumer", PYTHON, "consumer"),
            Client(self, one, "rdkafka-member-1", PYTHON, "member", group="readers"),
            Client(self, other, "rdkafka-member-2", PYTHON, "member", group="readers"),
        ]
        if options.java:
            java = json.loads(options.java)
            self.clients += [
                Client(self, other, "java-producer", java, "producer", **patient),
                Client(self, other, "java-consumer", java, "consumer"),
                Client(self, other, "java-member", java, "member", group="java-readers"),
            ]

    def draw(self):
        """The kinds of this run: a few, as what is rare alone is drowned in a mixture of all."""
        kinds = [kind for kind in self.options.faults if kind not in self.options.impossible]
        self.pair = faults.Pair.drawn(self.seed, kinds, self.options.pairs)
        if self.pair:
            return self.pair.kinds
        return self.random.sample(kinds, min(len(kinds), self.random.randint(2, 4))) if kinds else []

    def some_faults(self, kinds):
        """What lasts together: the pair, or one or two of the kinds."""
        if self.pair:
            return self.pair.faults(self, self.random)
        chosen = self.random.sample(kinds, min(len(kinds), self.random.choice((1, 1, 2))))
        return [faults.KINDS[kind](self, self.random) for kind in chosen]

    def torment(self, kinds):
        self.pass_time(self.random.uniform(1, 2))
        while kinds and not self.is_over():
            active = []
            for fault in self.some_faults(kinds):
                if self.pair and active and self.random.random() < 0.5:
                    fault.beside = active[0].victims
                fault.begin()
                self.count += 1
                active.append(fault)
                self.note(f"begin {fault.describe()}")
                self.pass_time(self.random.uniform(0, 1.5))
            self.pass_time(self.random.choice((0.3, 1.5, 4, 7)) * self.random.uniform(0.7, 1.3))
            self.random.shuffle(active)
            for fault in active:
                fault.end()
                self.note(f"end {fault.describe()}")
                self.pass_time(self.random.uniform(0, 1))
            self.pass_time(self.random.uniform(0.5, 4))
        self.pass_time(max(self.over_at - time.monotonic(), 0))

    def heal(self):
        """Everything is put right; says how long the cluster took to be whole again."""
        self.network.heal_all()
        for broker in self.cluster.brokers:
            self.network.unslow(broker.host)
            broker.empty_disk()
            broker.set_clock(0)
            broker.resume()
            broker.start()
        begin = time.monotonic()
        if not self.wait_until_whole(CONVERGE_S):
            self.problems.append(f"not whole {CONVERGE_S} s after healing: {self.last_state()}")
        return time.monotonic() - begin

    def finish_clients(self):
        # The consumers read to the end of what the producers have sent.
        self.finish([client for client in self.clients if "producer" in client.name])
        self.finish([client for client in self.clients if "producer" not in client.name])

    def finish(self, clients):
        for client in clients:
            client.finish()
        # All of them at once, and not from what those before them have left: one that does not end is one problem.
        deadline = time.monotonic() + CLIENT_S
        ends = [client.wait(deadline) for client in clients]
        self.problems += [end for end in ends if end]

    def play(self):
        self.began = time.monotonic()
        self.history.write("run", seed=self.seed, broker=self.options.broker, allow=self.options.allow)
        kinds = self.draw()
        self.cluster.small_disks, self.cluster.fake_clocks = "disk-full" in kinds, "clock" in kinds
        self.cluster.make()
        self.cluster.start()
        self.create_topic()
        self.note(f"kinds: {' '.join(kinds)}")
        self.start_clients()
        self.over_at = time.monotonic() + self.options.seconds
        self.torment(kinds)
        converged_s = self.heal()
        self.note("healed")
        self.finish_clients()
        groups = ["readers", "java-readers"] if self.options.java else ["readers"]
        finale = Finale(self.cluster, self.topic, self.options.partitions, groups, self.histories / "finale.jsonl")
        finale.run()
        self.problems += finale.problems
        deaths = sum(broker.deaths for broker in self.cluster.brokers)
        if deaths and "disk-full" not in kinds:
            self.problems.append(f"{deaths} brokers ended by themselves")
        self.cluster.stop()
        return self.report(kinds, converged_s, finale.unread)

    def report(self, kinds, converged_s, unread):
        judge = [sys.executable, "-B", str(HERE.parent / "checker" / "judge.py"), "--json", str(self.histories)]
        done = subprocess.run(judge, capture_output=True, text=True, timeout=JUDGE_S, check=False)
        if done.returncode not in (0, 1):
            self.problems.append(f"the checker: {done.stderr.strip()}")
            result = {}
        else:
            result = json.loads(done.stdout)
        good = not self.problems and not result.get("anomalies")
        print(self.line(kinds, converged_s, result), flush=True)
        for kind in {**result.get("allowed", {}), **result.get("anomalies", {})}:
            for detail in result["details"][kind]:
                print(f"    {kind}: {detail}")
        for problem in self.problems:
            print(f"    problem: {problem}")
        if unread:
            print(f"    not compared, as they serve only what they lead: brokers {sorted(unread)}")
        return good

    def line(self, kinds, converged_s, result):
        counted = " ".join(
            f"{result.get(name, 0)} {name}" for name in ("operations", "sent", "acknowledged", "unknown", "read")
        )
        longest = result.get("unavailable", {"all_s": 0, "partition_s": 0})
        found = {
            **result.get("anomalies", {}),
            **{f"({kind})": count for kind, count in result.get("allowed", {}).items()},
        }
        anomalies = " ".join(f"{kind}={count}" for kind, count in found.items()) or "none"
        return (
            f"seed {self.seed} {self.options.broker}: {self.count} faults of {self.named(kinds)}; {counted}; "
            f"unavailable {longest['all_s']:.1f} s, worst partition {longest['partition_s']:.1f} s, "
            f"whole again in {converged_s:.1f} s; anomalies {anomalies}"
        )

    def named(self, kinds):
        return ("*" if self.pair else "+").join(kinds) or "none"

    def clean(self, good):
        for client in self.clients:
            if client.process.poll() is None:
                client.process.kill()
                client.process.wait()
        self.cluster.stop()
        self.network.heal_all()
        if not good or self.options.keep:
            kept = pathlib.Path(self.options.histories) / f"{self.options.broker}-{self.seed}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(self.histories, kept)
            outputs = {broker.host.name: broker.output for broker in self.cluster.brokers}
            outputs |= {client.name: client.output for client in self.clients}
            for name, output in outputs.items():
                if output.exists():
                    shutil.copy(output, kept / f"{name}.output")
            print(f"    history: {kept}; again: {self.options.again} --seed {self.seed} --runs 1", flush=True)
        self.cluster.remove()
        shutil.rmtree(self.folder, ignore_errors=True)


def parse():
    parser = argparse.ArgumentParser(
        prog="run", description="Faults on a real cluster, and a judge of what clients saw."
    )
    parser.add_argument("--broker", choices=sorted(brokers.KINDS), default="logmill")
    parser.add_argument("--brokers", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seed", type=int, help="of the first run; the others follow (default: of the clock)")
    parser.add_argument(
        "--faults", default=",".join(faults.USUAL), help=f"of {' '.join(faults.KINDS)}; 'none' for none"
    )
    parser.add_argument("--pairs", action="store_true", help="every run has two kinds that overlap, not every second one")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--rate", type=float, default=100, help="records a second of each producer")
    parser.add_argument("--acks", type=int, choices=(-1, 0, 1), default=-1)
    parser.add_argument("--no-idempotence", dest="idempotent", action="store_false")
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=VALUE", help="of every broker")
    parser.add_argument("--topic-setting", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--allow", action="append", default=[], metavar="ANOMALY", help="counted, and no fault")
    parser.add_argument("--reckless", action="store_true", help="wipes disks whoever is in sync")
    parser.add_argument("--keep", action="store_true", help="the histories of good runs too")
    parser.add_argument("--no-java", action="store_true", help="librdkafka's workloads only")
    parser.add_argument("--verbose", action="store_true", help="tells of every fault")
    for name in ("work", "binary", "jars", "java", "histories", "again"):
        parser.add_argument(f"--{name}", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.quick = True
    options.faults = [] if options.faults == "none" else options.faults.split(",")
    if unknown := set(options.faults) - set(faults.KINDS):
        parser.error(f"no such faults: {' '.join(sorted(unknown))}; there are {' '.join(faults.KINDS)}")
    options.impossible = {}
    if options.broker == "kafka":
        options.impossible["clock"] = "the JVM does not get far under libfaketime"
    elif not pathlib.Path(brokers.FAKETIME).exists():
        options.impossible["clock"] = f"{brokers.FAKETIME} is missing (Debian's package libfaketime)"
    if options.seed is None:
        options.seed = time.time_ns() // 1_000_000_000 % 1_000_000
    return options


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    options = parse()
    for kind in set(options.faults) & set(options.impossible):
        print(f"no faults of the kind {kind}: {options.impossible[kind]}", flush=True)
    network = Network([*(f"b{number}" for number in range(1, options.brokers + 1)), "c1", "c2"])
    bad = 0
    for seed in range(options.seed, options.seed + options.runs):
        run, good = Run(options, network, seed), False
        try:
            good = run.play()
        except (RuntimeError, OSError, KafkaException) as failure:
            print(f"seed {seed} {options.broker}: could not be played: {failure}", flush=True)
        finally:
            run.clean(good)
        bad += not good
    print(f"{options.runs - bad} good runs, {bad} bad", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
