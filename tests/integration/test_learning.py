"""Learning inside a cluster: weights come from clicks, are the same on every node, outlive the death of whoever learned
them, and are never brought back after a reset.

Somebody clicks all the time, in a pattern. Somebody else reads the model at random nodes, linearizably, all the time, and
checks what must hold whatever happens: the generation never goes back, and within one neither do version and steps."""

import json
import os
import random
import subprocess
import sys
import threading
import time
import urllib.request

import grpc

from cluster import BIN, Cluster, pb, seed, wait_until

ITEMS = 40
USERS = 60
INTERVAL_S = 0.3
ROUNDS = 3  # leaders killed
STILL_S = 3.0  # so long frozen weights are watched
EXTRA = f"""recommend:
  learning:
    interval_ms: {int(INTERVAL_S * 1000)}
raft:
  snapshot_log_bytes: 256KiB
"""


def dunlin(node, *arguments, expected=0):
    result = subprocess.run([os.path.join(BIN, "dunlin"), "--server", node.api, *arguments], capture_output=True,
                            timeout=60, text=True)
    text = result.stdout + result.stderr
    assert result.returncode == expected, f"dunlin {arguments} at node {node.number}: {result.returncode}: {text}"
    return result.stdout


def insist(cluster, *arguments):
    """At any node, again while it says that it cannot: an order of an operator is harmless when repeated."""
    def done():
        node = random.choice(cluster.live())
        result = subprocess.run([os.path.join(BIN, "dunlin"), "--server", node.api, *arguments, "--json"],
                                capture_output=True, timeout=60, text=True)
        return json.loads(result.stdout) if result.returncode == 0 else None
    return wait_until(" ".join(arguments), done)


def model(node, level=pb.READ_LEVEL_LOCAL, timeout=3):
    return node.stub("Model").Get(pb.GetModelRequest(read=pb.ReadOptions(level=level)), timeout=timeout)


def metric(node, name):
    with urllib.request.urlopen(f"http://{node.admin}/metrics", timeout=5) as page:
        for line in page.read().decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
    return None


class Clicks(threading.Thread):
    """Users walk round the items, each from their own place; one click in ten is anywhere."""

    def __init__(self, cluster, rng):
        super().__init__(daemon=True)
        self.cluster, self.rng, self.count, self.error = cluster, rng, 0, None
        self.going = threading.Event()
        self.going.set()
        self.at = [rng.randrange(ITEMS) for _ in range(USERS)]

    def batch(self):
        now_ms = int(time.time() * 1000)
        events = []
        for i in range(20):
            user = self.rng.randrange(USERS)
            self.at[user] = self.rng.randrange(ITEMS) if self.rng.random() < 0.1 else (self.at[user] + 1) % ITEMS
            events.append(pb.Event(user_id=f"user-{user}", item_id=f"item-{self.at[user]}", type=pb.EVENT_TYPE_CLICK,
                                   time_ms=now_ms + i, event_id=f"{self.count}-{i}"))
        self.count += 1
        return pb.PublishRequest(events=events)

    def run(self):
        try:
            while self.going.is_set():
                request = self.batch()
                while self.going.is_set():
                    try:
                        self.rng.choice(self.cluster.live()).stub("Events").Publish(request, timeout=2)
                        break
                    except (grpc.RpcError, IndexError, ValueError):
                        time.sleep(0.05)
                time.sleep(0.05)
        except BaseException as error:  # told by stop()
            self.error = error

    def stop(self):
        self.going.clear()
        self.join(30)
        assert self.error is None, f"clicks: {self.error!r}"


class Watcher(threading.Thread):
    """Reads the model linearizably at any node; it must never go back."""

    def __init__(self, cluster, rng):
        super().__init__(daemon=True)
        self.cluster, self.rng, self.reads, self.error = cluster, rng, 0, None
        self.last = None
        self.going = threading.Event()
        self.going.set()

    def look(self):
        now = model(self.rng.choice(self.cluster.live()), pb.READ_LEVEL_LINEARIZABLE, timeout=2)
        before, self.last = self.last, now
        self.reads += 1
        if before is None:
            return
        assert now.generation >= before.generation, f"generation {now.generation} after {before.generation}"
        assert now.version >= before.version, f"version {now.version} after {before.version}"
        if now.generation == before.generation:
            assert now.steps >= before.steps, f"{now.steps} steps after {before.steps}: weights were lost"
            assert now.version == before.version or now.steps > before.steps, "new weights from no click"
            assert now.version != before.version or now.vectors == before.vectors, "other weights of one version"

    def run(self):
        try:
            while self.going.is_set():
                try:
                    self.look()
                except (grpc.RpcError, IndexError, ValueError):
                    pass
                time.sleep(0.02)
        except BaseException as error:
            self.error = error

    def stop(self):
        self.going.clear()
        self.join(30)
        assert self.error is None, f"watcher: {self.error!r}"


