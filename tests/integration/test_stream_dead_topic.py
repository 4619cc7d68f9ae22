"""Dead letters to a topic of three brokers, while dunlin's leaders are killed, the topic's partition leaders move, and brokers
are stopped and killed: each message that gave no event is in the topic at least once, with its reason, origin and
original bytes, no other is, and (shard, number) tells repeats apart. Then `dunlin deadletter list` and `replay` take the
topic's contents on standard input: letters whose cause is mended become events, each once however often it is tried."""

import argparse
import base64
import json
import random
import threading
import time

from cluster import Cluster, seed, wait_until

import kafka_brokers
import stream

PARTITIONS = 4  # as many as shards, so that a user's partition is his shard less 1
LATENESS_S = 5
USERS = 80
EXTRA = "raft:\n  snapshot_log_bytes: 256KiB\n"
SOURCE = {"keyed": True, "dead_letters": {"to": "topic", "topic": "dead"}}


class Log:
    """What is sent to the topic, and what is to become of it. Events of a partition are in order of time, so that its
    watermark, and who is late, is known."""

    def __init__(self, brokers, time_ms):
        self.brokers, self.time_ms, self.number = brokers, time_ms, 0
        self.offsets, self.records = [0] * PARTITIONS, [[] for _ in range(PARTITIONS)]
        self.good, self.mended, self.letters = [], [], {}

    def _add(self, partition, key, value):
        self.records[partition].append((key.encode(), value))
        self.offsets[partition] += 1
        return self.offsets[partition] - 1

    def event(self, late=False):
        self.number += 1
        user = f"u-{self.number % USERS}"
        return (user, f"i-{self.number}", self.time_ms + self.number - (1000 * LATENESS_S + 3600000 if late else 0))

    def add_good(self):
        event = self.event()
        self._add(stream.shard_of(event[0], PARTITIONS) - 1, event[0], stream.message(event))
        self.good.append(event)

    def add_letter(self, reason, value, partition, key="x"):
        self.letters["shop/clicks", partition, self._add(partition, key, value)] = (reason, value)

    def add_bad(self, rng):
        """One of each kind."""
        partition = rng.randrange(PARTITIONS)
        self.add_letter("undecodable", b"\xff\x00 no event " + str(self.number).encode(), partition)
        self.add_letter("undecodable", b"", partition)
        self.add_letter("limit", stream.message(("v" * 300, f"i-{self.number}", self.time_ms)), partition)
        user, item, time_ms = event = self.event()
        self.add_letter("undecodable", json.dumps({"visitor": user, "item_id": item, "type": "click", "time_ms": time_ms}).encode(),
                        partition)
        self.mended.append(event)
        event = self.event()
        self.add_letter("misrouted", stream.message(event), stream.shard_of(event[0], PARTITIONS) % PARTITIONS)
        event = self.event(late=True)
        self.add_letter("late", stream.message(event), stream.shard_of(event[0], PARTITIONS) - 1)

    def send(self):
        for partition, records in enumerate(self.records):
            self.brokers.produce_lines("clicks", records, partition)
        self.records = [[] for _ in range(PARTITIONS)]


class Faults:
    """What happens while letters are written, one after another."""

    def __init__(self, cluster, brokers, rng):
        self.cluster, self.brokers, self.rng, self.at, self.moved = cluster, brokers, rng, 0, 0
        self.back = None

    def kill_leader(self):
        victim = self.cluster.busiest_leader()
        victim.kill()
        time.sleep(self.rng.uniform(0, 0.5))
        victim.start()
        wait_until(f"node {victim.number} ready again", victim.ready)
        return f"node {victim.number} killed"

    def move_leaders(self):
        moved = sum(self.brokers.move_leaders(topic, {p: self.rng.choice(sorted(self.brokers.running)) for p in range(PARTITIONS)})
                    for topic in ("dead", "clicks"))
        self.moved += moved
        return f"{moved} partition leaders moved; {self.kill_leader()}"

    def broker_away(self, now):
        victim = next(leader for leader, _ in self.brokers.leaders("dead").values())
        self.brokers.stop(victim, now=now)
        said = self.kill_leader()
        self.back = threading.Thread(target=self.brokers.start, args=[victim])
        self.back.start()
        return f"broker {victim} {'killed' if now else 'stopped'}; {said}"

    def next(self):
        if self.back:
            self.back.join()
            self.back = None
            wait_until("all replicas in sync", lambda: self.brokers.in_sync("dead") and self.brokers.in_sync("clicks"), 120)
        what = (self.kill_leader, self.move_leaders, lambda: self.broker_away(False), self.kill_leader, lambda: self.broker_away(True))
        said = what[self.at % len(what)]()
        self.at += 1
        return said


def waiting(cluster):
    return max(stream.counts(node)["dead_waiting"] for node in cluster.live())


