"""Measures a three-node cluster on this machine and prints a table, or JSON with --json. Run by scripts/bench.sh.

Everything runs on the same cores: three nodes, the load, and this script. 'Per core' divides by the CPU seconds that
the answering node itself used, so that it does not depend on what the load generator takes."""

import gzip
import json
import mmap
import os
import random
import re
import resource
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "integration"))
from cluster import BIN, Cluster, pb, wait_until  # noqa: E402

TICKS = os.sysconf("SC_CLK_TCK")
SMALL = "--small" in sys.argv
results = []


def say(text):
    print(text, file=sys.stderr, flush=True)


def record(what, value, unit, target="", command="", note=""):
    results.append({"what": what, "value": value, "unit": unit, "target": target, "command": command, "note": note})
    say(f"  {what}: {value} {unit}" + (f" (target {target})" if target else ""))


def cpu_seconds(node):
    fields = open(f"/proc/{node.process.pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_bytes(node):
    return int(open(f"/proc/{node.process.pid}/statm").read().split()[1]) * resource.getpagesize()


def program(name, *args, timeout=1800):
    done = subprocess.run([os.path.join(BIN, name), *args], capture_output=True, timeout=timeout)
    if done.returncode != 0:
        raise SystemExit(f"{name} {' '.join(args)} ended with {done.returncode}:\n{done.stderr.decode()[-2000:]}")
    return done.stdout.decode()


def grpc_frame(message):
    body = message.SerializeToString()
    return b"\0" + len(body).to_bytes(4, "big") + body


def h2load(node, path, message, requests, connections, streams, folder):
    """Runs h2load as fast as it goes; returns requests/s and CPU seconds of the node per request."""
    body = os.path.join(folder, "body.bin")
    open(body, "wb").write(grpc_frame(message))
    command = ["h2load", "-n", str(requests), "-c", str(connections), "-m", str(streams), "-d", body, "-H",
               "content-type: application/grpc", "-H", "te: trailers", f"http://{node.api}{path}"]
    before = cpu_seconds(node)
    done = subprocess.run(command, capture_output=True, timeout=600)
    used = cpu_seconds(node) - before
    text = done.stdout.decode()
    counted = re.search(r"requests: (\d+) total, (\d+) started, (\d+) done, (\d+) succeeded, (\d+) failed", text)
    speed = re.search(r"finished in [^,]+, ([\d.]+) req/s", text)
    if done.returncode != 0 or not counted or not speed or int(counted[5]) > 0 or int(counted[4]) == 0:
        raise SystemExit("h2load failed:\n" + text + done.stderr.decode())
    return float(speed[1]), used / int(counted[4]), " ".join(command)


def request_buckets(node, method):
    """The node's own histogram of a method: [(upper bound in ms, requests at or below it)]."""
    text = urllib.request.urlopen(f"http://{node.admin}/metrics", timeout=5).read().decode()
    found = re.findall(rf'dunlin_request_seconds_bucket{{method="{method}",le="([^"]+)"}} (\d+)', text)
    return [(float(bound) * 1000, int(count)) for bound, count in found]


def bucket_quantiles(before, after):
    """p50 / p99 / p999 of what came between two sights of a histogram, by line within its buckets."""
    counts = [(bound, late - early) for (bound, late), (_, early) in zip(after, before)]

    def at(q):
        low, below = 0.0, 0
        for bound, count in counts:
            if count >= q * counts[-1][1]:
                if bound == float("inf"):
                    return f"over {low:g}"
                return f"{low + (bound - low) * (q * counts[-1][1] - below) / max(1, count - below):.3f}"
            low, below = bound, count
        return "?"
    return " / ".join(at(q) for q in (.5, .99, .999))


class Machine:
    """What the machine itself does meanwhile: 4 KiB written durably (O_DIRECT, O_DSYNC; no file system metadata) and
    how late a sleeper wakes. A node's tail cannot be shorter than that of the disk that all nodes share."""

    def __init__(self, folder):
        self.path, self.writes, self.wakes, self.stopped = os.path.join(folder, "probe"), [], [], False
        self.thread = threading.Thread(target=self.run)

    def run(self):
        block = mmap.mmap(-1, 4096)
        with open(self.path, "wb") as out:
            out.write(bytes(1 << 20))
            os.fsync(out.fileno())
        fd = os.open(self.path, os.O_WRONLY | os.O_DIRECT | os.O_DSYNC)
        while not self.stopped:
            begun = time.monotonic()
            time.sleep(.002)
            woken = time.monotonic()
            os.pwrite(fd, block, len(self.writes) % 256 * 4096)
            self.writes.append((time.monotonic() - woken) * 1000)
            self.wakes.append((woken - begun - .002) * 1000)
        os.close(fd)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopped = True
        self.thread.join()

    def text(self):
        return (f"meanwhile the machine: a bare durable 4 KiB write {quantiles(sorted(self.writes))} ms, "
                f"a sleeper's delay {quantiles(sorted(self.wakes))} ms")


def quantiles(sorted_values):
    def at(q):
        return round(sorted_values[min(len(sorted_values) - 1, int(q * len(sorted_values)))], 3)
    return f"{at(.5)} / {at(.99)} / {at(.999)}"


def generated(folder):
    """18k items, 25k sessions of a made-up shop: the log, the catalogue, each event's user, how to publish it."""
    items, sessions = (2000, 2000) if SMALL else (18000, 25000)
    events, catalog = os.path.join(folder, "events.jsonl"), os.path.join(folder, "catalog.jsonl")
    say(f"generating {items} items and {sessions} sessions")
    program("dunlin-replay", "generate", "--seed", "11", "--items", str(items), "--users", str(sessions), "--sessions",
            str(sessions), "--events", events, "--catalog", catalog)
    return events, [catalog], [json.loads(line)["user"] for line in open(events)], ["--time", "shift"]


def serenade():
    """The same of the Serenade set, with vectors, where the data folder is beside the checkout; None: it is not."""
    data = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "shared", "datasets")
    log = os.path.join(data, "serenade_toy.tsv.gz")
    if SMALL or not os.path.exists(log):
        return None
    with gzip.open(log, "rt") as lines:
        next(lines)
        users = [line.split("\t")[2] for line in lines]
    catalog = [os.path.join(data, "serenade_ppmi_svd64.npy"), "--ids", os.path.join(data, "serenade_ids.txt")]
    return log, catalog, users, ["--time", "now", "--key", "session"]