def grows(cluster, generation, steps, by=60, but=None):
    """Until a node has weights of this generation from more clicks than that, learned by any node but that one."""
    def grown():
        now = model(random.choice(cluster.live()))
        assert now.generation <= generation, f"generation {now.generation}, not {generation}"
        enough = now.generation == generation and now.steps >= steps + by
        return now if enough and now.node_id != but else None
    return wait_until(f"weights of generation {generation} from more than {steps} clicks", grown)


def same_everywhere(cluster):
    """All nodes have the same weights at one version, and equal states."""
    def same():
        models = [model(node) for node in cluster.nodes]
        versions = {m.version for m in models}
        if len(versions) > 1:
            return None
        assert all(m.vectors == models[0].vectors and m.steps == models[0].steps for m in models)
        return models[0]
    wait_until("the same version on all nodes", same, every_s=0.01)
    cluster.assert_equal_hashes()


def learners(cluster):
    return [n for n in cluster.live() if metric(n, "dunlin_learning_active") == 1]


def kill_the_learner(cluster, generation):
    leader = wait_until("a leader of group 0", lambda: cluster.leader_of(0))
    wait_until("it learns", lambda: learners(cluster) == [leader])
    before = model(leader, pb.READ_LEVEL_LINEARIZABLE)
    loss, hits = metric(leader, "dunlin_learning_loss"), metric(leader, "dunlin_learning_hit_share")
    leader.kill()
    after = grows(cluster, generation, before.steps, but=leader.number)
    assert after.version > before.version
    successor = next(n for n in cluster.live() if n.number == after.node_id)
    print(f"killed node {leader.number} at {before.steps} steps (loss {loss:.3f}, hits {hits:.2f}); node "
          f"{successor.number} is at {after.steps} (loss {metric(successor, 'dunlin_learning_loss'):.3f}, hits "
          f"{metric(successor, 'dunlin_learning_hit_share'):.2f})", flush=True)
    leader.start()
    cluster.wait_ready()


def resets(cluster, generation):
    """While learning goes on, and the learner dies with what it had learned before."""
    leader = wait_until("a leader of group 0", lambda: cluster.leader_of(0))
    grows(cluster, generation - 1, 0)
    answer = insist(cluster, "model", "reset")
    assert answer["generation"] >= generation, answer
    leader.kill()
    after = grows(cluster, answer["generation"], 0, by=1)
    leader.start()
    cluster.wait_ready()
    print(f"reset to generation {answer['generation']}: {after.steps} steps after it", flush=True)
    return answer["generation"]


def freezes(cluster, generation):
    insist(cluster, "model", "freeze")
    frozen = wait_until("frozen", lambda: (lambda m: m if m.frozen else None)(model(cluster.nodes[0])))
    wait_until("nobody learns", lambda: not learners(cluster))
    wait_until("a leader of group 0", lambda: cluster.leader_of(0)).kill()  # nor does the next leader
    end = time.monotonic() + STILL_S
    while time.monotonic() < end:
        for node in cluster.live():
            try:
                now = model(node, pb.READ_LEVEL_LINEARIZABLE)
            except grpc.RpcError:
                continue
            assert now.frozen and now.version == frozen.version and now.steps == frozen.steps, "frozen, and it moved"
        time.sleep(0.1)
    for node in cluster.nodes:
        if node.process is None:
            node.start()
    cluster.wait_ready()
    shown = json.loads(dunlin(cluster.nodes[1], "model", "show", "--json"))
    assert shown["frozen"] and shown["version"] == frozen.version
    insist(cluster, "model", "unfreeze")
    grows(cluster, generation, frozen.steps)


