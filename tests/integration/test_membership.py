"""Members come and go under load, by `dunlin member`: every acknowledged event is present exactly once on every node, and
the state hashes are equal.

    test_membership.py [PART...]    grow, replace, replica, wiped; all of them when none is named

A node that lost its disk is another one to Raft: it must neither vote nor form a cluster of its own, however it is
started, until somebody says that it may take its old place."""

import json
import os
import random
import re
import subprocess
import sys
import time

import grpc

from cluster import BIN, Cluster, health_pb2, health_pb2_grpc, pb, seed, wait_until
from history import Writer, barrier, check, verify

WRITERS = 3
WAIT_S = 180  # of a change, until it is done in every group
LOOK_S = 4.0  # how long something is watched that must not happen: more than ten election timeouts
SHARD_USERS = 40  # so many users fall into every one of 4 shards


def dunlin_member(node, *arguments, expected=0):
    """Runs `dunlin member` at a node; what it printed on both outputs."""
    result = subprocess.run([os.path.join(BIN, "dunlin"), "member", *map(str, arguments), "--server", node.api],
                            capture_output=True, timeout=WAIT_S + 60, text=True)
    text = result.stdout + result.stderr
    assert result.returncode == expected, f"member {arguments} at node {node.number}: {result.returncode}: {text}"
    return text


def change(node, *arguments):
    started = time.monotonic()
    text = dunlin_member(node, *arguments, f"--wait={WAIT_S}")
    print(f"member {' '.join(map(str, arguments))}: {time.monotonic() - started:.1f} s; "
          f"{' | '.join(text.strip().splitlines()[-3:])}", flush=True)


def members(node):
    return json.loads(dunlin_member(node, "list", "--json"))


def entry(node, number, waiting=False):
    """The member with this number as the node lists it (or the node that waits with it); None when there is none."""
    found = [m for m in members(node)["members"] if m["node_id"] == number and (m["role"] == "waiting") == waiting]
    assert len(found) <= 1, f"node {number} is listed more than once: {found}"
    return found[0] if found else None


def waits(node, number):
    """Until the node lists the other as one that waits."""
    return wait_until(f"node {number} waits, says node {node.number}", lambda: entry(node, number, waiting=True))


def everywhere(cluster, voters, replicas=()):
    """Until every node lists exactly these members, each in its role in every group."""
    wanted = {n: "voter" for n in voters} | {n: "replica" for n in replicas}
    groups = cluster.shards + 1

    def differs(node):
        """What the node lists, while that is something else; None when it agrees."""
        seen = members(node)
        listed = [m for m in seen["members"] if m["role"] != "waiting"]
        agrees = (seen["formed"] and sorted(m["node_id"] for m in listed) == sorted(wanted)
                  and all(m["role"] == wanted[m["node_id"]] and m["groups"] == groups
                          and m["voting"] == (groups if m["role"] == "voter" else 0) for m in listed))
        return None if agrees else seen
    for node in cluster.nodes:
        last = []
        try:
            wait_until("", lambda n=node: last.append(differs(n)) or last[-1] is None)
        except AssertionError:
            raise AssertionError(f"node {node.number} does not list voters {voters} and replicas {list(replicas)}, but: "
                                 f"{last[-1]}") from None


class Load:
    def __init__(self, cluster, rng, label):
        self.cluster = cluster
        self.writers = [Writer(cluster, f"{label}{i}", random.Random(rng.random())) for i in range(WRITERS)]
        for writer in self.writers:
            writer.start()

    def goes_on(self, label):
        """Every writer gets something acknowledged from now on."""
        counts = [len(w.acked_at) for w in self.writers]
        wait_until(f"{label}: the load goes on",
                   lambda: all(w.errors or len(w.acked_at) > n for w, n in zip(self.writers, counts)))

    def finish(self, label):
        for writer in self.writers:
            writer.finish()
        verify(self.cluster, self.writers, label)


