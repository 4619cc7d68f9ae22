"""Measures Recommend beside a state of some size, in one process: time of a request and memory of the state. Run by
scripts/bench.sh --recommend; tests/bench/bench_recommend.c does the work, on one core.

  --world NAME    news, music, market or noise, as made up by tests/bench/clicks_worlds.c (default market)
  --items N       (default 500,000)
  --sessions N    (default 300,000; 3,000,000 took 1.6 GB)
  --shards N      of the node (default 4)
  --requests N    (default 20,000)
  --json          results as JSON on standard output"""

import argparse
import json
import os
import resource
import subprocess
import sys

BIN = os.environ["DUNLIN_BIN"]


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench.sh --recommend", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="market")
    parser.add_argument("--items", type=int, default=500_000)
    parser.add_argument("--sessions", type=int, default=300_000)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    wanted = [f for name in ("world", "items", "sessions", "shards", "requests")
              for f in (f"--{name}", str(getattr(options, name)))]
    done = subprocess.run([os.path.join(BIN, "bench_recommend"), *wanted], stdout=subprocess.PIPE)
    if done.returncode != 0:
        raise SystemExit("bench_recommend failed")
    m = json.loads(done.stdout)
    m["resident_bytes"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    if options.json:
        json.dump(m, sys.stdout, indent=2)
        print()
        return
    us = m["request_us"]
    print(f"{m['world']}: {m['events']:,} events of {m['users']:,} users on {m['items']:,} items, {m['shards']} shards\n"
          f"  applying: {m['apply_ns']} ns an event\n"
          f"  memory: {m['memory_bytes'] / 1e6:,.0f} MB of shards, {m['near_bytes'] / 1e6:,.0f} MB of it tables of what is near an "
          f"item ({m['near_bytes_an_event']} bytes an event); {m['resident_bytes'] / 1e6:,.0f} MB resident at most\n"
          f"  {m['requests']:,} requests with {m['session_events']} events: mean {us['mean']}, p50 {us['p50']}, p90 {us['p90']}, "
          f"p99 {us['p99']}, p999 {us['p999']} us of CPU")


main()
