"""What the nemesis does. A fault is begun, lasts, and is ended; two of them may overlap."""

import contextlib
import time
from random import Random

import protocol

# How long a fault waits for all replicas to be in sync where that matters to it; another one may prevent it.
WHOLE_S = 8


class Fault:
    """Begins at once; `end` puts everything back but for what only the finale can."""

    # Of two that overlap the one with the lower rank begins first.
    RANK = 1

    def __init__(self, run, random):
        self.run, self.random, self.cluster = run, random, run.cluster
        self.victims = []
        # Whom another fault has struck, if this one is to strike them, too.
        self.beside = []

    def describe(self):
        return f"{self.NAME} {' '.join(victim.host.name for victim in self.victims)}".strip()

    def begin(self):
        raise NotImplementedError

    def end(self):
        raise NotImplementedError

    def choose(self, scopes=("one", "leader", "minority", "majority", "all")):
        """Brokers, by how many and which of them."""
        if self.beside:
            return list(self.beside)
        brokers, scope = list(self.cluster.brokers), self.random.choice(scopes)
        if scope == "leader":
            leaders = sorted({one.leader for one in self.run.last_state().values() if one.leader >= 0})
            if leaders:
                return [brokers[self.random.choice(leaders) - 1]]
        count = {"majority": len(brokers) // 2 + 1, "all": len(brokers), "minority": (len(brokers) - 1) // 2}.get(
            scope, 1
        )
        return self.random.sample(brokers, max(count, 1))


class Kill(Fault):
    NAME = "kill"

    def begin(self):
        self.victims = self.choose()
        for victim in self.victims:
            victim.kill()

    def end(self):
        for victim in self.victims:
            victim.start()


class Pause(Fault):
    NAME = "pause"

    def begin(self):
        self.victims = self.choose()
        for victim in self.victims:
            victim.pause()

    def end(self):
        for victim in self.victims:
            victim.resume()


class Cut(Fault):
    """Some brokers hear nothing of the others, and these nothing of them."""

    NAME = "cut"
    WAYS = ("in", "out")

    def pairs(self):
        inside = [victim.host for victim in self.victims]
        outside = [broker.host for broker in self.cluster.brokers if broker not in self.victims]
        for one in inside:
            for other in outside:
                if "out" in self.WAYS:
                    yield one, other
                if "in" in self.WAYS:
                    yield other, one

    def begin(self):
        self.victims = self.choose(("one", "leader"))
        for pair in self.pairs():
            self.run.network.cut(*pair)

    def end(self):
        for pair in self.pairs():
            self.run.network.heal(*pair)


class CutOut(Cut):
    """What it sends to the other brokers is lost; it hears them."""

    NAME = "cut-out"
    WAYS = ("out",)


class CutIn(Cut):
    NAME = "cut-in"
    WAYS = ("in",)


class CutClients(Cut):
    """A client's host and a broker are cut off from each other, in one way or both."""

    NAME = "cut-clients"

    def begin(self):
        self.ways = self.random.choice((("in",), ("out",), ("in", "out")))
        self.clients = [self.random.choice(self.run.client_hosts)]
        super().begin()

    def pairs(self):
        for victim in self.victims:
            for client in self.clients:
                if "out" in self.ways:
                    yield victim.host, client
                if "in" in self.ways:
                    yield client, victim.host


class Slow(Fault):
    NAME = "slow"

    def begin(self):
        self.victims = self.choose(("one", "leader", "all"))
        for victim in self.victims:
            self.run.network.slow(victim.host)

    def end(self):
        for victim in self.victims:
            self.run.network.unslow(victim.host)


class Clock(Fault):
    NAME = "clock"

    def begin(self):
        self.victims = self.choose()
        for victim in self.victims:
            victim.set_clock(self.random.choice((-3600, -120, -5, 5, 120, 3600)))

    def end(self):
        for victim in self.victims:
            victim.set_clock(0)


class DiskFull(Fault):
    NAME = "disk-full"

    def begin(self):
        self.victims = self.choose(("one", "leader", "minority"))
        for victim in self.victims:
            victim.fill_disk()

    def end(self):
        for victim in self.victims:
            victim.empty_disk()
            # Apache Kafka ends itself when its only log directory fails.
            victim.note_death()
            victim.start()


class Wipe(Fault):
    """One broker's disk is replaced while it is down: only when every replica is in sync, as what it held is gone."""

    NAME = "wipe"

    # Where two overlap this one comes first: it waits for what others prevent.
    RANK = 0

    def begin(self):
        # Two of three disks whose votes are lost would end the quorum.
        is_well = self.run.wait_until_whole(WHOLE_S) and self.cluster.has_all_disks_vote()
        if is_well or self.run.options.reckless:
            self.victims = self.choose(("one", "leader"))
        for victim in self.victims:
            victim.wipe()

    def end(self):
        for victim in self.victims:
            victim.start()
        for victim in self.victims:
            victim.replace_voter()


class Rolling(Fault):
    """Every broker is stopped as by its service manager and started again, one after the other."""

    NAME = "rolling"
    # It is over when it has begun, so another one has to last already.
    RANK = 2

    def begin(self):
        for broker in self.cluster.brokers:
            if self.run.is_over():
                return
            broker.terminate()
            time.sleep(self.random.uniform(0.1, 1.0))
            broker.start()
            self.run.wait_until_whole(WHOLE_S)

    def end(self):
        pass


class Reassign(Fault):
    """Partitions get other replicas, or other first ones."""

    NAME = "reassign"

    def begin(self):
        numbers = [broker.number for broker in self.cluster.brokers]
        wanted = {
            partition: self.random.sample(numbers, self.random.randint(2, self.run.replicas()))
            for partition in range(self.run.options.partitions)
        }
        self.ask(wanted)

    def end(self):
        numbers = [broker.number for broker in self.cluster.brokers]
        self.ask(
            {
                partition: self.random.sample(numbers, self.run.replicas())
                for partition in range(self.run.options.partitions)
            }
        )

    def ask(self, wanted):
        for broker in self.cluster.brokers:
            with (
                contextlib.suppress(OSError, ValueError, protocol.Refused),
                protocol.Connection(broker.address) as connection,
            ):
                connection.reassign(self.run.topic, wanted)
                return


class Pair:
    """Two kinds that overlap, again and again: either may begin first, and end first, and strike whom the other has."""

    def __init__(self, kinds):
        self.kinds = kinds

    @classmethod
    def drawn(cls, seed, kinds, always):
        """The pair of a seed; every second one has none, unless all are to have one. What else a seed draws stays as it is."""
        random = Random(f"pair {seed}")
        has_pair = random.random() < 0.5 or always
        return cls(random.sample(sorted(kinds), 2)) if has_pair and len(kinds) > 1 else None

    def faults(self, run, random):
        """The two, in the order in which they begin."""
        kinds = [KINDS[kind] for kind in random.sample(self.kinds, 2)]
        return [kind(run, random) for kind in sorted(kinds, key=lambda kind: kind.RANK)]


KINDS = {
    kind.NAME: kind
    for kind in (
        Kill,
        Pause,
        Cut,
        CutOut,
        CutIn,
        CutClients,
        Slow,
        Clock,
        DiskFull,
        Wipe,
        Rolling,
        Reassign,
    )
}
# What a run draws from unless it is told; the others cost time, or change what is tested.
USUAL = ("kill", "pause", "cut", "cut-out", "cut-in", "cut-clients", "slow", "rolling", "wipe", "disk-full")
