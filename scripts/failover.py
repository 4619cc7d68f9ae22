#!/usr/bin/env python3
"""What faults cost, over several runs of dunlin-chaos: scripts/failover.py RUN_DIR...

Reads the verdict.json of each run and prints one line for each kind of fault: how often it was made, how long a
shard went without a successful write around it (p50, p99 and longest, over faults and shards), and how many reads
and writes failed meanwhile. Faults that overlap in a run are charged to each other: for clean figures run them one
at a time (scripts/chaos.sh --nemesis kill-leader,pause-leader,isolate-leader,partition-halves).
"""
import argparse
import json
import os
import sys


def percentile(values, share):
    """The smallest value that at least `share` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * share // 100))
    return ordered[int(rank) - 1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help="a folder that dunlin-chaos run --out wrote")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    arguments = parser.parse_args()
    kinds = {}
    for run in arguments.runs:
        path = os.path.join(run, "verdict.json")
        try:
            with open(path, encoding="utf-8") as file:
                faults = json.load(file)["faults"]
        except (OSError, ValueError, KeyError) as error:
            sys.exit(f"failover.py: '{path}': {error!r}: give folders that 'dunlin-chaos run --out' wrote")
        for fault in faults:
            if not fault.get("begun", True):
                continue
            kind = kinds.setdefault(
                fault["name"], {"faults": 0, "without_ms": [], "reads": 0, "reads_failed": 0, "writes": 0, "writes_failed": 0}
            )
            kind["faults"] += 1
            kind["without_ms"] += fault["without_write_ms"].values()
            for count in ("reads", "reads_failed", "writes", "writes_failed"):
                kind[count] += fault[count]
    rows = {}
    for name, kind in sorted(kinds.items()):
        times = kind.pop("without_ms")
        if times:
            kind.update(
                without_write_p50_ms=percentile(times, 50), without_write_p99_ms=percentile(times, 99),
                without_write_max_ms=max(times),
            )
        rows[name] = kind
    if arguments.json:
        print(json.dumps(rows))
        return
    print(f"{'fault':<22}{'made':>6}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}{'reads failed':>20}{'writes failed':>20}")
    for name, row in rows.items():
        times = "".join(f"{row.get(f'without_write_{of}_ms', float('nan')):>9.0f}" for of in ("p50", "p99", "max"))
        reads = f"{row['reads_failed']} of {row['reads']}"
        writes = f"{row['writes_failed']} of {row['writes']}"
        print(f"{name:<22}{row['faults']:>6}{times}{reads:>20}{writes:>20}")


if __name__ == "__main__":
    main()