def history(cluster, folder):
    """The state that Recommend is measured on. Returns up to 2,000 of its users, any."""
    events, catalog, users, how = serenade() or generated(folder)
    say("loading the catalogue")
    program("dunlin", "--server", cluster.nodes[0].api, "catalog", "load", *catalog)
    count = len(users)
    say(f"publishing {count} events")
    before = [cpu_seconds(n) for n in cluster.nodes]
    begun = time.monotonic()
    program("dunlin-replay", "publish", "--to", ",".join(n.api for n in cluster.nodes), "--events", events, "--batch",
            "1000", *how)
    taken = time.monotonic() - begun
    used = sum(cpu_seconds(n) - b for n, b in zip(cluster.nodes, before))
    record("events published by the API, committed on 3 nodes and applied", round(count / taken), "events/s", "",
           "dunlin-replay publish --batch 1000", f"{used / 3 / count * 1e6:.1f} us of CPU per event and node")
    wait_until("the index is built", lambda: all(n.status().index_pending < 64 and n.status().index_built_items > 0
                                                 for n in cluster.nodes), 300)
    users = sorted(set(users))
    return random.Random(11).sample(users, min(2000, len(users)))


def serving(cluster, folder):
    node = cluster.nodes[0]
    n = 50000 if SMALL else 600000
    speed, cpu, command = h2load(node, "/dunlin.v1.Cluster/Ping", pb.PingRequest(payload=b"x" * 8), n, 8, 32, folder)
    record("no-op RPC", round(1 / cpu), "requests/s per core", "250,000", command, f"{speed:.0f}/s as run")
    users = history(cluster, folder)
    path, messages = "/dunlin.v1.Recommendations/Recommend", os.path.join(folder, "messages.bin")
    with open(messages, "wb") as out:
        for user in users:
            message = pb.RecommendRequest(user_id=user, k=20).SerializeToString()
            out.write(struct.pack("<I", len(message)) + message)
    request = pb.RecommendRequest(user_id=users[0], k=20)
    open(os.path.join(folder, "message.bin"), "wb").write(request.SerializeToString())
    # What it can do, as h2load asks for no-ops: 8 connections, 32 requests on each, all the time.
    seconds = 3 if SMALL else 10
    command = [node.api, path, messages, "max", str(seconds), "8", "many"]
    program("bench_rate", *command[:4], "1", *command[5:])
    used = cpu_seconds(node)
    out = json.loads(program("bench_rate", *command))
    cpu = (cpu_seconds(node) - used) / out["requests"]
    record(f"Recommend, k=20, {len(users)} users in turn", round(1 / cpu), "requests/s per core", "20,000",
           " ".join(["bench_rate", *command]),
           f"{out['rate']:.0f}/s as run, {cpu * 1e6:.1f} us of CPU of the whole node each")
    for rate, target in ((1000, "p50 0.3, p99 1, p999 5 in the server"), (10000, "p99 1 at half of 20,000/s")):
        seconds = 3 if SMALL else 10
        command = [node.api, path, messages, str(rate), str(seconds), "16", "many"]
        program("bench_rate", *command[:4], "1", *command[5:])
        before, used = request_buckets(node, "Recommendations.Recommend"), cpu_seconds(node)
        with Machine(folder) as machine:
            out = json.loads(program("bench_rate", *command))
        cpu = (cpu_seconds(node) - used) / out["requests"]
        inside = bucket_quantiles(before, request_buckets(node, "Recommendations.Recommend"))
        outside = " / ".join(f"{out['us'][q] / 1000:.3f}" for q in ("p50", "p99", "p999"))
        if rate == 10000:
            record(f"Recommend at {rate}/s", round(cpu * 1e6, 1), "us of CPU of the whole node each", "",
                   " ".join(["bench_rate", *command]))
        record(f"Recommend at {rate}/s, in the server, p50 / p99 / p999", inside, "ms", target,
               "dunlin_request_seconds of /metrics, before and after")
        record(f"Recommend at {rate}/s, seen from outside, p50 / p99 / p999", outside, "ms", "",
               " ".join(["bench_rate", *command]), machine.text())


