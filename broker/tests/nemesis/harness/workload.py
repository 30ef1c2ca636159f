"""The processes of the clients."""

import json
import pathlib
import signal
import subprocess
import sys
import time

CLIENTS = pathlib.Path(__file__).resolve().parent.parent / "clients"
PYTHON = [sys.executable, "-B", str(CLIENTS / "with_confluent_kafka.py")]


class Client:
    """A process of a workload on a client's host."""

    def __init__(self, run, host, name, command, role, **settings):
        self.name, self.is_java = name, "java" in command
        settings = {
            "bootstrap": run.cluster.bootstrap,
            "topic": run.topic,
            "partitions": run.options.partitions,
            "seed": run.seed,
            **settings,
        }
        words = [*command, role, name, str(run.histories / f"{name}.jsonl"), json.dumps(settings)]
        self.output = run.folder / f"{name}.output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(host.wrap(*words), stdin=subprocess.PIPE, stdout=output, stderr=output)

    def finish(self):
        self.process.stdin.close()

    def tell_where_it_is(self):
        """A Java process writes the stacks of its threads to its output."""
        if self.is_java:
            self.process.send_signal(signal.SIGQUIT)
            time.sleep(1)

    def wait(self, deadline):
        """What is wrong with its end, or nothing."""
        try:
            status = self.process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            self.tell_where_it_is()
            self.process.kill()
            self.process.wait()
            return f"{self.name} did not end"
        return f"{self.name} ended with {status}: {self.output.read_text(errors='replace')[-400:]}" if status else None
