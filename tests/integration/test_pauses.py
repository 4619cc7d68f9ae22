"""SIGSTOP and SIGCONT of leaders and followers under load. Nothing acknowledged is lost or counted twice, writes go on
at the others, no process ends, and no LOCAL answer ever claims to be newer than it is: least of all the first ones of a
node that stood still, whose requests waited in its socket while it did."""

import random
import signal
import threading
import time

import grpc

from cluster import Cluster, pb, seed, wait_until
from history import Writer, verify

PAUSES = 6
PAUSE_S = 5.0
WRITERS = 3
RESUME_MAX_S = 3.0  # about a second on an idle machine; this one may be shared
EVENTS_PER_PROBE = 40
SHARD_USERS = 40  # so many users fall into every one of 4 shards


class Probe(threading.Thread):
    """Publishes one event after another, each to a running node, and notes when it was acknowledged."""

    def __init__(self, cluster, paused):
        super().__init__(daemon=True)
        self.cluster, self.paused, self.stop = cluster, paused, False
        self.lock = threading.Lock()
        self.round, self.acked = 0, []

    def run(self):
        count = 0
        while not self.stop:
            count += 1
            with self.lock:
                if len(self.acked) >= EVENTS_PER_PROBE:
                    self.round, self.acked = self.round + 1, []
                user = f"probe-{self.round}"
            event = pb.Event(user_id=user, item_id=f"probe-item-{count}", type=pb.EVENT_TYPE_CLICK,
                             time_ms=int(time.time() * 1000), event_id=f"probe-{count}")
            node = random.choice([n for n in self.cluster.nodes if n not in self.paused])
            try:
                answer = node.stub("Events").Publish(pb.PublishRequest(events=[event]), timeout=2)
            except grpc.RpcError:
                continue
            if answer.outcomes[0] in (pb.EVENT_OUTCOME_ACCEPTED, pb.EVENT_OUTCOME_DUPLICATE):
                with self.lock:
                    self.acked.append((event.item_id, time.monotonic()))
            time.sleep(0.02)

    def now(self):
        with self.lock:
            return f"probe-{self.round}", list(self.acked)


def ask(node, user, max_staleness_ms=0):
    """A LOCAL read that is on its way."""
    return node.stub("Sessions").Get.future(pb.GetSessionRequest(user_id=user, read=pb.ReadOptions(
        level=pb.READ_LEVEL_LOCAL, max_staleness_ms=max_staleness_ms)), timeout=30)


def judge(node, answer, acked, served_after, label):
    """What was acknowledged `t` before the answer was made and is not in it makes the answer at least `t` old. Returns
    how many events were missing."""
    got = {e.item_id for e in answer.events}
    missing = [at for item, at in acked if item not in got and at < served_after]
    if missing and answer.freshness.age_known:
        age_s, least_s = answer.freshness.age_us / 1e6, served_after - min(missing)
        assert age_s >= least_s, (f"{label}: node {node.number} claims an age of {age_s:.3f} s and lacks an event "
                                  f"acknowledged {least_s:.3f} s before")
    return len(missing)


class Reader(threading.Thread):
    """LOCAL reads of running nodes all the time, judged."""

    def __init__(self, cluster, probe, paused):
        super().__init__(daemon=True)
        self.cluster, self.probe, self.paused, self.stop, self.errors = cluster, probe, paused, False, []
        self.judged = 0

    def run(self):
        while not self.stop:
            node = random.choice([n for n in self.cluster.nodes if n not in self.paused])
            user, acked = self.probe.now()
            sent = time.monotonic()
            try:
                judge(node, ask(node, user).result(), acked, sent, "while running")
                self.judged += 1
            except grpc.RpcError:
                pass
            except AssertionError as error:
                self.errors.append(error)
            time.sleep(0.005)


