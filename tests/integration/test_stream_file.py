"""Files. On three nodes that have the same file under the same path, each shard's leader reads its users' events out of
it while leaders are killed: each counts once, what is no event is a dead letter with its bytes, and `dunlin deadletter`
lists them and tries them again. On one node alone a file is followed over rotation and restarts. A click on what a node
has shown is that node's hit, whether it came out of a file or by another node."""

import gzip
import json
import os
import random
import subprocess
import tempfile
import time

from cluster import BIN, Cluster, pb, seed, wait_until

import stream

EVENTS = 60000
USERS = 1500  # 40 events each, below events_per_user
KILLS = 5
POISON_EVERY = 5000
ROTATIONS = 6
LINES_A_TIME = 500


def write_lines(path, lines, mode="wb"):
    with (gzip.open if path.endswith(".gz") else open)(path, mode) as out:
        for line in lines:
            out.write(line + b"\n")


def letters_of(cluster, *names):
    return stream.dead_letters(os.path.join(node.folder, "deadletters", f"{name}.jsonl")
                               for node in cluster.nodes for name in names)


def history(cluster_folder, now_ms):
    """Two files, one of them compressed. Returns their paths, their events, and {(path, offset): bytes} of what is none."""
    events, bad = stream.clicks("file", EVENTS, USERS, now_ms), {}
    paths = [os.path.join(cluster_folder, "events.jsonl"), os.path.join(cluster_folder, "more.jsonl.gz")]
    for part, path in enumerate(paths):
        lines, offset = [], 0
        for n, event in enumerate(events[part::2]):
            if n % POISON_EVERY == POISON_EVERY - 1:
                line = b'{"user_id":"file-1","product":"renamed-%d","time_ms":%d}' % (n + part, now_ms)
                bad[path, offset] = line
                lines.append(line)
                offset += len(line) + 1
            lines.append(stream.message(event))
            offset += len(lines[-1]) + 1
        write_lines(path, lines)
    return paths, events, bad


def most_counted(cluster):
    return max(stream.counts(node)["events_applied"] for node in cluster.live())


def on_three_nodes(rng):
    folder = tempfile.mkdtemp(prefix="dunlin-test.")
    paths, events, bad = history(folder, stream.now_ms())
    cluster = Cluster(folder=folder, extra="raft:\n  snapshot_log_bytes: 1MiB\n" + stream.sources(
        # Small batches: it is still being read when leaders die.
        stream.file_source("past", paths, batch={"events": 3, "inflight": 1}))).start()
    for kill in range(KILLS):
        wait_until("more is counted", lambda kill=kill: most_counted(cluster) >= kill * EVENTS // (KILLS + 1),
                   stream.CATCH_UP_S, every_s=0.02)
        victim = cluster.busiest_leader()
        victim.kill()
        print(f"kill {kill + 1}: node {victim.number}, {most_counted(cluster)} counted", flush=True)
        time.sleep(rng.uniform(0, 0.5))
        victim.start()
        cluster.wait_ready()

    def counted():
        return [stream.counts(node)["events_applied"] for node in cluster.nodes] == [EVENTS] * 3
    wait_until("everything is counted", counted, stream.CATCH_UP_S, every_s=0.2)
    names = {p.stream for p in cluster.nodes[0].stub("Sources").List(pb.ListSourcesRequest(), timeout=10).partitions}
    assert len(names) == 2, names
    sizes = {os.path.getsize(paths[0]), len(gzip.open(paths[1]).read())}  # offsets are of the text, not of the archive
    for name in names:
        wait_until(f"{name} is read to its end", lambda name=name: all(
            len(ends) == 4 and len(set(ends)) == 1 and ends[0] in sizes
            for ends in [list(stream.offsets(node, name).values()) for node in cluster.nodes]))
    stream.assert_sessions(cluster, stream.by_user(events), "out of files")
    cluster.assert_equal_hashes()
    print(f"{EVENTS} events out of two files, each exactly once on three nodes", flush=True)
    letters(cluster, bad)
    shown_here(cluster)
    for node in cluster.nodes:
        assert node.stop() == 0, f"node {node.number} did not stop cleanly"
    subprocess.run(["rm", "-rf", folder], check=True)


def letters(cluster, bad):
    """The lines without an item: each is one letter; with another mapping in the configuration they are events."""
    wait_until("all letters are written", lambda: not any(stream.counts(n)["dead_waiting"] for n in cluster.nodes), 120)
    got = letters_of(cluster, "past")
    assert sorted((l["offset"], l["original"]) for l in got.values()) == sorted((k[1], v) for k, v in bad.items()), got
    files = [os.path.join(node.folder, "deadletters", "past.jsonl") for node in cluster.nodes]
    files = [path for path in files if os.path.exists(path)]
    listed = [json.loads(stream.dunlin(cluster.nodes[0], "deadletter", "list", path, "--json")) for path in files]
    assert sum(one["reasons"]["undecodable"]["letters"] for one in listed) >= len(bad), listed
    assert all(one["reasons"]["undecodable"]["without_bytes"] == 0 for one in listed), listed

    with open(cluster.nodes[0].config, encoding="utf-8") as config, open(os.path.join(cluster.folder, "mapped.yaml"),
                                                                         "w", encoding="utf-8") as mapped:
        mapped.write(config.read().replace("name: past,", "name: past, fields: {item: product},"))
    before = stream.sessions(cluster.nodes[0], ["file-1"])["file-1"]
    for again in range(2):  # the second time nothing counts
        done = {"ACCEPTED": 0, "DUPLICATE": 0}
        for path in files:
            out = json.loads(stream.dunlin(cluster.nodes[again], "deadletter", "replay", path, "--config", mapped.name, "--json"))
            done["ACCEPTED"] += out.get("ACCEPTED", out.get("accepted", 0))
            done["DUPLICATE"] += out.get("DUPLICATE", out.get("duplicate", 0))
            assert out["undecodable"] == out["without_bytes"] == 0, out
        assert done["ACCEPTED"] == (0 if again else len(bad)), (again, done, out)
    after = stream.sessions(cluster.nodes[0], ["file-1"])["file-1"]
    assert len(after) == min(50, len(before) + len(bad)), (len(before), len(after))
    print(f"{len(bad)} dead letters with their bytes; tried again as events, counted once", flush=True)


