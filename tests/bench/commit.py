#!/usr/bin/env python3
"""Commit latency and throughput of this checkout beside those of an older commit, alternately in one run.

    commit.py [--against REV] [--rounds N] [--seconds S] [--json]

Builds REV (default: the last commit whose log was libraft's raft_uv) in build/against, with this checkout's bench_commit.c, and
runs both for 1, 8 and 64 writers on 1 and 4 groups. Prints medians over the rounds. Needs git and the dependencies of
scripts/deps.sh. The disk's counters are the machine's: run it alone.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
RAFT_UV = "fd53634"
CASES = [(1, 1), (8, 1), (64, 1), (8, 4), (64, 4), (256, 4)]


def run(*command, **more):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **more)


def build_other(rev):
    """The other commit's bench_commit, built from a checkout of its own under build/."""
    folder = os.path.join(ROOT, "build", "against", rev)
    source = os.path.join(folder, "source")
    program = os.path.join(folder, "build", "bin", "bench_commit")
    if not os.path.isdir(source):
        os.makedirs(folder, exist_ok=True)
        run("git", "clone", "-q", ROOT, source)
        run("git", "-C", source, "checkout", "-q", rev)
    shutil.copy(os.path.join(HERE, "bench_commit.c"), os.path.join(source, "tests", "bench"))
    listing = os.path.join(source, "tests", "bench", "CMakeLists.txt")
    text = open(listing).read()
    if "bench_commit" not in text:
        open(listing, "a").write("dunlin_bench(bench_commit dn_consensus)\n")
    run("cmake", "-S", source, "-B", os.path.join(folder, "build"), "-G", "Ninja")
    run("cmake", "--build", os.path.join(folder, "build"), "--target", "bench_commit")
    return program


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", default=RAFT_UV, help="commit to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--bytes", type=int, default=256, help="of a record")
    options = parser.parse_args()
    programs = {"this": os.path.join(os.environ.get("DUNLIN_BIN", os.path.join(ROOT, "build", "bin")), "bench_commit"),
                options.against: build_other(options.against)}
    results = {}
    for _ in range(options.rounds):
        for writers, groups in CASES:
            for name, program in programs.items():
                done = subprocess.run([program, "--writers", str(writers), "--groups", str(groups), "--seconds",
                                       str(options.seconds), "--bytes", str(options.bytes)],
                                      capture_output=True, check=True)
                results.setdefault((writers, groups, name), []).append(json.loads(done.stdout))
                if sys.stderr.isatty():
                    print(".", end="", file=sys.stderr, flush=True)
    rows = []
    for (writers, groups, name), runs in results.items():
        row = {"build": name, "writers": writers, "groups": groups, "rounds": len(runs)}
        for key in runs[0]:
            if key not in row and key != "bytes":
                row[key] = statistics.median(r[key] for r in runs)
        rows.append(row)
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    keys = ["build", "writers", "groups", "commits_per_s", "p50_ms", "p99_ms", "max_ms", "disk_writes_per_s",
            "disk_flushes_per_s", "cpu_us_per_commit", "mib_at_10k", "mib_at_100k", "peak_mib"]
    print("  ".join(f"{k:>18}" for k in keys))
    for row in rows:
        print("  ".join(f"{row[k]:>18}" if isinstance(row[k], str) else f"{row[k]:>18.6g}" for k in keys))


main()
