"""Streams that only one node can read, on three nodes. Each follows its own file, for all shards, whoever leads them:
lines that are no events and late events become dead letters with their bytes, written by the node that has them, while
leaders and the nodes that follow are killed. When a node that follows is dead, or cannot read its file, every node says
that the streams stand still, until it is back; a file without new lines says nothing."""

import os
import random
import signal
import subprocess
import time

from cluster import BIN, Cluster, seed, wait_until

import stream

LATENESS_S = 5
ROUNDS = 6
LINES = 300  # of a node's file in a round
USERS = 40
ALARM_MS = 2000
HEARD = (1 << 32) - 2  # the place of a node's sign of life (ingest/reader.h)
SILENT_S = 12  # an alarm comes long before that


class Log:
    """A node's own file, and what is to become of its lines."""

    def __init__(self, cluster, node, rng):
        self.node, self.rng, self.path = node, rng, os.path.join(cluster.folder, f"app{node.number}.log")
        self.offset, self.good, self.letters, self.floors = 0, [], {}, {}
        open(self.path, "wb").close()

    def write(self, now_ms):
        """Some lines; which are late is the model's word, as in test_stream_letters.py."""
        lines = []
        for n in range(LINES):
            at_ms = now_ms + n - (60000 if self.rng.random() < 0.05 else 0)
            event = (f"u{self.node.number}-{self.rng.randrange(USERS)}", f"i{self.node.number}-{self.offset}", at_ms)
            line, shard = stream.message(event), stream.shard_of(event[0], 4)
            if self.rng.random() < 0.03:
                line = b'{"user_id": "broken-%d", ' % self.offset
                self.letters[self.offset] = ("undecodable", line)
            elif at_ms < self.floors.get(shard, 0):
                self.letters[self.offset] = ("late", line)
            else:
                self.good.append(event)
                self.floors[shard] = max(self.floors.get(shard, 0), at_ms - 1000 * LATENESS_S)
            lines.append(line)
            self.offset += len(line) + 1
        with open(self.path, "ab") as out:
            out.write(b"".join(line + b"\n" for line in lines))


def write_configs(cluster, logs):
    common = f"freshness_alarm_ms: {ALARM_MS}\nsession:\n  lateness_s: {LATENESS_S}\n  events_per_user: 1000\n"
    for log in logs:
        cluster.extra = common + stream.sources(stream.file_source("app", [log.path], follow=True))
        cluster.write_config(log.node)


def waiting(cluster):
    return sum(stream.counts(node)["dead_waiting"] for node in cluster.live())


def stalls(cluster, nodes, text):
    """Do all these nodes say so, in their status and their answers?"""
    return all(text in node.status(timeout=10).stream_reason and stream.freshness(node, "u1-1").stale
               and stream.freshness(node, "u1-1").stream_stalled for node in nodes)


def letters(cluster, logs, rng):
    """Kills a node in each round, and starts it again."""
    for number in range(ROUNDS):
        # Times rise from round to round, so that the floors are known whatever is read when.
        for log in logs:
            log.write(stream.now_ms())
        time.sleep(rng.uniform(0, 0.4))
        victim = rng.choice(cluster.nodes) if number % 2 else cluster.busiest_leader()
        victim.kill()
        print(f"round {number + 1}: node {victim.number} killed", flush=True)
        time.sleep(rng.uniform(0, 3))
        victim.start()
        cluster.wait_ready()
    good = sum(len(log.good) for log in logs)
    wait_until("everything is counted", lambda: all(stream.counts(node)["events_applied"] >= good for node in cluster.nodes),
               stream.CATCH_UP_S, every_s=0.2)
    wait_until("all letters are written", lambda: waiting(cluster) == 0, 120)
    for log in logs:
        path = os.path.join(log.node.folder, "deadletters", "app.jsonl")
        got = {key[2]: letter for key, letter in stream.dead_letters([path]).items()}
        assert len(log.letters) > 50, "these lines show nothing"
        for offset, (reason, line) in log.letters.items():
            assert offset in got, f"node {log.node.number}: the letter at byte {offset} is missing"
            letter = got[offset]
            assert (letter["reason"], letter["original"], letter["gone"]) == (reason, line, False), (reason, line, letter)
        assert len(got) == len(log.letters), (log.node.number, len(got), len(log.letters))
    for node in cluster.nodes:
        assert stream.counts(node)["events_applied"] == good, (stream.counts(node), good)
    stream.assert_sessions(cluster, stream.by_user([e for log in logs for e in log.good]), "of three nodes' files")
    cluster.assert_equal_hashes()
    print(f"{good} events and {sum(len(log.letters) for log in logs)} dead letters with their bytes, each by the node "
          "that has the file", flush=True)


