"""What ./run does: the nodes, the tools, the clients, and the checks.

    cluster.py BINARY WORK CACHE
"""

import contextlib
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time
import traceback

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

CLIENTS = pathlib.Path(__file__).resolve().parent.parent
NEMESIS = CLIENTS.parent / "nemesis"
WORKLOAD = NEMESIS / "clients" / "with_confluent_kafka.py"
sys.path.insert(0, str(NEMESIS / "harness"))

import protocol  # noqa: E402

PATIENCE_S = 40
RATE = 50
PARTITIONS = 6
TOPIC = "worked-with"
JAVA = ("java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
TOOLS = {
    "kafka-topics": "org.apache.kafka.tools.TopicCommand",
    "kafka-reassign-partitions": "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
    "kafka-leader-election": "org.apache.kafka.tools.LeaderElectionCommand",
    "kafka-metadata-quorum": "org.apache.kafka.tools.MetadataQuorumCommand",
    "kafka-cluster": "org.apache.kafka.tools.ClusterTool",
    "kafka-configs": "kafka.admin.ConfigCommand",
    "kafka-consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-features": "org.apache.kafka.tools.FeatureCommand",
}


class Node:
    def __init__(self, cluster, number):
        self.cluster, self.number, self.process = cluster, number, None
        self.host = f"127.{cluster.net}.{number}"
        self.data = cluster.work / f"node-{number}"
        self.output = cluster.work / f"node-{number}.output"

    def settings(self):
        listeners = f"PLAINTEXT://{self.host}:9092"
        roles = "broker"
        if self.number in self.cluster.controllers:
            listeners += f",CONTROLLER://{self.host}:9093"
            roles = "broker,controller"
        return {
            "node.id": self.number,
            "process.roles": roles,
            "listeners": listeners,
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": ",".join(f"{one}@127.{self.cluster.net}.{one}:9093" for one in (1, 2, 3)),
            "log.dirs": self.data,
            "default.replication.factor": 3,
            "min.insync.replicas": 2,
            "offsets.topic.num.partitions": 3,
            "auto.create.topics.enable": "false",
            "auto.leader.rebalance.enable": "false",
            "logmill.balancing.enable": "false",
            "group.initial.rebalance.delay.ms": 0,
            "logmill.shards": 2,
            "logmill.pin.cores": "false",
            "logmill.journal.bytes": 16 << 20,
            "logmill.memory.bytes": 128 << 20,
            "logmill.admin.listener": "",
        }

    def start(self):
        words = [self.cluster.binary]
        for name, value in self.settings().items():
            words += ["--set", f"{name}={value}"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LOGMILL_")}
        with self.output.open("ab") as output:
            output.write(b"-- start\n")
            output.flush()
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
            )

    def serves(self):
        assert self.process.poll() is None, f"node {self.number} has ended: {self.tail()}"
        return "  durability " in self.output.read_text(errors="replace").rpartition("-- start")[2]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE_S) == 0, f"node {self.number} ended with {self.process.returncode}"

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def tail(self):
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-15:])


class Cluster:
    def __init__(self, binary, work, cache):
        self.binary, self.work, self.cache = binary, pathlib.Path(work), pathlib.Path(cache)
        # Two suites on one machine do not meet.
        self.net = f"{random.randint(64, 127)}.{random.randint(1, 250)}"
        self.controllers = {1, 2, 3}
        self.nodes = [Node(self, number) for number in (1, 2, 3)]
        self.bootstrap = ",".join(f"{node.host}:9092" for node in self.nodes)
        self.controllers_bootstrap = ",".join(f"{node.host}:9093" for node in self.nodes)

    def start(self):
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            wait(f"node {node.number} serves", node.serves)
        self.admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def create(self, topic, partitions):
        self.admin.create_topics([NewTopic(topic, partitions, 3)], operation_timeout=20)[topic].result(30)
        wait(f"{topic} is in sync", lambda: self.is_whole(topic))

    def partitions(self, topic):
        # A request that was on a connection that broke is sent again by librdkafka on a new connection to the same broker only,
        # until its time is over: it does so with any broker whose process is killed while, or just before, it is asked.
        for patience_s in (5, 10, 20):
            try:
                return self.admin.list_topics(topic, timeout=patience_s).topics[topic].partitions
            except KafkaException as failed:
                if failed.args[0].code() not in (KafkaError._TIMED_OUT, KafkaError._TRANSPORT):
                    raise
                error = failed
        raise error

    def is_whole(self, topic):
        parts = self.partitions(topic).values()
        return bool(parts) and all(len(one.isrs) == len(one.replicas) and one.leader >= 0 for one in parts)

    def tool(self, name, *words, status=0, others=False, controllers=False):
        """Runs one of Kafka's tools against the brokers, or against the controllers themselves; the text that it prints."""
        words = [*map(str, words)]
        # Of that tool the command comes first.
        at = 1 if name == "kafka-cluster" else 0
        server = ["--bootstrap-controller", self.controllers_bootstrap] if controllers else ["--bootstrap-server", self.bootstrap]
        words[at:at] = server
        java = [*JAVA, "-cp", f"{self.cache}/peer/*", TOOLS[name]]
        done = subprocess.run([*java, *words], capture_output=True, text=True, timeout=90, check=False)
        text = done.stdout + done.stderr
        assert others or done.returncode == status, f"{name} {words} ended with {done.returncode}: {text[-600:]}"
        return text

    def topics(self, *words):
        return self.tool("kafka-topics", "--describe", *words)