def not_a_member(node, label):
    """Watches a node that must wait: it forms no cluster, leads nothing, commits nothing, takes nothing."""
    wait_until(f"{label}: node {node.number} answers", node.status)
    wait_until(f"{label}: node {node.number} says what it waits for", lambda: members(node)["waiting_for"])
    end = time.monotonic() + LOOK_S
    while time.monotonic() < end:
        assert node.process.poll() is None, f"{label}: node {node.number} ended\n{node.log_text()[-3000:]}"
        assert not node.ready(), f"{label}: node {node.number} says that it is ready"
        seen = members(node)
        assert not seen["formed"] and seen["waiting_for"], f"{label}: {seen}"
        status = node.status()
        assert not status.ready and "not part of a cluster" in status.not_ready_reason, f"{label}: {status}"
        for group in status.groups:
            assert not group.is_leader and group.applied_index == 0, f"{label}: {group}"
        request = health_pb2.HealthCheckRequest()
        health = health_pb2_grpc.HealthStub(node.channel).Check(request, timeout=5).status
        assert health == health_pb2.HealthCheckResponse.NOT_SERVING, f"{label}: health {health}"
        try:
            node.stub("Events").Publish(pb.PublishRequest(events=[pb.Event(user_id="nobody", item_id="x")]), timeout=5)
            raise AssertionError(f"{label}: node {node.number} took an event")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE, error
        time.sleep(0.2)
    assert "not part of a cluster" in node.not_ready, f"{label}: /readyz says {node.not_ready!r}"


def refused_start(node, says):
    """The node must end by itself, with the exit code of a refused data directory."""
    result = subprocess.run([os.path.join(BIN, "dunlind"), "--config", node.config], stdin=subprocess.DEVNULL,
                            capture_output=True, timeout=60, text=True)
    text = result.stdout + result.stderr
    assert result.returncode == 3, f"exit code {result.returncode}: {text[-2000:]}"
    assert re.search(says, text), f"'{says}' is not in: {text[-2000:]}"


def remove(cluster, asked, victim):
    """The victim's process ends by itself, and says why."""
    cluster.nodes = [n for n in cluster.nodes if n is not victim]
    change(asked, "remove", victim.number)
    try:
        code = victim.ended()
    except subprocess.TimeoutExpired:
        raise AssertionError(f"removed node {victim.number} does not end; its log:\n{victim.log_text()[-3000:]}") from None
    last = victim.log_text().strip().splitlines()[-1]
    assert code == 0, f"removed node {victim.number} ended with code {code}: {last}"
    assert "stopped for good" in last and f"node {victim.number}" in last, last


def grow(rng):
    """Three nodes become five, two of the first three go; a removed node's data is refused; empty, it may come back."""
    cluster = Cluster().start()
    load = Load(cluster, rng, "g")
    for number in (4, 5):
        node = cluster.joining(number).start()
        waits(cluster.nodes[0], number)
        not_a_member(node, "before it is added")
        assert f"member add {number}" in dunlin_member(cluster.nodes[0], "list")
        change(rng.choice(cluster.nodes), "add", number)
        wait_until(f"node {number} ready", node.ready)
        cluster.nodes = [*cluster.nodes, node]
        load.goes_on(f"node {number} added")
    everywhere(cluster, [1, 2, 3, 4, 5])
    dunlin_member(cluster.nodes[0], "add", 4, expected=1)  # it is one already
    dunlin_member(cluster.nodes[0], "remove", 77, expected=1)

    first, second, kept = cluster.nodes[:3]
    remove(cluster, kept, first)
    load.goes_on("node 1 removed")
    remove(cluster, second, second)  # asked to remove itself
    load.goes_on("node 2 removed")
    everywhere(cluster, [3, 4, 5])
    load.finish("five nodes, then three")

    for node in (first, second):
        refused_start(node, "removed")
    load = Load(cluster, rng, "h")
    joined = cluster.nodes[1]
    joined.kill()  # those that its configuration names are mostly gone: it must find the others all the same
    joined.start()
    wait_until("node 4 is back", joined.ready)
    first.wipe()
    first.start()
    waits(kept, 1)
    not_a_member(first, "removed, and come back empty")
    change(kept, "add", 1)
    wait_until("node 1 ready", first.ready)
    cluster.nodes = [first, *cluster.nodes]
    load.goes_on("node 1 added again")
    everywhere(cluster, [1, 3, 4, 5])
    load.finish("node 1 came back empty")
    return cluster


def replace(rng):
    """A node loses its disk under load, waits, and takes its own old place."""
    cluster = Cluster().start()
    load = Load(cluster, rng, "r")
    one, two = cluster.nodes[:2]
    before = entry(one, 2)["raft_id"]
    load.goes_on("three nodes")
    two.kill()
    two.wipe()
    two.start()
    waits(one, 2)
    not_a_member(two, "come back empty")
    listed = entry(one, 2)
    assert listed and listed["raft_id"] == before and listed["role"] == "voter", listed
    assert "member replace 2" in dunlin_member(one, "list")
    dunlin_member(one, "add", 2, expected=1)  # there is a member 2
    load.goes_on("node 2 empty")
    change(one, "replace", 2)
    wait_until("node 2 ready", two.ready)
    everywhere(cluster, [1, 2, 3])
    after = entry(one, 2)["raft_id"]
    assert after != before, "the new node 2 has the old one's raft id"
    load.goes_on("node 2 replaced")
    load.finish("node 2 lost its disk and was replaced")
    return cluster


