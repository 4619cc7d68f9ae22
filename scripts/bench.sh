#!/usr/bin/env bash
# Measures dunlin on this machine: three nodes, the load and the measuring all share its cores.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
    --help|-h)
        echo "Usage: scripts/bench.sh [--json] [--small]"
        echo "       scripts/bench.sh --commit [--against REV] [--rounds N] [--json]    commits, beside another build"
        echo "       scripts/bench.sh --transfer [OPTIONS]    1 GiB of state to a node that lacks it (--transfer --help)"
        echo "       scripts/bench.sh --failover [OPTIONS]    leaders killed and stopped (--failover --help)"
        echo "       scripts/bench.sh --stream [OPTIONS]      events from Kafka and files (--stream --help)"
        echo "       scripts/bench.sh --near [OPTIONS]        tables of what is near an item: CPU and memory (--near --help)"
        echo "       scripts/bench.sh --recommend [OPTIONS]   a request beside 500,000 items and many sessions (--recommend --help)"
        echo "  --json   results as JSON on standard output (progress goes to standard error)"
        echo "  --small  small sizes: to see that it runs, not to measure"
        echo "Runs for some minutes. Recorded results are in docs/performance.md."
        exit 0 ;;
esac
special=""
case "${1:-}" in --commit|--failover|--transfer|--stream|--near|--recommend) special=${1#--}; shift ;; esac
for option in "$@"; do
    [ -z "$special" ] || break
    case "$option" in --json|--small) ;; *) echo "bench.sh: unknown option '$option'; see --help" >&2; exit 2 ;; esac
done
scripts/deps.sh >&2
[ -f build/build.ninja ] || cmake --preset release >/dev/null
cmake --build --preset release >/dev/null
DUNLIN_BIN=$PWD/build/bin exec /usr/bin/python3 "tests/bench/${special:-bench}.py" "$@"