def publish_in_every_shard(cluster, node, label):
    """Returns when an event of every shard was acknowledged by `node`."""
    left = [pb.Event(user_id=f"resume-{n}", item_id=f"item-{n}", type=pb.EVENT_TYPE_CLICK,
                     time_ms=int(time.time() * 1000), event_id=f"resume-{label}-{n}") for n in range(SHARD_USERS)]
    while left:
        try:
            answer = node.stub("Events").Publish(pb.PublishRequest(events=left), timeout=5)
        except grpc.RpcError:
            time.sleep(0.02)
            continue
        left = [e for e, o in zip(left, answer.outcomes) if o == pb.EVENT_OUTCOME_UNKNOWN]


def pause(cluster, probe, paused, node, label):
    """Stops a node for a while and wakes it with LOCAL reads in its socket."""
    others = [n for n in cluster.nodes if n is not node]
    ask(node, "nobody").result()  # the connection stands
    paused.add(node)
    stopped = time.monotonic()
    node.process.send_signal(signal.SIGSTOP)
    publish_in_every_shard(cluster, random.choice(others), label)
    resumed_s = time.monotonic() - stopped
    time.sleep(max(0.0, stopped + PAUSE_S - 0.5 - time.monotonic()))
    user, acked = probe.now()
    reads = [ask(node, user) for _ in range(20)]
    strict = [ask(node, user, max_staleness_ms=200) for _ in range(5)]
    time.sleep(0.5)
    woken = time.monotonic()
    node.process.send_signal(signal.SIGCONT)
    answers = [r.result() for r in reads]
    missing = [judge(node, a, acked, woken, label) for a in answers]
    first = answers[0].freshness
    refused = 0
    for read in strict:
        try:
            assert judge(node, read.result(), acked, woken - 0.2, label) == 0, f"{label}: staler than it may be"
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE, error
            refused += 1
    paused.discard(node)
    for n in cluster.nodes:
        assert n.process.poll() is None, f"node {n.number} ended with code {n.process.returncode}\n{n.log_text()[-3000:]}"
    wait_until("the woken node is ready", node.ready)
    wait_until("the woken node is fresh", lambda: ask(node, user).result().freshness.age_us < 2_000_000)
    print(f"{label}: writes of all shards went on within {resumed_s:.2f} s; first answer afterwards: age "
          f"{first.age_us / 1e6:.2f} s, {missing[0]} events missing, {refused} of {len(strict)} strict reads refused",
          flush=True)
    assert resumed_s < RESUME_MAX_S, f"{label}: writes stood still for {resumed_s:.2f} s"


def main():
    rng = random.Random(seed())
    cluster = Cluster(extra="raft:\n  snapshot_log_bytes: 65536\n").start()  # some need a snapshot to catch up
    paused = set()
    probe = Probe(cluster, paused)
    reader = Reader(cluster, probe, paused)
    writers = [Writer(cluster, f"p{i}", random.Random(rng.random())) for i in range(WRITERS)]
    for thread in [probe, reader, *writers]:
        thread.start()
    for n in range(PAUSES):
        time.sleep(rng.uniform(0.5, 1.0))
        leader = cluster.busiest_leader()
        node = leader if n % 2 == 0 else rng.choice([x for x in cluster.nodes if x is not leader])
        pause(cluster, probe, paused, node, f"pause {n + 1} ({'leader' if node is leader else 'follower'} {node.number})")
    for n in range(10):  # short ones: about an election timeout, leaders mostly
        node = cluster.busiest_leader() if rng.random() < 0.7 else rng.choice(cluster.nodes)
        node.process.send_signal(signal.SIGSTOP)
        time.sleep(rng.uniform(0.1, 0.9))
        node.process.send_signal(signal.SIGCONT)
        time.sleep(rng.uniform(0.05, 0.5))
    probe.stop = reader.stop = True
    probe.join()
    reader.join()
    for writer in writers:
        writer.finish()
    assert not reader.errors, reader.errors[0]
    print(f"{reader.judged} LOCAL reads of running nodes judged", flush=True)
    verify(cluster, writers, f"after {PAUSES} long and 10 short pauses")
    for node in cluster.nodes:
        assert node.stop() == 0, f"node {node.number} did not stop cleanly"
    print("1 passed, 0 failed")


main()
