#!/usr/bin/env bash
# A real Apache Kafka broker (KRaft mode; one node, or several as a cluster) for tests: set up once, kept outside the
# checkout, each node started and stopped in a folder of its own. Maven fetches the published jars by the machine's own settings.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: scripts/kafka.sh setup
       scripts/kafka.sh start DIR [--host ADDRESS] [--port N] [--sasl] [--tls] [--heap SIZE] [--property NAME=VALUE]...
       scripts/kafka.sh run DIR [the same]
       scripts/kafka.sh cluster DIR NODES [--property NAME=VALUE]...
       scripts/kafka.sh stop DIR [--now]
       scripts/kafka.sh --help

  setup   puts the jars where the others look for them; a second run takes no time. Needs Java 17 and Maven; installs
          Debian's as root (or by sudo) when they are missing
  start   sets up, makes DIR a broker's data folder when it is none yet, starts the broker and waits until it serves;
          prints its address (also in DIR/bootstrap). A DIR that was started before keeps its data, ports and settings
    --host ADDRESS    listen at this address of this machine (default: 127.0.0.1)
    --port N          listen there (default: a free port)
    --sasl            a second listener with SASL/PLAIN, its address in DIR/bootstrap_sasl: user "dunlin", password
                      "right"
    --tls             a listener with SASL/SCRAM-SHA-512 over TLS, its address in DIR/bootstrap_tls: the same user and
                      password; DIR/ca.pem signed its certificate, DIR/other-ca.pem is an authority that did not
    --heap SIZE       the JVM's heap (default: 512m)
    --property ...    more lines for server.properties
  cluster makes DIR/1 to DIR/NODES the data folders of brokers, each a controller too, that form one cluster. Start all of
          them at once, in the background: none serves before most of them run. All addresses are in DIR/bootstrap
  run     start in the foreground: the broker takes this script's place, and its process, and writes its log to
          standard output. Who starts it so looks after it
  stop    ends the broker that DIR names: cleanly, or with --now at once, as by a power cut. The data stays

Where: $DUNLIN_DEPS/kafka, or ~/.cache/dunlin/kafka.
Exit codes: 0 done, 1 failed (the message says why), 2 wrong usage, 77 a broker cannot be had here (no Java, no Maven,
no network: the message says which; 1 when DUNLIN_REQUIRE names kafka).
TEXT
}

KAFKA=3.9.1    # of the 3.x, whose broker runs on Java 17
SCALA=2.13
SLF4J=1.7.36   # the one that this Kafka is built with
START_SECONDS=90
STOP_SECONDS=30

home="${DUNLIN_DEPS:-$HOME/.cache/dunlin}/kafka"
jars="$home/$KAFKA"

