"""Measures the tables of what is near an item (session/near.h): CPU of keeping them, memory, and what a recommendation reads of
them. Run by scripts/bench.sh --near; tests/bench/bench_near.c does the work, one shard on one core.

  --events FILE   clicks to apply beside made up ones: tab-separated, gzip or not (seconds, user, session, item), headed
  --sessions N    made up, over 500,000 items (default 300,000; 10,000,000 take some 8 GB and 10 minutes)
  --rounds N      of each, in turn without and with the tables; the median counts (default 3)
  --cells N       session.near_cells (default: the server's)
  --json          results as JSON on standard output"""

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile

BIN = os.environ["DUNLIN_BIN"]


def measure(*arguments):
    done = subprocess.run([os.path.join(BIN, "bench_near"), *map(str, arguments)], stdout=subprocess.PIPE)
    if done.returncode != 0:
        raise SystemExit("bench_near failed")
    return json.loads(done.stdout)


def tell(what, m):
    request = m["request_us"]
    print(f"{what}: {m['events']:,} events of {m['sessions']:,} users on {m['items']:,} items\n"
          f"  without / with tables: {m['without_ns']} / {m['with_ns']} ns an event: the tables take {m['tables_ns']}\n"
          f"  {m['bytes'] / 1e6:,.1f} MB in {m['rows']:,} rows of {m['pairs']:,} items, {m['visitors']:,} visitors: "
          f"{m['bytes_an_event']} bytes an event\n"
          f"  a request reads 5 rows, 9 rings, 200 sessions and 300 items: p50 {request['p50']}, p99 {request['p99']} us "
          f"(rows {request['rows']}, rings {request['visitors']}, sessions {request['sessions']}, items {request['items']})")


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench.sh --near", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events")
    parser.add_argument("--sessions", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cells", type=int)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cells = ["--cells", options.cells] if options.cells else []
    results = {}
    if options.events:
        with tempfile.NamedTemporaryFile() as plain:
            opened = gzip.open if options.events.endswith(".gz") else open
            with opened(options.events, "rb") as events:
                shutil.copyfileobj(events, plain)
            plain.flush()
            results["file"] = measure("--events", plain.name, "--rounds", options.rounds, *cells)
    results["made up"] = measure("--sessions", options.sessions, "--rounds", options.rounds, *cells)
    if options.json:
        json.dump(results, sys.stdout, indent=2)
        print()
    else:
        for what, m in results.items():
            tell(what, m)


main()
