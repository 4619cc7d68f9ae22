#!/usr/bin/env bash
# fastText's vectors as items that `dunlin catalog load` and `dunlin eval --vectors` read: docs/vectors.md.
set -euo pipefail
export LC_ALL=C # ids are bytes; numbers have points

usage() {
    cat <<'TEXT'
Usage: scripts/vectors.sh [--items ITEMS.jsonl] FILE.vec >NEW.jsonl

Writes an item a line, {"id":"a","vector":[...]}, for each vector of FILE.vec (- for standard input). Left out, and
counted on standard error, are what fastText puts in for the end of a line (</s>) and vectors of zeros only, which items get
that it never saw beside others.

  --items ITEMS.jsonl  put the vectors into these items instead: all their lines come out, with a vector where FILE.vec has
                       one for the id. Each line must begin with {"id":"..." and have no vector. Loading an item replaces all of it:
                       without this, items lose category, price and attributes.

Exit codes: 0 done, 1 a file cannot be read or is none of its kind, 2 wrong usage.
TEXT
}

fail() { echo "vectors.sh: $1" >&2; exit 1; }
misused() { echo "vectors.sh: $1; --help tells the usage" >&2; exit 2; }

items="" vectors=""
while [ $# -gt 0 ]; do
    case "$1" in
        --items) [ $# -ge 2 ] || misused "$1 needs a file"; items=$2; shift 2 ;;
        --help | -h) usage; exit 0 ;;
        -?*) misused "unknown option '$1'" ;;
        *) [ -z "$vectors" ] || misused "one file, not also '$1'"; vectors=$1; shift ;;
    esac
done
[ -n "$vectors" ] || misused "which file of vectors?"
[ "$vectors" = - ] || [ -r "$vectors" ] || fail "$vectors: there is no such file that can be read"
[ -z "$items" ] || [ -r "$items" ] || fail "$items: there is no such file that can be read"
[ "$vectors" != - ] || vectors=/dev/stdin
# awk takes a name with "=" in it for an assignment.
case "$vectors" in /* | ./*) ;; *) vectors=./$vectors ;; esac
case "$items" in "" | /* | ./*) ;; *) items=./$items ;; esac

awk -v vectors="$vectors" -v items="$items" '
    function refuse(file, line, what) {
        printf "vectors.sh: %s: line %d: %s\n", file, line, what >"/dev/stderr"
        failed = 1
        exit 1
    }
    # The line as a JSON list; "" when it has nothing but zeros.
    function list(    text, i, something) {
        for (i = 2; i <= NF; i++) {
            if ($i !~ /^-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?$/)
                refuse(vectors, FNR, "\"" $i "\" is not a number")
            something = something || $i + 0 != 0
            text = text (i > 2 ? "," : "") $i
        }
        return something ? "[" text "]" : ""
    }
    FILENAME == vectors && FNR == 1 {
        if (NF != 2 || $1 !~ /^[0-9]+$/ || $2 !~ /^[1-9][0-9]*$/)
            refuse(vectors, FNR, "expected the count of vectors and their dimension")
        count = $1
        dim = $2
        next
    }
    FILENAME == vectors {
        lines++
        if (NF != dim + 1)
            refuse(vectors, FNR, "expected an id and " dim " numbers")
        if ($1 == "</s>")
            next
        vector = list()
        if (vector == "") {
            zeros++
        } else if (items != "") {
            vector_of[$1] = vector
        } else {
            id = $1
            gsub(/["\\]/, "\\\\&", id)
            printf "{\"id\":\"%s\",\"vector\":%s}\n", id, vector
            written++
        }
        next
    }
    /^[ \t]*$/ { next }
    {
        if (!match($0, /^\{"id":"[^"\\]+"/))
            refuse(items, FNR, "must begin with {\"id\":\"...\", the id without escaped characters")
        id = substr($0, 8, RLENGTH - 8)
        rest = substr($0, RLENGTH + 1)
        if (rest ~ /"vector"[ \t]*:/)
            refuse(items, FNR, "item \"" id "\" has a vector already")
        all++
        if (id in vector_of) {
            written++
            rest = ",\"vector\":" vector_of[id] rest
        }
        print "{\"id\":\"" id "\"" rest
    }
    END {
        if (failed)
            exit 1
        if (dim == "")
            refuse(vectors, 1, "expected the count of vectors and their dimension; the file is empty")
        if (lines != count)
            refuse(vectors, lines + 1, "ends after " lines + 0 " vectors; line 1 says " count + 0)
        printf "vectors.sh: %d items with vectors%s; left out: %d vectors of zeros\n", written,
            items != "" ? sprintf(", %d without", all - written) : "", zeros >"/dev/stderr"
    }' "$vectors" ${items:+"$items"}