say() { printf 'kafka: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
cannot() {
    if [[ ",${DUNLIN_REQUIRE:-}," == *",kafka,"* ]]; then die "required, and not to be had: $*"; fi
    say "skipped: $*"
    exit 77
}
wrong() { say "$*"; usage >&2; exit 2; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo -n "$@"
    else return 1
    fi
}

java_version() {
    command -v java >/dev/null || { echo 0; return; }
    java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1 | grep . || echo 0
}

# install PACKAGE: by apt, quietly.
install_package() {
    say "installing $1"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1" >/dev/null 2>&1 && return
    as_root apt-get update -qq >/dev/null 2>&1 &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1" >/dev/null 2>&1
}

need_java() {
    [ "$(java_version)" -ge 17 ] && return
    install_package openjdk-17-jre-headless || cannot "Java 17 is not here, and apt could not install openjdk-17-jre-headless"
    [ "$(java_version)" -ge 17 ] || cannot "the java found first is older than 17: $(command -v java)"
}

setup() {
    need_java
    [ -f "$jars/.done" ] && return
    command -v mvn >/dev/null || install_package maven || cannot "Maven is not here, and apt could not install it"
    mkdir -p "$home"
    exec 9>"$home/.lock"
    flock 9 # two tests at once: the second waits and finds it done
    [ -f "$jars/.done" ] && { exec 9>&-; return; }
    say "fetching Apache Kafka $KAFKA (50 MB)"
    rm -rf "$jars.new"
    mkdir -p "$jars.new"
    cat >"$jars.new/pom.xml" <<XML
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>dunlin</groupId><artifactId>broker</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_$SCALA</artifactId><version>$KAFKA</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-reload4j</artifactId><version>$SLF4J</version></dependency>
  </dependencies>
</project>
XML
    timeout 600 mvn -B -q -f "$jars.new/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
        -DoutputDirectory="$jars.new" >"$home/maven.log" 2>&1 9>&- ||
        cannot "Maven could not fetch it: $(grep -m 1 ERROR "$home/maven.log" | cut -c 1-300); see $home/maven.log"
    touch "$jars.new/.done"
    rm -rf "$jars"
    mv "$jars.new" "$jars"
    exec 9>&-
}

# free_ports HOST COUNT: all of them different.
free_ports() {
    /usr/bin/python3 - "$1" "$2" <<'PY'
import socket, sys
sockets = [socket.socket() for _ in range(int(sys.argv[2]))]
for s in sockets:
    s.bind((sys.argv[1], 0))
print(*[s.getsockname()[1] for s in sockets])
PY
}

# certify DIR NAME HOST: an authority, DIR/NAME.pem, whose key is lost at once; what it signs first is DIR/NAME-server.pem,
# a key and a certificate for HOST.
certify() {
    local dir=$1 name=$2 host=$3 work
    work=$(mktemp -d)
    {
        openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj "/CN=dunlin test $name" -keyout "$work/ca.key" \
            -out "$work/ca.pem" &&
            openssl req -newkey rsa:2048 -nodes -subj "/CN=$host" -keyout "$work/key" -out "$work/request" &&
            openssl x509 -req -in "$work/request" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial -days 3650 \
                -extfile <(echo "subjectAltName=IP:$host") -out "$work/cert"
    } >"$dir/openssl.log" 2>&1 || die "no certificate could be made; see $dir/openssl.log"
    (umask 077 && cat "$work/key" "$work/cert" >"$dir/$name-server.pem")
    cp "$work/ca.pem" "$dir/$name.pem"
    rm -rf "$work"
}

# configure DIR HOST ID VOTERS CONTROLLER_PORT PORT SASL TLS PROPERTY...: server.properties and an empty data folder.
configure() {
    local dir=$1 host=$2 id=$3 voters=$4 controller=$5 port=$6 sasl=$7 tls=$8 listeners map sasl_port tls_port format=()
    shift 8
    listeners="PLAIN://$host:$port"
    map=PLAIN:PLAINTEXT,CONTROLLER:PLAINTEXT
    if [ "$sasl" = 1 ]; then
        sasl_port=$(free_ports "$host" 1)
        listeners="$listeners,SASL://$host:$sasl_port"
        map=$map,SASL:SASL_PLAINTEXT
        echo "$host:$sasl_port" >"$dir/bootstrap_sasl"
    fi
    if [ "$tls" = 1 ]; then
        command -v openssl >/dev/null || install_package openssl ||
            cannot "openssl, which makes the certificates, is not here, and apt could not install it"
        certify "$dir" ca "$host"
        certify "$dir" other-ca "$host"
        tls_port=$(free_ports "$host" 1)
        listeners="$listeners,TLS://$host:$tls_port"
        map=$map,TLS:SASL_SSL
        format=(--add-scram "SCRAM-SHA-512=[name=dunlin,password=right]")
        set -- "listener.name.tls.ssl.keystore.type=PEM" "listener.name.tls.ssl.keystore.location=$dir/ca-server.pem" \
            "listener.name.tls.sasl.enabled.mechanisms=SCRAM-SHA-512" \
            "listener.name.tls.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;" \
            "$@"
        echo "$host:$tls_port" >"$dir/bootstrap_tls"
    fi
    cat >"$dir/server.properties.new" <<TEXT
process.roles=broker,controller
node.id=$id
controller.quorum.voters=$voters
listeners=$listeners,CONTROLLER://$host:$controller
advertised.listeners=$listeners
listener.security.protocol.map=$map
inter.broker.listener.name=PLAIN
controller.listener.names=CONTROLLER
sasl.enabled.mechanisms=PLAIN
listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_dunlin="right";
log.dirs=$dir/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
message.max.bytes=20971520
num.network.threads=2
num.io.threads=4
background.threads=2
# Retention and compaction as fast as a test wants to see them.
log.initial.task.delay.ms=500
log.retention.check.interval.ms=1000
log.segment.delete.delay.ms=1000
log.cleaner.backoff.ms=500
log.cleaner.dedupe.buffer.size=8388608
TEXT
    [ $# = 0 ] || printf '%s\n' "$@" >>"$dir/server.properties.new"
    cat >"$dir/log4j.properties" <<'TEXT'
log4j.rootLogger=INFO, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d{ISO8601} %p %m (%c)%n
TEXT
    # An id of the cluster is any 16 bytes in base64url.
    java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xmx128m -Dlog4j.configuration="file:$dir/log4j.properties" \
        -cp "$jars/*" kafka.tools.StorageTool format -t ZHVubGluLWluLXRlc3RzIQ -c "$dir/server.properties.new" "${format[@]}" \
        >"$dir/format.log" 2>&1 || die "the data folder could not be formatted; see $dir/format.log"
    echo "$host:$port" >"$dir/bootstrap"
    mv "$dir/server.properties.new" "$dir/server.properties"
}

# Whether the process in DIR/pid is this DIR's broker; not another one with a number used again.
running() {
    local pid
    pid=$(cat "$1/pid" 2>/dev/null) && [ -n "$pid" ] &&
        tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -qxF "$1/server.properties"
}

# configure_one DIR HOST PORT SASL TLS PROPERTY...: a cluster of one node.
configure_one() {
    local dir=$1 host=$2 port=$3 controller
    controller=$(free_ports "$host" 1)
    [ -n "$port" ] || port=$(free_ports "$host" 1)
    configure "$dir" "$host" 1 "1@$host:$controller" "$controller" "$port" "${@:4}"
}

cluster() {
    local dir=$1 nodes=$2 properties=() ports voters="" addresses="" id
    shift 2
    [[ "$nodes" =~ ^[1-9]$ ]] || wrong "a cluster has 1 to 9 nodes"
    while [ $# -gt 0 ]; do
        [ "$1" = --property ] && [ $# -ge 2 ] || wrong "unknown option '$1', or it needs a value"
        properties+=("$2")
        shift 2
    done
    setup
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    read -ra ports <<<"$(free_ports 127.0.0.1 $((2 * nodes)))"
    for id in $(seq "$nodes"); do
        voters="$voters,$id@127.0.0.1:${ports[id - 1]}"
        addresses="$addresses,127.0.0.1:${ports[nodes + id - 1]}"
    done
    for id in $(seq "$nodes"); do
        mkdir "$dir/$id" || die "$dir is a cluster already"
        configure "$dir/$id" 127.0.0.1 "$id" "${voters#,}" "${ports[id - 1]}" "${ports[nodes + id - 1]}" 0 0 "${properties[@]}"
    done
    echo "${addresses#,}" >"$dir/bootstrap"
    cat "$dir/bootstrap"
}

# prepare DIR OPTION...: DIR becomes one that a broker can be started in. Sets the caller's `dir` and `java_words`.
prepare() {
    local host=127.0.0.1 port="" sasl=0 tls=0 heap=512m properties=() jvm=()
    dir=$1
    shift
    while [ $# -gt 0 ]; do
        case "$1" in
            --sasl) sasl=1; shift; continue ;;
            --tls) tls=1; shift; continue ;;
            --host | --port | --heap | --property) [ $# -ge 2 ] || wrong "$1 needs a value" ;;
            *) wrong "unknown option '$1'" ;;
        esac
        case "$1" in
            --host) host=$2 ;;
            --port) port=$2 ;;
            --heap) heap=$2 ;;
            --property) properties+=("$2") ;;
        esac
        shift 2
    done
    setup
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    running "$dir" && die "the broker of $dir runs already, as process $(cat "$dir/pid")"
    [ -f "$dir/server.properties" ] || configure_one "$dir" "$host" "$port" "$sasl" "$tls" "${properties[@]}"
    # Of several brokers on one machine none is measured: they shall start quickly.
    grep -q '^controller.quorum.voters=.*,' "$dir/server.properties" && jvm=(-XX:TieredStopAtLevel=1)
    java_words=("${jvm[@]}" "-Xmx$heap" -Xms128m -XX:+UseSerialGC "-Dlog4j.configuration=file:$dir/log4j.properties"
        -cp "$jars/*" kafka.Kafka "$dir/server.properties")
}

