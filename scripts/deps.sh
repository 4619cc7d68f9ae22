#!/usr/bin/env bash
# Installs what dunlin builds with: Debian packages, and two libraries built once from Debian's own
# source packages and kept outside the checkout (libraft 0.22.1 and FAISS 1.7.3 with its C API).
# A second run takes seconds. Run as root, or as a user who may use sudo.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: scripts/deps.sh [--prefix DIR] [--no-packages] [--help]

  --prefix DIR    where the built libraries go (default: ~/.cache/dunlin, or $DUNLIN_DEPS)
  --no-packages   install no Debian packages; only build the two libraries

Exit codes: 0 everything is in place, 1 something failed (the message says what), 2 wrong usage.
TEXT
}

prefix="${DUNLIN_DEPS:-$HOME/.cache/dunlin}"
packages=1
while [ $# -gt 0 ]; do
    case "$1" in
        --prefix) [ $# -ge 2 ] || { usage >&2; exit 2; }; prefix=$2; shift 2 ;;
        --no-packages) packages=0; shift ;;
        --help|-h) usage; exit 0 ;;
        *) echo "deps.sh: unknown option '$1'" >&2; usage >&2; exit 2 ;;
    esac
done

raft_version=0.22.1
raft_source=raft=0.22.1-1
raft_suite=trixie
faiss_version=1.7.3
faiss_source=faiss=1.7.3-2
faiss_suite=bookworm

say() { printf 'deps: %s\n' "$*" >&2; }
die() { printf 'deps: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else die "must be root (or have sudo) to run: $*"
    fi
}

# One package a word. The second list is what only the tests and the checks need.
build_packages="build-essential cmake ninja-build pkg-config ccache git ca-certificates dpkg-dev
    autoconf automake libtool libuv1-dev liblz4-dev libsodium-dev libprotobuf-c-dev
    protobuf-c-compiler protobuf-compiler libnghttp2-dev libjansson-dev libyajl-dev libyaml-dev
    liburing-dev libmicrohttpd-dev libssl-dev zlib1g-dev librdkafka-dev libopenblas-dev"
test_packages="libcmocka-dev clang clang-format clang-tidy libclang-rt-14-dev nghttp2-client python3 python3-grpcio
    python3-grpc-tools python3-numpy curl procps libfaketime e2fsprogs"

install_packages() {
    local missing="" p
    for p in $build_packages $test_packages; do
        dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $p"
    done
    [ -n "$missing" ] || { say "packages: all installed"; return 0; }
    say "packages: installing$missing"
    as_root apt-get update -qq
    # shellcheck disable=SC2086  # a list of words on purpose
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
        die "apt-get could not install:$missing"
}

# Prints one deb-src line for $1 (a suite), derived from the machine's own apt entry for the running
# release: same address, same options, same signing key, another suite. Both forms of entry are read.
source_line() {
    local suite=$1 codename
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    [ -n "$codename" ] || die "/etc/os-release names no VERSION_CODENAME: is this Debian?"
    local f
    for f in /etc/apt/sources.list.d/*.sources; do
        [ -f "$f" ] || continue
        awk -v want="$codename" -v suite="$suite" '
            function flush_stanza(   i, n, s, ok) {
                n = split(suites, s, /[ \t]+/); ok = 0
                for (i = 1; i <= n; i++) if (s[i] == want) ok = 1
                if (ok && types ~ /deb/ && (" " comps " ") ~ / main / && enabled != "no") {
                    split(uris, u, /[ \t]+/)
                    printf "deb-src %s%s %s main\n", (key != "" ? "[signed-by=" key "] " : ""), u[1], suite
                    found = 1; exit 0
                }
                types = suites = uris = comps = key = enabled = ""
            }
            /^[ \t]*#/ { next }
            /^[ \t]*$/ { flush_stanza(); next }
            { line = $0; sub(/^[^:]*:[ \t]*/, "", line); sub(/[ \t]+$/, "", line) }
            tolower($0) ~ /^types:/ { types = line }
            tolower($0) ~ /^suites:/ { suites = line }
            tolower($0) ~ /^uris:/ { uris = line }
            tolower($0) ~ /^components:/ { comps = line }
            tolower($0) ~ /^signed-by:/ { key = line }
            tolower($0) ~ /^enabled:/ { enabled = tolower(line) }
            END { if (!found) flush_stanza() }' "$f"
    done
    for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -f "$f" ] || continue
        awk -v want="$codename" -v suite="$suite" '
            $1 == "deb" || $1 == "deb-src" {
                opts = ""; i = 2
                if ($2 ~ /^\[/) { while ($i !~ /\]$/ && i < NF) { opts = opts $i " "; i++ } opts = opts $i " "; i++ }
                uri = $i; s = $(i + 1); main = 0
                for (j = i + 2; j <= NF; j++) if ($j == "main") main = 1
                if (s == want && main) { printf "deb-src %s%s %s main\n", opts, uri, suite; exit 0 }
            }' "$f"
    done
}

