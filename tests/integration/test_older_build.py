"""Nodes of an older build and of this one in a cluster. DUNLIN_OLDER_BIN names a folder with a dunlind from before the
tables of what is near an item (any commit before e928c6c, and that one); without it the test is skipped.

While one node is of the older build, nobody keeps tables, and all states stay equal. Once all are of this build the
leaders turn them on. Whoever then starts the older build on its data again is told to upgrade, and never serves a state
that is not the others'."""

import os
import urllib.request

from cluster import Cluster, pb, skip, wait_until

OLDER = os.environ.get("DUNLIN_OLDER_BIN")
SHARDS = 2


def gauge(node, name):
    """Of each shard."""
    with urllib.request.urlopen(f"http://{node.admin}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return [float(line.split()[-1]) for line in lines if line.startswith(name + "{")]


def click(cluster, first, count):
    """So many users click three items each."""
    for user in range(first, first + count):
        events = [pb.Event(user_id=f"u{user}", item_id=f"item-{(user * 7 + i) % 50}", type=pb.EVENT_TYPE_CLICK,
                           event_id=f"e{user}-{i}") for i in range(3)]
        node = cluster.live()[user % len(cluster.live())]
        wait_until("a publish", lambda: all(
            o in (pb.EVENT_OUTCOME_ACCEPTED, pb.EVENT_OUTCOME_DUPLICATE)
            for o in node.stub("Events").Publish(pb.PublishRequest(events=events), timeout=5).outcomes))


def tables(node):
    return sum(gauge(node, "dunlin_near_rows"))


def restart(cluster, node, folder):
    node.stop()
    node.bin = folder
    node.start()
    cluster.wait_ready()


def main():
    if not OLDER:
        skip("older_build", "DUNLIN_OLDER_BIN is not set")
    cluster = Cluster(shards=SHARDS, extra="raft:\n  snapshot_log_bytes: 64KiB\n")
    this_build = cluster.nodes[0].bin
    for node in cluster.nodes[1:]:
        node.bin = OLDER
    cluster.start()
    click(cluster, 0, 100)
    cluster.assert_equal_hashes()
    restart(cluster, cluster.nodes[1], this_build)
    for node in cluster.nodes[:2]:  # each of the two leads for a while, with one older build left
        restart(cluster, node, this_build)
        click(cluster, 100 * (1 + node.number), 100)
        cluster.assert_equal_hashes()
        assert tables(cluster.nodes[0]) == 0 and tables(cluster.nodes[1]) == 0, "tables, and an older build among us"
    restart(cluster, cluster.nodes[2], this_build)
    wait_until("rows on all nodes", lambda: click(cluster, 1000, 40) or all(tables(n) > 0 for n in cluster.nodes))
    cluster.assert_equal_hashes()
    older = cluster.nodes[2]
    older.stop()
    click(cluster, 2000, 100)
    older.bin = OLDER
    older.start()
    code = older.ended()
    assert code != 0 and "upgrade" in older.log_text(), f"code {code}; its log ends: {older.log_text()[-2000:]}"
    older.bin = this_build
    older.start()
    cluster.wait_ready()
    cluster.assert_equal_hashes()
    print("older build: nothing before all were of this one, and nothing of it afterwards")


main()