def wait(what, condition, patience_s=PATIENCE_S):
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {patience_s} s: {what}"
        time.sleep(0.1)


class Clients:
    """Three producers and three readers of one topic, each with a client of another project."""

    def __init__(self, cluster):
        self.cluster, self.folder = cluster, cluster.work / "clients"
        self.folder.mkdir()
        java = [*JAVA, "-cp", f"{cluster.work}/java:{cluster.cache}/java/*", "Workload"]
        librdkafka = [sys.executable, "-B", str(WORKLOAD)]
        self.processes = {}
        for name, command in (("librdkafka", librdkafka), ("java", java)):
            for role in ("producer", "member"):
                self.begin(f"{name}-{role}", command, role, group=f"{name}-readers")
        for role, words in (("produce", (TOPIC,)), ("member", (TOPIC, "franz-go-readers", "classic"))):
            name = f"franz-go-{'producer' if role == 'produce' else role}"
            self.spawn(name, [str(cluster.work / "franz-go"), role, cluster.bootstrap, *words])

    def begin(self, name, command, role, **settings):
        settings |= {"bootstrap": self.cluster.bootstrap, "topic": TOPIC, "partitions": PARTITIONS, "seed": 1}
        settings |= {"acks": -1, "idempotent": True, "rate": RATE, "timeout_ms": 120_000, "linger_ms": 0}
        self.spawn(name, [*command, role, name, str(self.folder / f"{name}.jsonl"), json.dumps(settings)])

    def spawn(self, name, command):
        with (self.folder / f"{name}.output").open("wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output)
        self.processes[name] = process

    def lines(self, name):
        file = self.folder / f"{name}.jsonl"
        if not file.exists():
            return []
        return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]

    def words(self, name, kind):
        text = (self.folder / f"{name}.output").read_text(errors="replace")
        return [line.split() for line in text.splitlines() if line.startswith(kind + " ")]

    def work(self):
        """Whether everybody has got something done."""
        for name, process in self.processes.items():
            assert process.poll() is None, f"{name} has ended: {self.output(name)}"
        acknowledged = all(self.acknowledged(name) for name in ("librdkafka-producer", "java-producer"))
        read = all(any(line["op"] == "poll" for line in self.lines(f"{name}-member")) for name in ("librdkafka", "java"))
        return acknowledged and read and self.words("franz-go-producer", "sent") and self.words("franz-go-member", "got")

    def acknowledged(self, name):
        return [line for line in self.lines(name) if line["op"] == "produce" and line["ev"] == "ok"]

    def output(self, name):
        return (self.folder / f"{name}.output").read_text(errors="replace")[-600:]

    def longest_pause_ms(self, name, since_ns):
        times = [line["t"] for line in self.acknowledged(name) if line["t"] >= since_ns]
        return max((b - a for a, b in zip(times, times[1:], strict=False)), default=0) / 1e6

    def finish(self):
        for role in ("producer", "member"):
            if role == "member":
                # The other members go on until they have everything; this one ends where it is.
                wait("franz-go's group has read everything", lambda: self.sent().keys() <= self.got())
            names = [name for name in self.processes if name.endswith(role)]
            for name in names:
                self.processes[name].stdin.close()
            for name in names:
                status = self.processes[name].wait(90)
                assert status == 0, f"{name} ended with {status}: {self.output(name)}"

    def check(self):
        """No operation of an application had an error, and what was acknowledged was read by each group."""
        for name in ("librdkafka-producer", "java-producer"):
            lines = [line for line in self.lines(name) if line["op"] == "produce"]
            failed = [line for line in lines if line["ev"] in ("unknown", "fail")]
            assert not failed, f"{name}: {len(failed)} records failed, the first: {failed[0]}"
            ok, invoked = len(self.acknowledged(name)), sum(line["ev"] == "invoke" for line in lines)
            assert ok == invoked > 0, f"{name}: {ok} of {invoked} are acknowledged"
        everything = self.sent()
        for name in ("librdkafka", "java"):
            polls = [line for line in self.lines(f"{name}-member") if line["op"] == "poll"]
            seen = {(line["partition"], record[0]) for line in polls for record in line["records"]}
            self.compare(name, everything, seen)
        self.compare("franz-go", everything, self.got())

    def sent(self):
        """What was acknowledged: by partition and offset, the record's number."""
        found = {(int(one[1]), int(one[2])): one[3] for one in self.words("franz-go-producer", "sent")}
        for name in ("librdkafka-producer", "java-producer"):
            lines = [line for line in self.lines(name) if line["op"] == "produce"]
            partition = {line["id"]: line["partition"] for line in lines if line["ev"] == "invoke"}
            ok = self.acknowledged(name)
            found |= {(partition[line["id"]], line["offset"]): line["id"] for line in ok if line["offset"] >= 0}
        return found

    def got(self):
        return {(int(one[2]), int(one[3])) for one in self.words("franz-go-member", "got")}

    @staticmethod
    def compare(name, everything, seen):
        missing = sorted(set(everything) - seen)
        assert not missing, f"the {name} group did not read {len(missing)} of {len(everything)}: {missing[:5]}"

    def kill(self):
        for process in self.processes.values():
            process.kill()


