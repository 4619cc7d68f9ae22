#!/usr/bin/env bash
# Quality of recommendations, with one configuration: docs/quality.md has the results. On the public sets, which needs the data
# folder ../shared/datasets beside the checkout (it says where the sets come from; without it they are not run); or on logs
# that are made up (tests/bench/clicks_worlds.c), which needs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
Usage: scripts/quality.sh [--bin FILE] [--data DIR] [--out DIR] [--full] [SET...] [-- OPTION...]

  --bin FILE   the program dunlin (build/bin/dunlin)
  --data DIR   where the sets are (../shared/datasets)
  --out DIR    write a report (.txt) and charts of the live runs (.svg) here; default: to standard output, no charts
  --full       every prediction, as docs/quality.md has them; default: samples of 4,000 (live 8,000)
  --generated  made-up logs in place of the public sets
  --seed N     of made-up logs (1)
  --ablation   the blend without each of its parts, less the whole blend, prediction by prediction: one table
  SET          serenade, serenade-live, retail, retail-live, diginetica; default: all of them
               made up: news, news-live, music, music-live, market, market-live, noise, noise-live
  OPTION...    for every `dunlin eval`, such as --without vstan or --learn off

Exit codes: 0 done, 1 a run failed, 2 wrong usage, 77 the data is not there.
TEXT
}

public=(serenade serenade-live retail retail-live diginetica)
made_up=(news news-live music music-live market market-live noise noise-live)
bin=build/bin/dunlin data=../shared/datasets out="" full=0 generated=0 ablation=0 seed=1 sets=()
while [ $# -gt 0 ]; do
    case "$1" in
        --bin | --data | --out | --seed) [ $# -ge 2 ] || { usage >&2; exit 2; } ;;&
        --bin) bin=$2; shift 2 ;;
        --data) data=$2; shift 2 ;;
        --out) out=$2; shift 2 ;;
        --seed) seed=$2; shift 2 ;;
        --full) full=1; shift ;;
        --generated) generated=1; shift ;;
        --ablation) ablation=1; shift ;;
        --help | -h) usage; exit 0 ;;
        --) shift; break ;;
        *)
            case " ${public[*]} ${made_up[*]} " in
                *" $1 "*) sets+=("$1"); shift ;;
                *) echo "quality.sh: unknown set or option '$1'" >&2; usage >&2; exit 2 ;;
            esac
            ;;
    esac
done
if [ ${#sets[@]} -eq 0 ]; then
    [ $generated -eq 1 ] && sets=("${made_up[@]}") || sets=("${public[@]}")
fi
[ -x "$bin" ] || { echo "quality.sh: $bin: not there; build it, or name it with --bin" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

is_public() {
    [[ " ${public[*]} " == *" $1 "* ]]
}
for name in "${sets[@]}"; do
    if is_public "$name" && [ ! -f "$data/serenade_toy.tsv.gz" ]; then
        echo "quality.sh: SKIPPED (shared): $data has no data sets" >&2
        exit 77
    fi
done
[ -z "$out" ] || mkdir -p "$out"

# The shape of each set, and no setting of the server: the same for all.
run() {
    local name=$1 arguments=(--threads "$(nproc)")
    shift
    case "$name" in
        serenade*) arguments+=(--events "$data/serenade_toy.tsv.gz" --split 0.9) ;;
        retail*) arguments+=(--events "$data/online_retail.tsv.gz" --split 0.85 --item-pattern '^[0-9]{5}') ;;
        diginetica) arguments+=(--events "$data/diginetica_train_seq.txt.gz" --test "$data/diginetica_test.txt.gz") ;;
        *)
            made=${name%-live}
            [ -f "$work/$made.tsv" ] ||
                { "$(dirname "$bin")/clicks" "$made" --seed "$seed" --bound "$work/$made.bound" >"$work/$made.part" &&
                    mv "$work/$made.part" "$work/$made.tsv"; } || return 1
            arguments+=(--events "$work/$made.tsv" --split 0.9)
            ;;
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
    [[ " $* " == *" --only "* || " $* " == *" --sources "* ]] ||
        arguments+=(--sources popular,covis,rules,vmis,vstan,trending)
    "$bin" eval "${arguments[@]}" "$@" || return 1
    is_public "$name" || printf '\nwho knew the model (all its predictions): %s\n' "$(cat "$work/$made.bound")"
}

