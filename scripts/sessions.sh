#!/usr/bin/env bash
# A log of clicks as sentences of item ids, one session a line, as fastText learns vectors from them: docs/vectors.md.
set -euo pipefail
export LC_ALL=C # ids are bytes; numbers have points

usage() {
    cat <<'TEXT'
Usage: scripts/sessions.sh [OPTION...] FILE >SENTENCES

FILE is a log that `dunlin eval` reads (docs/eval.md), plain or gzip, - for standard input: lines with the header
`ts user session item type price`, JSON lines, or one session a line. Written are the sessions' items with spaces between
them, one session a line, in the order in which the sessions ended; what was left out is told on standard error.

  --share S           only sessions that end before this share of the time from the first event to the last
                      (0 to 1; of a log without times: this share of its lines)
  --until SECONDS     only sessions that end before this time (seconds since 1970)
  --gap MINUTES       a longer pause makes two sessions of one (0: never)
  --item-pattern ERE  only items that match the extended regular expression
  --drop-types LIST   leave out events of these types (cancel,dislike,remove)
  --repeats WHAT      keep or collapse an item clicked twice in a row (collapse; of a log without times: keep)
  --min-items N       leave out sessions with fewer (2)

Exit codes: 0 done, 1 the log cannot be read or has a line that is none, 2 wrong usage.
TEXT
}

fail() { echo "sessions.sh: $1" >&2; exit 1; }
misused() { echo "sessions.sh: $1; --help tells the usage" >&2; exit 2; }

share="" until="" gap=0 pattern="" drop=cancel,dislike,remove repeats="" least=2 log=""
while [ $# -gt 0 ]; do
    case "$1" in
        --share | --until | --gap | --item-pattern | --drop-types | --repeats | --min-items)
            [ $# -ge 2 ] || misused "$1 needs a value" ;;&
        --share) share=$2; shift 2 ;;
        --until) until=$2; shift 2 ;;
        --gap) gap=$2; shift 2 ;;
        --item-pattern) pattern=$2; shift 2 ;;
        --drop-types) drop=$2; shift 2 ;;
        --repeats) repeats=$2; shift 2 ;;
        --min-items) least=$2; shift 2 ;;
        --help | -h) usage; exit 0 ;;
        -?*) misused "unknown option '$1'" ;;
        *) [ -z "$log" ] || misused "one file, not also '$1'"; log=$1; shift ;;
    esac
done
[ -n "$log" ] || misused "which log?"
[ -z "$share" ] || [ -z "$until" ] || misused "--share and --until exclude each other"
[ -z "$share" ] || awk -v s="$share" 'BEGIN { exit !(s ~ /^[0-9]*\.?[0-9]+$/ && s > 0 && s <= 1) }' ||
    misused "--share must be above 0 and at most 1, not '$share'"
[[ "$until" =~ ^[0-9]*$ ]] || misused "--until must be a time in whole seconds since 1970, not '$until'"
[[ "$gap" =~ ^[0-9]+$ ]] || misused "--gap must be a number of minutes, not '$gap'"
[[ "$least" =~ ^[1-9][0-9]*$ ]] || misused "--min-items must be 1 or more, not '$least'"
case "$repeats" in "" | keep | collapse) ;; *) misused "--repeats must be keep or collapse, not '$repeats'" ;; esac
[ "$log" = - ] || [ -r "$log" ] || fail "$log: there is no such file that can be read"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
name=$log
[ "$log" != - ] || { name="standard input"; log=/dev/stdin; }
gzip -cdf <"$log" >"$work/log" || fail "$name: not a whole gzip file"