# The checks, in their order; each leaves the cluster whole.


def topics_with_a_node_killed(cluster):
    cluster.create("killed", 3)
    # With two replicas that must be in sync and one node gone, a partition is at its minimum.
    victim = cluster.nodes[2]
    victim.kill()
    wait("two are in sync", lambda: all(len(one.isrs) == 2 for one in cluster.partitions("killed").values()))
    under = cluster.topics("--under-replicated-partitions", "--topic", "killed")
    assert len(re.findall(r"Partition: \d", under)) == 3, under
    at = cluster.topics("--at-min-isr-partitions", "--topic", "killed")
    assert len(re.findall(r"Partition: \d", at)) == 3, at
    below = cluster.topics("--under-min-isr-partitions", "--topic", "killed")
    assert "Partition:" not in below, below
    assert "Partition:" not in cluster.topics("--unavailable-partitions", "--topic", "killed")
    victim.start()
    wait("the node serves again", victim.serves)
    wait("all are in sync", lambda: cluster.is_whole("killed"))
    assert "Partition:" not in cluster.topics("--under-replicated-partitions", "--topic", "killed")


def reassignment(cluster):
    topics = cluster.work / "topics.json"
    topics.write_text('{"topics": [{"topic": "killed"}], "version": 1}')
    tool = "kafka-reassign-partitions"
    generated = cluster.tool(tool, "--topics-to-move-json-file", topics, "--broker-list", "1,2,3", "--generate")
    plan = cluster.work / "plan.json"
    plan.write_text(generated.rpartition("Proposed partition reassignment configuration")[2].strip())
    assert {len(one["replicas"]) for one in json.loads(plan.read_text())["partitions"]} == {3}, generated
    two = [{"topic": "killed", "partition": one, "replicas": [1, 2], "log_dirs": ["any"] * 2} for one in range(3)]
    plan.write_text(json.dumps({"version": 1, "partitions": two}))
    executed = cluster.tool(tool, "--reassignment-json-file", plan, "--execute", "--throttle", "50000000")
    assert "Successfully started partition reassignments" in executed, executed
    wait("two replicas are left", lambda: all(len(one.replicas) == 2 for one in cluster.partitions("killed").values()))
    verified = cluster.tool(tool, "--reassignment-json-file", plan, "--verify")
    assert verified.count("is completed") == 3, verified
    assert "Clearing broker-level throttles" in verified, verified
    three = [one | {"replicas": [1, 2, 3], "log_dirs": ["any"] * 3} for one in two]
    plan.write_text(json.dumps({"version": 1, "partitions": three}))
    # What moves to a node that is down goes on until it is back, or cancelled. The tool does not ask for such a move.
    cluster.nodes[2].stop()
    with protocol.Connection((cluster.nodes[0].host, 9092), PATIENCE_S) as connection:
        connection.reassign("killed", {one: [1, 2, 3] for one in range(3)})
    moving = cluster.tool(tool, "--list")
    assert len(re.findall(r"killed-\d: replicas: \S+ adding: 3", moving)) == 3, moving
    # Throttles would be cleared on the node that is down, too.
    cancelled = cluster.tool(tool, "--reassignment-json-file", plan, "--cancel", "--preserve-throttles")
    assert "Successfully cancelled partition reassignments for: killed-0,killed-1,killed-2" in cancelled, cancelled
    assert "No partition reassignments found" in cluster.tool(tool, "--list")
    assert all(sorted(one.replicas) == [1, 2] for one in cluster.partitions("killed").values())
    cluster.nodes[2].start()
    wait("the node serves again", cluster.nodes[2].serves)
    cluster.tool(tool, "--reassignment-json-file", plan, "--execute")
    wait("three replicas are in sync", lambda: all(len(one.isrs) == 3 for one in cluster.partitions("killed").values()))


