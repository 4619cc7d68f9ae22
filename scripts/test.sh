#!/usr/bin/env bash
# The whole test suite, from a fresh clone: sets up, builds, checks, and runs every test, also under the sanitizers.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

usage() {
    cat <<'TEXT'
Usage: scripts/test.sh [--quick] [--no-deps] [--only REGEX] [--help]

  --quick       checks, unit tests and a short simulation, without sanitizers: about two minutes
  --no-deps     do not run scripts/deps.sh first
  --only REGEX  run only the tests whose name matches (ctest -R)

What the machine cannot have is skipped by name, with the reason. Name it in DUNLIN_REQUIRE (for example
DUNLIN_REQUIRE=grpcio,shared) and a skip of it is a failure.
Exit codes: 0 all passed, 1 something failed, 2 wrong usage.
TEXT
}

quick=0 deps=1 only=""
while [ $# -gt 0 ]; do
    case "$1" in
        --quick) quick=1; shift ;;
        --no-deps) deps=0; shift ;;
        --only) [ $# -ge 2 ] || { usage >&2; exit 2; }; only=$2; shift 2 ;;
        --help|-h) usage; exit 0 ;;
        *) echo "test.sh: unknown option '$1'" >&2; usage >&2; exit 2 ;;
    esac
done

passed=0 failed=0 skipped=0
failures=""
started=$(date +%s)
say() { printf '\n== %s (%s s)\n' "$*" "$(($(date +%s) - started))"; }
fail() { failed=$((failed + 1)); failures="$failures
  $1"; printf 'FAILED: %s\n' "$1"; }

# step NAME COMMAND...: one check; its output is shown only when it fails.
step() {
    local name=$1 log; shift
    log=$(mktemp)
    if "$@" >"$log" 2>&1; then passed=$((passed + 1)); printf 'ok: %s\n' "$name"
    else cat "$log"; fail "$name"
    fi
    rm -f "$log"
}

build() { # build PRESET
    local log; log=$(mktemp)
    if cmake --preset "$1" >"$log" 2>&1 && cmake --build --preset "$1" >>"$log" 2>&1; then rm -f "$log"; return 0; fi
    tail -n 60 "$log"; rm -f "$log"; fail "build $1"; return 1
}

# run_ctest DIR LABELS JOBS: runs the tests of a build folder and adds up their results.
run_ctest() {
    local dir=$1 labels=$2 jobs=$3 prefix=$4 log; log=$(mktemp)
    local args=(--test-dir "$dir" --output-on-failure -j "$jobs" --no-tests=ignore)
    [ -n "$labels" ] && args+=(-L "$labels")
    [ -n "$only" ] && args+=(-R "$only")
    ctest "${args[@]}" >"$log" 2>&1
    grep -vE '^ *Start +[0-9]+:' "$log" | sed '/^Internal ctest changing/d'
    local line name
    while IFS= read -r line; do
        name=$(sed -E 's/^ *[0-9]+\/[0-9]+ +Test +#[0-9]+: +([^ ]+) .*/\1/' <<<"$line")
        case "$line" in
            *Passed*) passed=$((passed + 1)) ;;
            *Skipped*) skipped=$((skipped + 1)) ;;
            *) failed=$((failed + 1)); failures="$failures
  $prefix$name" ;;
        esac
    done < <(grep -E '^ *[0-9]+/[0-9]+ +Test +#' "$log")
    rm -f "$log"
}

if [ "$deps" = 1 ]; then
    say "set-up"
    scripts/deps.sh || { fail "scripts/deps.sh"; printf '\n%d passed, %d failed, %d skipped\n' $passed $failed $skipped; exit 1; }
fi

say "checks"
step "layers, formatting, READMEs" scripts/check.sh
step "the checks catch what they should" scripts/check.sh --self-test

say "release build"
if build release; then
    if [ "$quick" = 1 ]; then
        export DUNLIN_SIM_RUNS="${DUNLIN_SIM_RUNS:-40}"
        run_ctest build 'quick' 2 ""
    else
        run_ctest build 'unit|sim|fuzz' 2 ""
        say "whole clusters: real processes, sockets and disks"
        run_ctest build 'integration' 1 ""
    fi
fi

if [ "$quick" = 0 ]; then
    say "clang-tidy"
    step "clang-tidy" scripts/check.sh --tidy build

    say "libFuzzer: 20,000 inputs for each target"
    fuzz_log=$(mktemp)
    scripts/fuzz.sh --runs "${DUNLIN_FUZZ_RUNS:-20000}" >"$fuzz_log" 2>&1
    case $? in
        0) passed=$((passed + 1)) ;;
        77) skipped=$((skipped + 1)) ;;
        *) fail "libFuzzer" ;;
    esac
    cat "$fuzz_log"; rm -f "$fuzz_log"

    say "mutants: deliberate faults in the server, each of which must be caught"
    if [ -z "$only" ]; then
        scripts/mutants.sh && passed=$((passed + 1)) || fail "scripts/mutants.sh"
    fi

    export DUNLIN_SIM_RUNS="${DUNLIN_SIM_RUNS_SANITIZED:-60}"
    say "address and undefined-behaviour sanitizers"
    export DUNLIN_FUZZ_RUNS="${DUNLIN_FUZZ_RUNS_SANITIZED:-20000}"
    build asan && run_ctest build/asan 'unit|sim|fuzz|sanitize' 2 "asan:"
    say "thread sanitizer"
    if build tsan; then
        TSAN_OPTIONS="suppressions=$PWD/tests/tsan.supp halt_on_error=1 second_deadlock_stack=1" \
            run_ctest build/tsan 'unit|sim|sanitize' 2 "tsan:"
    fi
fi

[ -n "$failures" ] && printf '\nFailed:%s\n' "$failures"
say "done"
printf '%d passed, %d failed, %d skipped\n' $passed $failed $skipped
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