def replica(rng):
    """A replica serves reads, and has no vote until it is promoted."""
    cluster = Cluster().start()
    load = Load(cluster, rng, "l")
    one, two, three = cluster.nodes
    six = cluster.joining(6).start()
    waits(one, 6)
    change(one, "add", 6, "--replica")
    wait_until("node 6 ready", six.ready)
    cluster.nodes = [*cluster.nodes, six]
    everywhere(cluster, [1, 2, 3], [6])
    load.goes_on("with a replica")
    load.finish("with a replica")  # LOCAL reads at it, too

    # Two of three voters are gone: a replica that voted would make it two of four, or lead.
    user = next(iter(load.writers[0].acked))
    for node in (two, three):
        node.kill()
    end = time.monotonic() + LOOK_S
    while time.monotonic() < end:
        status = six.status()
        assert not any(g.is_leader for g in status.groups), "a replica leads"
        answer = six.stub("Sessions").Get(pb.GetSessionRequest(user_id=user), timeout=5)
        assert answer.found, "a replica forgot a user"
        time.sleep(0.2)
    for node in (one, six):
        try:
            answer = node.stub("Events").Publish(
                pb.PublishRequest(events=[pb.Event(user_id=f"lone-{n}", item_id="x", event_id=f"lone-{n}")
                                          for n in range(SHARD_USERS)]), timeout=2)
            assert all(o == pb.EVENT_OUTCOME_UNKNOWN for o in answer.outcomes), f"committed without a majority: {answer}"
        except grpc.RpcError:
            pass
    for node in (two, three):
        node.start()
    cluster.wait_ready()

    load = Load(cluster, rng, "m")
    change(one, "promote", 6)
    everywhere(cluster, [1, 2, 3, 6])
    two.kill()  # three of four: it takes the new vote
    load.goes_on("with three voters of four")
    two.start()
    wait_until("node 2 ready", two.ready)
    load.finish("the replica has a vote")
    return cluster


def wiped(rng):
    """Everything was stopped, and one node comes back empty, as if the cluster were new: it is not."""
    cluster = Cluster().start()
    load = Load(cluster, rng, "w")
    load.goes_on("three nodes")
    load.finish("before the stop")
    before = {m["node_id"]: m["raft_id"] for m in members(cluster.nodes[0])["members"]}
    three = cluster.nodes[2]
    for node in cluster.nodes:
        assert node.stop() == 0
    three.wipe()
    three.start()  # alone for a while
    not_a_member(three, "alone and empty")
    everyone, cluster.nodes = cluster.nodes, cluster.nodes[:2]
    for node in cluster.nodes:
        node.start()
    cluster.wait_ready()
    barrier(cluster)
    check(cluster, load.writers, "one of three was wiped")
    after = {m["node_id"]: m["raft_id"] for m in members(cluster.nodes[0])["members"] if m["role"] != "waiting"}
    assert after == before, f"not the same cluster: {before}, now {after}"
    waits(cluster.nodes[0], 3)
    not_a_member(three, "beside the others")
    more = Load(cluster, rng, "v")
    change(cluster.nodes[1], "replace", 3)
    cluster.nodes = everyone
    wait_until("node 3 ready", three.ready)
    everywhere(cluster, [1, 2, 3])
    load.writers += more.writers
    for writer in more.writers:
        writer.finish()
    verify(cluster, load.writers, "node 3 is back")
    return cluster


def main():
    parts = {part.__name__: part for part in (grow, replace, replica, wiped)}
    chosen = sys.argv[1:] or list(parts)
    assert set(chosen) <= set(parts), f"parts are {', '.join(parts)}"
    rng = random.Random(seed())
    for name in chosen:
        print(f"---- {name}", flush=True)
        cluster = parts[name](random.Random(rng.random()))
        for node in cluster.nodes:
            assert node.stop() == 0, f"node {node.number} did not stop cleanly"
        cluster.close()
    print(f"{len(chosen)} passed, 0 failed")


main()
