"""A disk that fills up (a small tmpfs under one node's data): writes are refused before it is full, with
RESOURCE_EXHAUSTED; reads go on; when space comes back, writes do too, and nothing acknowledged was lost."""

import os
import subprocess
import tempfile
import time

import grpc

from cluster import Cluster, pb, skip, wait_until

SIZE_MIB = 192


def mount(folder):
    os.makedirs(folder)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m,mode=0700", "tmpfs", folder],
                          capture_output=True)
    if done.returncode != 0:
        skip("tmpfs", "cannot mount a tmpfs: " + done.stderr.decode().strip())


def publish(node, user, n, timeout=5):
    return node.stub("Events").Publish(pb.PublishRequest(events=[pb.Event(
        user_id=user, item_id="item", event_id=f"{user}-{n}")]), timeout=timeout)


def main():
    folder = tempfile.mkdtemp(prefix="dunlin-test.")
    disk = os.path.join(folder, "node-1")
    mount(disk)
    cluster = Cluster(n=1, shards=1, folder=folder, extra="raft:\n  min_free_bytes: 33554432\n  segment_bytes: 1048576\n")
    node = cluster.nodes[0]
    try:
        cluster.start()
        for n in range(20):
            assert list(publish(node, "before", n).outcomes) == [0]
        stats = os.statvfs(disk)
        filler = os.path.join(disk, "filler")
        with open(filler, "wb") as out:  # leave 16 MiB: below the watermark, not yet full
            out.write(b"x" * (stats.f_bavail * stats.f_frsize - (16 << 20)))

        def refused():
            try:
                publish(node, "during", time.monotonic_ns())
                return False
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, f"{error.code()}: {error.details()}"
                assert "space" in error.details() or "disk" in error.details(), error.details()
                return True
        wait_until("writes are refused", refused)
        for _ in range(20):
            assert refused()
            session = node.stub("Sessions").Get(pb.GetSessionRequest(user_id="before"), timeout=5)
            assert len(session.events) == 20, len(session.events)
        assert any(g.no_space for g in node.status().groups), "the status must say it"
        os.unlink(filler)
        wait_until("writes are taken again", lambda: list(publish(node, "after", 1).outcomes) is not None)
        assert node.kill() is not None
        node.start()
        cluster.wait_ready()
        session = node.stub("Sessions").Get(pb.GetSessionRequest(user_id="before"), timeout=5)
        assert len(session.events) == 20, len(session.events)
        assert len(node.stub("Sessions").Get(pb.GetSessionRequest(user_id="after"), timeout=5).events) == 1
        assert node.stop() == 0
    finally:
        cluster.close()
        subprocess.run(["umount", "-l", disk], check=False)
        subprocess.run(["rm", "-rf", folder], check=False)
    print("1 passed, 0 failed")


main()
