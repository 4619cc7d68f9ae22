#!/usr/bin/env bash
# Breaks a dunlin cluster on purpose and judges what its clients were told. Builds what is missing first.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
Usage: scripts/chaos.sh [--minutes N] [--seed N] [--nemesis NAMES] [--nodes 3|5] [OPTIONS of dunlin-chaos run]
       scripts/chaos.sh --rounds N [OPTIONS]    N runs one after the other, each with the next seed; ends with the
                                                first that is violated
       scripts/chaos.sh --list                  nemeses (faults), workloads, rules
       scripts/chaos.sh --options               all options of dunlin-chaos run
       scripts/chaos.sh --build DIR ...         programs of another build folder (sanitizers, mutants), not built here

  --minutes N      how long faults are let loose (default 1)
  --seed N         makes the schedule and what clients ask for (default: by the clock)
  --nemesis NAMES  comma separated; all (default; with a broker all,stream), stream (a broker's), none
  --nodes 3|5      first members (default 3)
  --workload NAME  mixed (default), sessions, catalogue, membership, ingest
  --stream KIND    what nodes read as a stream: file (default); kafka, kafka-unkeyed: a real broker (scripts/kafka.sh)
  --out DIR        the report's folder; with --rounds one folder in it for each seed

As root each node gets a network namespace and a disk of its own, and all faults that this machine can make; without,
nodes run on loopback behind a proxy. docs/chaos.md tells how to read the report.
Exit codes: 0 valid, 1 a rule is violated, 2 wrong usage, 3 this machine could not do it.
TEXT
}

number() { [[ "${2:-}" =~ ^[0-9]{1,15}$ ]] || { echo "chaos.sh: $1 takes a number" >&2; exit 2; }; }
rounds=1 seed="" build="" out="" command=run
arguments=()
while [ $# -gt 0 ]; do
    case "$1" in
        --help|-h) usage; exit 0 ;;
        --list) command=list; shift ;;
        --options) command=options; shift ;;
        --rounds) number "$@"; rounds=$2; shift 2 ;;
        --seed) number "$@"; seed=$2; shift 2 ;;
        --out) out=${2:?--out takes a folder}; shift 2 ;;
        --build) build=${2:-}; [ -d "$build/bin" ] || { echo "chaos.sh: --build: no folder '$build/bin'" >&2; exit 2; }
            shift 2 ;;
        *) arguments+=("$1"); shift ;;
    esac
done

if [ -z "$build" ]; then
    scripts/deps.sh >&2
    [ -f build/build.ninja ] || cmake --preset release >/dev/null
    cmake --build --preset release --target dunlind dunlin dunlin-chaos >/dev/null
    build=build
fi
program=$build/bin/dunlin-chaos
case "$command" in
    list) exec "$program" list "${arguments[@]}" ;;
    options) exec "$program" run --help ;;
esac
[ -n "$seed" ] || seed=$(($(date +%s) % 1000000000))
[ -z "$out" ] || mkdir -p "$out"
for ((round = 0; round < rounds; round++)); do
    folder=()
    if [ -n "$out" ]; then folder=(--out "$out"); fi
    if [ -n "$out" ] && [ "$rounds" -gt 1 ]; then folder=(--out "$out/seed-$((seed + round))"); fi
    "$program" run --seed $((seed + round)) "${folder[@]}" "${arguments[@]}"
done
