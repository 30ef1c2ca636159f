"""Brokers as processes on hosts: Logmill, or Apache Kafka as the peer, with the same settings."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import time

import protocol
from hosts import command

CLIENT_PORT, CONTROLLER_PORT = 9092, 9093
START_S = 120
STOP_S = 30
# How long the voters of the quorum may take to change.
VOTER_S = 20
# What else Apache Kafka needs to elect a controller soon; Logmill's quorum has no such settings.
QUICK_QUORUM = {"controller.quorum.election.timeout.ms": 1000, "controller.quorum.fetch.timeout.ms": 2000}
CLUSTER_ID = "bG9nbWlsbC1uZW1lc2lzLQ"
DISK_MIB = 384
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


def replication(brokers):
    """The settings that a cluster of so many brokers needs."""
    factor, minimum = min(3, brokers), min(2, brokers)
    return {
        "default.replication.factor": factor,
        "min.insync.replicas": minimum,
        "offsets.topic.replication.factor": factor,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": factor,
        "transaction.state.log.min.isr": minimum,
        "auto.create.topics.enable": "false",
    }


class Broker:
    """One broker's process, its host, its disk and its clock."""

    def __init__(self, cluster, number, host):
        self.cluster, self.number, self.host = cluster, number, host
        self.folder = cluster.folder / f"broker-{number}"
        self.disk = self.folder / "disk"
        self.data = self.disk / "data"
        self.clock = self.folder / "clock"
        self.output = self.folder / "output"
        self.process = None
        self.paused = False
        # Whether it should be running; one that ends while it should has died by itself.
        self.wanted = False
        self.deaths = 0

    @property
    def address(self):
        return (self.host.address, CLIENT_PORT)

    def make_disk(self):
        self.disk.mkdir(parents=True)
        if self.cluster.small_disks:
            image = self.folder / "image"
            with image.open("wb") as file:
                file.truncate(DISK_MIB << 20)
            command("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", str(image))
            command("mount", "-o", "loop", str(image), str(self.disk))
        self.data.mkdir()
        self.clock.write_text("+0\n")

    def remove_disk(self):
        if self.cluster.small_disks:
            command("umount", "--lazy", str(self.disk), check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def settings(self):
        voters = ",".join(f"{one.number}@{one.host.address}:{CONTROLLER_PORT}" for one in self.cluster.brokers)
        address = self.host.address
        return {
            "process.roles": "broker,controller",
            "node.id": self.number,
            "controller.quorum.voters": voters,
            "listeners": f"PLAINTEXT://{address}:{CLIENT_PORT},CONTROLLER://{address}:{CONTROLLER_PORT}",
            "advertised.listeners": f"PLAINTEXT://{address}:{CLIENT_PORT}",
            "controller.listener.names": "CONTROLLER",
            **self.cluster.settings,
            "log.dirs": self.data,
        }

    def environment(self):
        # Logmill reads its settings from there, too.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LOGMILL_")}
        if self.cluster.fake_clocks:
            environment |= {
                "LD_PRELOAD": FAKETIME,
                "FAKETIME_TIMESTAMP_FILE": str(self.clock),
                "FAKETIME_CACHE_DURATION": "1",
                # Leaves the monotonic clock alone: a wall clock that is wrong is what is to be tested.
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "DONT_FAKE_MONOTONIC": "1",
            }
        return environment

    def start(self):
        if self.alive():
            return
        self.prepare()
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                self.host.wrap(*map(str, self.command_line())),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment(),
                cwd=self.folder,
            )
        self.wanted, self.paused = True, False

    def prepare(self):
        """What is to be done before every start."""

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def serves(self):
        try:
            with protocol.Connection(self.address, 1.0) as connection:
                connection.metadata([])
            return True
        except (OSError, ValueError):
            return False

    def kill(self):
        self.wanted = False
        if self.alive():
            self.process.kill()
            self.process.wait()
        self.paused = False

    def terminate(self):
        """Asks it to stop, and kills it if it does not."""
        self.wanted = False
        if not self.alive():
            return
        self.resume()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def pause(self):
        if self.alive() and not self.paused:
            self.process.send_signal(signal.SIGSTOP)
            self.paused = True

    def resume(self):
        if self.paused and self.alive():
            self.process.send_signal(signal.SIGCONT)
        self.paused = False

    def note_death(self):
        """Whether it has ended though nobody asked it to, since the last call."""
        if self.wanted and not self.alive():
            self.wanted = False
            self.deaths += 1
            return True
        return False

    def wipe(self):
        """Its disk is replaced by an empty one, while it is down."""
        self.kill()
        for entry in self.data.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def replace_voter(self):
        """Lets the disk that it has now vote in place of the former one, if others may (KIP-853)."""

    def fill_disk(self):
        """Takes what is free of a small disk."""
        filling = self.disk / "filling"
        with filling.open("wb") as file, contextlib.suppress(OSError):
            free = os.statvfs(self.disk)
            os.posix_fallocate(file.fileno(), 0, max(free.f_bavail * free.f_frsize, 1))
            while True:
                file.seek(0, os.SEEK_END)
                file.write(bytes(4096))
                file.flush()

    def empty_disk(self):
        (self.disk / "filling").unlink(missing_ok=True)

    def set_clock(self, offset_s):
        self.clock.write_text(f"{offset_s:+d}\n")

    def end_of_output(self, lines=25):
        if not self.output.exists():
            return ""
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-lines:])


