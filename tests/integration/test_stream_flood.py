"""A flood: far more events than the nodes take in, in the log before they begin (a topic keyed by user and one that is not)
and more coming as fast as the producer can. The nodes' memory stays bounded, the API's writes go through meanwhile,
leaders change, and in the end each event counted once.

The state itself is kept small (few users, few items), so that what grows is what waits."""

import argparse
import random
import threading
import time

import grpc

from cluster import Cluster, pb, seed, wait_until

import kafka
import stream

USERS = 1000
ITEMS_MAX = 60000  # of a shard: items nobody's session holds any more make room
LOG_BYTES = 8 << 20  # of a group, before it is snapshotted; held in memory until then
RESIDENT_MAX_MIB = 512  # of a node; the flood is larger than this in all
CALL_S = 5.0
LONG_MS = 2000


def clock():
    """As in the nodes' logs."""
    return time.strftime("%H:%M:%S", time.gmtime())


class Clicks(threading.Thread):
    """One click after another by the API; each must be counted, whatever it takes. Says which ones took long."""

    def __init__(self, cluster, rng):
        super().__init__(daemon=True)
        self.cluster, self.rng, self.stop = cluster, rng, False
        self.counted, self.again, self.took_ms, self.error = 0, 0, [], None

    def run(self):
        try:
            while not self.stop:
                self.click()
                time.sleep(0.02)
        except Exception as error:  # shown by the main thread
            self.error = error

    def click(self):
        event = pb.Event(user_id=f"api-{self.counted % 50}", item_id=f"api-item-{self.counted % 500}",
                         type=pb.EVENT_TYPE_CLICK, event_id=f"api-{self.counted}", time_ms=stream.now_ms())
        began = time.monotonic()
        while True:
            try:
                answer = self.rng.choice(self.cluster.nodes).stub("Events").Publish(
                    pb.PublishRequest(events=[event]), timeout=CALL_S)
                if answer.outcomes[0] != pb.EVENT_OUTCOME_UNKNOWN:
                    break
            except grpc.RpcError as error:
                assert error.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE,
                                        grpc.StatusCode.DEADLINE_EXCEEDED), error
                why = f"{error.code().name}: {error.details()}"
            else:
                why = answer.message
            self.again += 1
            print(f"{clock()}: tried again after {time.monotonic() - began:.2f} s: {why}", flush=True)
            time.sleep(0.02)
        assert answer.outcomes[0] in (pb.EVENT_OUTCOME_ACCEPTED, pb.EVENT_OUTCOME_DUPLICATE), answer
        took_ms = (time.monotonic() - began) * 1000
        if took_ms > LONG_MS:
            print(f"{clock()}: a click took {took_ms:.0f} ms", flush=True)
        self.took_ms.append(took_ms)
        self.counted += 1

    def finish(self):
        self.stop = True
        self.join(60)
        if self.error:
            raise self.error


def resident_mib(node):
    return stream.metrics(node, "process_resident_memory_bytes")[""] / (1 << 20)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=600000, help="in each of the two topics")
    options = parser.parse_args()
    rng = random.Random(seed())
    broker = kafka.Broker()
    time_ms, before = stream.now_ms(), options.events // 2
    for topic in ("keyed", "plain"):
        broker.create(topic, 8)
        broker.produce(topic, before, users=USERS, time=time_ms, size=500)
    cluster = Cluster(extra=f"raft:\n  snapshot_log_bytes: {LOG_BYTES}\nsession:\n  items_max: {ITEMS_MAX}\n" + stream.sources(
        stream.kafka_source("keyed", broker, ["keyed"], keyed=True),
        stream.kafka_source("plain", broker, ["plain"]))).start()
    print(f"at the start: {[round(resident_mib(n)) for n in cluster.nodes]} MiB", flush=True)
    began = time.monotonic()
    producers = [broker.produce_start(topic, options.events - before, users=USERS, first=before, time=time_ms + before,
                                      size=500) for topic in ("keyed", "plain")]
    clicks = Clicks(cluster, random.Random(rng.random()))
    clicks.start()
    most = {node: 0.0 for node in cluster.nodes}
    killed = False

    def counted():
        nonlocal killed
        for node in cluster.nodes:
            most[node] = max(most[node], resident_mib(node))
        total = min(stream.counts(node)["events_applied"] for node in cluster.nodes) - clicks.counted
        if not killed and total > options.events:
            killed = True
            print(f"{clock()}: a leader is killed", flush=True)
            victim = cluster.busiest_leader()
            victim.kill()
            victim.start()
            cluster.wait_ready()
        return total >= 2 * options.events - 100 * 8

    wait_until("most of the flood is counted", counted, 2 * stream.CATCH_UP_S, every_s=0.5)
    took_s = time.monotonic() - began
    for producer in producers:
        broker.produced(producer)
    clicks.finish()
    ends = {topic: stream.wait_counted(cluster, broker, topic, topic, rule(cluster))
            for topic, rule in (("keyed", stream.keyed), ("plain", stream.by_all))}
    assert all(sum(e.values()) == options.events for e in ends.values()), ends
    for node in cluster.nodes:
        counts = stream.counts(node)
        assert counts["events_applied"] == 2 * options.events + clicks.counted, (counts, clicks.counted)
        assert counts["late"] == counts["refused"] == 0, counts
    cluster.assert_equal_hashes()
    took = sorted(clicks.took_ms)
    print(f"{2 * options.events} events counted in {took_s:.1f} s; at most "
          f"{[round(most[n]) for n in cluster.nodes]} MiB resident; {clicks.counted} clicks by the API, "
          f"{clicks.again} tried again, p50 {took[len(took) // 2]:.1f} ms, p99 {took[len(took) * 99 // 100]:.1f} ms, "
          f"at most {took[-1]:.0f} ms", flush=True)
    assert max(most.values()) < RESIDENT_MAX_MIB, "memory grew with the flood"
    for node in cluster.nodes:
        assert node.stop() == 0, f"node {node.number} did not stop cleanly"
    print("1 passed, 0 failed")


main()
