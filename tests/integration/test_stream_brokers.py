"""Three brokers, a topic of 8 partitions with three replicas each: partition leaders move from broker to broker every few
seconds, asked for or because a broker is stopped or killed, and dunlin's own leaders are killed too. What the brokers
acknowledged is in the state exactly once on every node, and the offsets are the logs' ends.
`--events 1000000 --rate 8000` is the long run."""

import argparse
import random
import threading
import time

import grpc

from cluster import Cluster, seed, wait_until

import kafka_brokers
import stream

PARTITIONS = 8
EVENTS_PER_USER = 40  # below events_per_user, so that a read shows all of them
EXTRA = "raft:\n  snapshot_log_bytes: 256KiB\n"  # restarts find snapshots, with offsets in them
SAMPLE_S = 0.1
MOVES_MIN = 16  # of single partitions' leaders; fewer show nothing


class Pauses(threading.Thread):
    """How long nothing was counted while there was something to count: the number of events in the state does not grow.
    Says each pause when it ends, with its beginning, for a look into the logs."""

    SAID_S = 3.0

    def __init__(self, cluster, began):
        super().__init__(daemon=True)
        self.cluster, self.began, self.stop, self.longest = cluster, began, False, 0.0

    def run(self):
        counted, since = 0, time.monotonic()
        while not self.stop:
            now = time.monotonic()
            got = self.counted()
            if got > counted:
                if now - since > self.SAID_S:
                    print(f"{now - self.began:6.1f} s, {got:7d} counted: nothing was counted for {now - since:.1f} s", flush=True)
                self.longest = max(self.longest, now - since)
                counted, since = got, now
            time.sleep(SAMPLE_S)

    def counted(self):
        best = 0
        for node in self.cluster.live():
            try:
                best = max(best, sum(g.events_applied for g in node.status(timeout=1).groups if g.group > 0))
            except (grpc.RpcError, ValueError):  # killed, its channel closed
                pass
        return best


class Nemesis:
    """In turn, so that a short run has each: leaders moved, dunlin's leader killed, a broker stopped, leaders moved, dunlin's
    leader killed, a broker killed. A broker is away until the next of its kind is due, at least for a few seconds; never
    two: two of three replicas must be there."""

    def __init__(self, cluster, brokers, rng):
        self.cluster, self.brokers, self.rng = cluster, brokers, rng
        self.began, self.turns = time.monotonic(), 0
        self.moved, self.kills, self.stops, self.broker_kills = 0, 0, 0, 0

    def say(self, text):
        print(f"{time.monotonic() - self.began:6.1f} s: {text}", flush=True)

    def move_leaders(self):
        before = self.brokers.leaders("clicks")
        to = {p: self.rng.choice(sorted(set(self.brokers.running) - {before[p][0]})) for p in range(PARTITIONS)}
        moved = self.brokers.move_leaders("clicks", to)
        self.moved += moved
        self.say(f"{moved} partition leaders moved: {to}")

    def kill_leader(self):
        victim = self.cluster.busiest_leader()
        victim.kill()
        self.kills += 1
        self.say(f"node {victim.number} killed")
        time.sleep(self.rng.uniform(0.1, 1.0))
        victim.start()
        wait_until(f"node {victim.number} ready again", victim.ready)

    def broker_away(self, now):
        """The one that leads the most partitions goes; its partitions get other leaders; dunlin's leader dies meanwhile."""
        before = self.brokers.leaders("clicks")
        led = [leader for leader, _ in before.values()]
        victim = max(self.brokers.running, key=led.count)
        self.brokers.stop(victim, now=now)
        self.stops, self.broker_kills = self.stops + (not now), self.broker_kills + now
        self.say(f"broker {victim}, leader of {led.count(victim)}, {'killed' if now else 'stopped'}")
        self.kill_leader()
        wait_until("other leaders", lambda: all(leader not in (victim, -1) for leader, _ in self.brokers.leaders("clicks").values()))
        self.moved += led.count(victim)
        self.say("its partitions have other leaders")
        time.sleep(self.rng.uniform(1.0, 3.0))
        self.brokers.start(victim)
        self.say(f"broker {victim} is back")
        wait_until("all replicas in sync", lambda: self.brokers.in_sync("clicks"), 120)
        self.say("all replicas are in sync")

    def turn(self):
        time.sleep(self.rng.uniform(1.0, 2.5))
        what = (self.move_leaders, self.kill_leader, lambda: self.broker_away(False), self.move_leaders, self.kill_leader,
                lambda: self.broker_away(True))
        what[self.turns % len(what)]()
        self.turns += 1

    def is_through(self):
        return self.stops > 0 and self.broker_kills > 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100000)
    parser.add_argument("--rate", type=int, default=2500)
    options = parser.parse_args()
    rng = random.Random(seed())
    brokers = kafka_brokers.Brokers(3)
    brokers.create("clicks", PARTITIONS, replicas=3, min_insync_replicas=2)
    cluster = Cluster(extra=EXTRA + stream.sources(stream.kafka_source("shop", brokers, ["clicks"], keyed=True))).start()
    users, time_ms = max(1, options.events // EVENTS_PER_USER), stream.now_ms()
    producer = brokers.produce_start("clicks", options.events, rate=options.rate, users=users, time=time_ms)
    nemesis = Nemesis(cluster, brokers, rng)
    pauses = Pauses(cluster, nemesis.began)
    pauses.start()
    while producer.poll() is None or not nemesis.is_through():
        nemesis.turn()
    acknowledged, _, _ = brokers.produced(producer)
    assert acknowledged == options.events, acknowledged
    pauses.stop = True
    nemesis.say(f"all is produced; {nemesis.moved} partition leaders moved, {nemesis.stops} stops and {nemesis.broker_kills} "
                f"kills of brokers, {nemesis.kills} kills of nodes; nothing was counted for {pauses.longest:.1f} s at most")
    assert nemesis.moved >= MOVES_MIN, nemesis.moved
    ends = stream.verify_once(cluster, brokers, "shop", "clicks", options.events, users, time_ms)
    assert len(ends) == PARTITIONS, ends
    wait_until("nothing stands still", lambda: stream.runs_everywhere(cluster))
    nemesis.say("verified")
    for node in cluster.nodes:
        assert node.stop() == 0, f"node {node.number} did not stop cleanly"
    print("1 passed, 0 failed")


main()
