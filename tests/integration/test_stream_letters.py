"""Messages that give no event, in JSON and in protobuf, one of 10 MB, and events that are late or ahead: each becomes one
dead letter with its reason and its original bytes, at whatever node wrote it, and the stream goes on. Which ones are
late is foretold by a model of the watermark. Leaders are killed meanwhile."""

import json
import os
import random

from cluster import Cluster, pb, seed, wait_until

import kafka
import stream

LATENESS_S = 5
LARGE = 10 << 20
MESSAGE_BYTES = 1 << 20
DAY_MS = 86400000
PARTITIONS = 3
OF_PARTITION = 3000
USERS = 200  # 45 events each, below events_per_user


def json_poison(now_ms):
    """(bytes, reason); None: no letter, it is passed over."""
    def like(**changes):
        return json.dumps({"user_id": "p", "item_id": "i", "type": "click", "time_ms": now_ms, **changes}).encode()

    return [
        (like()[:-9], "undecodable"), (like() + b"}", "undecodable"), (b"[" + like() + b"]", "undecodable"),
        (bytes(range(256)), "undecodable"), (b"\xff\xfe\x00\x00", "undecodable"), (b"", "undecodable"),
        (b"\n", "undecodable"), (b"null", "undecodable"), (b"{}", "undecodable"), (b"[" * 5000, "undecodable"),
        (like(user_id={"id": 1}), "undecodable"), (like(user_id=""), "undecodable"), (like(user_id=None), "undecodable"),
        (like(item_id=[1]), "undecodable"), (like(item_id=1.5), "undecodable"), (like(time_ms="yesterday"), "undecodable"),
        (like(time_ms=-1), "undecodable"), (like(type="teleported"), "undecodable"), (like(weight=-2), "undecodable"),
        (like(schema_version=99), "undecodable"), (b'{"user_id":"a","user_id":"b","item_id":"i"}', "undecodable"),
        (like(user_id="x" * 257), "limit"), (like(item_id="y" * 5000), "limit"),
        (b'{"user_id":"big","item_id":"' + b"z" * MESSAGE_BYTES + b'"}', "limit"),
        (like(time_ms=now_ms + 2 * DAY_MS), "ahead"), (None, None),
    ]


def protobuf_poison(now_ms):
    def like(**changes):
        return pb.Event(**{"user_id": "p", "item_id": "i", "time_ms": now_ms, **changes}).SerializeToString()

    return [
        (like()[:-1], "undecodable"), (b"\xff" * 40, "undecodable"), (bytes(range(256)), "undecodable"),
        (b"", "undecodable"), (like(user_id=""), "undecodable"), (like(item_id=""), "undecodable"),
        (b"\x08\x01" + like(), "undecodable"), (like(time_ms=-1), "undecodable"),
        (stream.message(("p", "i", now_ms)), "undecodable"), (like(user_id="x" * 257), "limit"),
        (like(time_ms=now_ms + 2 * DAY_MS), "ahead"), (None, None),
    ]


class Log:
    """What is sent to one partition, and what is to become of it."""

    def __init__(self, broker, source, topic, encode):
        self.broker, self.topic, self.encode = broker, topic, encode
        self.stream, self.offset, self.good, self.letters = f"{source}/{topic}", 0, [], {}
        self.records = []

    def add_good(self, event):
        self.records.append((event[0].encode(), self.encode(event)))
        self.good.append(event)
        self.offset += 1

    def add_poison(self, value, reason):
        self.records.append((b"poison", value))
        if reason:
            self.letters[self.stream, 0, self.offset] = (reason, value)
        self.offset += 1

    def send(self):
        self.broker.produce_lines(self.topic, self.records, partition=0)
        self.records = []


def poison(cluster, broker, now_ms):
    """Good events around each bad message. Returns the letters to come: {(stream, partition, offset): (reason, bytes)}."""
    def protobuf(event):
        return pb.Event(user_id=event[0], item_id=event[1], type=pb.EVENT_TYPE_CLICK, time_ms=event[2]).SerializeToString()

    logs = [(Log(broker, "json", "json", stream.message), json_poison(now_ms)),
            (Log(broker, "proto", "proto", protobuf), protobuf_poison(now_ms))]
    for log, bad in logs:
        events = iter(stream.clicks(log.topic, 4 * len(bad) + 3, 5, now_ms))
        for value, reason in bad:
            log.add_good(next(events))
            log.add_poison(value, reason)
        log.send()
        victim = cluster.busiest_leader()
        victim.kill()
        for value, reason in bad:  # once more, with a leader less
            log.add_good(next(events))
            log.add_poison(value, reason)
        log.add_good(next(events))
        log.send()
        victim.start()
        cluster.wait_ready()
    return {k: v for log, _ in logs for k, v in log.letters.items()}, [e for log, _ in logs for e in log.good]