def leader_elections(cluster):
    def leaders():
        return [one.leader for one in cluster.partitions("killed").values()]

    cluster.nodes[0].stop()
    wait("others lead", lambda: 1 not in leaders() and -1 not in leaders())
    cluster.nodes[0].start()
    wait("the node serves again", cluster.nodes[0].serves)
    wait("all are in sync", lambda: cluster.is_whole("killed"))
    words = ("--topic", "killed", "--partition", "0")
    elected = cluster.tool("kafka-leader-election", "--election-type", "preferred", *words)
    assert "Successfully completed leader election (PREFERRED)" in elected, elected
    wait("the preferred one leads", lambda: leaders()[0] == 1)
    unneeded = cluster.tool("kafka-leader-election", "--election-type", "unclean", *words)
    assert "Valid replica already elected" in unneeded, unneeded


def unclean_election(cluster):
    """A partition whose one in-sync replica is lost is led by one that lacks records, if somebody says so."""
    fourth = Node(cluster, 4)
    cluster.nodes.append(fourth)
    fourth.start()
    wait("the fourth node serves", fourth.serves)
    topic = NewTopic("unclean", 1, replica_assignment=[[3, 4]], config={"min.insync.replicas": "1"})
    cluster.admin.create_topics([topic], operation_timeout=20)["unclean"].result(30)
    wait("both are in sync", lambda: cluster.is_whole("unclean"))
    fourth.stop()
    wait("one is in sync", lambda: cluster.partitions("unclean")[0].isrs == [3])
    cluster.nodes[2].kill()
    wait("nobody leads", lambda: cluster.partitions("unclean")[0].leader == -1)
    fourth.start()
    wait("the fourth node serves again", fourth.serves)
    assert cluster.partitions("unclean")[0].leader == -1, "nobody has asked for it yet"
    words = ("--topic", "unclean", "--partition", "0")
    refused = cluster.tool("kafka-leader-election", "--election-type", "preferred", *words, others=True)
    assert "Successfully completed" not in refused, refused
    elected = cluster.tool("kafka-leader-election", "--election-type", "unclean", *words)
    assert "Successfully completed leader election (UNCLEAN)" in elected, elected
    wait("the fourth one leads", lambda: cluster.partitions("unclean")[0].leader == 4)
    cluster.nodes[2].start()
    wait("the node serves again", cluster.nodes[2].serves)
    wait("all are in sync", lambda: cluster.is_whole("unclean"))
    cluster.admin.delete_topics(["unclean"], operation_timeout=20)["unclean"].result(30)
    fourth.stop()
    cluster.nodes.remove(fourth)


