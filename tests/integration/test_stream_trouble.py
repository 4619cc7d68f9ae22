"""What goes wrong with a broker, and is said: credentials that it refuses; a broker that is down when the nodes start; a
topic that appears late; offsets that retention deleted unread; a topic deleted and made anew. Answers say that the
streams stand still, and Status, the metrics and the log say why; `dunlin source skip` and `reset` are the way out."""

import os
import random
import time

from cluster import Cluster, pb, seed, wait_until

import kafka
import stream

EVENTS = 2000
USERS = 100
PASSWORD = "not-the-right-one-7391"
STANDS_STILL = "its streams stand still"
SKIPPED = 100  # records that retention takes unread


def send(broker, topic, prefix, users=USERS, count=EVENTS):
    events = stream.clicks(prefix, count, users, stream.now_ms())
    stream.send(broker, topic, events)
    return events


def stalled_shards(cluster):
    return {g.group for g in cluster.nodes[0].status().groups if g.stream_stalled}


def alarm(cluster, reason, wanted=None):
    """It is said in Status of every node, in answers for users of a shard that stands still, and in metrics; and reads and
    writes go on. `wanted`: the shards that are to stand still, waited for: each one's leader notices by itself."""
    try:
        wait_until(f"every node says '{reason}'", lambda: stream.stalled_everywhere(cluster, reason))
    except AssertionError:
        print(f"said is: {[n.status().stream_reason for n in cluster.nodes]}", flush=True)
        raise
    if wanted:
        wait_until(f"shards {wanted} stand still", lambda: stalled_shards(cluster) == wanted)
    shards = wanted or stalled_shards(cluster)
    user = next(f"probe-{n}" for n in range(1000) if stream.shard_of(f"probe-{n}", cluster.shards) in shards)
    for node in cluster.nodes:
        def said(node=node):
            fresh = stream.freshness(node, user)
            return fresh.stale and fresh.stream_stalled and fresh.stream_age_ms > 0
        wait_until(f"node {node.number}'s answers say so", said)
        stalled = stream.metrics(node, "dunlin_stream_stalled")
        assert any(stalled[f'{{group="{g}"}}'] == 1 for g in shards), stalled
    outcomes = stream.publish(cluster, random.Random(0), [pb.Event(user_id=user, item_id="still-here")])
    assert outcomes == [pb.EVENT_OUTCOME_ACCEPTED], outcomes
    print(f"alarm in shards {sorted(shards)}: {cluster.nodes[0].status().stream_reason}", flush=True)
    return shards


def over(cluster):
    wait_until("no node says that streams stand still", lambda: stream.runs_everywhere(cluster), 120)
    for node in cluster.nodes:
        assert not any(stream.metrics(node, "dunlin_stream_stalled").values())
    wait_until("answers say nothing either", lambda: not any(
        stream.freshness(n, f"probe-{i}").stream_stalled for n in cluster.nodes for i in range(40)))


def log_lines(cluster, text):
    return [line for node in cluster.nodes for line in node.log_text().splitlines() if text in line]


def secrets_are_kept(cluster):
    """In no log, no answer and no metric."""
    for node in cluster.nodes:
        said = node.log_text() + stream.dunlin(node, "source", "list") + stream.dunlin(node, "source", "list", "--json")
        said += str(node.status()) + str(stream.metrics(node, "dunlin_source_trouble_seconds"))
        assert PASSWORD not in said, f"node {node.number} tells the password"
        assert node.process.poll() is None


# ---- scenarios ----


def credentials(broker):
    """A source that the broker refuses, beside one that it does not: the first is loud, the second goes on."""
    refused = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "dunlin",
               "sasl.password": PASSWORD}
    cluster = Cluster(extra=stream.sources(
        stream.kafka_source("refused", broker, ["clicks"], address=broker.address_sasl, properties=refused),
        stream.kafka_source("good", broker, ["clicks"], keyed=True))).start()
    alarm(cluster, "refused")
    events = send(broker, "clicks", "good")
    stream.wait_counted(cluster, broker, "good", "clicks")
    stream.assert_sessions(cluster, stream.by_user(events), "beside refused credentials")
    assert all(not stream.offsets(node, "refused/clicks") for node in cluster.nodes)
    secrets_are_kept(cluster)
    troubles = {t.source: t.error for t in
                cluster.nodes[0].stub("Sources").List(pb.ListSourcesRequest(), timeout=5).troubles}
    assert set(troubles) == {"refused"}, troubles
    for node in cluster.nodes:
        assert node.stop() == 0
    # The right password, out of a file, is let in, and reads from the beginning: the offsets are those of "refused".
    path = os.path.join(cluster.folder, "password")
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as out:
        out.write("right")
    allowed = {k: v for k, v in refused.items() if k != "sasl.password"} | {"sasl.password_file": path}
    cluster.write_configs(stream.sources(
        stream.kafka_source("refused", broker, ["clicks"], address=broker.address_sasl, properties=allowed)))
    cluster.start()
    stream.wait_counted(cluster, broker, "refused", "clicks", stream.by_all(cluster))
    over(cluster)
    secrets_are_kept(cluster)
    cluster.close()
    print("credentials: loud, kept secret, and let in with the right ones", flush=True)


