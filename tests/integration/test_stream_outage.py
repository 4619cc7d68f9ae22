"""The broker is away for a while (`--seconds`; 600 is the long run) while clicks come by the API and producers go on with
what they hold: nobody is late afterwards, neither the API's clicks nor the stream's events, also not of the same users.
The allowed lateness is a fraction of the outage: one watermark for all would make them late."""

import argparse
import random
import subprocess
import threading
import time

import grpc

from cluster import Cluster, pb, seed, wait_until

import kafka
import stream

LATENESS_S = 3
USERS = 1000
RATE = 200  # of the stream, a second
API_EVERY_S = 0.02
EVENTS_MAX = 1000  # of a user, kept


class Clicks(threading.Thread):
    """The API's clicks of the stream's users, with the time of now; each is to be counted. Keeps how long calls took."""

    def __init__(self, cluster, rng):
        super().__init__(daemon=True)
        self.cluster, self.rng, self.stop, self.sent, self.took_ms, self.error = cluster, rng, False, [], [], None

    def run(self):
        try:
            while not self.stop:
                self.publish(len(self.sent))
                time.sleep(API_EVERY_S)
        except Exception as error:  # shown by the main thread
            self.error = error

    def publish(self, n):
        event = pb.Event(user_id=f"user-{n % USERS}", item_id=f"api-{n}", type=pb.EVENT_TYPE_CLICK, time_ms=stream.now_ms(),
                         event_id=f"api-{n}")
        while True:
            began = time.monotonic()
            try:
                answer = self.rng.choice(self.cluster.nodes).stub("Events").Publish(pb.PublishRequest(events=[event]), timeout=5)
            except grpc.RpcError:
                time.sleep(0.05)
                continue
            self.took_ms.append((time.monotonic() - began) * 1000)
            if answer.outcomes[0] != pb.EVENT_OUTCOME_UNKNOWN:
                break
        assert answer.outcomes[0] in (pb.EVENT_OUTCOME_ACCEPTED, pb.EVENT_OUTCOME_DUPLICATE), answer
        self.sent.append((event.user_id, event.item_id, event.time_ms))

    def finish(self):
        self.stop = True
        self.join(60)
        if self.error:
            raise self.error


def produce(broker, count, time_ms):
    """At the pace of their event times; what comes while the broker is away waits in the producer."""
    return subprocess.Popen([kafka.TOOL, broker.address, "-X", "message.timeout.ms=0", "produce", "clicks", str(count),
                             "--rate", str(RATE), "--users", str(USERS), "--time", str(time_ms)],
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    rng = random.Random(seed())
    count = int((options.seconds + 15) * RATE)
    broker = kafka.Broker()
    broker.create("clicks", 4)
    cluster = Cluster(extra=f"session:\n  lateness_s: {LATENESS_S}\n  events_per_user: {EVENTS_MAX}\n" + stream.sources(
        stream.kafka_source("shop", broker, ["clicks"], keyed=True))).start()
    # All of them are older than the API's clicks of the same users, by more than the lateness.
    time_ms = stream.now_ms() - count - 2000 * LATENESS_S
    producer = produce(broker, count, time_ms)
    wait_until("the stream is read", lambda: stream.counts(cluster.nodes[0])["events_applied"] > 5 * RATE)
    clicks = Clicks(cluster, random.Random(rng.random()))
    clicks.start()
    broker.stop()
    began = time.monotonic()
    wait_until("every node says that its streams stand still", lambda: stream.stalled_everywhere(cluster, "no broker"), 60)
    print(f"said after {time.monotonic() - began:.1f} s: {cluster.nodes[0].status().stream_reason[:120]}", flush=True)
    while time.monotonic() - began < options.seconds:
        time.sleep(0.5)
        if rng.random() < 0.05:
            victim = cluster.busiest_leader()
            victim.kill()
            victim.start()
            cluster.wait_ready()
        # All the time, also when a node that knows no partition yet begins to lead.
        assert stream.stalled_everywhere(cluster, "no broker"), [n.status(timeout=10).stream_reason for n in cluster.nodes]
    broker.start()
    print(f"the broker was away for {time.monotonic() - began:.1f} s; {len(clicks.sent)} clicks by the API", flush=True)
    out, _ = producer.communicate(timeout=stream.CATCH_UP_S)
    assert producer.returncode == 0 and int(out.split()[0]) == count, out
    clicks.finish()
    ends = stream.wait_counted(cluster, broker, "shop", "clicks")
    assert sum(ends.values()) == count, ends
    wait_until("it is said no longer", lambda: stream.runs_everywhere(cluster))
    for node in cluster.nodes:
        counts = stream.counts(node)
        assert counts["events_applied"] == count + len(clicks.sent), (counts, count, len(clicks.sent))
        assert counts["late"] == counts["refused"] == 0, counts
    cluster.assert_equal_hashes()
    expected = stream.produced(count, USERS, time_ms)
    for user, item, at_ms in clicks.sent:
        expected[user] = sorted(expected[user] + [(item, at_ms)])
    stream.assert_sessions(cluster, expected, "after the outage")
    took = sorted(clicks.took_ms)
    print(f"{count} events of the stream and {len(clicks.sent)} of the API, each once, none late; calls took "
          f"{took[len(took) // 2]:.1f} ms, p99 {took[len(took) * 99 // 100]:.1f} ms", flush=True)
    for node in cluster.nodes:
        assert node.stop() == 0, f"node {node.number} did not stop cleanly"
    print("1 passed, 0 failed")


main()