def large(broker):
    """10 MB: above message_bytes. Its bytes are in the letter all the same; the producer's own form of it is known."""
    time_ms = stream.now_ms()
    broker.produce("large", 1, users=1, partition=0, time=time_ms)
    broker.produce("large", 1, users=1, partition=0, time=time_ms, first=1, size=LARGE)
    broker.produce("large", 1, users=1, partition=0, time=time_ms, first=2)
    begin = f'{{"user_id":"user-0","item_id":"item-1","type":"view","time_ms":{time_ms},"pad":"'.encode()
    value = begin + b"x" * (LARGE - 2 - len(begin)) + b'"}'
    return ({("large/large", 0, 1): ("limit", value)},
            [("user-0", "item-0", time_ms), ("user-0", "item-2", time_ms)])


def out_of_order(broker, rng, now_ms):
    """Times that jump; which are late is the model's word: of one shard's events of one partition, in order of offset,
    those before the largest time that was counted, less the lateness (session/README.md)."""
    letters, good, number = {}, [], 0
    for partition in range(PARTITIONS):
        events, floor_ms, time_ms = [], {}, now_ms - 3600000
        for offset in range(OF_PARTITION):
            time_ms += rng.choice((0, 1, 20, 50)) if rng.random() > 0.005 else 4000
            at_ms = time_ms - (int(rng.expovariate(1 / 2500)) if rng.random() < 0.3 else 0)
            event = (f"ooo-{number % USERS}", f"ooo-item-{number}", at_ms)
            number += 1
            events.append(event)
            shard = stream.shard_of(event[0], 4)
            if at_ms < floor_ms.get(shard, 0):
                letters["ooo/ooo", partition, offset] = ("late", stream.message(event))
            else:
                good.append(event)
                floor_ms[shard] = max(floor_ms.get(shard, 0), at_ms - 1000 * LATENESS_S)
        stream.send(broker, "ooo", events, partition=partition)
    assert 100 < len(letters) < len(good), "these events show nothing"
    return letters, good


def check_letters(cluster, expected):
    paths = [os.path.join(node.folder, "deadletters", f"{name}.jsonl") for node in cluster.nodes
             for name in ("json", "proto", "large", "ooo")]
    got = stream.dead_letters(paths)
    missing, more = [k for k in expected if k not in got], [k for k in got if k not in expected]
    assert not missing and not more, f"letters missing: {missing[:5]}; more than expected: {more[:5]}"
    for key, (reason, value) in expected.items():
        assert got[key]["reason"] == reason, (key, reason, got[key]["reason"])
        assert got[key]["original"] == value, (key, reason, str(got[key])[:300])
        assert got[key]["source"] == key[0].split("/")[0] and not got[key]["gone"], key


def check_counts(cluster, expected):
    """The state's own counts, on every node, and the client's, are those of the letters: one for each."""
    reasons = {}
    for reason, _ in expected.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    for node in cluster.nodes:
        said = json.loads(stream.dunlin(node, "deadletter", "list", "--json"))
        counted = {}
        for shard in said["shards"]:
            for reason, count in shard["ever"].items():
                counted[reason] = counted.get(reason, 0) + count
        assert {r: c for r, c in counted.items() if c} == reasons, (node.number, counted, reasons)
    print(f"{len(expected)} dead letters, each counted once and written with its bytes: {reasons}", flush=True)


def main():
    rng = random.Random(seed())
    broker = kafka.Broker()
    for topic, partitions in (("json", 1), ("proto", 1), ("large", 1), ("ooo", PARTITIONS)):
        broker.create(topic, partitions, max_message_bytes=16 << 20)
    cluster = Cluster(extra=f"session:\n  lateness_s: {LATENESS_S}\n" + stream.sources(
        stream.kafka_source("json", broker, ["json"]),
        stream.kafka_source("proto", broker, ["proto"], format="protobuf"),
        stream.kafka_source("large", broker, ["large"]), stream.kafka_source("ooo", broker, ["ooo"]))).start()
    now_ms = stream.now_ms()
    expected, good = poison(cluster, broker, now_ms)
    for letters, events in (large(broker), out_of_order(broker, rng, now_ms)):
        expected.update(letters)
        good += events
    for topic in ("json", "proto", "large", "ooo"):
        stream.wait_counted(cluster, broker, topic, topic, stream.by_all(cluster))
    wait_until("all letters are written", lambda: not any(stream.counts(n)["dead_waiting"] for n in cluster.nodes), 120)
    check_letters(cluster, expected)
    check_counts(cluster, expected)
    for node in cluster.nodes:
        counts = stream.counts(node)
        assert counts["events_applied"] == len(good), (node.number, counts, len(good))
    stream.assert_sessions(cluster, stream.by_user(good), "beside dead letters")
    cluster.assert_equal_hashes()
    print(f"{len(good)} good events, each exactly once", flush=True)
    for node in cluster.nodes:
        assert node.stop() == 0, f"node {node.number} did not stop cleanly"
    print("1 passed, 0 failed")


main()
