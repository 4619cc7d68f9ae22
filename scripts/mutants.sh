#!/usr/bin/env bash
# Are the checkers any good? Builds the server with deliberate faults (base/mutant.h) and shows that each is caught.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

usage() {
    cat <<'TEXT'
Usage: scripts/mutants.sh [--real] [--lives N] [--seconds N] [--only NAME] [--build DIR]

Each mutant runs in virtual time (tests/virtual) until a life goes wrong; then 150 lives of the same build without a
mutant must be well. With --real also in real clusters (dunlin-chaos run), those that clients can see; and those of
streams once more with a real Kafka broker, where one can be had (scripts/kafka.sh).

  --lives N    virtual lives until a mutant counts as missed (default 3000)
  --seconds N  of chaos for each of three seeds with --real (default 30)
  --only NAME  this mutant alone
  --build DIR  programs that are built already
Exit codes: 0 all caught, 1 one was not, or the build without a mutant fails, 2 wrong usage.
TEXT
}

MUTANTS=$(sed -n 's/^ *X([A-Z_]*, "\([a-z-]*\)",.*/\1/p' base/mutant.h)
[ -n "$MUTANTS" ] || { echo "mutants.sh: no mutant found in base/mutant.h" >&2; exit 1; }
# accept-gap needs a batch that is lost while one behind it is not: of a file, sure in virtual time only (docs/chaos.md).
SEEN_IN_STREAMS="forget-offset"
SEEN_WITH_KAFKA="forget-offset accept-gap"
SEEN_BY_CLIENTS="ack-before-commit skip-deduplication skip-token-wait skip-barrier apply-late understate-age"
FAULTS=kill-leader,pause-leader,isolate-leader,partition-halves,slow-link,restart
WELL_LIVES=150

real=0 lives=3000 seconds=30 only="" build=""
while [ $# -gt 0 ]; do
    case "$1" in
        --real) real=1; shift ;;
        --lives|--seconds) [[ "${2:-}" =~ ^[0-9]{1,9}$ ]] || { echo "mutants.sh: $1 takes a number" >&2; exit 2; }
            declare "${1#--}=$2"; shift 2 ;;
        --only|--build) [ $# -ge 2 ] || { usage >&2; exit 2; }; declare "${1#--}=$2"; shift 2 ;;
        --help|-h) usage; exit 0 ;;
        *) echo "mutants.sh: unknown option '$1'; see --help" >&2; exit 2 ;;
    esac
done
if [ -n "$only" ] && ! grep -qw -- "$only" <<<"$MUTANTS"; then
    echo "mutants.sh: there is no mutant '$only'; there are: $MUTANTS" >&2
    exit 2
fi
if [ -z "$build" ]; then
    build=build/mutants
    log=$(mktemp)
    if ! { cmake --preset mutants && cmake --build --preset mutants --target dunlind dunlin dunlin-chaos test_virtual; } >"$log" 2>&1
    then tail -n 40 "$log"; rm -f "$log"; exit 1
    fi
    rm -f "$log"
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
missed=0

for mutant in ${only:-$MUTANTS}; do
    # A shell of its own, which keeps its word about the abort to itself.
    if (DUNLIN_MUTANT=$mutant timeout 1800 "$build/bin/test_virtual" --lives "$lives" --seed 1 >"$folder/out" 2>&1; exit $?) 2>/dev/null; then
        echo "MISSED: $mutant: $lives virtual lives were well"
        missed=$((missed + 1))
    else
        seed=$(sed -n 's/.*--lives 1 --seed \([0-9]*\).*/\1/p' "$folder/out" | tail -n 1)
        why=$(grep -v '^FAILED\|^mutant:' "$folder/out" | tail -n 1 | sed 's/^[^ ]*: //' | cut -c1-110)
        if [ -z "$seed" ]; then
            echo "MISSED: $mutant: the harness ended without naming a seed:"; tail -n 5 "$folder/out"
            missed=$((missed + 1))
        else
            echo "caught: $mutant: virtual seed $seed: $why"
        fi
    fi
done
if [ -z "$only" ]; then
    if "$build/bin/test_virtual" --lives "$WELL_LIVES" --seed 1 >"$folder/out" 2>&1
    then echo "well: no mutant: $WELL_LIVES virtual lives"
    else echo "FAILED: the same build without a mutant:"; tail -n 5 "$folder/out"; missed=$((missed + 1))
    fi
fi
[ "$real" = 1 ] || exit $((missed > 0))

# in_real_clusters MUTANT WHAT LOAD...: until a run is violated, three seeds at most.
in_real_clusters() {
    local mutant=$1 what=$2 caught="" seed code rules
    shift 2
    for seed in 1 2 3; do
        "$build/bin/dunlin-chaos" run --mutant "$mutant" --seed "$seed" --out "$folder/report" "$@" >"$folder/out" 2>&1
        code=$?
        rules=$(sed -n 's/^ *\([a-z-]*\)  *VIOLATED .*/\1/p' "$folder/report/verdict.txt" 2>/dev/null | tr '\n' ' ')
        if [ -z "$rules" ] && grep -q "state at index .* is in the minority" "$folder/report/verdict.txt" 2>/dev/null
        then rules="a node, which left by itself: its state is not the others'"
        fi
        rm -rf "$folder/report"
        if [ "$code" = 3 ]; then tail -n 2 "$folder/out"; exit 1; fi
        if [ -n "$rules" ]; then caught="seed $seed: $rules"; break; fi
    done
    if [ -n "$caught" ]; then echo "caught: $mutant: $what, $caught"
    else echo "MISSED: $mutant: $what: three were well"; missed=$((missed + 1))
    fi
}

for mutant in ${only:-$SEEN_BY_CLIENTS $SEEN_IN_STREAMS}; do
    grep -qw -- "$mutant" <<<"$SEEN_BY_CLIENTS $SEEN_IN_STREAMS" || continue
    load=(--nemesis "$FAULTS" --rate 500 --seconds "$seconds")
    grep -qw -- "$mutant" <<<"$SEEN_IN_STREAMS" && load+=(--workload ingest)
    in_real_clusters "$mutant" "real cluster" "${load[@]}"
done

for mutant in ${only:-$SEEN_WITH_KAFKA}; do
    grep -qw -- "$mutant" <<<"$SEEN_WITH_KAFKA" || continue
    if ! scripts/kafka.sh setup >"$folder/out" 2>&1; then
        echo "skipped: $mutant with Kafka: $(tail -n 1 "$folder/out")"
        [[ ",${DUNLIN_REQUIRE:-}," == *",kafka,"* ]] && missed=$((missed + 1))
        continue
    fi
    load=(--workload ingest --stream kafka --nemesis "$FAULTS" --rate 500 --seconds "$seconds")
    # As many changes of leaders as fit, and much in the stream: a batch must be lost, and not the one behind it.
    [ "$mutant" != accept-gap ] || load=(--workload ingest --stream kafka --nemesis isolate-leader,pause-leader
        --fault 250-600 --quiet 200-400 --shards 8 --rate 1500 --seconds "$((seconds + 15))")
    in_real_clusters "$mutant" "real cluster with Kafka" "${load[@]}"
done
exit $((missed > 0))