def under_ingest(cluster, folder):
    """Recommend at 1,000/s at one node while 10,000 events/s are published through all three."""
    seconds, rate = (3, 2000) if SMALL else (10, 10000)
    events, catalog = os.path.join(folder, "more.jsonl"), os.path.join(folder, "more-catalog.jsonl")
    sessions = str(rate * (seconds + 4) // 4)
    program("dunlin-replay", "generate", "--seed", "12", "--items", "18000", "--users", sessions, "--sessions", sessions,
            "--events", events, "--catalog", catalog)
    node = cluster.nodes[0]
    ingest = subprocess.Popen([os.path.join(BIN, "dunlin-replay"), "publish", "--to",
                               ",".join(n.api for n in cluster.nodes), "--events", events, "--batch", "200", "--rate",
                               str(rate), "--time", "shift"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(1)
    applied = [sum(g.events_applied for g in node.status().groups if g.group > 0)]
    begun, before = time.monotonic(), request_buckets(node, "Recommendations.Recommend")
    with Machine(folder) as machine:
        program("bench_rate", node.api, "/dunlin.v1.Recommendations/Recommend", os.path.join(folder, "message.bin"),
                "1000", str(seconds), "16")
    inside = bucket_quantiles(before, request_buckets(node, "Recommendations.Recommend"))
    applied.append(sum(g.events_applied for g in node.status().groups if g.group > 0))
    ingested = (applied[1] - applied[0]) / (time.monotonic() - begun)
    assert ingest.wait(600) == 0, "the publisher failed"
    record("Recommend at 1,000/s while events are ingested, in the server, p50 / p99 / p999", inside, "ms",
           "p50 0.3, p99 1, p999 5", f"bench_rate 1000/s beside dunlin-replay publish --rate {rate}",
           f"{ingested:.0f} events/s applied; {machine.text()}")


def state_machine():
    """One shard without Raft: bench_session, bench_apply_part."""
    out = json.loads(program("bench_session").splitlines()[-1])
    record("state machine alone: apply, users coming", out["fill_ns_per_event"], "ns per event", "600", "bench_session",
           f"longest record of 1,000 events {out['fill_worst_record_ms']} ms")
    record("state machine alone: apply, random users of 1M", out["steady_ns_per_event"], "ns per event", "600", "bench_session",
           f"during a snapshot {out['during_snapshot_ns_per_event']} ns")
    record("state machine alone: bytes for a session of 5 events", out["bytes_per_session"], "bytes", "250", "bench_session")
    record("state machine alone: snapshot of 1M sessions: capture / write / restore",
           f"{out['snapshot_begin_ms']} / {out['snapshot_write_ms']} / {out['restore_build_ms']}", "ms", "", "bench_session",
           f"{out['snapshot_mb']} MB")
    out = json.loads(program("bench_apply_part").splitlines()[-1])
    record("state machine alone: one part of a record of 5,000 events, p99 / longest", f"{out['call_us']['p99']} / {out['call_us']['max']}",
           "us", "1000", "bench_apply_part", f"the whole record {out['record_us']['p50']} us; while a snapshot begins its "
           f"longest part is {out['capture_open']['worst_call_us']} us")


def decoding():
    """Messages of streams into events: bench_decode."""
    out = json.loads(program("bench_decode").splitlines()[-1])
    for key, what in (("json", "JSON"), ("json_nested_iso8601", "JSON, nested paths, ISO 8601 time"), ("protobuf", "protobuf")):
        record(f"decoding alone: {what}, {out[key]['bytes']} bytes", out[key]["ns"], "ns per event", "1000", "bench_decode",
               f"jansson's tree of the same: {out['json_jansson_tree']['ns']} ns" if key == "json" else "")


def visible(cluster, folder):
    n = "500" if SMALL else "5000"
    with Machine(folder) as machine:
        out = json.loads(program("bench_visible", n, "1000", *[x.api for x in cluster.nodes]))
    for key, what in (("acknowledged_us", "click to acknowledged"), ("visible_everywhere_us", "click to visible on every node")):
        record(what + ", p50 / p99 / p999", " / ".join(f"{out[key][q] / 1000:.2f}" for q in ("p50", "p99", "p999")), "ms",
               "p50 2, p99 10" if "visible" in what else "", f"bench_visible {n} 1000",
               machine.text() if "visible" in what else "")


def restart(folder):
    """One million sessions in a three-node cluster; one node restarted: time until it says it is ready."""
    sessions = 20000 if SMALL else 1000000
    cluster = Cluster(folder=os.path.join(folder, "million"))
    cluster.start()
    events = os.path.join(folder, "million.jsonl")
    say(f"writing {sessions} sessions of 5 events")
    with open(events, "w") as out:
        now = int(time.time() * 1000) - 60000
        for n in range(sessions):
            for e in range(5):
                out.write(f'{{"user":"user-{n}","item":"item-{(n * 7 + e * 13) % 18000}","type":"view","time_ms":{now + e * 1000}}}\n')
    before = [rss_bytes(n) for n in cluster.nodes]
    used = [cpu_seconds(n) for n in cluster.nodes]
    begun = time.monotonic()
    program("dunlin-replay", "publish", "--to", ",".join(n.api for n in cluster.nodes), "--events", events, "--batch",
            "2000", "--time", "as-is", timeout=3600)
    taken = time.monotonic() - begun
    cpu = sum(cpu_seconds(n) - u for n, u in zip(cluster.nodes, used)) / 3 / (sessions * 5)
    record("events published by the API, 5 for each of 1M users", round(sessions * 5 / taken), "events/s",
           "500,000 (from a file)", "dunlin-replay publish --batch 2000", f"{cpu * 1e6:.2f} us of CPU per event and node")
    node = cluster.nodes[1]
    memory = sum(g.memory_bytes for g in node.status().groups if g.group > 0)
    record("memory of a session of 5 events, all of the shard counted", round(memory / sessions), "bytes", "250",
           "Cluster.Status memory_bytes / users", f"resident set grew by {(rss_bytes(node) - before[1]) / sessions:.0f} bytes a session")
    assert node.stop() == 0
    begun = time.monotonic()
    node.start()
    wait_until("ready", node.ready, 300, 0.02)
    record("restart with 1M sessions to ready", round(time.monotonic() - begun, 2), "s", "3", "SIGTERM, start, /readyz")
    cluster.close()


def main():
    os.makedirs(os.environ.get("TMPDIR", "/tmp"), exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="dunlin-bench.") as folder:
        cluster = Cluster().start()
        serving(cluster, folder)
        under_ingest(cluster, folder)
        visible(cluster, folder)
        cluster.close()
        state_machine()
        decoding()
        restart(folder)
    if "--json" in sys.argv:
        print(json.dumps(results, indent=1))
        return
    width = max(len(r["what"]) for r in results)
    for r in results:
        print(f"{r['what']:{width}}  {r['value']} {r['unit']}" + (f"  [target {r['target']}]" if r["target"] else "")
              + (f"  ({r['note']})" if r["note"] else ""))


main()