def quorum(cluster):
    tool = "kafka-metadata-quorum"
    status = cluster.tool(tool, "describe", "--status")
    leader = int(re.search(r"LeaderId:\s+(\d)", status).group(1))
    assert leader in (1, 2, 3) and re.search(r"ClusterId:\s+\S{22}", status), status
    replication = cluster.tool(tool, "describe", "--replication")
    assert (replication.count("Follower"), replication.count("Leader\t") or 1) == (2, 1), replication
    other = next(node for node in cluster.nodes if node.number != leader)
    directory = re.search(r"directory.id=(\S+)", (other.data / "meta.properties").read_text()).group(1)
    cluster.tool(tool, "remove-controller", "--controller-id", other.number, "--controller-directory-id", directory)
    # Number, directory, end of the log, lag: it has all that the leader has.
    observes = re.compile(rf"^{other.number}\s+\S+\s+\d+\s+0\s.*Observer", re.M)
    wait("it observes", lambda: observes.search(cluster.tool(tool, "describe", "--replication")))
    properties = cluster.work / "controller.properties"
    settings = other.settings() | {"controller.quorum.bootstrap.servers": f"{other.host}:9093"}
    settings |= {"advertised.listeners": settings["listeners"]}
    del settings["controller.quorum.voters"]
    properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items() if value != ""))
    cluster.tool(tool, "--command-config", properties, "add-controller")
    replication = cluster.tool(tool, "describe", "--replication")
    # The broker that has left may observe still.
    follows = re.search(rf"^{other.number}\s.*Follower", replication, re.M)
    assert follows and replication.count("Follower") == 2, replication


def controllers_themselves(cluster):
    """What operators do when no broker answers: the tools ask the controllers (KIP-919)."""
    through_brokers = cluster.tool("kafka-metadata-quorum", "describe", "--status")
    status = cluster.tool("kafka-metadata-quorum", "describe", "--status", controllers=True)
    for wanted in (r"ClusterId:\s+\S{22}", r"LeaderId:\s+\d", r"CurrentVoters:.*"):
        told = [re.search(wanted, one).group(0) for one in (through_brokers, status)]
        assert told[0] == told[1], told
    replication = cluster.tool("kafka-metadata-quorum", "describe", "--replication", controllers=True)
    assert replication.count("Follower") == 2, replication
    cluster_id = re.search(r"ClusterId:\s+(\S{22})", status).group(1)
    assert cluster_id in cluster.tool("kafka-cluster", "cluster-id", controllers=True)
    listed = cluster.tool("kafka-cluster", "list-endpoints", controllers=True)
    for node in cluster.nodes:
        assert re.search(rf"^{node.number}\s+{node.host}\s+9093\s", listed, re.MULTILINE), listed
    features = cluster.tool("kafka-features", "describe", controllers=True)
    for name in ("eligible.leader.replicas.version", "group.version", "kraft.version"):
        assert re.search(rf"Feature: {name}\s.*FinalizedVersionLevel: 1\s", features), features
    entity = ("--entity-type", "brokers", "--entity-default")
    # Throttles of replication are set by operators in the middle of an incident.
    name, rate = "leader.replication.throttled.rate", "123456789"
    cluster.tool("kafka-configs", *entity, "--alter", "--add-config", f"{name}={rate}", controllers=True)
    for controllers in (False, True):
        told = cluster.tool("kafka-configs", *entity, "--describe", controllers=controllers)
        assert f"{name}={rate}" in told, told
    cluster.tool("kafka-configs", *entity, "--alter", "--delete-config", name, controllers=True)
    assert rate not in cluster.tool("kafka-configs", *entity, "--describe")


def unregistration(cluster):
    fourth = Node(cluster, 4)
    cluster.nodes.append(fourth)
    fourth.start()
    wait("the fourth node serves", fourth.serves)
    fourth.stop()
    cluster.nodes.remove(fourth)
    done = cluster.tool("kafka-cluster", "unregister", "--id", "4")
    assert "Broker 4 is no longer registered" in done, done
    again = cluster.tool("kafka-cluster", "unregister", "--id", "4", others=True)
    assert "Broker 4 is no longer registered" not in again, again


def coordinator_of(cluster, group):
    """Of a group that is stable; otherwise none."""
    told = cluster.tool("kafka-consumer-groups", "--describe", "--state", "--group", group, others=True)
    found = re.search(rf"^{group}\s+\S+:9092\s+\((\d)\)\s+.*\bStable\b", told, re.MULTILINE)
    return int(found.group(1)) if found else None


