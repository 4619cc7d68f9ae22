#!/usr/bin/env bash
# Three nodes on this machine, a live clickstream, recommendations that follow the last click, and leaders that die.
# Builds what is missing first. Nothing is left behind but the build.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
Usage: scripts/demo.sh [--seconds N] [--rate N] [--items N] [--keep] [--help]

  --seconds N  end by itself after N seconds, with a check that no acknowledged click is missing
               (without it: run until you press q)
  --rate N     clicks a second (default 2000)
  --items N    items in the generated catalogue (default 5000)
  --keep       keep the temporary folder with data, configurations and logs

On a terminal it draws a live view; keys 1, 2, 3 kill that node with SIGKILL, k kills a leader, q ends. Piped, it
prints plain lines. Exit codes: 0 all clicks there, 1 something failed, 2 wrong usage, 3 a click was lost or doubled.
TEXT
}

seconds="" rate=2000 items=5000 keep=0
number() { [[ "${2:-}" =~ ^[1-9][0-9]{0,6}$ ]] || { echo "demo.sh: $1 takes a number from 1 to 9999999" >&2; exit 2; }; }
while [ $# -gt 0 ]; do
    case "$1" in
        --seconds) number "$@"; seconds=$2; shift 2 ;;
        --rate) number "$@"; rate=$2; shift 2 ;;
        --items) number "$@"; items=$2; shift 2 ;;
        --keep) keep=1; shift ;;
        --help|-h) usage; exit 0 ;;
        *) echo "demo.sh: unknown option '$1'" >&2; usage >&2; exit 2 ;;
    esac
done

scripts/deps.sh
if [ ! -f build/build.ninja ]; then cmake --preset release >/dev/null; fi
echo "building (a few minutes the first time)..." >&2
cmake --build --preset release --target dunlind dunlin dunlin-replay dunlin-demo >/dev/null

folder=$(mktemp -d "${TMPDIR:-/tmp}/dunlin-demo.XXXXXX")
cleanup() { if [ "$keep" = 1 ]; then echo "kept: $folder" >&2; else rm -rf "$folder"; fi; }
trap cleanup EXIT

bin=$PWD/build/bin
"$bin/dunlin-replay" generate --seed 7 --items "$items" --users 20000 --sessions 20000 \
    --events "$folder/events.jsonl" --catalog "$folder/catalog.jsonl"
"$bin/dunlin-demo" --dunlind "$bin/dunlind" --dunlin "$bin/dunlin" --folder "$folder" --rate "$rate" \
    --catalog "$folder/catalog.jsonl" --events "$folder/events.jsonl" ${seconds:+--seconds "$seconds"}
