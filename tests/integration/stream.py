"""What the tests of streams share: sources in the configuration, offsets and counts of the state, users' events, and what
`dunlin` and the metrics page say.

    broker = kafka.Broker()
    cluster = Cluster(extra=stream.sources(stream.kafka_source("shop", broker, ["clicks"], keyed=True))).start()
    broker.create("clicks", 8)
    broker.produce("clicks", 100, time=stream.now_ms())
    stream.wait_counted(cluster, broker, "shop", "clicks")"""

import base64
import json
import os
import re
import subprocess
import time
import urllib.request

import grpc

from cluster import BIN, pb, wait_until

PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
ALL_READ = (1 << 32) - 1  # no partition: the mark of a stream that every shard reads
UNDER_WAY = 64            # reads sent at once
CATCH_UP_S = 240          # on a machine that others use too


def now_ms():
    return int(time.time() * 1000)


# ---- configuration ----


def _yaml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_yaml(k)}: {_yaml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_yaml(v) for v in value) + "]"
    if isinstance(value, str) and PLAIN.fullmatch(value):
        return value  # names of kinds and formats may not be quoted
    return json.dumps(value)


def sources(*entries):
    return "sources:\n" + "".join(f"  - {_yaml(entry)}\n" for entry in entries)


def kafka_source(name, broker, topics, address=None, **keys):
    return {"name": name, "kind": "kafka", "brokers": address or broker.address, "topics": topics, **keys}


def file_source(name, paths, **keys):
    return {"name": name, "kind": "file", "paths": paths, **keys}


# ---- what the state holds ----


def offsets(node, stream):
    """{(partition, shard): next_offset} of the stream, as applied on the node."""
    answer = node.stub("Sources").List(pb.ListSourcesRequest(), timeout=10)
    return {(p.partition, p.shard): p.next_offset for p in answer.partitions
            if p.stream == stream and p.known and p.partition != ALL_READ}


def rows(cluster, stream):
    """What the nodes that read the stream say of it: {(partition, shard): SourcePartition}."""
    found = {}
    for node in cluster.live():
        for p in node.stub("Sources").List(pb.ListSourcesRequest(), timeout=10).partitions:
            if p.stream == stream and p.read_here:
                found[p.partition, p.shard] = p
    return found


def wait_offsets(cluster, stream, ends, shards_of, timeout_s=CATCH_UP_S):
    """Waits until every node's state stands at `ends` ({partition: offset}) in exactly the shards that
    shards_of(partition) names."""
    expected = {(p, shard): end for p, end in ends.items() for shard in shards_of(p)}

    def there():
        for node in cluster.nodes:
            got = offsets(node, stream)
            beyond = {key: offset for key, offset in got.items() if key in expected and offset > expected[key]}
            assert not beyond, f"{stream}: beyond the end of the log: {beyond}"
            if got != expected:
                there.last = (node.number, {k: (got.get(k), v) for k, v in expected.items() if got.get(k) != v},
                              {k: v for k, v in got.items() if k not in expected})
                return False
        return True

    there.last = None
    try:
        wait_until(f"offsets of {stream} at the end of the log", there, timeout_s, every_s=0.2)
    except AssertionError as error:
        raise AssertionError(f"{error}; node, {{(partition, shard): (is, should be)}}, too many: {there.last}") from None


def keyed(cluster):
    """Which shards read a partition of a keyed stream."""
    return lambda partition: [1 + partition % cluster.shards]


def by_all(cluster):
    return lambda partition: range(1, cluster.shards + 1)


def wait_counted(cluster, broker, source, topic, shards_of=None, timeout_s=CATCH_UP_S):
    """Waits until every node stands at the ends of the topic's log, which are returned: {partition: end}."""
    ends = {p: end for p, (_, end) in broker.ends(topic).items()}
    wait_offsets(cluster, f"{source}/{topic}", ends, shards_of or keyed(cluster), timeout_s)
    return ends


def counts(node):
    """Totals of the node's shards."""
    groups = [g for g in node.status(timeout=10).groups if g.group > 0]
    return {name: sum(getattr(g, name) for g in groups)
            for name in ("events_applied", "duplicates", "late", "refused", "dead_waiting")}


def sessions(node, users):
    """{user: [(item, time)]} of the node's own state, sorted; an unknown user has none."""
    stub, answers, users = node.stub("Sessions"), {}, list(users)
    for at in range(0, len(users), UNDER_WAY):
        calls = [(user, stub.Get.future(pb.GetSessionRequest(user_id=user, read=pb.ReadOptions(
            level=pb.READ_LEVEL_LOCAL)), timeout=60)) for user in users[at:at + UNDER_WAY]]
        for user, call in calls:
            answers[user] = sorted((e.item_id, e.time_ms) for e in call.result().events)
    return answers


def produced(count, users, time_ms, first=0):
    """What kafka_tool's `produce` sends, as {user: [(item, time)]}, sorted."""
    events = {}
    for n in range(first, first + count):
        events.setdefault(f"user-{n % users}", []).append((f"item-{n}", time_ms + n - first))
    return {user: sorted(of_user) for user, of_user in events.items()}


def assert_sessions(cluster, expected, label, nodes=None):
    """Each user's events, exactly, on every node (or those given). Says what is wrong with the first few."""
    for node in nodes or cluster.nodes:
        got = sessions(node, expected)
        wrong = [user for user in expected if got[user] != expected[user]]
        for user in wrong[:3]:
            lost = [e for e in expected[user] if e not in got[user]]
            more = list(got[user])
            for event in expected[user]:
                if event in more:
                    more.remove(event)
            print(f"{label}: node {node.number}, {user}: lost {lost[:5]}, twice or never sent {more[:5]}", flush=True)
        assert not wrong, f"{label}: node {node.number}: {len(wrong)} of {len(expected)} users are wrong"


