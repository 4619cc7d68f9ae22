"""Topics of all kinds on one cluster of 3 nodes with 4 shards: not keyed; keyed, and grown while it runs, to a multiple of
the shards and to what is none; with aborted transactions; compacted. Each event counts exactly once, and the offsets
reach the ends of the logs."""

import os
import time

from cluster import Cluster, wait_until

import kafka
import stream

SHARDS = 4
EVENTS = 8000
USERS = 400  # 20 events each, below events_per_user


def kill_leader(cluster):
    victim = cluster.busiest_leader()
    victim.kill()
    victim.start()
    wait_until("the victim is ready", victim.ready)


def done(cluster, events, label):
    stream.assert_sessions(cluster, stream.by_user(events), label)
    cluster.assert_equal_hashes()
    print(f"{label}: {len(events)} events, each exactly once", flush=True)


def unkeyed(cluster, broker):
    """5 partitions, keys or none: every shard reads all of them, and counts its own users'."""
    events = stream.clicks("plain", EVENTS, USERS, stream.now_ms())
    for part in range(4):  # in between, a leader dies
        stream.send(broker, "plain", events[part::4], key=part % 2 == 0)
        if part == 1:
            kill_leader(cluster)
    ends = stream.wait_counted(cluster, broker, "plain", "plain", stream.by_all(cluster))
    assert len(ends) == 5 and sum(ends.values()) == EVENTS, ends
    done(cluster, events, "5 partitions, not keyed")


