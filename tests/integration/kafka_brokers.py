"""Several real Kafka brokers as one cluster, whose partition leaders can be moved.

    brokers = kafka_brokers.Brokers(3)            # skips the test where none can be had; stopped at exit
    brokers.create("clicks", 8, replicas=3, min_insync_replicas=2)
    brokers.move_leaders("clicks", {0: 2, 1: 3})  # broker 2 shall lead partition 0
    brokers.stop(1, now=True); brokers.start(1)

What the admin tools do in Java, and librdkafka does not, is asked of the brokers here in Kafka's own protocol:
AlterPartitionReassignments (which replica is preferred) and ElectLeaders."""

import atexit
import os
import socket
import struct
import subprocess

from cluster import wait_until

import kafka

TIMEOUT_S = 15
FINE = (0, 84)  # no error; the election was not needed
# Faults are noticed in a test's time, not in 9 s (a broker is dead) and 30 s (a replica is behind).
QUICK = {"broker.session.timeout.ms": 3000, "broker.heartbeat.interval.ms": 500, "replica.lag.time.max.ms": 5000,
         "offsets.topic.replication.factor": 3, "default.replication.factor": 3, "unclean.leader.election.enable": "false",
         "auto.leader.rebalance.enable": "false", "controller.quorum.fetch.timeout.ms": 1500,
         "controller.quorum.election.timeout.ms": 700, "controller.quorum.election.backoff.max.ms": 500}


class Refused(Exception):
    """A broker's answer has an error in it."""


# ---- the protocol: big-endian; "compact" lengths are one too large, seven bits a byte ----


def _varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def _compact(items):
    """Text, or a list of encoded items."""
    if isinstance(items, str):
        return _varint(len(items) + 1) + items.encode()
    return _varint(len(items) + 1) + b"".join(items)


def _text(text):
    return struct.pack(">h", len(text)) + text.encode()


def _array(items):
    return struct.pack(">i", len(items)) + b"".join(items)


class _Answer:
    """Reads fields one after another."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        value, = struct.unpack_from(">" + form, self.data, self.at)
        self.at += struct.calcsize(">" + form)
        return value

    def varint(self):
        value, shift = 0, 0
        while True:
            byte = self.take("B")
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def skip_text(self, compact):
        length = self.varint() - 1 if compact else self.take("h")
        self.at += max(length, 0)

    def skip_tags(self):
        for _ in range(self.varint()):
            self.varint()
            self.at += self.varint()


def _receive(connection, size):
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise ConnectionError("the broker closed the connection")
        data += more
    return data


def ask(address, key, version, body, flexible):
    """One request to one broker. The answer, after its header."""
    host, port = address.rsplit(":", 1)
    request = struct.pack(">hhi", key, version, 1) + _text("dunlin-test") + (b"\0" if flexible else b"") + body
    with socket.create_connection((host, int(port)), TIMEOUT_S) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.sendall(struct.pack(">i", len(request)) + request)
        size, = struct.unpack(">i", _receive(connection, 4))
        answer = _Answer(_receive(connection, size))
    assert answer.take("i") == 1
    if flexible:
        answer.skip_tags()
    return answer


def set_replicas(address, topic, replicas):
    """{partition: [broker, ...]}, the preferred one first."""
    partitions = [struct.pack(">i", p) + _compact([struct.pack(">i", r) for r in of]) + b"\0" for p, of in replicas.items()]
    body = struct.pack(">i", 1000 * TIMEOUT_S) + _compact([_compact(topic) + _compact(partitions) + b"\0"]) + b"\0"
    answer = ask(address, 45, 0, body, True)
    answer.take("i")
    errors = {None: answer.take("h")}
    answer.skip_text(True)
    for _ in range(answer.varint() - 1):
        answer.skip_text(True)
        for _ in range(answer.varint() - 1):
            partition = answer.take("i")
            errors[partition] = answer.take("h")
            answer.skip_text(True)
            answer.skip_tags()
        answer.skip_tags()
    if any(errors.values()):
        raise Refused(f"AlterPartitionReassignments of {topic}: {errors}")


def elect_preferred(address, topic, partitions):
    """Each partition's preferred replica shall lead it. {partition: error}, of those that it does not."""
    body = b"\0" + _array([_text(topic) + _array([struct.pack(">i", p) for p in partitions])])
    answer = ask(address, 43, 1, body + struct.pack(">i", 1000 * TIMEOUT_S), False)
    answer.take("i")
    errors = {None: answer.take("h")}
    for _ in range(answer.take("i")):
        answer.skip_text(False)
        for _ in range(answer.take("i")):
            partition = answer.take("i")
            errors[partition] = answer.take("h")
            answer.skip_text(False)
    return {p: e for p, e in errors.items() if e not in FINE}


# ---- the cluster ----


class Brokers(kafka.Client):
    """Nodes 1 to n, each a broker and a controller. `address` is all of theirs."""

    options = ["-X", "log_level=2"]  # that a broker is away is no news here

    def __init__(self, n=3, heap="192m", properties=None):
        kafka.run_script("setup")
        self.n, self._heap = n, heap
        self.directory = kafka.make_folder(None)
        atexit.register(self.close)  # runs before the folder goes
        kafka.run_script("cluster", self.directory, str(n), *kafka.property_options({**QUICK, **(properties or {})}))
        with open(os.path.join(self.directory, "bootstrap"), encoding="utf-8") as file:
            self.address = file.read().strip()
        self.addresses = dict(zip(range(1, n + 1), self.address.split(",")))
        self.running = set()
        self.start(*range(1, n + 1))

    def _folder(self, number):
        return os.path.join(self.directory, str(number))

    def start(self, *numbers):
        """Starts them, all at once, and waits until they serve."""
        starts = [subprocess.Popen([kafka.SCRIPT, "start", self._folder(i), "--heap", self._heap], stdout=subprocess.DEVNULL)
                  for i in numbers]
        failed = [i for i, start in zip(numbers, starts) if start.wait() != 0]
        assert not failed, f"brokers {failed} do not start"
        self.running |= set(numbers)

    def stop(self, number, now=False):
        """Cleanly: its leaders move first, and it needs the other controllers for that. Or as by a power cut."""
        self.running.discard(number)
        subprocess.run([kafka.SCRIPT, "stop", self._folder(number)] + (["--now"] if now else []), check=True)

    def close(self):
        for number in range(1, self.n + 1):
            if os.path.isdir(self._folder(number)):
                self.stop(number, now=True)

    def in_sync(self, topic):
        """Each partition has a leader, and all of its replicas are in sync."""
        rows = self.leaders(topic).values()
        return all(leader > 0 and len(replicas) == self.n for leader, replicas in rows)

    def move_leaders(self, topic, to):
        """{partition: broker that shall lead it}; one that is not in sync cannot. Returns how many leaders changed."""
        before = self.leaders(topic)
        address = self.addresses[min(self.running)]
        set_replicas(address, topic, {p: [first] + [b for b in self.addresses if b != first] for p, first in to.items()})
        refused = elect_preferred(address, topic, list(to))
        done = {p: leader for p, leader in to.items() if p not in refused}
        wait_until(f"leaders {done}", lambda: all(self.leaders(topic)[p][0] == leader for p, leader in done.items()))
        return sum(before[p][0] != leader for p, leader in done.items())
