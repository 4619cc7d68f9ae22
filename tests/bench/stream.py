"""Measures streams: events from Kafka and from a file, committed on three nodes and applied; freshness at a steady rate;
memory under a flood. Run by scripts/bench.sh --stream. The broker, the producer, three nodes and this script share the
machine's cores.

Users and items are scattered as if drawn at random: in turn they would be kinder to caches.

  --events N    events of each run (default 2,000,000)
  --rounds N    of each run but the flood (default 3); all are printed
  --only WHAT   one of kafka, file, freshness, flood
  --json        results as JSON on standard output"""

import argparse
import json
import os
import random
import re
import resource
import sys
import tempfile
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "integration"))
import kafka  # noqa: E402
from cluster import Cluster, pb, wait_until  # noqa: E402

TICKS = os.sysconf("SC_CLK_TCK")
USERS, ITEMS, PARTITIONS = 100_000, 18_000, 8
WARM_SECONDS = 20
results = []


def say(text):
    print(text, file=sys.stderr, flush=True)


def record(what, value, unit, note=""):
    results.append({"what": what, "value": value, "unit": unit, "note": note})
    say(f"  {what}: {value} {unit}" + (f" ({note})" if note else ""))


def cpu_seconds(nodes):
    total = 0
    for node in nodes:
        fields = open(f"/proc/{node.process.pid}/stat").read().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def rss_mib(node):
    return int(open(f"/proc/{node.process.pid}/statm").read().split()[1]) * resource.getpagesize() / 2**20


def counted(node):
    return sum(g.events_applied + g.late + g.refused for g in node.status(timeout=10).groups)


def until_counted(cluster, count):
    """Waits for all nodes; returns when it began, the seconds from the first tenth of the events to the last, the events
    in them and the CPU seconds that the nodes used for them."""
    first = None
    while True:
        least = min(counted(node) for node in cluster.nodes)
        now, cpu = time.monotonic(), cpu_seconds(cluster.nodes)
        if first is None and least >= count / 10:
            first = (now, cpu, least)
        if least >= count:
            return now - first[0], count - first[2], cpu - first[1]
        time.sleep(0.02)


def throughput(what, cluster, count):
    seconds, events, cpu = until_counted(cluster, count)
    record(what, f"{events / seconds:,.0f}", "events/s", f"{1e6 * cpu / events / 3:.2f} us of CPU an event and replica")


def source_kafka(broker, topic, keyed="true"):
    return (f"sources:\n  - name: bench\n    kind: kafka\n    brokers: {broker.address}\n    topics: [{topic}]\n"
            f"    keyed: {keyed}\n")


def from_kafka(broker, options, live):
    """live: produced while it is read. Else it is all there when the nodes start."""
    topic = f"bench-{time.monotonic_ns()}"
    broker.create(topic, PARTITIONS)
    if not live:
        broker.produce(topic, options.events, users=USERS, items=ITEMS, scatter=1, size=150, time=0)
    cluster = Cluster(3, shards=4, extra=source_kafka(broker, topic)).start()
    if live:
        cluster.wait_ready()
        process = broker.produce_start(topic, options.events, users=USERS, items=ITEMS, scatter=1, size=150, time=0)
    throughput(f"from Kafka, {'produced meanwhile' if live else 'read behind'}", cluster, options.events)
    if live:
        broker.produced(process)
    cluster.close()
    broker.delete(topic)


