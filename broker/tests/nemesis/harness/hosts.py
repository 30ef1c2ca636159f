"""Hosts: network namespaces on one bridge. All of it is in the namespaces that ../run makes, and ends with them.

Every host has fixed entries for its neighbours. A one-way cut points one of them at a hardware address that nobody has:
what is sent there vanishes without a word, as behind a broken switch.
"""

import subprocess
from dataclasses import dataclass

NETWORK = "10.77.0"
NOBODY = "02:4c:4d:ff:ff:ff"
OWN_NUMBER = 1


def command(*words, check=True):
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip() or done.returncode}")
    return done


@dataclass(frozen=True)
class Host:
    name: str
    number: int

    @property
    def address(self):
        return f"{NETWORK}.{self.number}"

    @property
    def hardware(self):
        return f"02:4c:4d:00:00:{self.number:02x}"

    def wrap(self, *words):
        """The command, run on this host."""
        return ["ip", "netns", "exec", self.name, *words]


class Network:
    def __init__(self, names):
        """Builds the hosts; the caller's own namespace has the bridge, and reaches all of them."""
        self.hosts = [Host(name, 10 + index) for index, name in enumerate(names)]
        self.cuts = set()
        command("mount", "-t", "tmpfs", "nemesis", "/run/netns", check=False)
        command("ip", "link", "set", "lo", "up")
        command("ip", "link", "add", "switch", "type", "bridge", "stp_state", "0", "forward_delay", "0")
        command("ip", "address", "add", f"{NETWORK}.{OWN_NUMBER}/24", "dev", "switch")
        command("ip", "link", "set", "switch", "up")
        for host in self.hosts:
            self.build(host)
        for host in self.hosts:
            for other in self.hosts:
                if host is not other:
                    self.point(host, other, other.hardware)
        self.has_netem = self.probe_netem()

    def build(self, host):
        port = f"p-{host.name}"
        command("ip", "netns", "add", host.name)
        command("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.name)
        command("ip", "link", "set", port, "master", "switch", "up")
        for words in (
            ("link", "set", "lo", "up"),
            ("link", "set", "eth0", "address", host.hardware, "up"),
            ("address", "add", f"{host.address}/24", "dev", "eth0"),
        ):
            command("ip", "-n", host.name, *words)

    def probe_netem(self):
        done = command("tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms", check=False)
        command("tc", "qdisc", "del", "dev", "lo", "root", check=False)
        return done.returncode == 0

    @staticmethod
    def point(host, other, hardware):
        neighbour = (other.address, "lladdr", hardware, "dev", "eth0", "nud", "permanent")
        command("ip", "-n", host.name, "neighbour", "replace", *neighbour)

    def cut(self, sender, receiver):
        """Nothing that the sender sends reaches the receiver any more."""
        self.point(sender, receiver, NOBODY)
        self.cuts.add((sender, receiver))

    def heal(self, sender, receiver):
        if (sender, receiver) in self.cuts:
            self.cuts.remove((sender, receiver))
            self.point(sender, receiver, receiver.hardware)

    def heal_all(self):
        for pair in list(self.cuts):
            self.heal(*pair)

    def slow(self, host):
        """What the host sends comes late: by netem where the kernel has it, else through a narrow queue."""
        shape = (
            ("netem", "delay", "80ms", "40ms")
            if self.has_netem
            else ("tbf", "rate", "200kbit", "burst", "2kb", "latency", "2s")
        )
        command("tc", "-n", host.name, "qdisc", "replace", "dev", "eth0", "root", *shape)

    def unslow(self, host):
        command("tc", "-n", host.name, "qdisc", "del", "dev", "eth0", "root", check=False)