# fetch SOURCE=REVISION SUITE DIR: downloads and unpacks a source package with apt's signature checks,
# through a private configuration, so that the system's lists stay as they are. Leaves DIR/src.
fetch() {
    local source=$1 suite=$2 dir=$3 line
    line=$(source_line "$suite" | head -n 1)
    [ -n "$line" ] || die "no apt entry for the running release with component main was found to derive a source line from"
    rm -rf "$dir"; mkdir -p "$dir/apt/lists/partial" "$dir/apt/archives/partial" "$dir/apt/parts"
    printf '%s\n' "$line" > "$dir/apt/sources.list"
    chmod -R a+rX "$dir"
    local opts=(-o Dir::Etc::SourceList="$dir/apt/sources.list" -o Dir::Etc::SourceParts="$dir/apt/parts"
        -o Dir::State::Lists="$dir/apt/lists" -o Dir::Cache="$dir/apt" -o Dir::Cache::Archives="$dir/apt/archives"
        -o APT::Sandbox::User=root -o APT::Get::List-Cleanup=false)
    apt-get "${opts[@]}" update -qq || die "apt-get update failed for suite $suite"
    (cd "$dir" && apt-get "${opts[@]}" source -qq --download-only "$source" >/dev/null) ||
        die "apt could not fetch the source package $source from suite $suite"
    (cd "$dir" && dpkg-source --no-check -x ./*.dsc src >/dev/null) || die "dpkg-source could not unpack $source"
}

build_raft() {
    local out="$prefix/raft-$raft_version" work
    [ -f "$out/.done" ] && { say "libraft $raft_version: already built"; return 0; }
    say "libraft $raft_version: fetching and building (about 20 s)"
    work="$prefix/work-raft"
    fetch "$raft_source" "$raft_suite" "$work"
    (
        cd "$work/src"
        autoreconf -i >"$work/log" 2>&1
        # The fixture (a whole cluster in virtual time) is used by our tests; it is built in by default.
        ./configure --prefix="$out" --enable-static --disable-shared --enable-uv --disable-example \
            CFLAGS="-O2 -g -fPIC" >>"$work/log" 2>&1
        make -j"$(nproc)" >>"$work/log" 2>&1
        rm -rf "$out"
        make install >>"$work/log" 2>&1
    ) || die "libraft did not build; see $work/log"
    rm -rf "$work"; touch "$out/.done"
}

build_faiss() {
    local out="$prefix/faiss-$faiss_version" work
    [ -f "$out/.done" ] && { say "FAISS $faiss_version: already built"; return 0; }
    say "FAISS $faiss_version: fetching and building, plain and AVX2 (about 3 minutes on 2 cores)"
    work="$prefix/work-faiss"
    fetch "$faiss_source" "$faiss_suite" "$work"
    (
        cd "$work/src"
        local targets="faiss faiss_c" level=generic
        if [ "$(uname -m)" = x86_64 ]; then targets="$targets faiss_avx2"; level=avx2; fi
        cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DFAISS_ENABLE_C_API=ON -DFAISS_ENABLE_GPU=OFF \
            -DFAISS_ENABLE_PYTHON=OFF -DBUILD_TESTING=OFF -DBUILD_SHARED_LIBS=OFF -DBLA_VENDOR=OpenBLAS \
            -DFAISS_OPT_LEVEL=$level -DCMAKE_POSITION_INDEPENDENT_CODE=ON >"$work/log" 2>&1
        # shellcheck disable=SC2086  # a list of words on purpose
        cmake --build build --target $targets >>"$work/log" 2>&1
        rm -rf "$out"; mkdir -p "$out/lib" "$out/include/faiss"
        find build -name 'libfaiss*.a' -exec cp {} "$out/lib/" \;
        (cd faiss && find . -name '*.h' -not -path './gpu/*' -exec cp --parents {} "$out/include/faiss/" \;)
        (cd c_api && find . -name '*.h' -not -path './gpu/*' -exec sh -c 'mkdir -p "$2/$(dirname "$1")"; cp "$1" "$2/$1"' _ {} "$out/include/faiss/c_api" \;)
    ) || die "FAISS did not build; see $work/log"
    [ -f "$out/lib/libfaiss_c.a" ] || die "FAISS built without libfaiss_c.a; see $work/log"
    rm -rf "$work"; touch "$out/.done"
}

mkdir -p "$prefix"
if [ "$packages" = 1 ]; then install_packages; fi
build_raft
build_faiss
say "ready: libraries in $prefix"
