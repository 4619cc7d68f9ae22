"""A real Kafka broker for the integration tests: scripts/kafka.sh has it, kafka_tool does things to it.

    broker = kafka.Broker()                     # skips the test where none can be had; stopped at exit
    broker.create("clicks", 8)
    broker.produce("clicks", 1000000, rate=10000, size=150)
    broker.stop(now=True); broker.start()       # same address, same data
    broker.ends("clicks")                       # {partition: (begin, end)}
"""

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("DUNLIN_BIN", os.path.join(ROOT, "build", "bin"))
SCRIPT = os.path.join(ROOT, "scripts", "kafka.sh")
TOOL = os.path.join(BIN, "kafka_tool")
SKIP = 77


def run_script(*words):
    """kafka.sh; ends the test, as skipped or failed, where no broker can be had."""
    done = subprocess.run([SCRIPT, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        print(f"{'SKIPPED' if done.returncode == SKIP else 'FAILED'} (kafka): {done.stdout.strip()}")
        sys.exit(done.returncode)


def make_folder(directory):
    if directory is None:
        directory = tempfile.mkdtemp(prefix="dunlin-kafka.")
        atexit.register(shutil.rmtree, directory, True)
    return directory


def property_options(properties):
    return [word for name, value in (properties or {}).items() for word in ("--property", f"{name}={value}")]


class Client:
    """What is done to brokers at `address` (host:port,...) by kafka_tool."""

    address = None
    options = []  # of kafka_tool

    # ---- topics and offsets ----

    def tool(self, *words, input=None):
        """kafka_tool's output; raises when it fails."""
        return subprocess.run([TOOL, self.address] + self.options + [str(w) for w in words], check=True, stdout=subprocess.PIPE,
                              input=input, text=not isinstance(input, bytes)).stdout

    def create(self, topic, partitions, **settings):
        """Settings with underscores for dots: cleanup_policy="compact"; replicas=N: that many of each partition."""
        self.tool("create", topic, partitions, *[f"{k.replace('_', '.')}={v}" for k, v in settings.items()])

    def delete(self, topic):
        self.tool("delete", topic)

    def grow(self, topic, partitions):
        self.tool("grow", topic, partitions)

    def delete_records(self, topic, partition, before):
        """As retention does: what is below offset `before`."""
        self.tool("delete-records", topic, partition, before)

    def ends(self, topic):
        rows = [line.split() for line in self.tool("ends", topic).splitlines()]
        return {int(p): (int(begin), int(end)) for p, begin, end in rows}

    def committed(self, group, topic):
        """{partition: offset}, -1 where nothing was committed."""
        rows = [line.split() for line in self.tool("committed", group, topic).splitlines()]
        return {int(p): int(offset) for p, offset in rows}

    def leaders(self, topic):
        """{partition: (the leader's id, those in sync)}; the leader is -1 while there is none."""
        rows = [line.split() for line in self.tool("leaders", topic).splitlines()]
        return {int(p): (int(leader), {int(r) for r in in_sync}) for p, leader, *in_sync in rows}

    def values(self, topic):
        """The values of all messages in the topic, partition by partition, as bytes; None: it has none."""
        lines = self.tool("dump", topic).splitlines()
        return [None if line == "\\0" else bytes.fromhex(line) for line in lines]

    # ---- records ----

    def produce(self, topic, count, **options):
        """Click events (see kafka_tool): rate=, size=, users=, first=, time=, partition=, key=, transaction=, every=,
        abort_every=. Waits. Returns how many were acknowledged, committed and aborted."""
        return self.produced(self.produce_start(topic, count, **options))

    def produce_start(self, topic, count, **options):
        """The same in the background: give what it returns to produced()."""
        words = [TOOL, self.address, *self.options, "produce", topic, str(count)]
        for name, value in options.items():
            words += ["--" + name.replace("_", "-"), str(value)]
        return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)

    def produced(self, process):
        out, _ = process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"kafka_tool produce ended with {process.returncode}: {out}")
        acknowledged, committed, aborted, _, *self.acknowledged_us = map(int, out.split())
        return acknowledged, committed, aborted

    def produce_lines(self, topic, records, partition=None):
        """(key, value) pairs of bytes, keys without tabs and line ends; None: no key, or a tombstone."""
        lines = [(b"" if key is None else key + b"\t") + (b"\\0" if value is None else value.hex().encode()) + b"\n"
                 for key, value in records]
        self.tool("produce-hex", topic, *([] if partition is None else ["--partition", partition]),
                  input=b"".join(lines))


class Broker(Client):
    """One node. `address` is host:port; with sasl=True `address_sasl` is a second one that wants SASL/PLAIN, user
    "dunlin", password "right"; with tls=True `address_tls` is one that wants SASL/SCRAM-SHA-512 of the same over TLS, with
    a certificate that `ca` signed, and `other_ca` did not. `properties`: more lines for server.properties, as {name: value}."""

    def __init__(self, directory=None, sasl=False, tls=False, heap="512m", properties=None):
        run_script("setup")
        self.directory = make_folder(directory)
        atexit.register(self.stop, True)  # runs before the folder goes
        self._options = ["--heap", heap] + (["--sasl"] if sasl else []) + (["--tls"] if tls else [])
        self._options += property_options(properties)
        self.ca, self.other_ca = os.path.join(self.directory, "ca.pem"), os.path.join(self.directory, "other-ca.pem")
        self.start()

    def start(self):
        """Starts it, or starts it again with its data, and waits until it serves."""
        subprocess.run([SCRIPT, "start", self.directory] + self._options, check=True, stdout=subprocess.DEVNULL)
        self.address = self._read("bootstrap")
        self.address_sasl = self._read("bootstrap_sasl") if "--sasl" in self._options else None
        self.address_tls = self._read("bootstrap_tls") if "--tls" in self._options else None

    def stop(self, now=False):
        """Cleanly, or as by a power cut. No harm when it does not run."""
        if os.path.isdir(self.directory):
            subprocess.run([SCRIPT, "stop", self.directory] + (["--now"] if now else []), check=True)

    def freeze(self):
        os.kill(int(self._read("pid")), signal.SIGSTOP)

    def thaw(self):
        os.kill(int(self._read("pid")), signal.SIGCONT)

    def _read(self, name):
        with open(os.path.join(self.directory, name), encoding="utf-8") as file:
            return file.read().strip()
