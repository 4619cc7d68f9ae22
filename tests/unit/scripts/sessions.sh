#!/usr/bin/env bash
# scripts/sessions.sh and scripts/vectors.sh on tiny logs; fastText is not needed. Run from anywhere; the source folder is $1.
set -euo pipefail
root=${1:?the source folder}
sessions=$root/scripts/sessions.sh vectors=$root/scripts/vectors.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
checks=0

# same NAME EXPECTED COMMAND...: what it prints.
same() {
    local name=$1 expected=$2 got
    shift 2
    got=$("$@" 2>errors) || { echo "$name: failed: $(cat errors)"; exit 1; }
    [ "$got" = "$expected" ] || { printf '%s:\n%s\nexpected:\n%s\n' "$name" "$got" "$expected"; exit 1; }
    checks=$((checks + 1))
}

# refused NAME CODE TEXT COMMAND...: its exit code, and what standard error must say.
refused() {
    local name=$1 code=$2 text=$3 status=0
    shift 3
    "$@" >output 2>errors || status=$?
    [ $status -eq "$code" ] || { echo "$name: exit code $status, not $code: $(cat errors)"; exit 1; }
    grep -qF -- "$text" errors || { echo "$name: '$text' is not said: $(cat errors)"; exit 1; }
    checks=$((checks + 1))
}

# Times cross: s1 ends first, s2 begins before it. u9 has no session; s3 is short; a purchase, a cancelled and a disliked item.
printf '%b' 'ts\tuser\tsession\titem\ttype\tprice\n' \
    '1000\tu1\ts1\ta\tclick\t1.5\n1001.5\tu1\ts2\tx\tview\t\n1002\tu1\ts1\tb\t\t\n1003\t\ts1\tb\tclick\t\n' \
    '1004\tu1\ts1\ta\tbuy\t\n1500\t\ts2\ty\tclick\t\n1600\tu9\t\tc\tclick\t\n1500\t\ts2\tz\tclick\t\n' \
    '1700\tu9\t\td\tcancel\t\n1701\tu9\t\te\tclick\t\n1702\tu9\t\tf\tdislike\t\n1800\t\ts3\tq\tclick\t\n2000\t\ts4\tm\tclick\t\n2000\t\ts4\tn\tclick\t\n' >timed.tsv
same "timed" $'a b a\nx y z\nc e\nm n' "$sessions" timed.tsv
gzip -k timed.tsv
same "gzip" $'a b a\nx y z\nc e\nm n' "$sessions" timed.tsv.gz
same "standard input" $'a b a\nx y z\nc e\nm n' bash -c '"$1" - <timed.tsv' - "$sessions"
same "repeats kept" $'a b b a' bash -c '"$1" --repeats keep timed.tsv | head -n 1' - "$sessions"
same "older half" $'a b a' "$sessions" --share 0.5 timed.tsv # the cut is at 1500, where s2 ends
same "until" $'a b a\nx y z' "$sessions" --until 1501 timed.tsv
same "pauses" $'a b a\ny z\nm n' "$sessions" --gap 1 timed.tsv
same "types" $'c d e' bash -c '"$1" --drop-types dislike timed.tsv | grep c' - "$sessions"
same "pattern" $'a b a\nc e' "$sessions" --item-pattern '^[a-e]{1}$' timed.tsv
same "short ones" $'q' bash -c '"$1" --min-items 1 timed.tsv | grep q' - "$sessions"
"$sessions" --share 0.5 timed.tsv 2>told >/dev/null
grep -q '^sessions.sh: 1 sessions, 3 events, 2 items; left out: 3 sessions at or behind the cut at 1500, 1 too short$' told ||
    { echo "what was left out: $(cat told)"; exit 1; }

printf '%s\n' '{"time_ms":5000,"session":"s","item":"b","type":"click","price":9.5}' \
    '{"item":"a", "time_ms": 4000, "session":"s", "user":"session"}' '{"time_ms":1,"user":"u","item":"c"}' \
    '{"time_ms":2,"user":"u","session":null,"item":"d","type":"cancel"}' '{"time_ms":3,"user":"u","item":"\"session"}' >bad.jsonl
