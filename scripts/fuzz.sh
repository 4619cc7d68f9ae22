#!/usr/bin/env bash
# Fuzzes every decoder of bytes from outside (tests/fuzz) with libFuzzer or afl++, under the sanitizers.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

usage() {
    cat <<'TEXT'
Usage: scripts/fuzz.sh [--minutes N | --runs N] [--target NAME]... [--afl] [--list] [--help]

  --minutes N    so long for each target (default 1)
  --runs N       so many inputs for each target, from the seeds alone: the same work everywhere
  --target NAME  this one only (may be given again); --list prints the names
  --afl          afl++ instead of libFuzzer

What was found stays in build/fuzz/corpus (afl++: build/fuzz-afl/out) and is gone on from; seeds are made by the targets
themselves. Inputs that crash are left in build/fuzz/crashes: build/fuzz/bin/fuzz_NAME FILE runs one again.
Exit codes: 0 nothing found, 1 something was found or did not build, 2 wrong usage, 77 clang with libFuzzer (or afl++)
is not installed; with DUNLIN_REQUIRE=libfuzzer (or afl) that is a failure.
TEXT
}

minutes=1 runs="" engine=libfuzzer list=0
wanted=()
number() { case "$1" in ''|*[!0-9]*|0*) echo "fuzz.sh: '$1' is not a number of at least 1" >&2; exit 2 ;; esac; }
while [ $# -gt 0 ]; do
    case "$1" in
        --minutes|--runs|--target) [ $# -ge 2 ] || { usage >&2; exit 2; } ;;&
        --minutes) number "$2"; minutes=$2; shift 2 ;;
        --runs) number "$2"; runs=$2; shift 2 ;;
        --target) wanted+=("$2"); shift 2 ;;
        --afl) engine=afl; shift ;;
        --list) list=1; shift ;;
        --help|-h) usage; exit 0 ;;
        *) echo "fuzz.sh: unknown option '$1'" >&2; usage >&2; exit 2 ;;
    esac
done

mapfile -t targets < <(printf '%s\n' tests/fuzz/fuzz_*.c | sed 's|.*/fuzz_||; s|\.c$||')
if [ "$list" = 1 ]; then printf '%s\n' "${targets[@]}"; exit 0; fi
for name in ${wanted[@]+"${wanted[@]}"}; do
    [ -f "tests/fuzz/fuzz_$name.c" ] || { echo "fuzz.sh: no target '$name'; there are: ${targets[*]}" >&2; exit 2; }
done
[ ${#wanted[@]} -gt 0 ] && targets=("${wanted[@]}")

# The compiler alone is not enough: its run-time library is a package of its own.
missing() {
    if [[ ",${DUNLIN_REQUIRE:-}," == *",$engine,"* ]]; then
        echo "FAILED: $engine is required and is not there: $1"
        exit 1
    fi
    echo "SKIPPED ($engine): $1"
    exit 77
}
if [ "$engine" = libfuzzer ]; then
    preset=fuzz
    command -v clang >/dev/null || missing "clang is not installed (packages clang and libclang-rt-14-dev)"
    probe=$(mktemp -d)
    echo 'int LLVMFuzzerTestOneInput(const char *b, long n); int LLVMFuzzerTestOneInput(const char *b, long n) { return b == 0 && n < 0; }' >"$probe/x.c"
    clang -fsanitize=fuzzer,address,undefined "$probe/x.c" -o "$probe/x" 2>/dev/null
    works=$?
    rm -rf "$probe"
    [ "$works" = 0 ] || missing "clang has no libFuzzer (package libclang-rt-14-dev)"
else
    preset=fuzz-afl
    command -v afl-clang-fast >/dev/null && command -v afl-fuzz >/dev/null || missing "package afl++ is not installed"
fi

dir=build/$preset log=$(mktemp)
trap 'rm -f "$log"; [ -z "${fresh:-}" ] || rm -rf "$fresh"' EXIT
if ! { cmake --preset "$preset" && cmake --build --preset "$preset"; } >"$log" 2>&1; then
    tail -n 40 "$log"
    echo "FAILED: build $preset"
    exit 1
fi
mkdir -p "$dir/crashes"
# A large quarantine costs more time than the targets themselves.
export ASAN_OPTIONS="quarantine_size_mb=8:${ASAN_OPTIONS:-}"
[ "$engine" = afl ] && ASAN_OPTIONS="$ASAN_OPTIONS:abort_on_error=1:symbolize=0" # afl++ insists

# Each prints: executions, coverage, crashes. The log of a target that ended with a crash is shown.
run_libfuzzer() {
    local name=$1 bin=$dir/bin/fuzz_$1 corpus=$dir/corpus/$1 limit
    if [ -n "$runs" ]; then
        fresh=$(mktemp -d)
        corpus=$fresh limit=(-runs="$runs" -seed=1)
    else
        limit=(-max_total_time=$((minutes * 60)))
    fi
    mkdir -p "$corpus"
    "$bin" --make-seeds "$dir/seeds-$name" >/dev/null || return 1
    "$bin" "${limit[@]}" -max_len=16384 -len_control=20 -timeout=60 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$dir/crashes/$name-" "$corpus" "$dir/seeds-$name" >"$log" 2>&1
    local status=$?
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)
    coverage=$(grep -oE 'cov: [0-9]+ ft: [0-9]+' "$log" | tail -n 1)
    [ -z "${fresh:-}" ] || rm -rf "$fresh"
    fresh=""
    return $status
}

run_afl() {
    local name=$1 bin=$dir/bin/fuzz_$1 out=$dir/out/$1 limit in
    if [ -n "$runs" ]; then limit=(-E "$runs"); else limit=(-V $((minutes * 60))); fi
    "$bin" --make-seeds "$dir/seeds-$name" >/dev/null || return 1
    in=$dir/seeds-$name
    if [ -n "$runs" ]; then rm -rf "$out"; elif [ -d "$out" ]; then in=-; fi
    mkdir -p "$dir/out"
    AFL_NO_UI=1 AFL_SKIP_CPUFREQ=1 AFL_NO_AFFINITY=1 AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES=1 \
        afl-fuzz -m none -t 5000+ -G 16384 -i "$in" -o "$out" "${limit[@]}" -- "$bin" >"$log" 2>&1
    local status=$? stats=$out/default/fuzzer_stats
    executions=$(sed -n 's/^execs_done *: *//p' "$stats" 2>/dev/null)
    coverage=$(sed -n 's/^edges_found *: */edges: /p' "$stats" 2>/dev/null)
    local crash
    for crash in "$out"/default/crashes/id* "$out"/default/hangs/id*; do
        [ -f "$crash" ] || continue
        cp "$crash" "$dir/crashes/$name-$(basename "$crash" | tr ':,' '--')"
        status=1
    done
    return $status
}

found=0
printf '%-10s %12s  %-22s %s\n' target executions coverage result
for name in "${targets[@]}"; do
    executions="" coverage="" result=ok
    if [ ! -x "$dir/bin/fuzz_$name" ]; then
        result="NOT BUILT: is it in tests/fuzz/CMakeLists.txt?"
        found=1
    elif ! "run_$engine" "$name"; then
        result="FOUND: $dir/crashes/$name-*"
        found=1
    fi
    printf '%-10s %12s  %-22s %s\n' "$name" "${executions:--}" "${coverage:--}" "$result"
    [ "$result" = ok ] || tail -n 40 "$log"
done
exit $found
