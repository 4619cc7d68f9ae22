"""Real input: the Serenade clicks, published through the API to three nodes in event-time order, a recommendation
asked for after each of the last 10 %; every click in state exactly once at the end; the hit rate at 20 printed."""

import gzip
import os
import subprocess

from cluster import BIN, ROOT, Cluster, pb, skip, wait_until

DATA = os.path.join(os.path.dirname(ROOT), "shared", "datasets")
CLICKS = 113601


def main():
    events = os.path.join(DATA, "serenade_toy.tsv.gz")
    if not os.path.exists(events):
        skip("shared", "the data folder ../shared/datasets is not beside the checkout")
    # A session's clicks may lie hours apart and all are asked for at the end: the state keeps every one of them.
    cluster = Cluster(extra="session:\n  events_per_user: 1000\n  ids_per_user: 1000\n").start()
    loaded = subprocess.run([os.path.join(BIN, "dunlin"), "--server", cluster.nodes[0].api, "catalog", "load",
                             os.path.join(DATA, "serenade_ppmi_svd64.npy"), "--ids",
                             os.path.join(DATA, "serenade_ids.txt")], timeout=300)
    assert loaded.returncode == 0, "the catalogue was not loaded"
    acked = os.path.join(cluster.folder, "acked.tsv")
    ran = subprocess.run([os.path.join(BIN, "dunlin-replay"), "run", "--to", ",".join(n.api for n in cluster.nodes),
                          "--events", events, "--format", "tsv", "--last-share", "0.1", "--k", "20", "--include-seen",
                          "--acked", acked], timeout=800)
    assert ran.returncode == 0, f"dunlin-replay run ended with {ran.returncode}"
    lines = sum(1 for _ in open(acked))
    assert lines == CLICKS, f"{lines} clicks acknowledged, not {CLICKS}"
    checked = subprocess.run([os.path.join(BIN, "dunlin-replay"), "check", "--nodes",
                              ",".join(n.api for n in cluster.nodes), "--acked", acked], timeout=600)
    assert checked.returncode == 0, "a click is missing or was counted twice"
    with gzip.open(events, "rt") as file:
        assert sum(1 for _ in file) - 1 == CLICKS
    applied = [sum(g.events_applied for g in n.status().groups if g.group > 0) for n in cluster.nodes]
    print("events applied by node:", applied)
    cluster.assert_equal_hashes()
    for node in cluster.nodes:
        assert node.stop() == 0
    print("1 passed, 0 failed")


main()