def verify_once(cluster, broker, source, topic, events, users, time_ms):
    """What kafka_tool's `produce` sent is in every node's state, each event once and none otherwise; the offsets are the
    log's ends, which are returned."""
    cluster.wait_ready()
    ends = wait_counted(cluster, broker, source, topic)
    assert sum(ends.values()) == events, ends
    for node in cluster.nodes:
        got = counts(node)
        assert got["events_applied"] == events, (node.number, got)
        assert got["late"] == got["refused"] == got["dead_waiting"] == 0, (node.number, got)
    print(f"offsets are the log's ends: {ends}; {events} events applied on each node", flush=True)
    cluster.assert_equal_hashes()
    expected = produced(events, users, time_ms)
    # The hashes are equal: what one node holds, all hold. Each is asked for a third of the users.
    for i, node in enumerate(cluster.nodes):
        part = {user: expected[user] for n, user in enumerate(expected) if n % len(cluster.nodes) == i}
        assert_sessions(cluster, part, "after the kills", [node])
    print(f"{len(expected)} users: each event exactly once", flush=True)
    return ends


# ---- what is said of it ----


def stalled_everywhere(cluster, reason=""):
    """Every node's Status says that some shard stands still, for a reason that holds the text."""
    return all(reason in n.status(timeout=10).stream_reason and n.status(timeout=10).stream_reason != ""
               for n in cluster.nodes)


def runs_everywhere(cluster):
    return all(n.status(timeout=10).stream_reason == "" for n in cluster.nodes)


def freshness(node, user):
    return node.stub("Sessions").Get(pb.GetSessionRequest(user_id=user), timeout=10).freshness


def metrics(node, name):
    """{labels as text: value} of a metric."""
    with urllib.request.urlopen(f"http://{node.admin}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    found = {}
    for line in lines:
        full, _, value = line.rpartition(" ")
        if full == name or full.startswith(name + "{"):
            found[full[len(name):]] = float(value)
    return found


def dunlin(node, *words, ok=(0,), input=None):
    """The command-line client's output; it must end with one of the codes."""
    done = subprocess.run([os.path.join(BIN, "dunlin"), *[str(w) for w in words], "--server", node.api],
                          input=input, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode in ok, f"dunlin {words}: code {done.returncode}: {done.stdout} {done.stderr}"
    return done.stdout


def dead_letters(paths):
    """The letters in these files, each once however often it was written: {(stream, partition, offset): letter}, with the
    original bytes under "original" (None: they are not there)."""
    letters = {}
    for path in paths:
        if not os.path.exists(path):
            continue
        with open(path, "rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    continue  # it is being written
                letter = json.loads(line)
                letter["original"] = None if letter["bytes"] is None else base64.b64decode(letter["bytes"])
                letters[letter["stream"], letter["partition"], letter["offset"]] = letter
    return letters


def publish(cluster, rng, events, timeout_s=60):
    """Publishes through changing nodes until each event is counted; repeats under the same ids. The outcomes seen."""
    end, outcomes = time.monotonic() + timeout_s, []
    while events:
        assert time.monotonic() < end, f"{len(events)} events were not counted within {timeout_s} s"
        try:
            answer = rng.choice(cluster.live()).stub("Events").Publish(pb.PublishRequest(events=events), timeout=5)
        except grpc.RpcError:
            time.sleep(0.05)
            continue
        outcomes += [o for o in answer.outcomes if o != pb.EVENT_OUTCOME_UNKNOWN]
        events = [e for e, o in zip(events, answer.outcomes) if o == pb.EVENT_OUTCOME_UNKNOWN]
    return outcomes


# ---- events of our own ----


def murmur2(data):
    """As Kafka's Java client has it, made positive: which partition a key goes to, and which shard a user belongs to."""
    mask, mix = (1 << 32) - 1, 0x5bd1e995
    h = 0x9747b28c ^ len(data)
    whole = len(data) // 4 * 4
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at:at + 4], "little") * mix & mask
        k ^= k >> 24
        h = (h * mix ^ k * mix) & mask
    if whole < len(data):
        h = (h ^ int.from_bytes(data[whole:], "little")) * mix & mask
    h ^= h >> 13
    h = h * mix & mask
    return (h ^ h >> 15) & 0x7fffffff


def shard_of(user, shards):
    return 1 + murmur2(user.encode()) % shards


def clicks(prefix, count, users, time_ms):
    """(user, item, time) of `count` events of users "PREFIX-0" to "PREFIX-(users-1)" in turn, a millisecond apart."""
    return [(f"{prefix}-{n % users}", f"{prefix}-item-{n}", time_ms + n) for n in range(count)]


def message(event):
    user, item, time_ms = event
    return json.dumps({"user_id": user, "item_id": item, "type": "click", "time_ms": time_ms}).encode()


def send(broker, topic, events, key=True, partition=None):
    broker.produce_lines(topic, [(e[0].encode() if key else None, message(e)) for e in events], partition)


def by_user(events):
    """What assert_sessions expects."""
    users = {}
    for user, item, time_ms in events:
        users.setdefault(user, []).append((item, time_ms))
    return {user: sorted(of_user) for user, of_user in users.items()}
