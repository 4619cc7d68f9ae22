#!/usr/bin/env bash
# Static checks. Each finding is printed as file:line: message; the exit code is 1 when there is one, 2 for wrong use.
#
#   scripts/check.sh                   includes against the rooms' arrows, a README in each room, words of unfinished
#                                      work, paths of one machine, file lengths, Python and shell syntax, clang-format
#   scripts/check.sh --self-test       breaks each rule once in a temporary tree and expects to be told
#   scripts/check.sh --tidy BUILD_DIR [PATH...]
#                                      clang-tidy over the C files that BUILD_DIR/compile_commands.json names, but
#                                      for tests/ (it does not see that cmocka's assertions do not return); or over
#                                      those under PATH (such as base/). Build first: messages are generated
#
# A tool that is missing is skipped by name; with DUNLIN_REQUIRE=clang-format,clang-tidy a skip is a failure.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TIDY_PROCESSES=2

usage() {
    sed -n '2,/^set /{/^# \{0,1\}/s///p}' "${BASH_SOURCE[0]}"
}

# skip_or_fail TOOL: 0 when going on without it is allowed.
skip_or_fail() {
    if [[ ",${DUNLIN_REQUIRE:-}," == *",$1,"* ]]; then
        echo "$1: not installed, but DUNLIN_REQUIRE names it" >&2
        return 1
    fi
    echo "$1: skipped, not installed"
}

check_text() {
    python3 "$here/check.py" --root "$1"
}

check_format() {
    local root=$1 output
    command -v clang-format >/dev/null || { skip_or_fail clang-format; return; }
    if output=$(cd "$root" && python3 "$here/check.py" --root . --list c |
        xargs -0 -r clang-format --dry-run -Werror 2>&1); then
        echo "clang-format: nothing found"
        return 0
    fi
    # Its first finding in each file is enough: the cure is one command for the whole file.
    awk -F: '/ error: /{ if (!seen[$1]++) printf "%s:%s: not formatted: clang-format -i %s\n", $1, $2, $1; next }
        !/^ / && !/^\t/ && !/^#/ { other = other $0 "\n" }
        END { if (length(seen) == 0) printf "%s", other }' <<<"$output"
    return 1
}

check_shell_syntax() {
    local root=$1 status=0 name
    while IFS= read -r -d '' name; do
        # bash prints "file: line N: message"
        (cd "$root" && bash -n "$name") 2>&1 | sed -E 's/^([^:]+): line ([0-9]+): /\1:\2: /' || true
        (cd "$root" && bash -n "$name") 2>/dev/null || status=1
    done < <(python3 "$here/check.py" --root "$root" --list shell)
    [[ $status -ne 0 ]] || echo "bash -n: nothing found"
    return $status
}

check_all() {
    local root=$1 status=0
    check_text "$root" || status=1
    check_shell_syntax "$root" || status=1
    check_format "$root" || status=1
    return $status
}

tidy() {
    local build=$1 database=$1/compile_commands.json
    shift
    [[ -f $database ]] || { echo "$database: not there; run cmake -S . -B $build first" >&2; return 2; }
    command -v clang-tidy >/dev/null || { skip_or_fail clang-tidy; return; }
    # Our own C sources only: generated ones lie in the build folder. The analysis is the slow part, so that each file
    # is its own process; clang-tidy repeats counts of hidden warnings on standard error, which say nothing.
    python3 - "$database" "$(dirname "$here")" "$build" "$@" <<'PYTHON' |
import json, os, sys

database, root, build, *wanted = (os.path.realpath(a) for a in sys.argv[1:])
with open(database, encoding="utf-8") as file:
    names = {os.path.realpath(os.path.join(e["directory"], e["file"])) for e in json.load(file)}
for name in sorted(names):
    if name.startswith(root + os.sep) and not name.startswith(build + os.sep) and name.endswith(".c"):
        inside = lambda folder: name == folder or name.startswith(folder + os.sep)
        chosen = any(map(inside, wanted)) if wanted else not inside(os.path.join(root, "tests"))
        if chosen and os.path.exists(name):
            sys.stdout.write(name + "\0")
PYTHON
        xargs -0 -r -n 1 -P "$TIDY_PROCESSES" clang-tidy --quiet -p "$build" --extra-arg=-Wno-unknown-warning-option \
            2> >(grep -vE 'warnings? (and [0-9]+ errors? )?generated|^Suppressed|^Use -header-filter' >&2) ||
        { echo "clang-tidy: findings above" >&2; return 1; }
    echo "clang-tidy: nothing found"
}

# ---- self-test ----

# A small tree without faults: $1/good.
make_good_tree() {
    local root=$1
    mkdir -p "$root"/{base,session,api/proto,client,node,tests,scripts,docs}
    cp "$here/../.clang-format" "$root/"
    local room
    for room in base session api api/proto client node tests; do
        echo "# $room" >"$root/$room/README.md"
    done
    echo '`names.h` `progress.h` `record.h`' | tee -a "$root/client/README.md" >>"$root/session/README.md"
    echo 'int dn_text;' >"$root/base/text.h"
    echo 'int dn_hash;' >"$root/base/hash_private.h"
    echo 'int dn_session;' >"$root/session/session.h"
    echo 'int dn_record;' >"$root/session/record.h"
    echo 'int dn_table;' >"$root/session/table.h"
    echo 'syntax = "proto3";' >"$root/api/proto/x.proto"
    echo 'int dn_client;' >"$root/client/client.h"
    printf '#include "base/text.h"\n#include "table.h"\n\n#include <stdio.h>\n' >"$root/session/state.c"
    printf '#include "dunlin/v1/dunlin.pb-c.h"\n#include "session/record.h"\n#include "session/session.h"\n' \
        >"$root/api/server.c"
    printf '#include "api/api.h"\n#include "client/client.h"\n' >"$root/node/main_x.c"
    printf '#include "base/hash_private.h"\n#include "session/table.h"\n' >"$root/tests/test_x.c"
    printf '#!/usr/bin/env bash\nt=$(mktemp -d /tmp/x.XXXXXX)\necho "$t" ~/work/x\n' >"$root/scripts/x.sh"
    printf '#!/usr/bin/env python3\nprint("fine")\n' >"$root/scripts/y"
    echo 'See https://example.org/work/ for more.' >"$root/docs/x.md"
}