def grown(cluster, broker):
    """4 partitions, then 8, while events come in: users move to other partitions of the same shard."""
    events = stream.clicks("grown", EVENTS, USERS, stream.now_ms())
    stream.send(broker, "grown", events[:EVENTS // 2])
    broker.grow("grown", 8)
    stream.send(broker, "grown", events[EVENTS // 2:])
    ends = stream.wait_counted(cluster, broker, "grow", "grown")
    assert len(ends) == 8 and all(ends.values()) and sum(ends.values()) == EVENTS, ends
    done(cluster, events, "grown from 4 to 8 partitions, keyed")


def grown_oddly(cluster, broker):
    """4 partitions, then 6, which is no multiple of the shards: from then on it is read as not keyed, also with 8."""
    events = stream.clicks("odd", EVENTS, USERS, stream.now_ms())
    stream.send(broker, "odd", events[:EVENTS // 4])
    stream.wait_counted(cluster, broker, "odd", "odd")
    broker.grow("odd", 6)
    stream.send(broker, "odd", events[EVENTS // 4:EVENTS // 2])
    kill_leader(cluster)
    stream.wait_counted(cluster, broker, "odd", "odd", stream.by_all(cluster))
    broker.grow("odd", 8)
    stream.send(broker, "odd", events[EVENTS // 2:])
    ends = stream.wait_counted(cluster, broker, "odd", "odd", stream.by_all(cluster))
    assert len(ends) == 8 and sum(ends.values()) == EVENTS, ends
    done(cluster, events, "grown from 4 to 6 and to 8 partitions")


def transactional(cluster, broker):
    count, users, every, abort_every, time_ms = 6000, 300, 100, 3, stream.now_ms()
    got = broker.produce("tx", count, transaction="test", every=every, abort_every=abort_every, users=users, time=time_ms)
    assert got[1:] == (4000, 2000), got
    kept = [n for n in range(count) if (n // every + 1) % abort_every != 0]
    ends = stream.wait_counted(cluster, broker, "tx", "tx")
    assert sum(ends.values()) > count, f"transactions end with records of their own: {ends}"
    events = [(f"user-{n % users}", f"item-{n}", time_ms + n) for n in kept]
    expected = stream.by_user(events)
    for n in range(users):  # those whose events were all aborted have none
        expected.setdefault(f"user-{n}", [])
    stream.assert_sessions(cluster, expected, "transactions")
    cluster.assert_equal_hashes()
    print(f"transactions: {len(events)} events exactly once, nothing of the aborted {count - len(events)}", flush=True)


def log_bytes(broker, topic):
    size = 0
    for folder, _, names in os.walk(os.path.join(broker.directory, "data")):
        if os.path.basename(folder).rsplit("-", 1)[0] == topic:
            for name in names:
                try:
                    size += os.path.getsize(os.path.join(folder, name)) if name.endswith(".log") else 0
                except FileNotFoundError:
                    pass  # the cleaner was here
    return size


def compact(broker):
    """A topic whose log has holes before anybody reads it: 40 users' 30 events each, of which each user's last is kept,
    and two tombstones. Returns (all events, those that must be there)."""
    broker.create("compact", 4, cleanup_policy="compact", segment_ms=200, min_cleanable_dirty_ratio=0.01,
                  max_compaction_lag_ms=500, delete_retention_ms=3600000)
    events = stream.clicks("compact", 1200, 40, stream.now_ms())
    stream.send(broker, "compact", events)
    broker.produce_lines("compact", [(b"compact-0", None), (b"compact-1", None)])
    before, more = log_bytes(broker, "compact"), []

    def is_compacted():
        time.sleep(0.5)  # the newest segment is never compacted: one more event makes the one before it old
        extra = [(f"compact-more-{n}", f"more-{len(more)}-{n}", stream.now_ms()) for n in range(40)]
        more.append(extra)
        stream.send(broker, "compact", extra)
        return log_bytes(broker, "compact") < before / 2

    wait_until("the log is compacted", is_compacted, 60)
    return events, events[-40 + 2:], more


def compacted(cluster, broker, events, kept, more):
    """Offsets have holes. Each user's last event is there once, what was compacted away may or may not be, and nothing
    is there twice."""
    stream.wait_counted(cluster, broker, "compact", "compact")
    sent = stream.by_user(events + [e for extra in more for e in extra])
    last = stream.by_user(kept + more[-1])
    total = 0
    for node in cluster.nodes:
        for user, got in stream.sessions(node, sent).items():
            assert len(set(got)) == len(got), f"node {node.number}, {user}: twice: {got}"
            assert set(got) <= set(sent[user]), f"node {node.number}, {user}: never sent: {got}"
            assert set(last.get(user, [])) <= set(got), f"node {node.number}, {user}: its last event is missing: {got}"
            total += len(got)
    total //= len(cluster.nodes)
    assert total < sum(map(len, sent.values())) - 500, "nothing was compacted: this shows nothing"
    cluster.assert_equal_hashes()
    print(f"compacted: {total} of {sum(map(len, sent.values()))} events were left in the log, each counted once", flush=True)


def no_letters(cluster):
    """All of these were good events. But what came into the partitions of the grown topic before its growth to another
    number was noticed (two seconds) is noted as misrouted as well: nobody could know better then."""
    letters = {}
    for labels, value in stream.metrics(cluster.nodes[0], "dunlin_dead_letters").items():
        reason = labels.split('reason="')[1].split('"')[0]
        letters[reason] = letters.get(reason, 0) + int(value)
    print(f"dead letters: {letters}", flush=True)
    assert letters and not any(count for reason, count in letters.items() if reason != "misrouted"), letters
    notes = stream.dead_letters(os.path.join(node.folder, "deadletters", f"{source}.jsonl")
                                for node in cluster.nodes for source in ("plain", "grow", "tx", "compact"))
    assert not notes, notes


def main():
    broker = kafka.Broker()
    for topic, partitions in (("plain", 5), ("grown", 4), ("odd", 4), ("tx", 4)):
        broker.create(topic, partitions)
    compact_events = compact(broker)
    cluster = Cluster(shards=SHARDS, extra=stream.sources(
        stream.kafka_source("plain", broker, ["plain"]),
        stream.kafka_source("grow", broker, ["grown"], keyed=True),
        stream.kafka_source("odd", broker, ["odd"], keyed=True),
        stream.kafka_source("tx", broker, ["tx"], keyed=True),
        stream.kafka_source("compact", broker, ["compact"], keyed=True))).start()
    compacted(cluster, broker, *compact_events)
    unkeyed(cluster, broker)
    grown(cluster, broker)
    transactional(cluster, broker)
    grown_oddly(cluster, broker)
    no_letters(cluster)
    for node in cluster.nodes:
        assert node.stop() == 0, f"node {node.number} did not stop cleanly"
    print("1 passed, 0 failed")


main()