def check_letters(lines, expected):
    """The topic's lines are these letters, each at least once. Returns how many lines are repeats."""
    got, numbers = {}, {}
    for line in lines:
        letter = json.loads(line)
        key = letter["stream"], letter["partition"], letter["offset"]
        assert key in expected, f"never a dead letter: {letter}"
        reason, value = expected[key]
        assert letter["source"] == "shop" and letter["reason"] == reason and not letter["gone"], (letter, reason)
        assert base64.b64decode(letter["bytes"]) == value, (letter, value)
        assert numbers.setdefault((letter["shard"], letter["number"]), key) == key, f"two letters with one number: {letter}"
        assert got.setdefault(key, (letter["shard"], letter["number"])) == (letter["shard"], letter["number"]), letter
    missing = [key for key in expected if key not in got]
    assert not missing, f"{len(missing)} letters are missing: {missing[:5]}"
    return len(lines) - len(got)


def check_listed(cluster, lines, log, repeats):
    """`dunlin deadletter list`: the queue's counts, and those of the topic's lines."""
    reasons = {}
    for reason, _ in log.letters.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    text = b"\n".join(lines).decode() + "\n"
    said = json.loads(stream.dunlin(cluster.nodes[0], "deadletter", "list", "-", "--json", input=text))
    assert said["broken_lines"] == 0 and {r: s["letters"] for r, s in said["reasons"].items()} == reasons, (said, reasons)
    assert sum(s["repeats"] for s in said["reasons"].values()) == repeats, (said, repeats)
    for node in cluster.nodes:
        shards = json.loads(stream.dunlin(node, "deadletter", "list", "--json"))["shards"]
        ever = {r: sum(s["ever"].get(r, 0) for s in shards) for r in reasons}
        assert ever == reasons and all(s["waiting"] == 0 for s in shards), (node.number, ever, reasons)
    print(f"{len(log.letters)} letters in the topic, {repeats} lines are repeats: {reasons}", flush=True)
    return text


def check_replayed(cluster, brokers, text, log):
    """With the mapping mended, the letters that it was the cause of become events: once, however often."""
    source = stream.kafka_source("shop", brokers, ["clicks"], **SOURCE, fields={"user": "visitor"})
    cluster.write_configs(f"session:\n  lateness_s: {LATENESS_S}\n" + stream.sources(source))
    for turn in range(2):
        said = json.loads(stream.dunlin(cluster.nodes[turn], "deadletter", "replay", "-", "--json", "--reason", "undecodable", "--config",
                                        cluster.nodes[turn].config, input=text, ok=(1,)))
        assert said["events"] >= len(log.mended), said
        assert (said["accepted"] == len(log.mended)) if turn == 0 else (said["accepted"] == 0), (turn, said)
    print(f"replayed twice from the topic: {len(log.mended)} events, each counted once", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--letters", type=int, default=60, help="of each of the six kinds, in a round")
    options = parser.parse_args()
    rng = random.Random(seed())
    brokers = kafka_brokers.Brokers(3)
    brokers.create("clicks", PARTITIONS, replicas=3, min_insync_replicas=2)
    brokers.create("dead", PARTITIONS, replicas=3, min_insync_replicas=2)
    # Late events shall be late by their own partition's watermark only: replays come hours "later".
    cluster = Cluster(extra=EXTRA + f"session:\n  lateness_s: {LATENESS_S}\n  events_per_user: 1000\n" + stream.sources(
        stream.kafka_source("shop", brokers, ["clicks"], **SOURCE))).start()
    log, faults, began = Log(brokers, stream.now_ms() - 600000), Faults(cluster, brokers, rng), time.monotonic()
    for turn in range(options.rounds):
        for _ in range(options.letters):
            for _ in range(PARTITIONS * 4):
                log.add_good()
            log.add_bad(rng)
        log.send()
        before = waiting(cluster)
        said = faults.next()
        print(f"{time.monotonic() - began:6.1f} s: {len(log.letters)} letters sent, {before} waited: {said}", flush=True)
    if faults.back:
        faults.back.join()
    stream.wait_counted(cluster, brokers, "shop", "clicks")
    print(f"{time.monotonic() - began:6.1f} s: all is counted, {waiting(cluster)} letters wait", flush=True)
    wait_until("all letters are written", lambda: waiting(cluster) == 0, 120)
    print(f"{time.monotonic() - began:6.1f} s: all letters are written", flush=True)
    lines = brokers.values("dead")
    repeats = check_letters(lines, log.letters)
    text = check_listed(cluster, lines, log, repeats)
    stream.assert_sessions(cluster, stream.by_user(log.good), "beside dead letters")
    check_replayed(cluster, brokers, text, log)
    stream.assert_sessions(cluster, stream.by_user(log.good + log.mended), "with the letters that were tried again")
    cluster.assert_equal_hashes()
    assert faults.moved > 0, "no partition leader moved: this shows less than it should"
    for node in cluster.nodes:
        assert node.stop() == 0, f"node {node.number} did not stop cleanly"
    print("1 passed, 0 failed")


main()