def committed(cluster, group):
    """The offset that the group has committed in each partition; those without one are absent."""
    told = cluster.tool("kafka-consumer-groups", "--describe", "--offsets", "--group", group, others=True)
    rows = re.findall(rf"^{group}\s+{TOPIC}\s+(\d+)\s+(\d+)\s", told, re.MULTILINE)
    return {int(partition): int(offset) for partition, offset in rows}


def has_gone_on(before, now):
    """No commit is forgotten, and every partition has a later one."""
    forgotten = {one: (offset, now[one]) for one, offset in before.items() if now.get(one, offset) < offset}
    assert not forgotten, f"commits of {forgotten} are forgotten"
    return len(now) == PARTITIONS and all(now[one] > before.get(one, -1) for one in now)


def clients_through_a_kill(cluster):
    cluster.create(TOPIC, PARTITIONS)
    cluster.clients = Clients(cluster)
    wait("every client works", cluster.clients.work)
    group = "librdkafka-readers"
    coordinator = coordinator_of(cluster, group)
    other = next(node for node in cluster.nodes if node.number != coordinator)
    for victim in (cluster.nodes[coordinator - 1], other):
        before = committed(cluster, group)
        begin = time.monotonic_ns()
        victim.kill()
        if victim is not other:
            # While it is down, another one coordinates, has what was committed, and takes more.
            wait("another one coordinates", lambda: coordinator_of(cluster, group) not in (None, coordinator))
            wait("the group commits", lambda: has_gone_on(before, committed(cluster, group)))
        else:
            time.sleep(2)
        victim.start()
        wait("the node serves again", victim.serves)
        wait("all are in sync", lambda: cluster.is_whole(TOPIC))
        wait("every client works", cluster.clients.work)
        pauses = [cluster.clients.longest_pause_ms(f"{name}-producer", begin) for name in ("librdkafka", "java")]
        assert max(pauses) < 15_000, pauses


def clients_through_a_rolling_restart(cluster):
    begin = time.monotonic_ns()
    for node in cluster.nodes:
        node.stop()
        node.start()
        wait("the node serves again", node.serves)
        wait("all are in sync", lambda: cluster.is_whole(TOPIC))
    time.sleep(1)
    pauses = {name: cluster.clients.longest_pause_ms(f"{name}-producer", begin) for name in ("librdkafka", "java")}
    print("longest pause in the rolling restart: " + ", ".join(f"{name} {ms:.0f} ms" for name, ms in pauses.items()))
    cluster.clients.finish()
    cluster.clients.check()


CHECKS = {
    "kafka-topics with a node killed": topics_with_a_node_killed,
    "kafka-reassign-partitions": reassignment,
    "kafka-leader-election": leader_elections,
    "kafka-leader-election, unclean": unclean_election,
    "kafka-metadata-quorum": quorum,
    "the tools with --bootstrap-controller": controllers_themselves,
    "kafka-cluster unregister": unregistration,
    "clients and kafka-consumer-groups through kill -9": clients_through_a_kill,
    "clients through a rolling restart": clients_through_a_rolling_restart,
}


def main():
    begin, failed, passed = time.monotonic(), 0, 0
    cluster = Cluster(*sys.argv[1:4])
    wanted = os.environ.get("LOGMILL_CI_CLUSTER_CHECKS", "").split(",")
    cluster.clients = None
    try:
        cluster.start()
        for name, check in CHECKS.items():
            if not any(word in name for word in wanted):
                continue
            since = time.monotonic()
            try:
                check(cluster)
                passed += 1
                print(f"test {name} ... ok ({time.monotonic() - since:.1f} s)", flush=True)
            except Exception:
                failed += 1
                print(f"test {name} ... FAILED\n{traceback.format_exc()}", flush=True)
                # What follows expects a whole cluster.
                for node in cluster.nodes:
                    print(f"-- node {node.number}\n{node.tail()}")
                break
    finally:
        if cluster.clients is not None:
            cluster.clients.kill()
        for node in cluster.nodes:
            with contextlib.suppress(OSError):
                node.kill()
    verdict = "ok" if failed == 0 and passed > 0 else "FAILED"
    took = time.monotonic() - begin
    print(f"test result: {verdict}. {passed} passed; {failed} failed; 0 ignored; finished in {took:.0f}s")
    return 0 if verdict == "ok" else 1


if __name__ == "__main__":
    sys.exit(main())
