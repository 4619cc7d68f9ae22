"""What a node does with a data directory, a configuration or a port that is not right: it says what and where, ends
with its own exit code, and does not vote; with everything put back it starts again and has lost nothing."""

import glob
import os
import shutil
import socket
import subprocess
import time

from cluster import BIN, Cluster, pb, wait_until

checks = 0


def check(condition, what):
    global checks
    checks += 1
    assert condition, what


def fails(node, code, *says):
    """The node must end by itself with this exit code; its log must hold every one of `says`."""
    open(node.log, "w").close()
    process = subprocess.run([os.path.join(BIN, "dunlind"), "--config", node.config], stdin=subprocess.DEVNULL,
                             capture_output=True, timeout=60)
    text = process.stderr.decode(errors="replace")
    check(process.returncode == code, f"exit code {process.returncode} instead of {code}: {text[-2000:]}")
    for part in says:
        check(part in text, f"'{part}' is not in: {text[-2000:]}")
    return text


def flip(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x40]))


def publish(cluster, n, prefix):
    events = [pb.Event(user_id=f"{prefix}-{i % 40}", item_id=f"item-{i}", event_id=f"{prefix}{i}") for i in range(n)]
    for i in range(0, n, 200):
        answer = cluster.nodes[0].stub("Events").Publish(pb.PublishRequest(events=events[i:i + 200]), timeout=10)
        check(all(o == 0 for o in answer.outcomes), "published")


def stored(node, prefix):
    return sum(len(node.stub("Sessions").Get(pb.GetSessionRequest(user_id=f"{prefix}-{i}"), timeout=5).events)
               for i in range(40))


def journal(action, folder):
    return subprocess.run([os.path.join(BIN, "dunlin"), "journal", action, folder], capture_output=True, timeout=60)


def damaged_log(cluster):
    """A bit flipped in the middle of a log that has good records behind it."""
    node = cluster.nodes[2]
    node.kill()
    path = min(glob.glob(os.path.join(node.folder, "journal", "*.seg")))  # the oldest
    check(path, "no segment")
    check(journal("verify", node.folder).returncode == 0, "a sound journal")
    check(b"entries" in journal("dump", node.folder).stdout, "its records")
    running = journal("verify", cluster.nodes[0].folder)
    check(running.returncode == 1 and b"running" in running.stderr, f"a running node's: {running}")
    kept = os.path.join(node.folder, "kept")
    shutil.copy(path, kept)
    flip(path, 4096 + 40)  # behind the header block
    damaged = journal("verify", node.folder)
    check(damaged.returncode == 1 and os.path.basename(path).encode() in damaged.stderr, f"a damaged journal: {damaged}")
    fails(node, 3, os.path.basename(path))
    os.replace(kept, path)
    node.start()
    cluster.wait_ready()


def damaged_snapshot(cluster):
    node = cluster.nodes[2]
    node.kill()
    snapshots = glob.glob(os.path.join(node.folder, "snapshots", "*", "*.state"))
    check(snapshots, "no snapshot was taken")
    path = max(snapshots, key=os.path.getmtime)
    kept = os.path.join(node.folder, "kept")
    shutil.copy(path, kept)
    flip(path, os.path.getsize(path) // 2)
    fails(node, 3, "snapshot")
    os.replace(kept, path)
    node.start()
    cluster.wait_ready()


def another_identity(cluster):
    node, other = cluster.nodes[2], cluster.nodes[1]
    node.kill()
    config = open(node.config).read()
    open(node.config, "w").write(config.replace("id: 3\n  name: node-3", "id: 2\n  name: node-2"))
    fails(node, 3, "node")
    open(node.config, "w").write(config.replace("id: test", "id: another"))
    fails(node, 3, "cluster")
    open(node.config, "w").write(config)
    open(node.config, "w").write(config.replace(node.folder, other.folder))
    fails(node, 3, other.folder)  # in use by a running node
    open(node.config, "w").write(config)
    node.start()
    cluster.wait_ready()


def port_in_use(cluster):
    node = cluster.nodes[2]
    node.kill()
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    host, port = node.api.split(":")
    holder.bind((host, int(port)))
    holder.listen()
    fails(node, 4, node.api)
    holder.close()
    node.start()
    cluster.wait_ready()


def bad_config(cluster):
    node = cluster.nodes[2]
    config = open(node.config).read()

    def wrong(text, *says):
        path = node.config + ".wrong"
        open(path, "w").write(text)
        result = subprocess.run([os.path.join(BIN, "dunlind"), "--config", path, "--check-config"],
                                capture_output=True, timeout=20)
        output = (result.stdout + result.stderr).decode()
        check(result.returncode == 2, f"exit code {result.returncode}: {output}")
        for part in says:
            check(part in output, f"'{part}' is not in: {output}")
    wrong(config + "no_such_key: 1\n", "no_such_key", f":{config.count(chr(10)) + 1}:")
    wrong(config.replace("shards: 4", "shards: many"), "shards", ":7:")
    wrong(config.replace("shards: 4", "shards: 5000"), "shards", "5000")
    wrong(config.replace("node:", "node: ["), ":")
    wrong("", "node")
    good = subprocess.run([os.path.join(BIN, "dunlind"), "--config", node.config, "--check-config"],
                          capture_output=True, timeout=20)
    check(good.returncode == 0, good.stderr.decode())


def main():
    cluster = Cluster(extra="raft:\n  snapshot_log_bytes: 65536\n").start()
    publish(cluster, 1600, "a")
    for i in range(10):
        publish(cluster, 1600, f"more{i}")  # enough of log for every group
    wait_until("a snapshot on node 3", lambda: any(g.snapshot_index > 0 for g in cluster.nodes[2].status().groups))
    publish(cluster, 400, "b")
    bad_config(cluster)
    damaged_log(cluster)
    damaged_snapshot(cluster)
    another_identity(cluster)
    port_in_use(cluster)
    for node in cluster.nodes:
        wait_until(f"everything on node {node.number}", lambda n=node: stored(n, "a") == 1600 and stored(n, "b") == 400)
    cluster.assert_equal_hashes()
    for node in cluster.nodes:
        check(node.stop() == 0, "clean stop")
    print(f"{checks} checks, 0 failed")


main()
