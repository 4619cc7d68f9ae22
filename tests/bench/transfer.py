#!/usr/bin/env python3
"""A large state sent to a node that has none of it, while clicks go on: this checkout beside an older commit.

    transfer.py [--users N] [--against REV|none] [--json]

Node 3 of three is down while N sessions of 5 events are published to the other two, which then no longer have the log it lacks: it
needs snapshots of all shards. Measured: the time until it has applied everything, the latency of one
durable click at a time, before and meanwhile, and the memory of the processes. This build is measured a second time with a fourth
node that joins three (`dunlin member add 4 --wait`). Takes some minutes and some 6 GiB of memory. Run by scripts/bench.sh --transfer."""

import argparse
import importlib
import json
import os
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
RAFT_UV = "fd53634"  # the last commit whose log was libraft's raft_uv
CLICK_EVERY_S = 0.004
BEFORE_S = 10
LIMIT_S = 300


def say(text):
    print(text, file=sys.stderr, flush=True)


def measure(options):
    """In a process of its own: which cluster.py and which programs is told by the environment."""
    sys.path.insert(0, os.path.join(os.environ["DUNLIN_TREE"], "tests", "integration"))
    lib = importlib.import_module("cluster")
    pb, grpc, binaries = lib.pb, lib.grpc, os.environ["DUNLIN_BIN"]
    joins = options.scenario == "joins"
    cluster = lib.Cluster(n=3)
    first = cluster.nodes if joins else cluster.nodes[:2]

    def memory_mib(node, key):
        with open(f"/proc/{node.process.pid}/status") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith(key))

    def groups(node):
        return {g.group: g for g in node.status(timeout=10).groups}

    if joins:
        cluster.start()
    else:
        # All three once, so that there is a cluster.
        cluster.start()
        cluster.nodes[2].stop()
    begun = time.monotonic()
    source = subprocess.Popen([binaries + "/dunlin-replay", "generate", "--users", str(options.users), "--sessions",
                               str(options.users), "--items", "20000", "--seed", "1", "--rate", "100000", "--events", "-"],
                              stdout=subprocess.PIPE)
    subprocess.run([binaries + "/dunlin-replay", "publish", "--to", ",".join(n.api for n in first), "--events", "-", "--time",
                    "now", "--batch", "2000", "--json", "--give-up", "60"], stdin=source.stdout, check=True,
                   stdout=subprocess.DEVNULL)
    say(f"  {options.users} sessions published in {time.monotonic() - begun:.0f} s")
    lib.wait_until("the log is dropped up to a snapshot",
                   lambda: all(g.first_index > 100 for n in first for i, g in groups(n).items() if i > 0), 120)
    clicks, failures, stopped = [], [], threading.Event()

    def click():
        stubs = [n.stub("Events") for n in first]
        count = 0
        while not stopped.is_set():
            event = pb.Event(user_id=f"probe-{count % 500}", item_id=f"item-{count % 1000}", type=pb.EVENT_TYPE_VIEW,
                             event_id=f"p-{count}")
            sent = time.monotonic()
            try:
                stubs[count % len(stubs)].Publish(pb.PublishRequest(events=[event]), timeout=30)
            except grpc.RpcError as error:
                failures.append(f"{error.code().name}: {error.details()}")
            clicks.append((sent, (time.monotonic() - sent) * 1000))
            count += 1
            stopped.wait(CLICK_EVERY_S)

    def latency(since, until):
        values = sorted(ms for sent, ms in clicks if since <= sent < until)
        return {"clicks": len(values), "p50_ms": values[len(values) // 2], "p99_ms": values[int(len(values) * .99)],
                "max_ms": values[-1]}

    thread = threading.Thread(target=click)
    thread.start()
    try:
        begin = time.monotonic()
        time.sleep(BEFORE_S)
        result = {"users": options.users, "state_mib": sum(g.memory_bytes for g in groups(first[0]).values()) / 2**20,
                  "before": latency(begin, time.monotonic()), "sender_peak_mib_before":
                  max(memory_mib(n, "VmHWM") for n in first)}
        start = time.monotonic()
        if joins:
            node = cluster.joining(4)
            node.start()
            wanted = {i: g.commit_index for i, g in groups(first[0]).items()}
            command = [binaries + "/dunlin", "member"]
            lib.wait_until("node 4 asks to join", lambda: "waiting" in subprocess.run(
                [*command, "list", "--json", "--server", first[0].api], capture_output=True, text=True).stdout)
            start = time.monotonic()
            subprocess.run([*command, "add", "4", "--wait", "--server", first[0].api], check=True, capture_output=True)
        else:
            node = cluster.nodes[2]
            wanted = {i: g.commit_index for i, g in groups(first[0]).items()}
            node.start()

        def caught_up():
            have = groups(node)
            return all(i in have and have[i].applied_index >= index for i, index in wanted.items())
        lib.wait_until("the state has arrived", caught_up, LIMIT_S)
        end = time.monotonic()
        result.update({"seconds": end - start, "meanwhile": latency(start, end), "failed_clicks": len(failures),
                       "sender_peak_mib": max(memory_mib(n, "VmHWM") for n in first),
                       "receiver_peak_mib": memory_mib(node, "VmHWM"), "receiver_mib": memory_mib(node, "VmRSS")})
        if failures:
            say(f"  first failed click: {failures[0]}")
    finally:
        stopped.set()
        thread.join()
        cluster.close()
    print(json.dumps(result))


def build_other(rev):
    """The other commit's programs, built from a checkout of its own under build/."""
    source = os.path.join(ROOT, "build", "against", rev, "tree")
    folder = os.path.join(ROOT, "build", "against", rev, "programs")
    quiet = {"check": True, "stdout": subprocess.DEVNULL}
    if not os.path.isdir(source):
        os.makedirs(os.path.dirname(source), exist_ok=True)
        subprocess.run(["git", "clone", "-q", ROOT, source], **quiet)
        subprocess.run(["git", "-C", source, "checkout", "-q", rev], **quiet)
    subprocess.run(["cmake", "-S", source, "-B", folder, "-G", "Ninja", "-DDUNLIN_TESTS=OFF"], **quiet)
    subprocess.run(["cmake", "--build", folder], **quiet)
    return source, os.path.join(folder, "bin")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=4_300_000, help="sessions (default: about 1 GiB of state)")
    parser.add_argument("--against", default=RAFT_UV, help="commit to compare with, or none")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--scenario", choices=["returns", "joins"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.scenario:
        measure(options)
        return
    this = ROOT, os.environ.get("DUNLIN_BIN", os.path.join(ROOT, "build", "bin"))
    runs = [("this", "returns", this), ("this", "joins", this)]
    if options.against != "none":
        runs.append((options.against, "returns", build_other(options.against)))
    results = []
    for name, scenario, (tree, binaries) in runs:
        say(f"{name}, a node {scenario}:")
        done = subprocess.run([sys.executable, __file__, "--scenario", scenario, "--users", str(options.users)],
                              env={**os.environ, "DUNLIN_TREE": tree, "DUNLIN_BIN": binaries}, stdout=subprocess.PIPE)
        if done.returncode != 0:
            say(f"  failed with exit code {done.returncode}")
            results.append({"build": name, "scenario": scenario, "failed": done.returncode})
            continue
        results.append({"build": name, "scenario": scenario, **json.loads(done.stdout)})
        if not options.json:
            print(json.dumps(results[-1], indent=1), flush=True)
    if options.json:
        print(json.dumps(results, indent=1))


main()