# Each event as `session, milliseconds, line, item`.
awk -v name="$name" -v drop=",$drop," -v timed="$work/timed" '
    function refuse(what) {
        printf "sessions.sh: %s: line %d: %s\n", name, NR, what >"/dev/stderr"
        failed = 1
        exit 1
    }
    # A string or number of a flat JSON object; "" where it is absent.
    function field(key,    text) {
        if (!match($0, "\"" key "\"[ \t]*:[ \t]*(\"[^\"\\\\]*\"|-?[0-9][0-9.eE+-]*|null)")) {
            if (match($0, "\"" key "\"[ \t]*:"))
                refuse("\"" key "\" is no plain string or number (an escaped character?)")
            return ""
        }
        text = substr($0, RSTART, RLENGTH)
        sub(/^"[^"]*"[ \t]*:[ \t]*/, "", text)
        if (text == "null")
            return ""
        return substr(text, 1, 1) == "\"" ? substr(text, 2, length(text) - 2) : text
    }
    function event(session, ms, item, type) {
        if (session == "")
            refuse("neither session nor user is given")
        if (item == "")
            refuse("the item is missing")
        if (type != "" && index(drop, "," type ","))
            return
        if (session ~ /\t/)
            refuse("the session has a tab in it")
        printf "%s\t%.0f\t%d\t%s\n", session, ms, NR, item
    }
    { sub(/\r$/, "") }
    /^$/ { next }
    format == "" {
        format = $0 == "ts\tuser\tsession\titem\ttype\tprice" ? "timed" : substr($0, 1, 1) == "{" ? "json" : "lines"
        if (format != "lines")
            printf "" >timed
        if (format == "timed")
            next
    }
    format == "timed" {
        if (split($0, column, "\t") != 6)
            refuse("expected six fields separated by tabs")
        if (column[1] !~ /^[0-9]+(\.[0-9]*)?$/)
            refuse("ts is not a time in seconds since 1970")
        event(column[3] != "" ? column[3] : column[2], column[1] * 1000, column[4], column[5])
    }
    format == "json" {
        if ($0 !~ /^\{.*\}[ \t]*$/)
            refuse("not a JSON object")
        ms = field("time_ms")
        if (ms !~ /^[0-9]+$/)
            refuse("time_ms must be an integer, milliseconds since 1970")
        session = field("session")
        event(session != "" ? session : field("user"), ms, field("item"), field("type"))
    }
    format == "lines" {
        if ($0 ~ /\t/)
            refuse("has a tab: neither a session nor the header of a log with times")
        count = split($0, items, " ")
        for (i = 1; i <= count; i++)
            event(NR, NR, items[i], "")
    }
    END { if (!failed && format == "") { printf "sessions.sh: %s: is empty\n", name >"/dev/stderr"; exit 1 } exit failed }
' "$work/log" >"$work/all"

# By grep, because some awks know no {5}.
cut -f 4 "$work/all" | sort -u >"$work/items"
status=0
grep -E -e "$pattern" "$work/items" >"$work/wanted" || status=$?
[ $status -le 1 ] || misused "--item-pattern '$pattern' is no extended regular expression"
awk -F '\t' -v name="$name" -v wanted="$work/wanted" '
    BEGIN { while ((getline item <wanted) > 0) keep[item] }
    !($4 in keep) { next }
    $4 ~ /[ \v\f\r]/ {
        printf "sessions.sh: %s: line %d: item \"%s\" has a space in it: fastText would take it for two\n", name, $3, $4 \
            >"/dev/stderr"
        exit 1
    }
    { print }' "$work/all" >"$work/events"

[ -e "$work/timed" ] && has_times=1 || has_times=0
[ -n "$repeats" ] || { [ $has_times -eq 1 ] && repeats=collapse || repeats=keep; }
[ $has_times -eq 1 ] || [ -z "$until" ] || misused "--until: this log has no times; take --share"

# Each session as `end, sentence`, then those before the cut. Lines of one session keep their order: the sort is stable.
sort -s -t "$(printf '\t')" -k1,1 -k2,2n -k3,3n "$work/events" |
    awk -F '\t' -v gap="$gap" -v repeats="$repeats" -v least="$least" -v span="$work/span" '
        function close_session() {
            if (count >= least)
                printf "%.0f\t%s\n", end, sentence
            else if (NR > 1)
                short++
            count = 0
            sentence = ""
        }
        NR > 1 && ($1 != session || (gap > 0 && $2 - end > 60000 * gap)) { close_session() }
        NR == 1 || $2 < first { first = $2 }
        NR == 1 || $2 > last { last = $2 }
        {
            if (count == 0 || $4 != item || repeats == "keep") {
                sentence = sentence (count++ ? " " : "") $4
                item = $4
            }
            session = $1
            end = $2
        }
        END {
            if (NR > 0)
                close_session()
            printf "%.0f %.0f %d\n", first, last, short >span
        }' |
    sort -s -n -k1,1 >"$work/sessions"
read -r first last short <"$work/span"
awk -F '\t' -v first="$first" -v last="$last" -v short="$short" -v share="$share" -v until="$until" -v times=$has_times '
    BEGIN { cut = until != "" ? until * 1000 : share != "" ? last - (1 - share) * (last - first) : last + 1
            if (share == 1 || (share != "" && !times && cut <= first)) cut = last + 1 }
    $1 + 0 < cut {
        print $2
        sessions++
        events += split($2, items, " ")
        for (i in items) seen[items[i]]
        next
    }
    { behind++ }
    END {
        for (item in seen) distinct++
        printf "sessions.sh: %d sessions, %d events, %d items; left out: %d sessions at or behind the cut%s, %d too short\n",
            sessions, events, distinct, behind, times && cut <= last ? sprintf(" at %.0f", cut / 1000) : "", short >"/dev/stderr"
    }' "$work/sessions"
