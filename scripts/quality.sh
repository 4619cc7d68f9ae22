#!/usr/bin/env bash
# Quality of recommendations on the public sets, with one configuration: docs/quality.md has the results. Needs the data
# folder ../shared/datasets beside the checkout, which says where the sets come from; without it nothing is run.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
Usage: scripts/quality.sh [--bin FILE] [--data DIR] [--out DIR] [--full] [SET...] [-- OPTION...]

  --bin FILE   the program dunlin (build/bin/dunlin)
  --data DIR   where the sets are (../shared/datasets)
  --out DIR    write a report (.txt) and charts of the live runs (.svg) here; default: to standard output, no charts
  --full       every prediction, as docs/quality.md has them; default: samples of 4,000 (live 8,000)
  SET          serenade, serenade-live, retail, retail-live, diginetica; default: all of them
  OPTION...    for every `dunlin eval`, such as --without vstan or --learn off

Exit codes: 0 done, 1 a run failed, 2 wrong usage, 77 the data is not there.
TEXT
}

bin=build/bin/dunlin data=../shared/datasets out="" full=0 sets=()
while [ $# -gt 0 ]; do
    case "$1" in
        --bin | --data | --out) [ $# -ge 2 ] || { usage >&2; exit 2; } ;;&
        --bin) bin=$2; shift 2 ;;
        --data) data=$2; shift 2 ;;
        --out) out=$2; shift 2 ;;
        --full) full=1; shift ;;
        --help | -h) usage; exit 0 ;;
        --) shift; break ;;
        serenade | serenade-live | retail | retail-live | diginetica) sets+=("$1"); shift ;;
        *) echo "quality.sh: unknown set or option '$1'" >&2; usage >&2; exit 2 ;;
    esac
done
[ ${#sets[@]} -gt 0 ] || sets=(serenade serenade-live retail retail-live diginetica)
[ -x "$bin" ] || { echo "quality.sh: $bin: not there; build it, or name it with --bin" >&2; exit 1; }
[ -f "$data/serenade_toy.tsv.gz" ] || { echo "quality.sh: SKIPPED (shared): $data has no data sets" >&2; exit 77; }
[ -z "$out" ] || mkdir -p "$out"

# The shape of each set, and no setting of the server: the same for all.
run() {
    local name=$1 arguments=(--threads "$(nproc)")
    shift
    case "$name" in
        serenade*) arguments+=(--events "$data/serenade_toy.tsv.gz" --split 0.9) ;;
        retail*) arguments+=(--events "$data/online_retail.tsv.gz" --split 0.85 --item-pattern '^[0-9]{5}') ;;
        diginetica) arguments+=(--events "$data/diginetica_train_seq.txt.gz" --test "$data/diginetica_test.txt.gz") ;;
    esac
    case "$name" in
        *-live)
            arguments+=(--live)
            [ -z "$out" ] || arguments+=(--plot "$out/$name.svg")
            [ $full -eq 1 ] || arguments+=(--max 8000)
            ;;
        *) [ $full -eq 1 ] || arguments+=(--max 4000) ;;
    esac
    printf '\n== %s\n' "$name"
    "$bin" eval "${arguments[@]}" "$@"
}

status=0
for name in "${sets[@]}"; do
    if [ -n "$out" ]; then
        run "$name" "$@" | tee "$out/$name.txt" || status=1
    else
        run "$name" "$@" || status=1
    fi
done
exit $status
