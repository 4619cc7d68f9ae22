"""Files that come, are read, and are deleted: more of them than a source may have at a time, on three nodes that have the
same folder while leaders are killed; each event counts once, and the places are given back. On one node alone a followed file
is rotated, its old parts are deleted (one of them while the node is down), and one comes back compressed. `dunlin source
forget` is refused while a file is there, and is the way out when one was lost."""

import gzip
import os
import random
import subprocess
import tempfile
import time

from cluster import BIN, Cluster, pb, seed, wait_until

import stream

WAVES = 3
FILES = 500  # of a wave: three of them are more than the 1,024 of a source
EVENTS = 12  # of a file
ROTATIONS = 12
GONE_S = 240


def listed(node):
    return node.stub("Sources").List(pb.ListSourcesRequest(), timeout=10).partitions


def in_use(node):
    """Places of streams; a node's own word on those that only it reads has others (@NODE)."""
    return sum(p.known and not p.finished and not p.stream.startswith("@") for p in listed(node))


def put(folder, name, events):
    """As a file that is not followed is to come: whole."""
    path = os.path.join(folder, "." + name)
    with open(path, "wb") as out:
        out.write(b"".join(stream.message(event) + b"\n" for event in events))
    os.rename(path, os.path.join(folder, name))
    return os.path.join(folder, name)


def forget(node, name, partition=0):
    return subprocess.run([os.path.join(BIN, "dunlin"), "--server", node.api, "source", "forget", name, str(partition), "--yes"],
                          capture_output=True, text=True, timeout=60)


def counted(cluster, want):
    return all(stream.counts(node)["events_applied"] == want for node in cluster.live())


def a_folder(rng):
    folder = tempfile.mkdtemp(prefix="dunlin-test.")
    inbox = os.path.join(folder, "inbox")
    os.mkdir(inbox)
    cluster = Cluster(folder=folder, extra="raft:\n  snapshot_log_bytes: 1MiB\n" + stream.sources(
        stream.file_source("box", [inbox]))).start()
    events, at = stream.clicks("box", WAVES * FILES * EVENTS + EVENTS, WAVES * 400, stream.now_ms()), 0
    stays = put(inbox, "stays.jsonl", events[:EVENTS])
    at += EVENTS
    for wave in range(WAVES):
        paths = []
        for n in range(FILES):
            paths.append(put(inbox, f"part-{wave}-{n:04}.jsonl", events[at:at + EVENTS]))
            at += EVENTS
            if n == FILES // 2:
                victim = cluster.busiest_leader()
                victim.kill()
                time.sleep(rng.uniform(0, 0.5))
                victim.start()
                cluster.wait_ready()
        wait_until("the wave is counted", lambda: counted(cluster, at), stream.CATCH_UP_S, every_s=0.3)
        # What has no event for a shard comes into its state within a second, too.
        wait_until("all offsets are in the state", lambda: all(
            p.lag_records == 0 for node in cluster.live() for p in listed(node) if p.read_here), stream.CATCH_UP_S, every_s=0.5)
        for path in paths:
            os.unlink(path)
        began = time.monotonic()
        wait_until("the places are given back", lambda: all(in_use(node) == 4 for node in cluster.live()), GONE_S, every_s=0.5)
        print(f"wave {wave + 1}: {FILES} files read and deleted, forgotten after {time.monotonic() - began:.0f} s", flush=True)
    assert counted(cluster, at), [stream.counts(node) for node in cluster.nodes]
    stream.assert_sessions(cluster, stream.by_user(events), "out of files that are gone")
    cluster.assert_equal_hashes()
    names = {p.stream for p in listed(cluster.nodes[0]) if p.known and not p.finished}
    assert len(names) == 1, names
    refused = forget(cluster.nodes[0], next(iter(names)))
    assert refused.returncode == 1 and "is one of this node's sources, and there" in refused.stderr, refused
    # One that was counted and comes back is known still, also after a restart.
    cluster.nodes[0].kill()
    cluster.nodes[0].start()
    cluster.wait_ready()
    put(inbox, f"part-{WAVES - 1}-0000.jsonl", events[at - FILES * EVENTS:][:EVENTS])
    wait_until("it has its place again", lambda: all(in_use(node) == 8 for node in cluster.live()), GONE_S, every_s=0.5)
    assert counted(cluster, at), [stream.counts(node) for node in cluster.nodes]
    assert os.path.exists(stays)
    for node in cluster.nodes:
        assert node.stop() == 0, f"node {node.number} did not stop cleanly"
    subprocess.run(["rm", "-rf", folder], check=True)
    print(f"{at} events of {WAVES * FILES + 1} files, each exactly once on three nodes", flush=True)


def followed(rng):
    cluster = Cluster(n=1, shards=2, extra="")
    path, lines = os.path.join(cluster.folder, "app.log"), 40
    events, at = stream.clicks("app", (ROTATIONS + 2) * lines, 100, stream.now_ms()), 0
    with open(path, "wb"):
        pass
    cluster.write_configs(stream.sources(stream.file_source("app", [path], follow=True)))
    cluster.start()
    node, first = cluster.nodes[0], b""

    def write():
        nonlocal at
        text = b"".join(stream.message(event) + b"\n" for event in events[at:at + lines])
        with open(path, "ab") as out:
            out.write(text)
        at += lines
        wait_until("it is counted", lambda: stream.counts(node)["events_applied"] == at, stream.CATCH_UP_S, every_s=0.02)
        return text

    for rotation in range(ROTATIONS):
        text = write()
        first = first or text
        time.sleep(rng.uniform(0, 0.2))
        os.rename(path, f"{path}.{rotation}")
    write()
    time.sleep(7)  # the last ones are known to be read to their ends
    for rotation in range(ROTATIONS):
        if rotation == ROTATIONS // 2:
            node.kill()
        os.unlink(f"{path}.{rotation}")
    node.start()
    cluster.wait_ready()
    wait_until("only the file itself is left", lambda: in_use(node) == 2 and len([p for p in listed(node) if p.read_here]) == 2,
               GONE_S, every_s=0.5)
    with gzip.open(f"{path}.99.gz", "wb") as out:  # out of a backup
        out.write(first)
    time.sleep(3)
    write()
    assert stream.counts(node)["events_applied"] == at, (stream.counts(node), at)
    stream.assert_sessions(cluster, stream.by_user(events), "out of a followed file")
    lost(cluster, node, path)
    assert node.stop() == 0
    print(f"{at} events of a file followed over {ROTATIONS} rotations, each exactly once; its places were given back", flush=True)


def lost(cluster, node, path):
    """Deleted before it was read to its end: it stands still until somebody says that it is over."""
    current = [p.stream for p in listed(node) if p.read_here and not p.finished][0]
    node.kill()
    with open(path, "ab") as out:
        out.write(b'{"user_id":"nobody","item_id":"never"}\n')
    with open(path + ".new", "wb"):  # made while the old one is there: it cannot get its inode, and be taken for it
        pass
    os.replace(path + ".new", path)
    node.start()
    cluster.wait_ready()
    wait_until("it stands still", lambda: any(p.stream == current and p.state == pb.PARTITION_STATE_GAP for p in listed(node)),
               GONE_S, every_s=0.5)
    wait_until("it may be forgotten", lambda: forget(node, current).returncode == 0, GONE_S, every_s=1)
    wait_until("it is forgotten", lambda: in_use(node) == 0 and not any(p.read_here for p in listed(node)), GONE_S, every_s=0.5)


def main():
    rng = random.Random(seed())
    a_folder(rng)
    followed(rng)
    print("1 passed, 0 failed")


main()