def sets(cluster):
    """Weights of an operator: in force on every node, and nothing is learned on top of them."""
    path = os.path.join(cluster.folder, "weights.json")
    shown = json.loads(dunlin(cluster.nodes[0], "model", "show", "--json"))
    shown["weights"]["shared"]["rules_rank"] = 12.5
    with open(path, "w") as out:
        json.dump(shown, out)
    answer = insist(cluster, "model", "set", path)

    def there(node):
        now = json.loads(dunlin(node, "model", "show", "--json"))
        return now["generation"] == answer["generation"] and now["weights"]["shared"]["rules_rank"] == 12.5 and now["frozen"]
    for node in cluster.nodes:
        wait_until(f"node {node.number} has the weights that were set", lambda n=node: there(n))
    text = dunlin(cluster.nodes[2], "model", "show")
    assert "set by an operator" in text and "FROZEN" in text and "12.5000" in text, text
    shown["weights"]["shared"]["no such feature"] = 1
    with open(path, "w") as out:
        json.dump(shown, out)
    dunlin(cluster.nodes[0], "model", "set", path, expected=1)


def set_one(cluster, feature, weight):
    """That feature alone counts, on every node."""
    path = os.path.join(cluster.folder, "one.json")
    shown = json.loads(dunlin(cluster.nodes[0], "model", "show", "--json"))
    for name, vector in shown["weights"].items():
        for key in vector:
            vector[key] = weight if key == feature and name == "shared" else 0
    with open(path, "w") as out:
        json.dump(shown, out)
    generation = insist(cluster, "model", "set", path)["generation"]
    for node in cluster.nodes:
        wait_until("the weights", lambda n=node: model(n).generation == generation)


def recommended(node, user):
    request = pb.RecommendRequest(user_id=f"user-{user}", k=5, include_seen=True)
    answer = node.stub("Recommendations").Recommend(request, timeout=5)
    return [item.id for item in answer.items]


def serves(cluster, clicks):
    """The weights of the state are what every node serves by. Nobody clicks meanwhile."""
    set_one(cluster, "after_last", 50)
    hits = 0
    for user in range(USERS):
        lists = [recommended(node, user) for node in cluster.nodes]
        assert all(one == lists[0] for one in lists), f"user {user}: {lists}"
        hits += lists[0][0] == f"item-{(clicks.at[user] + 1) % ITEMS}"
    assert hits > 0.8 * USERS, f"what follows comes first for {hits} of {USERS} users only"
    set_one(cluster, "after_last", -50)
    again = sum(recommended(cluster.nodes[user % 3], user)[0] == f"item-{(clicks.at[user] + 1) % ITEMS}"
                for user in range(USERS))
    print(f"what follows comes first for {hits} of {USERS} users, and with the opposite weight for {again}", flush=True)
    assert again < 0.2 * USERS


def main():
    rng = random.Random(seed())
    cluster = Cluster(3, shards=2, extra=EXTRA).start()
    items = [pb.Item(id=f"item-{i}", category=f"category-{i % 4}", price=1 + i) for i in range(ITEMS)]
    cluster.nodes[0].stub("Catalog").Upsert(pb.UpsertItemsRequest(items=items), timeout=10)
    first = model(cluster.nodes[0])
    assert not first.learned and first.version == 0 and len(first.vectors) == 5, first
    clicks, watcher = Clicks(cluster, rng), Watcher(cluster, random.Random(rng.random()))
    clicks.start()
    watcher.start()
    now = grows(cluster, 0, 0)
    assert now.learned and now.vectors != first.vectors and not now.frozen
    same_everywhere(cluster)
    for _ in range(ROUNDS):
        kill_the_learner(cluster, 0)
    same_everywhere(cluster)
    generation = resets(cluster, 1)
    generation = resets(cluster, generation + 1)
    freezes(cluster, generation)
    for node in cluster.nodes:  # one after the other, gracefully: from its disk each has what it had
        before = model(node)
        node.stop()
        node.start()
        cluster.wait_ready()
        after = wait_until("the model of before", lambda n=node, b=before: (lambda m: m if m.version >= b.version else None)(model(n)))
        assert after.generation == generation
    sets(cluster)
    watcher.stop()
    clicks.stop()
    serves(cluster, clicks)
    same_everywhere(cluster)
    page = {name: metric(cluster.leader_of(0), "dunlin_" + name) for name in
            ("model_generation", "model_frozen", "model_learned", "model_age_seconds", "learning_dropped_total")}
    assert page["model_generation"] == generation + 3 and page["model_frozen"] == 1 and page["model_learned"] == 1, page
    assert 0 <= page["model_age_seconds"] < 600 and page["learning_dropped_total"] == 0, page
    assert watcher.reads > 100, f"{watcher.reads} reads of the model only"
    for node in cluster.nodes:
        assert " error " not in node.log_text(), f"node {node.number} logged an error"
    print(f"passed: {clicks.count * 20} clicks, {watcher.reads} reads of the model, {watcher.last.generation} generations")
    cluster.close()


if __name__ == "__main__":
    sys.exit(main())