# A line a set of what was printed: HR/MRR at 20, and the difference of the best method by itself to the blend.
table() {
    printf '\n| set | popular | co-visitation | rules | VMIS | V-STAN | trending | **blend** | could be |\n|---|---|---|---|---|---|---|---|---|\n'
    for name in "${sets[@]}"; do
        awk -v name="$name" '
            function short(value) { return sprintf("%.3f", value) }
            /^k = / { k = $3 }
            k == 20 && NF >= 7 && $3 ~ /^±/ {
                text[$1] = short($2) "/" short($4)
                if ($1 == "blend") text[$1] = "**" short($2) " " short2($3) " / " short($4) " " short2($5) "**"
            }
            function short2(half) { sub(/^±/, "", half); return "±" short(half) }
            /^who knew/ { match($0, /"hr": [0-9.]+/); hr = substr($0, RSTART + 6, RLENGTH - 6)
                          match($0, /"mrr": [0-9.]+/); mrr = substr($0, RSTART + 7, RLENGTH - 7)
                          bound = short(hr) "/" short(mrr) }
            END {
                count = split("popular covis rules vmis vstan trending blend", names, " ")
                printf "| %s |", name
                for (i = 1; i <= count; i++) printf " %s |", names[i] in text ? text[names[i]] : "-"
                printf " %s |\n", bound == "" ? "-" : bound
            }' "$work/$name.txt" | sed 's/\([^0-9]\)0\./\1./g'
    done
}

# Prints "part hit-rate MRR", each with its interval, for one set; the first line is the whole blend.
ablate() {
    local name=$1 part
    shift
    out="" run "$name" --only blend --k 20 --save "$work/$name.places" "$@" |
        awk '/^blend / && $3 ~ /^±/ && !done { printf "whole %.4f %s %.4f %s\n", $2, $3, $4, $5; done = 1 }
                 END { exit !done }' || return 1
    for part in vstan vmis vstan,vmis rules covis session network learning; do
        local less=(--without "$part")
        [ "$part" != learning ] || less=(--learn off)
        out="" run "$name" --only blend --k 20 --against "$work/$name.places" "${less[@]}" "$@" |
            awk -v part="$part" '/ at 20: hit rate/ { gsub(",", ""); for (i = 1; i < NF; i++) if ($i == "rate") at = i
                                  print part, $(at + 1), $(at + 2), $(at + 4), $(at + 5); done = 1 }
                                  END { exit !done }' || return 1
        echo "$name without $part: done" >&2
    done
}

ablation_table() {
    printf '\n| without |'
    printf ' %s |' "${sets[@]}"
    printf '\n|---|'
    printf -- '---|%.0s' "${sets[@]}"
    printf '\n'
    for part in whole vstan vmis vstan,vmis rules covis session network learning; do
        printf '| %s |' "$part"
        for name in "${sets[@]}"; do
            awk -v part="$part" '$1 == part { printf " %s %s, %s %s |", $2, $3, $4, $5 }' "$work/$name.ablation"
        done
        printf '\n'
    done
}

status=0
if [ $ablation -eq 1 ]; then
    for name in "${sets[@]}"; do
        ablate "$name" "$@" >"$work/$name.ablation" || status=1
        [ -z "$out" ] || cp "$work/$name.ablation" "$out/$name.ablation.txt"
    done
    ablation_table
    exit $status
fi
for name in "${sets[@]}"; do
    run "$name" "$@" | tee "$work/$name.txt" || status=1
    [ -z "$out" ] || cp "$work/$name.txt" "$out/$name.txt"
done
[ $status -ne 0 ] || table
exit $status