class Logmill(Broker):
    def command_line(self):
        words = [self.cluster.options.binary]
        for name, value in self.settings().items():
            words += ["--set", f"{name}={value}"]
        return words

    def replace_voter(self):
        """What another fault prevents for too long is left undone."""
        deadline = time.monotonic() + VOTER_S
        while time.monotonic() < deadline:
            for asked in self.cluster.brokers:
                with (
                    contextlib.suppress(OSError, ValueError, protocol.Refused),
                    protocol.Connection(asked.address) as connection,
                ):
                    if self.votes_after_change(connection):
                        return
            time.sleep(0.2)

    def votes_after_change(self, connection):
        voters, observers = connection.quorum()
        fresh = [one for one in observers if one[0] == self.number]
        former = [one for one in voters if one[0] == self.number]
        if not fresh:
            return False
        for voter in former:
            connection.remove_voter(voter)
        for voter in fresh:
            connection.add_voter(voter, "CONTROLLER", self.host.address, CONTROLLER_PORT)
        return True


class Kafka(Broker):
    JAVA = ("java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")

    def settings(self):
        ours = {name: value for name, value in super().settings().items() if not name.startswith("logmill.")}
        ours |= QUICK_QUORUM if self.cluster.options.quick else {}
        # Its quorum's log is on another disk: a voter that is wiped may elect itself (KIP-853).
        return {
            **ours,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "metadata.log.dir": self.folder / "metadata",
        }

    def java(self, *words):
        return [*self.JAVA, "-cp", f"{self.cluster.options.jars}/*", *words]

    def prepare(self):
        file = self.folder / "server.properties"
        file.write_text("".join(f"{name}={value}\n" for name, value in self.settings().items()))
        if (self.data / "meta.properties").exists():
            return
        form = ("kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", CLUSTER_ID, "-c", str(file))
        command(*self.java(*form))

    def command_line(self):
        return self.java("kafka.Kafka", str(self.folder / "server.properties"))


KINDS = {"logmill": Logmill, "kafka": Kafka}


class Cluster:
    """All brokers, and what a look from outside says of them."""

    def __init__(self, options, folder, hosts, settings):
        self.options, self.folder, self.settings = options, pathlib.Path(folder), settings
        # Both cost something, so only the runs have them that need them.
        self.small_disks = self.fake_clocks = False
        self.brokers = [KINDS[options.broker](self, number, host) for number, host in enumerate(hosts, 1)]

    @property
    def bootstrap(self):
        return ",".join(f"{one.host.address}:{CLIENT_PORT}" for one in self.brokers)

    def make(self):
        for broker in self.brokers:
            broker.make_disk()

    def start(self):
        for broker in self.brokers:
            broker.start()
        self.wait("every broker serves", lambda: all(broker.serves() for broker in self.brokers), START_S)

    def wait(self, what, condition, patience_s):
        deadline = time.monotonic() + patience_s
        while not condition():
            gone = [one.host.name for one in self.brokers if one.note_death()]
            if time.monotonic() > deadline or gone:
                what += f"; ended by themselves: {' '.join(gone)}" if gone else ""
                tails = "\n".join(f"-- {one.host.name}\n{one.end_of_output()}" for one in self.brokers)
                raise RuntimeError(f"no sign of this within {patience_s} s: {what}\n{tails}")
            time.sleep(0.05)

    def states(self, topics):
        """What each broker that answers says of the partitions."""
        found = {}
        for broker in self.brokers:
            with contextlib.suppress(OSError, ValueError), protocol.Connection(broker.address, 1.0) as connection:
                found[broker.number] = connection.metadata(topics)
        return found

    def any_state(self, topics):
        return max(self.states(topics).values(), key=len, default={})

    def is_whole(self, topics, partitions):
        """Whether all brokers name the same leaders, and every replica is in sync."""
        states = list(self.states(topics).values())
        if len(states) != len(self.brokers) or len(states[0]) != partitions:
            return False
        return all(state == states[0] for state in states) and all(
            one.leader >= 0 and one.in_sync == one.replicas for one in states[0].values()
        )

    def quorum(self):
        """The voters and observers of the metadata quorum, as the first one says that answers."""
        for broker in self.brokers:
            with contextlib.suppress(OSError, ValueError, protocol.Refused), protocol.Connection(broker.address) as one:
                return one.quorum()
        return set(), set()

    def has_all_disks_vote(self):
        """Does for a new disk what was left undone, and says whether every broker's disk votes on the metadata."""
        for number, _ in self.quorum()[1]:
            self.brokers[number - 1].replace_voter()
        voters, observers = self.quorum()
        return not observers and {number for number, _ in voters} == {one.number for one in self.brokers}

    def has_begun(self, topic):
        """Whether every leader leads; Apache Kafka names it earlier, and may take a second batch before the first."""
        try:
            for (_, partition), state in self.any_state([topic]).items():
                with protocol.Connection(self.brokers[state.leader - 1].address) as connection:
                    connection.fetch(topic, partition, 0)
        except (OSError, ValueError, protocol.Refused):
            return False
        return True

    def stop(self):
        for broker in self.brokers:
            broker.kill()

    def remove(self):
        self.stop()
        for broker in self.brokers:
            broker.remove_disk()