run() {
    local dir java_words
    prepare "$@"
    echo $$ >"$dir/pid"
    exec java -XX:TieredStopAtLevel=1 "${java_words[@]}" # starts in less time, and is asked for little
}

start() {
    local dir java_words pid
    prepare "$@"
    : >"$dir/broker.log" # an older run's must not be taken for this one's
    # No console, no input, a session of its own: it outlives this script, and a terminal's Ctrl-C.
    setsid java "${java_words[@]}" >>"$dir/broker.log" 2>&1 </dev/null &
    pid=$!
    echo "$pid" >"$dir/pid"
    for _ in $(seq $((START_SECONDS * 10))); do
        if grep -q 'Kafka Server started' "$dir/broker.log"; then
            cat "$dir/bootstrap"
            return
        fi
        kill -0 "$pid" 2>/dev/null ||
            die "the broker ended at once: $(grep -m 1 -E 'ERROR|FATAL|Exception' "$dir/broker.log"); see $dir/broker.log"
        sleep 0.1
    done
    kill -9 "$pid" 2>/dev/null || true
    die "the broker did not serve within $START_SECONDS s; see $dir/broker.log"
}

stop() {
    local dir pid now=${2:-}
    [ -z "$now" ] || [ "$now" = --now ] || wrong "unknown option '$now'"
    dir=$(cd "$1" 2>/dev/null && pwd) || die "$1: no such folder"
    running "$dir" || { rm -f "$dir/pid"; return 0; }
    pid=$(cat "$dir/pid")
    if [ "$now" = --now ]; then kill -9 "$pid"; else kill "$pid"; fi
    for _ in $(seq $((STOP_SECONDS * 20))); do
        running "$dir" || { rm -f "$dir/pid"; return 0; }
        sleep 0.05
    done
    say "the broker did not end within $STOP_SECONDS s; it is killed"
    kill -9 "$pid"
    rm -f "$dir/pid"
}

case "${1:-}" in
    setup) [ $# = 1 ] || wrong "setup takes no more"; setup; say "Apache Kafka $KAFKA is in $jars" ;;
    cluster) [ $# -ge 3 ] || wrong "cluster needs a folder and a number of nodes"; cluster "${@:2}" ;;
    start | run) [ $# -ge 2 ] || wrong "$1 needs a folder"; "$1" "${@:2}" ;;
    stop) [ $# -ge 2 ] && [ $# -le 3 ] || wrong "stop needs a folder"; stop "${@:2}" ;;
    --help | -h) usage ;;
    *) wrong "say setup, start, run, cluster or stop" ;;
esac