def down_at_start(cluster, broker):
    """The broker is away: nodes start, serve, and say so; it comes back, and everything is counted."""
    broker.stop()
    cluster.start()
    alarm(cluster, "")
    broker.start()
    events = send(broker, "clicks", "down")
    stream.wait_counted(cluster, broker, "shop", "clicks")
    stream.assert_sessions(cluster, stream.by_user(events), "after a start without a broker")
    print("down at start: counted once it was there", flush=True)


def late_topic(cluster, broker):
    alarm(cluster, "topic late does not exist")
    broker.create("late", 4)
    events = send(broker, "late", "late")
    stream.wait_counted(cluster, broker, "late", "late")
    over(cluster)
    stream.assert_sessions(cluster, stream.by_user(events), "of a topic that came late")
    print("late topic: counted once it was there", flush=True)


def retention(cluster, broker):
    """While no node runs, events come in and the first of partition 0 are deleted."""
    for node in cluster.nodes:
        assert node.stop() == 0
    begin = broker.ends("clicks")[0][1]
    events = send(broker, "clicks", "kept")
    lost = [e for e in events if stream.murmur2(e[0].encode()) % 4 == 0][:SKIPPED]
    broker.delete_records("clicks", 0, begin + SKIPPED)
    cluster.start()
    alarm(cluster, "shop/clicks partition 0", {1})
    time.sleep(3)  # it goes on to be said, but in the log once
    lines = [line for line in log_lines(cluster, STANDS_STILL) if "shop/clicks partition 0" in line]
    assert len(lines) == 1 and "group 1" in lines[0], lines
    row = stream.rows(cluster, "shop/clicks")[0, 1]
    assert row.state == pb.PARTITION_STATE_GAP and row.stalled and str(begin) in row.error, row
    stream.wait_offsets(cluster, "shop/clicks", {**{p: e for p, (_, e) in broker.ends("clicks").items()}, 0: begin},
                        stream.keyed(cluster))  # the other partitions go on
    stream.dunlin(cluster.nodes[1], "source", "skip", "shop/clicks", 0, "--to", begin + SKIPPED, "--yes")
    stream.wait_counted(cluster, broker, "shop", "clicks")
    over(cluster)
    left = list(events)
    for event in lost:
        left.remove(event)
    stream.assert_sessions(cluster, stream.by_user(left), "after retention")
    print(f"retention: alarm, skipped by hand, {len(left)} events counted", flush=True)


def recreated(cluster, broker):
    """The topic is deleted and made anew, with less in it than was read of the old one."""
    broker.delete("clicks")
    alarm(cluster, "topic clicks does not exist")
    broker.create("clicks", 4)
    events = send(broker, "clicks", "anew", count=200)
    wait_until("all partitions say that their offset is gone", lambda: [
        r.state for r in stream.rows(cluster, "shop/clicks").values()] == [pb.PARTITION_STATE_GAP] * 4, 60)
    alarm(cluster, "shop/clicks partition", {1, 2, 3, 4})
    for partition in range(4):
        stream.dunlin(cluster.nodes[2], "source", "reset", "shop/clicks", partition, "--to", "beginning", "--yes")
    stream.wait_counted(cluster, broker, "shop", "clicks")
    over(cluster)
    stream.assert_sessions(cluster, stream.by_user(events), "of the topic made anew")
    cluster.assert_equal_hashes()
    print("recreated: alarm, reset by hand, counted from its beginning", flush=True)


def main():
    seed()
    broker = kafka.Broker(sasl=True)
    broker.create("clicks", 4)
    credentials(broker)
    cluster = Cluster(extra=stream.sources(
        stream.kafka_source("shop", broker, ["clicks"], keyed=True),
        stream.kafka_source("late", broker, ["late"], keyed=True)))
    down_at_start(cluster, broker)
    late_topic(cluster, broker)
    retention(cluster, broker)
    recreated(cluster, broker)
    for node in cluster.nodes:
        assert node.stop() == 0, f"node {node.number} did not stop cleanly"
    print("1 passed, 0 failed")


main()
