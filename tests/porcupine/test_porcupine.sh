#!/usr/bin/env bash
# Hand-made histories (tests/unit/chaos/histories) and simulated ones, judged by our rules and by Porcupine: the verdicts must
# agree.
#
#   test_porcupine.sh CHAOS_PROJECT FOLDER [HISTORY.edn...]
#
# FOLDER is for the program and the histories. DUNLIN_SEED and DUNLIN_LIVES choose the simulated ones; more histories, such as
# those of real runs, may be named. Exit code 77: Go or the module cannot be had; with DUNLIN_REQUIRE=porcupine that is 1.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
LIVES=${DUNLIN_LIVES:-120}
SEED=${DUNLIN_SEED:-$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}
FETCH_SECONDS=120

skip() {
    echo "porcupine: skipped: $1"
    [[ ",${DUNLIN_REQUIRE:-}," != *",porcupine,"* ]] || exit 1
    exit 77
}

[[ $# -ge 2 ]] || { sed -n '2,/^set /{/^# \{0,1\}/s///p}' "${BASH_SOURCE[0]}" >&2; exit 2; }
project=$1 folder=$2
shift 2

command -v go >/dev/null || skip "Go is not installed"
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
export GOTOOLCHAIN=local GOFLAGS=-mod=readonly
cd "$here/judge"
output=$(timeout "$FETCH_SECONDS" go mod download 2>&1) ||
    skip "the module cannot be had here: ${output:-nothing within $FETCH_SECONDS s}"
go build -o "$folder/porcupine" .

echo "seed: $SEED (repeat with DUNLIN_SEED=$SEED), $LIVES simulated lives"
rm -rf "$folder/histories"
mkdir "$folder/histories"
"$project" "$folder/histories" "$LIVES" "$SEED" "$here"/../unit/chaos/histories/*.edn "$@"
"$folder/porcupine" "$folder/histories"
