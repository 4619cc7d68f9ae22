"""Kill -9 of leaders under load, 20 times, then of all nodes at once: every acknowledged event is present exactly
once on every node, and the state hashes are equal. Restart from log alone first, then from snapshot plus log."""

import random
import sys
import time

from cluster import Cluster, seed, wait_until
from history import Writer, verify

KILLS = 20
WRITERS = 4


def run(cluster, rng, kills, label):
    writers = [Writer(cluster, f"{label}{i}", random.Random(rng.random())) for i in range(WRITERS)]
    for writer in writers:
        writer.start()
    for n in range(kills):
        time.sleep(rng.uniform(0.2, 0.6))
        victim = cluster.busiest_leader()
        victim.kill()
        time.sleep(rng.uniform(0.1, 0.8))
        victim.start()
        wait_until("the victim is ready", victim.ready)
        print(f"kill {n + 1}: node {victim.number}", flush=True)
    for writer in writers:
        writer.finish()
    return writers


def snapshots_taken(cluster):
    return any(g.snapshot_index > 0 for n in cluster.nodes for g in n.status().groups)


def main():
    rng = random.Random(seed())
    small = "raft:\n  snapshot_log_bytes: 65536\n" if "--snapshots" in sys.argv else ""
    cluster = Cluster(extra=small).start()
    writers = run(cluster, rng, KILLS, "a")
    verify(cluster, writers, f"after {KILLS} kills of leaders")

    tail = [Writer(cluster, f"b{i}", random.Random(rng.random())) for i in range(WRITERS)]
    for writer in tail:
        writer.start()
    time.sleep(1.5)
    for node in cluster.nodes:  # all at once, under load
        node.process.kill()
    for node in cluster.nodes:
        node.kill()
    for node in cluster.nodes:
        node.start()
    cluster.wait_ready()
    for writer in tail:
        writer.finish()
    verify(cluster, writers + tail, "after all nodes died at once")
    if small:
        wait_until("a snapshot", lambda: snapshots_taken(cluster))
        for node in cluster.nodes:
            assert node.stop() == 0
            node.start()
        cluster.wait_ready()
        verify(cluster, writers + tail, "after a clean restart from snapshot and log")
    else:
        assert not snapshots_taken(cluster), "this run was to restart from the log alone"
    for node in cluster.nodes:
        assert node.stop() == 0, f"node {node.number} did not stop cleanly"
    print("1 passed, 0 failed")


main()