# expect NAME PATTERN FILE CONTENT: with FILE so written, the checks fail and print a line that matches PATTERN.
expect() {
    local name=$1 pattern=$2 file=$3 content=$4 output
    rm -rf "$self_test_dir/bad"
    cp -r "$self_test_dir/good" "$self_test_dir/bad"
    printf '%b' "$content" >"$self_test_dir/bad/$file"
    if output=$(check_all "$self_test_dir/bad" 2>&1); then
        echo "self-test: NOT CAUGHT: $name"
        failures=$((failures + 1))
    elif ! grep -qE "$pattern" <<<"$output"; then
        printf 'self-test: %s: expected a line like "%s", got:\n%s\n' "$name" "$pattern" "$output"
        failures=$((failures + 1))
    else
        echo "self-test: caught: $name"
    fi
}

self_test() {
    failures=0
    self_test_dir=$(mktemp -d "${TMPDIR:-/tmp}/dunlin_check.XXXXXX")
    trap 'rm -rf "$self_test_dir"' EXIT
    make_good_tree "$self_test_dir/good"
    if ! check_all "$self_test_dir/good"; then
        echo "self-test: findings in a tree without faults"
        failures=$((failures + 1))
    fi
    expect 'base includes a room' '^base/a\.c:2: base may not include session/session\.h' \
        base/a.c '#include "base/text.h"\n#include "session/session.h"\n'
    expect 'a room includes one that it has no arrow to' '^session/a\.c:1: session may not include api/api\.h' \
        session/a.c '#include "api/api.h"\n'
    expect 'api includes client' '^api/a\.c:1: api may not include client/client\.h' api/a.c '#include "client/client.h"\n'
    expect 'the same in angle brackets, with spaces' '^api/a\.c:1: api may not include client' \
        api/a.c '#  include <client/client.h>\n'
    expect 'the same by a way round' '^api/a\.c:1: api may not include client' \
        api/a.c '#include "../client/client.h"\n'
    expect 'a private header of a room' '^api/a\.c:1: session/table\.h is private to session' \
        api/a.c '#include "session/table.h"\n'
    expect 'a private header of base' '^session/a\.c:1: base/hash_private\.h is private' \
        session/a.c '#include "base/hash_private.h"\n'
    expect 'the source file of another room' '^node/a\.c:1: session/state\.c is private' \
        node/a.c '#include "session/state.c"\n'
    expect 'generated messages without the arrow' '^session/a\.c:1: session may not include grpc/' \
        session/a.c '#include "grpc/health/v1/health.pb-c.h"\n'
    expect 'tests included by a program' '^node/a\.c:1: node may not include tests' node/a.c '#include "tests/x.h"\n'
    expect 'a clock in replicated code' '^session/a\.c:1: session may not include base/clock\.h' \
        session/a.c '#include "base/clock.h"\n'
    expect 'a source outside the rooms' '^docs/a\.c:1: C source outside' docs/a.c 'int a;\n'
    mkdir "$self_test_dir/good/index"
    expect 'a room without README' '^index/README\.md:1: missing' index/a.c 'int a;\n'
    rmdir "$self_test_dir/good/index"
    expect 'a README of several screens' '^base/README\.md:81: 81 lines' base/README.md "$(printf '\\n%.0s' {1..81})"
    expect 'a public header that no README names' '^session/README\.md:1: does not name record\.h' \
        session/README.md '# session\n'
    expect 'a word of unfinished work' "^base/a\.c:1: 'TO""DO'" base/a.c '// TO''DO: later\n'
    expect 'a path of one machine' '^docs/x\.md:1: path of one machine' docs/x.md 'see /wo''rk/main/x\n'
    expect 'the host of a package registry' '^scripts/x\.sh:2: host of a package registry' \
        scripts/x.sh '#!/bin/bash\ncurl https://py''pi.org/x\n'
    expect 'a file that is too long' '^base/a\.c:801: 801 lines' base/a.c "$(printf 'int a;\\n%.0s' {1..801})"
    expect 'broken shell' '^scripts/x\.sh:[0-9]+: syntax error' scripts/x.sh '#!/bin/bash\nif true; then\n'
    expect 'broken shell without an ending' '^scripts/z:[0-9]+: syntax error' scripts/z '#!/bin/sh\n(\n'
    expect 'broken Python without an ending' '^scripts/y:2: Python' scripts/y '#!/usr/bin/env python3\ndef f(:\n'
    if command -v clang-format >/dev/null; then
        expect 'a file not formatted' '^base/a\.c:1: not formatted' base/a.c 'int   a ;\n'
    fi
    if [[ $failures -ne 0 ]]; then
        echo "self-test: $failures failed"
        return 1
    fi
    echo "self-test: all caught"
}

case "${1:-}" in
    "") check_all "$(dirname "$here")" ;;
    --self-test) self_test ;;
    --tidy)
        [[ $# -ge 2 ]] || { usage >&2; exit 2; }
        tidy "${@:2}"
        ;;
    --help | -h) usage ;;
    *)
        usage >&2
        exit 2
        ;;
esac
