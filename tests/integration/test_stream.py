"""Events of a keyed topic of 8 partitions while leaders are killed every few seconds and the broker is restarted twice,
once cleanly and once by a power cut: each event is in the state exactly once on every node, and the offsets are the
log's ends. `--events 1000000 --rate 15000` is the long run."""

import argparse
import random
import time

from cluster import Cluster, seed, wait_until

import kafka
import stream

PARTITIONS = 8
EVENTS_PER_USER = 40  # below events_per_user, so that a read shows all of them
EXTRA = "raft:\n  snapshot_log_bytes: 256KiB\n"  # restarts find snapshots, with offsets in them


class Nemesis:
    """One thing after another: a leader's death; when a third is counted, the broker's clean restart; at two thirds, its
    power cut. A leader dies too while the broker is away."""

    def __init__(self, cluster, broker, events, rng):
        self.cluster, self.broker, self.events, self.rng = cluster, broker, events, rng
        self.kills, self.restarts, self.began = 0, 0, time.monotonic()

    def say(self, text):
        print(f"{time.monotonic() - self.began:6.1f} s, {self.counted():7d} counted: {text}", flush=True)

    def counted(self):
        return max(stream.counts(node)["events_applied"] for node in self.cluster.live())

    def kill_leader(self):
        victim = self.cluster.busiest_leader()
        victim.kill()
        self.kills += 1
        self.say(f"node {victim.number} killed")
        time.sleep(self.rng.uniform(0.1, 1.0))
        victim.start()
        wait_until(f"node {victim.number} ready again", victim.ready)

    def restart_broker(self, now):
        self.broker.stop(now=now)
        self.restarts += 1
        self.say(f"the broker is stopped {'by a power cut' if now else 'cleanly'}")
        self.kill_leader()
        self.broker.start()
        self.say("the broker is back")

    def turn(self):
        time.sleep(self.rng.uniform(1.0, 3.0))
        if self.restarts < 2 and self.counted() >= (self.restarts + 1) * self.events // 3:
            self.restart_broker(now=self.restarts == 1)
        else:
            self.kill_leader()


def wait_mirrored(broker, ends):
    """The consumer group, for dashboards, comes to the same offsets."""
    try:
        wait_until("offsets mirrored to the consumer group",
                   lambda: broker.committed("dunlin-test", "clicks") == ends, 60, every_s=0.5)
    except AssertionError:
        print(f"mirrored: {broker.committed('dunlin-test', 'clicks')}", flush=True)
        raise


def users(events):
    return max(1, events // EVENTS_PER_USER)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200000)
    parser.add_argument("--rate", type=int, default=8000)
    options = parser.parse_args()
    rng = random.Random(seed())
    broker = kafka.Broker()
    broker.create("clicks", PARTITIONS)
    cluster = Cluster(extra=EXTRA + stream.sources(stream.kafka_source(
        "shop", broker, ["clicks"], keyed=True, group_id="dunlin-test"))).start()
    time_ms = stream.now_ms()
    producer = broker.produce_start("clicks", options.events, rate=options.rate, users=users(options.events),
                                    time=time_ms)
    nemesis = Nemesis(cluster, broker, options.events, rng)
    while producer.poll() is None or nemesis.restarts < 2:
        nemesis.turn()
    acknowledged, _, _ = broker.produced(producer)
    assert acknowledged == options.events, acknowledged
    nemesis.say(f"all is produced; {nemesis.kills} kills, {nemesis.restarts} restarts of the broker")
    ends = stream.verify_once(cluster, broker, "shop", "clicks", options.events, users(options.events), time_ms)
    assert len(ends) == PARTITIONS, ends
    wait_mirrored(broker, ends)
    nemesis.say("verified")
    for node in cluster.nodes:
        assert node.stop() == 0, f"node {node.number} did not stop cleanly"
    print("1 passed, 0 failed")


main()
