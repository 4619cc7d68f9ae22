"""A disk of 64 MiB that the load itself fills, faster than the watermark is looked at, so that the journal's next segment cannot
be made: writes are refused, reads are served, nobody crashes, and when space returns writes go on and nothing
acknowledged was lost. Once with a node alone, once with one of three nodes."""

import os
import random
import subprocess
import tempfile
import threading
import time

import grpc

from cluster import Cluster, pb, seed, skip, wait_until
from history import Writer, verify

SIZE_MIB = 64
ROOM_MIB = 512
FULL_BYTES = 5 << 20  # not enough for another segment and the watermark
EXTRA = "raft:\n  min_free_bytes: 1MiB\n  segment_bytes: 4MiB\n"  # the lowest watermark there is
USERS_A_BATCH = 2000


def mount(folder):
    os.makedirs(folder)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m,mode=0700", "tmpfs", folder], capture_output=True)
    if done.returncode != 0:
        skip("tmpfs", "cannot mount a tmpfs: " + done.stderr.decode().strip())


class Flood(threading.Thread):
    """Large batches of clicks of ever new users, at one node, as fast as it takes them. Keeps the users whose click was counted."""

    def __init__(self, node, number):
        super().__init__(daemon=True)
        self.node, self.number, self.stopped, self.refused, self.acked = node, number, False, 0, []

    def run(self):
        count = 0
        while not self.stopped:
            count += 1
            users = [f"flood-{self.number}-{count}-{i}" for i in range(USERS_A_BATCH)]
            try:
                answer = self.node.stub("Events").Publish(pb.PublishRequest(events=[
                    pb.Event(user_id=user, item_id="flooded", event_id="1") for user in users]), timeout=5)
            except grpc.RpcError as error:
                self.refused += error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                time.sleep(0.05)
                continue
            self.refused += any(outcome == pb.EVENT_OUTCOME_UNKNOWN for outcome in answer.outcomes)
            self.acked += [user for user, outcome in zip(users, answer.outcomes) if outcome == pb.EVENT_OUTCOME_ACCEPTED]


def free_bytes(folder):
    stats = os.statvfs(folder)
    return stats.f_bavail * stats.f_frsize


def run(nodes, rng):
    folder = tempfile.mkdtemp(prefix="dunlin-test.")
    disk = os.path.join(folder, "node-1")
    mount(disk)
    cluster = Cluster(n=nodes, shards=2, folder=folder, extra=EXTRA)
    small = cluster.nodes[0]
    try:
        cluster.start()
        writers = [Writer(cluster, f"{nodes}-{i}", random.Random(rng.random())) for i in range(2)]
        floods = [Flood(node, i) for i, node in enumerate(cluster.nodes)]
        for thread in writers + floods:
            thread.start()
        wait_until("the disk is full", lambda: free_bytes(disk) < FULL_BYTES, 120, 0.005)
        wait_until("writes are refused", lambda: floods[0].refused > 5)
        for flood in floods:
            flood.stopped = True
        known = next(iter(writers[0].acked))
        for _ in range(200):  # while it is full: no read fails on any node
            for node in cluster.nodes:
                session = node.stub("Sessions").Get(pb.GetSessionRequest(user_id=known), timeout=5)
                assert session.found, f"node {node.number} does not know a user whose clicks were acknowledged"
            time.sleep(0.005)
        assert small.process.poll() is None, "the node with the full disk ended:\n" + small.log_text()[-2000:]
        subprocess.run(["mount", "-o", f"remount,size={ROOM_MIB}m", disk], check=True)
        begun = {w: len(w.acked_at) for w in writers}
        wait_until("both writers go on after space came back", lambda: all(len(w.acked_at) > begun[w] + 20 for w in writers))
        for flood in floods:
            flood.join()
        for writer in writers:
            writer.finish()
        verify(cluster, writers, f"{nodes} node(s), after the disk was full")
        flooded = [user for flood in floods for user in flood.acked]
        for node in cluster.nodes:
            for user in rng.sample(flooded, 2000):
                events = node.stub("Sessions").Get(pb.GetSessionRequest(user_id=user), timeout=5).events
                assert len(events) == 1, f"node {node.number}, {user}: {len(events)} events instead of 1"
        small.kill()
        small.start()
        verify(cluster, writers, f"{nodes} node(s), after kill -9 and restart")
        print(f"{nodes} node(s): {len(flooded)} clicks of the flood acknowledged, {sum(f.refused for f in floods)} batches refused",
              flush=True)
        for node in cluster.nodes:
            assert node.stop() == 0
    finally:
        cluster.close()
        subprocess.run(["umount", "-l", disk], check=False)
        if "DUNLIN_KEEP" not in os.environ:
            subprocess.run(["rm", "-rf", folder], check=False)


def main():
    rng = random.Random(seed())
    run(1, rng)
    run(3, rng)
    print("2 passed, 0 failed")


main()