refused "escaped" 1 'bad.jsonl: line 5: "item" is no plain string' "$sessions" bad.jsonl
head -n 4 bad.jsonl >clicks.jsonl
echo '{"time_ms":3,"user":"u","item":"e"}' >>clicks.jsonl
same "JSON lines" $'c e\na b' "$sessions" clicks.jsonl
{ echo; cat clicks.jsonl; echo; } >gaps.jsonl
same "empty lines" $'c e\na b' "$sessions" gaps.jsonl
printf 'a b b c\nd e\nf g\nh\n' >lines.txt
same "sequences" $'a b b c\nd e\nf g' "$sessions" lines.txt
same "half of the lines" $'a b b c\nd e' "$sessions" --share 0.5 lines.txt

refused "no log" 2 "which log?" "$sessions"
refused "not there" 1 "nothing.tsv: there is no such file" "$sessions" nothing.tsv
refused "share" 2 "--share must be above 0" "$sessions" --share 1.5 timed.tsv
refused "two cuts" 2 "exclude each other" "$sessions" --share 0.5 --until 3 timed.tsv
refused "no times" 2 "this log has no times" "$sessions" --until 3 lines.txt
refused "pattern" 2 "no extended regular expression" "$sessions" --item-pattern '(' timed.tsv
refused "a missing value" 2 "--gap needs a value" "$sessions" --gap
{ cat timed.tsv; printf '2001\tu\ts\ta b\tclick\t\n'; } >bad.tsv
refused "a space" 1 'bad.tsv: line 16: item "a b" has a space' "$sessions" bad.tsv
{ cat timed.tsv; printf '2001\tu\ts\ta\n'; } >bad.tsv
refused "fields" 1 'bad.tsv: line 16: expected six fields' "$sessions" bad.tsv
{ cat timed.tsv; printf 'soon\tu\ts\ta\t\t\n'; } >bad.tsv
refused "time" 1 'line 16: ts is not a time' "$sessions" bad.tsv
: >empty
refused "empty" 1 "is empty" "$sessions" empty
gzip -c timed.tsv | head -c 60 >cut.gz
refused "a cut gzip file" 1 "not a whole gzip file" "$sessions" cut.gz

printf '4 2\n</s> 0.1 0.2\na 1 -2.5e-05\nb 0 -0\nc"\\ 0.5 1\n' >items.vec
same "vectors" $'{"id":"a","vector":[1,-2.5e-05]}\n{"id":"c\\"\\\\","vector":[0.5,1]}' "$vectors" items.vec
same "vectors from a pipe" $'{"id":"a","vector":[1,-2.5e-05]}\n{"id":"c\\"\\\\","vector":[0.5,1]}' bash -c '"$1" - <items.vec' - "$vectors"
printf '%s\n' '{"id":"z","price":1}' '' '{"id":"a","attributes":{"colour":"red"}}' '{"id":"b"}' >items.jsonl
same "into items" $'{"id":"z","price":1}\n{"id":"a","vector":[1,-2.5e-05],"attributes":{"colour":"red"}}\n{"id":"b"}' \
    "$vectors" --items items.jsonl items.vec
printf '3 2\na 1 2\n' >bad.vec
refused "too few" 1 "bad.vec: line 2: ends after 1 vectors; line 1 says 3" "$vectors" bad.vec
printf '1 2\na 1 nan\n' >bad.vec
refused "no number" 1 'bad.vec: line 2: "nan" is not a number' "$vectors" bad.vec
printf '1 2\na 1 2 3\n' >bad.vec
refused "dimension" 1 'bad.vec: line 2: expected an id and 2 numbers' "$vectors" bad.vec
: >empty.vec
refused "an empty file" 1 'the file is empty' "$vectors" empty.vec
cp items.vec w=1.vec
"$vectors" items.vec >plain.out 2>/dev/null
"$vectors" w=1.vec >named.out 2>/dev/null </dev/null
cmp -s plain.out named.out || { echo "a name with = is taken for an assignment"; exit 1; }
refused "no vectors" 1 'expected the count of vectors' "$vectors" items.jsonl
echo '{"id":"a","vector":[1,2]}' >old.jsonl
refused "a vector already" 1 'old.jsonl: line 1: item "a" has a vector already' "$vectors" --items old.jsonl items.vec
echo '{"price":1,"id":"a"}' >old.jsonl
refused "id first" 1 'old.jsonl: line 1: must begin with {"id"' "$vectors" --items old.jsonl items.vec
for script in "$sessions" "$vectors"; do
    "$script" --help | grep -q '^Usage: ' || { echo "$script --help"; exit 1; }
done
echo "$checks checks"