def dead_reader(cluster):
    """All files are idle, and nobody says that they stand still. A node that follows dies: all that live say so."""
    time.sleep(2 * ALARM_MS / 1000)  # what the last kill gives reason to say is said by then
    wait_until("the last kill is over", lambda: stream.runs_everywhere(cluster), 30)
    for _ in range(2 * ALARM_MS // 100 + 30):
        assert stream.runs_everywhere(cluster), [n.status(timeout=10).stream_reason for n in cluster.nodes]
        time.sleep(0.1)
    victim = cluster.nodes[1]
    victim.kill()
    others = cluster.live()
    wait_until("the others say it", lambda: stalls(cluster, others, "node 2: "), SILENT_S)
    out = stream.dunlin(others[0], "source", "list")
    assert "STAND STILL" in out and "node 2: " in out, out
    assert any(stream.metrics(others[1], "dunlin_stream_stalled").values())
    leader = cluster.busiest_leader()
    leader.process.send_signal(signal.SIGTERM)  # its shards go to another one, which says so too
    leader.process.wait(30)
    leader.process = None
    leader.start()
    victim.start()
    cluster.wait_ready()
    wait_until("it is over", lambda: stream.runs_everywhere(cluster), 60)
    assert not any(stream.freshness(node, "u1-1").stream_stalled for node in cluster.nodes)
    print("a dead node's file: stale on every node until it is back", flush=True)


def unreadable(cluster, logs):
    """The file is there no more: its node says why, and all the others too."""
    log = logs[2]
    os.rename(log.path, log.path + ".away")
    wait_until("all say it, and why", lambda: stalls(cluster, cluster.nodes, "node 3: app: ")
               or stalls(cluster, cluster.nodes, os.path.basename(log.path)), 40)
    os.rename(log.path + ".away", log.path)
    wait_until("it is over", lambda: stream.runs_everywhere(cluster), 60)
    said = [line for node in cluster.nodes for line in node.log_text().splitlines() if "only this node reads stand still" in line]
    assert said, "its log does not say so"
    print("a file that cannot be read: stale on every node, with the reason, until it can", flush=True)


def ways_out(cluster):
    """A node that stays away: its word is forgotten until it is back, or it is removed."""
    victim = cluster.nodes[2]
    victim.kill()
    others = cluster.live()
    wait_until("the others say it", lambda: stalls(cluster, others, "node 3: "), SILENT_S)
    out = stream.dunlin(others[0], "source", "list")
    assert "node 3 reads streams of its own" in out, out
    asked = subprocess.run([os.path.join(BIN, "dunlin"), "source", "reset", "@3", str(HEARD), "--to", "beginning",
                            "--server", others[0].api], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert asked.returncode == 2 and "forgotten until it gives it again" in asked.stderr, asked
    assert "counted once more" not in asked.stderr, asked
    stream.dunlin(others[0], "source", "reset", "@3", HEARD, "--to", "beginning", "--yes")
    wait_until("it is forgotten", lambda: all(n.status(timeout=10).stream_reason == "" for n in others), SILENT_S)
    victim.start()
    cluster.wait_ready()
    wait_until("it is heard again", lambda: (HEARD, 1) in stream.offsets(others[0], "@3"), 30)
    victim.kill()
    wait_until("the others say it again", lambda: stalls(cluster, others, "node 3: "), SILENT_S)
    stream.dunlin(others[0], "member", "remove", 3, "--wait=60")
    wait_until("it is removed", lambda: all(n.status(timeout=10).stream_reason == "" for n in others), SILENT_S)
    print("a node that stays away: forgotten, or removed, it makes no alarm", flush=True)


def main():
    rng = random.Random(seed())
    cluster = Cluster()
    logs = [Log(cluster, node, rng) for node in cluster.nodes]
    write_configs(cluster, logs)
    cluster.start()
    letters(cluster, logs, rng)
    dead_reader(cluster)
    unreadable(cluster, logs)
    ways_out(cluster)
    for node in cluster.live():
        assert node.stop() == 0, f"node {node.number} did not stop cleanly"
    print("1 passed, 0 failed")


main()