def from_file(folder, options):
    path = os.path.join(folder, "events.jsonl")
    if not os.path.exists(path):
        now = int(time.time() * 1000)
        draw = random.Random(1)
        with open(path, "w") as out:
            for i in range(options.events):
                out.write('{"user_id":"user-%d","item_id":"item-%d","type":"view","time_ms":%d,"pad":"%s"}\n'
                          % (draw.randrange(USERS), draw.randrange(ITEMS), now - 60000 + i // 1000, "x" * 60))
    extra = f"sources:\n  - name: bench\n    kind: file\n    paths: [{path}]\n"
    cluster = Cluster(3, shards=4, extra=extra).start()
    throughput("from a file", cluster, options.events)
    cluster.close()


def buckets(node, name="dunlin_event_to_visible_seconds"):
    text = urllib.request.urlopen(f"http://{node.admin}/metrics", timeout=10).read().decode()
    found = re.findall(name + r'_bucket\{(?:[^}]*,)?le="([^"]+)"\} (\d+)', text)
    return [(float(bound) * 1000, int(count)) for bound, count in found]


# What an event's way is made of, as far as nodes can see it.
STAGES = (("event to visible", "dunlin_event_to_visible_seconds"),
          ("of it until it was read", "dunlin_source_read_delay_seconds"),
          ("of it from proposal to commit", "dunlin_source_commit_delay_seconds"))


def quantile(before, after, q):
    counts = [(bound, late - early) for (bound, late), (_, early) in zip(after, before)]
    low, below = 0.0, 0
    for bound, count in counts:
        if count >= q * counts[-1][1]:
            return low if bound == float("inf") else low + (bound - low) * (q * counts[-1][1] - below) / max(1, count - below)
        low, below = bound, count
    return float("nan")


def freshness(broker, rate, seconds):
    topic = f"fresh-{time.monotonic_ns()}"
    broker.create(topic, PARTITIONS)
    cluster = Cluster(3, shards=4, extra=source_kafka(broker, topic)).start()
    cluster.wait_ready()
    # A broker that has just started compiles its code meanwhile: its own acknowledgements take three times as long.
    broker.produce(topic, rate * WARM_SECONDS, users=USERS, items=ITEMS, scatter=1, size=150, time=0, rate=rate)
    before = [[buckets(node, name) for _, name in STAGES] for node in cluster.nodes]
    cpu = cpu_seconds(cluster.nodes)
    broker.produce(topic, rate * seconds, users=USERS, items=ITEMS, scatter=1, size=150, time=0, rate=rate)
    wait_until("all are counted", lambda: min(counted(n) for n in cluster.nodes) >= rate * (seconds + WARM_SECONDS))
    used = cpu_seconds(cluster.nodes) - cpu
    record(f"the broker's acknowledgement at {rate:,}/s", " / ".join(f"{us / 1000:.1f}" for us in broker.acknowledged_us),
           "ms (p50 / p99)")
    for i, (what, name) in enumerate(STAGES):
        for node, early in zip(cluster.nodes, before):
            late = buckets(node, name)
            if late and late[-1][1] > early[i][-1][1]:
                record(f"{what} at {rate:,}/s, node {node.number}",
                       " / ".join(f"{quantile(early[i], late, q):.1f}" for q in (.5, .99, .999)), "ms (p50 / p99 / p999)")
    record(f"CPU at {rate:,}/s", f"{1e6 * used / (rate * seconds) / 3:.1f}", "us an event and replica")
    cluster.close()
    broker.delete(topic)


def flood(broker, options):
    """Everything is in the topic before the nodes start: they read as fast as they can."""
    topic = f"flood-{time.monotonic_ns()}"
    broker.create(topic, PARTITIONS)
    broker.produce(topic, options.events, users=1000, items=1000, size=1000, time=0)
    cluster = Cluster(3, shards=4, extra=source_kafka(broker, topic)).start()
    cluster.wait_ready()
    most, api = 0.0, []
    while min(counted(node) for node in cluster.nodes) < options.events:
        most = max(most, *(rss_mib(node) for node in cluster.nodes))
        began = time.monotonic()
        try:
            publish(cluster.nodes[0], len(api))
            api.append(time.monotonic() - began)
        except Exception as error:  # counted, not hidden
            api.append(float("inf"))
            say(f"  a write by the API failed: {error}")
        time.sleep(0.01)
    api.sort()
    record("memory of a node in a flood of 1 KB messages, at most", f"{most:.0f}", "MiB")
    if api:
        record("writes by the API in the flood", f"{1000 * api[len(api) // 2]:.1f} / {1000 * api[int(len(api) * .99)]:.1f}",
               "ms (p50 / p99)", f"{len(api)} of them")
    cluster.close()


def publish(node, number):
    event = pb.Event(user_id=f"api-{number % 50}", item_id="x", event_id=f"e-{number}")
    node.stub("Events").Publish(pb.PublishRequest(events=[event]), timeout=10)


def main():
    parser = argparse.ArgumentParser(prog="bench.sh --stream", description=__doc__.split("\n\n")[0])
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["kafka", "file", "freshness", "flood"])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    wanted = {options.only} if options.only else {"kafka", "file", "freshness", "flood"}
    broker = kafka.Broker()
    with tempfile.TemporaryDirectory(prefix="dunlin-stream.") as folder:
        for _ in range(options.rounds):
            if "kafka" in wanted:
                from_kafka(broker, options, live=True)
                from_kafka(broker, options, live=False)
            if "file" in wanted:
                from_file(folder, options)
        if "freshness" in wanted:
            for _ in range(options.rounds):
                freshness(broker, 10_000, 20)
        if "flood" in wanted:
            flood(broker, options)
    if options.json:
        print(json.dumps(results, indent=1))
        return
    for r in results:
        print(f"{r['what']}: {r['value']} {r['unit']}" + (f" ({r['note']})" if r["note"] else ""))


main()