def totals(node):
    """(lists, clicks, hits) of what the node has shown."""
    return tuple(sum(stream.metrics(node, f"dunlin_shown_{what}_total").values()) for what in ("lists", "clicks", "hits"))


def show(node, user, items):
    """Recommends some of the items to the user; which ones."""
    def recommended():
        answer = node.stub("Recommendations").Recommend(pb.RecommendRequest(user_id=user, k=items), timeout=10)
        return [item.id for item in answer.items]
    node.stub("Catalog").Upsert(pb.UpsertItemsRequest(items=[pb.Item(id=f"shown-{n}") for n in range(items)]), timeout=10)
    wait_until("items are recommended", lambda: len(recommended()) == items)
    return recommended()


def shown_here(cluster):
    """What the first node showed is clicked by way of the second, twice under one id; the third has shown something else."""
    first, second, third = cluster.nodes
    items = show(first, "visitor", 3)
    show(third, "another", 3)
    click = pb.PublishRequest(events=[pb.Event(user_id="visitor", item_id=items[1], event_id="v1",
                                               type=pb.EVENT_TYPE_CLICK)])
    assert second.stub("Events").Publish(click, timeout=10).accepted == 1
    assert second.stub("Events").Publish(click, timeout=10).accepted == 0
    wait_until("the first node has its hit", lambda: totals(first)[1:] == (1, 1))
    assert totals(second) == (0, 0, 0) and totals(third)[1:] == (0, 0), (totals(second), totals(third))
    print("a click by another node is the hit of the node that showed the item, once", flush=True)


def shown_streamed(node, path):
    """Lines of a file: a click of before the list, which counts for nothing, and two of after it."""
    before = (stream.now_ms() - 1000)
    items = show(node, "visitor", 3)
    assert totals(node)[1:] == (0, 0)
    write_lines(path, [stream.message(("visitor", items[0], before))], "ab")
    write_lines(path, [stream.message(("visitor", item, stream.now_ms())) for item in (items[2], "not-shown")], "ab")
    wait_until("both clicks are seen", lambda: totals(node)[1:] == (2, 1))
    print("a streamed click is a hit, one from before the list is none", flush=True)


def follow(rng):
    """One node; the file is written to, renamed and begun anew, as logrotate does; the node dies now and then."""
    cluster = Cluster(n=1, shards=2, extra="")
    path = os.path.join(cluster.folder, "app.log")
    write_lines(path, [])
    cluster.write_configs(stream.sources(stream.file_source("app", [path], follow=True)))
    cluster.start()
    node = cluster.nodes[0]
    events = stream.clicks("app", ROTATIONS * 4 * LINES_A_TIME, ROTATIONS * 100, stream.now_ms())
    at = 0
    for rotation in range(ROTATIONS):
        for part in range(4):
            lines = [stream.message(event) for event in events[at:at + LINES_A_TIME]]
            at += LINES_A_TIME
            write_lines(path, lines, "ab")
            if part == 1 and rotation % 2 == 1:
                node.kill()
                node.start()
                cluster.wait_ready()
            time.sleep(rng.uniform(0, 0.1))
        if rotation == ROTATIONS - 1:
            break
        # Read up to here by then: a file that is moved twice between two looks is another matter.
        wait_until("the file was met", lambda rotation=rotation: stream.counts(node)["events_applied"] > at - 4 * LINES_A_TIME)
        for n in range(rotation, 0, -1):
            os.rename(f"{path}.{n}", f"{path}.{n + 1}")
        os.rename(path, f"{path}.1")
        write_lines(path, [])
    wait_until("everything is counted", lambda: stream.counts(node)["events_applied"] >= len(events), stream.CATCH_UP_S)
    time.sleep(1)
    assert stream.counts(node)["events_applied"] == len(events), (stream.counts(node), len(events))
    assert not letters_of(cluster, "app")
    stream.assert_sessions(cluster, stream.by_user(events), "out of a followed file")
    shown_streamed(node, path)
    assert node.stop() == 0
    print(f"{len(events)} events of a file followed over {ROTATIONS - 1} rotations, each exactly once", flush=True)


def main():
    rng = random.Random(seed())
    on_three_nodes(rng)
    follow(rng)
    print("1 passed, 0 failed")


main()
