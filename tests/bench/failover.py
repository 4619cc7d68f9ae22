"""How long writes stand still when a leader goes away: three nodes on this machine, a steady writer for every group, and
leaders that are killed, stopped, cut off or asked to go. Run by scripts/bench.sh --failover; --help lists the options.

A sample is one group that the node led: from the moment it was taken away to the first acknowledgement of a write that
was sent after that, through a node that is left. Writes are repeated under the same event id until acknowledged. Writers,
nodes and this script share the machine's cores; a sample during which a bare durable 4 KiB write on the same file system
took longer than 100 ms is marked as stalled, and figures are given with and without these."""

import argparse
import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "integration"))
from cluster import Cluster, grpc, pb, rpc, wait_until  # noqa: E402

STALL_S = 0.1          # a probe's write that took longer marks the samples it overlaps
PROBE_EVERY_S = 0.02
SEND_TIMEOUT_S = 1.0   # of one attempt: it is sent again under the same id
IN_FLIGHT_MAX = 64     # attempts of one writer
GIVE_UP_S = 15.0       # a group without a write for so long: the benchmark fails
EVENTS_PER_USER = 40   # below what a user's window of event ids holds
SETTLE_S = 0.7         # between the last round's end and the next fault
TARGETS = {"kill": "p50 300, p99 500", "stop": "p99 1200", "partition": "p99 1200", "move": "max 50, no failed request"}
CHANNEL_OPTIONS = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.min_reconnect_backoff_ms", 50),
                   ("grpc.max_reconnect_backoff_ms", 200), ("grpc.enable_retries", 0),
                   ("grpc.use_local_subchannel_pool", 1)]


def say(text):
    print(text, file=sys.stderr, flush=True)


def murmur2(key):
    """The positive murmur2 of Kafka's Java client: which shard a user belongs to."""
    m, mask = 0x5bd1e995, 0xffffffff
    h = 0x9747b28c ^ len(key)
    whole = len(key) // 4 * 4
    for i in range(0, whole, 4):
        k = int.from_bytes(key[i:i + 4], "little") * m & mask
        h = (h * m & mask) ^ ((k ^ k >> 24) * m & mask)
    if key[whole:]:
        h = (h ^ int.from_bytes(key[whole:], "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return (h ^ h >> 15) & 0x7fffffff


class DiskProbe(threading.Thread):
    """Writes 4 KiB durably every 20 ms, as a bare program would, and remembers when that took long."""

    def __init__(self, folder):
        super().__init__(daemon=True)
        self.path, self.stopped, self.begun = os.path.join(folder, "probe"), False, None
        self.stalls, self.writes = [], 0

    def run(self):
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.pwrite(fd, bytes(1 << 20), 0)
        os.fsync(fd)
        while not self.stopped:
            self.begun = time.monotonic()
            os.pwrite(fd, bytes(4096), self.writes % 256 * 4096)
            os.fdatasync(fd)
            end = time.monotonic()
            if end - self.begun > STALL_S:
                self.stalls.append((self.begun, end))
            self.writes += 1
            time.sleep(PROBE_EVERY_S)
        os.close(fd)

    def overlaps(self, begin, end):
        now = [(self.begun, time.monotonic())] if self.begun and time.monotonic() - self.begun > STALL_S else []
        return any(b < end and e > begin for b, e in self.stalls + now)


class Gate:
    """Which nodes clients may use, and a channel of this client's own to each of them."""

    def __init__(self, cluster):
        self.nodes = list(cluster.nodes)
        self.out = set()

    def channels(self):
        return {n: grpc.insecure_channel(n.api, options=CHANNEL_OPTIONS) for n in self.nodes}

    def open(self):
        return [n for n in self.nodes if n not in self.out]

    def let_in(self, node, timeout_s=30):
        wait_until(f"node {node.number} ready", node.ready, timeout_s)
        self.out.discard(node)


class Writer(threading.Thread):
    """One group's writes: a new one (or one that must be repeated) every few ms, several under way at once."""

    def __init__(self, gate, group, shards, interval_s):
        super().__init__(daemon=True)
        self.gate, self.group, self.shards, self.interval_s = gate, group, shards, interval_s
        self.lock, self.stopped = threading.Lock(), False
        self.again, self.in_flight, self.count = collections.deque(), 0, 0
        self.acks, self.failures = [], []  # (sent, acknowledged), (when, what)
        self.user, self.user_number = None, 0
        self.run_id = f"{os.getpid()}-{time.time_ns():x}"

    def next_write(self):
        self.count += 1
        if self.group == 0:
            return pb.UpsertItemsRequest(items=[pb.Item(id=f"item-{self.count % 50}", category=f"c-{self.count}")])
        if self.user is None or self.count % EVENTS_PER_USER == 0:
            while True:
                self.user_number += 1
                self.user = f"{self.run_id}-{self.user_number}"
                if 1 + murmur2(self.user.encode()) % self.shards == self.group:
                    break
        return pb.PublishRequest(events=[pb.Event(user_id=self.user, item_id=f"item-{self.count % 50}",
                                                  type=pb.EVENT_TYPE_CLICK, event_id=f"e-{self.count}")])

    def run(self):
        channels = self.gate.channels()
        calls = {n: rpc.CatalogStub(c).Upsert if self.group == 0 else rpc.EventsStub(c).Publish
                 for n, c in channels.items()}
        due, turn = time.monotonic(), self.group
        while not self.stopped:
            due = max(due + self.interval_s, time.monotonic() - 0.05)
            time.sleep(max(0.0, due - time.monotonic()))
            nodes = self.gate.open()
            with self.lock:
                if self.in_flight >= IN_FLIGHT_MAX or not nodes:
                    continue
                message = self.again.popleft() if self.again else None
                self.in_flight += 1
            message = message or self.next_write()
            turn += 1
            node, sent = nodes[turn % len(nodes)], time.monotonic()
            future = calls[node].future(message, timeout=SEND_TIMEOUT_S)
            future.add_done_callback(lambda f, m=message, s=sent, n=node: self.answered(f, m, s, n))
        wait_until(f"the last writes of group {self.group}", lambda: self.in_flight == 0, 10)
        for channel in channels.values():
            channel.close()

    def answered(self, future, message, sent, node):
        now, what = time.monotonic(), None
        try:
            answer = future.result()
            if self.group > 0:
                outcome = answer.outcomes[0]
                if outcome == pb.EVENT_OUTCOME_UNKNOWN:
                    what = "UNKNOWN: " + answer.message
                elif outcome not in (pb.EVENT_OUTCOME_ACCEPTED, pb.EVENT_OUTCOME_DUPLICATE):
                    what = pb.EventOutcome.Name(outcome)
        except grpc.RpcError as error:
            what = f"{error.code().name}: {error.details()}"
        with self.lock:
            self.in_flight -= 1
            if what is None:
                self.acks.append((sent, now))
            else:
                self.failures.append((now, what, node))
                self.again.append(message)

    def first_ack_after(self, moment):
        """When the first write that was sent after that moment was acknowledged; None: not yet."""
        with self.lock:
            recent = [a for a in self.acks[-2000:] if a[0] > moment]
        return min((a[1] for a in recent), default=None)

    def longest_gap_ms(self, begin, end):
        with self.lock:
            times = sorted(a[1] for a in self.acks[-20000:] if begin <= a[1] <= end)
        times = [begin] + times + [end]
        return max(b - a for a, b in zip(times, times[1:])) * 1000

    def failures_between(self, begin, end):
        with self.lock:
            return [f for f in self.failures if begin <= f[0] <= end]


class Reader(threading.Thread):
    """LOCAL reads, 100 a second, of the nodes that are left: none may fail."""

    def __init__(self, gate):
        super().__init__(daemon=True)
        self.gate, self.stopped, self.reads, self.errors, self.worst_ms = gate, False, 0, [], 0.0

    def run(self):
        stubs = {n: (rpc.RecommendationsStub(c), rpc.SessionsStub(c)) for n, c in self.gate.channels().items()}
        while not self.stopped:
            nodes = self.gate.open()
            node, begun = nodes[self.reads % len(nodes)], time.monotonic()
            recommend, sessions = stubs[node]
            try:
                if self.reads % 2 == 0:
                    recommend.Recommend(pb.RecommendRequest(user_id="nobody", k=5), timeout=5)
                else:
                    sessions.Get(pb.GetSessionRequest(user_id="nobody"), timeout=5)
                self.worst_ms = max(self.worst_ms, (time.monotonic() - begun) * 1000)
            except grpc.RpcError as error:
                if node not in self.gate.out:  # it may have been taken away meanwhile
                    self.errors.append(f"node {node.number}: {error.code().name}: {error.details()}")
            self.reads += 1
            time.sleep(0.01)


class NetworkCluster(Cluster):
    """Each node in a network namespace of its own, on one bridge: a node taken off the bridge falls silent, and nobody
    is told."""

    def __init__(self, **options):
        self.tag, self.bridge = f"dn{os.getpid() % 100000}", f"dnb{os.getpid() % 100000}"
        super().__init__(**options)

    @staticmethod
    def possible():
        name = f"dnprobe{os.getpid()}"
        for command in (["ip", "netns", "add", name], ["ip", "netns", "del", name],
                        ["ip", "link", "add", "dnprobe0", "type", "bridge"], ["ip", "link", "del", "dnprobe0"]):
            try:
                done = subprocess.run(command, capture_output=True)
            except OSError as error:
                return str(error)
            if done.returncode != 0:
                return f"{' '.join(command)}: {done.stderr.decode().strip()}"
        return None

    def ip(self, *words):
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def write_configs(self, extra=""):
        prefix = f"10.{random.randrange(64, 250)}.{random.randrange(1, 250)}"
        key = os.path.join(self.folder, "hash.key")
        with open(key, "w", opener=lambda p, f: os.open(p, f, 0o600)) as out:
            out.write(os.urandom(16).hex() + "\n")
        self.ip("link", "add", self.bridge, "type", "bridge")
        self.ip("addr", "add", prefix + ".254/24", "dev", self.bridge)
        self.ip("link", "set", self.bridge, "up")
        for node in self.nodes:
            space, address = f"{self.tag}n{node.number}", f"{prefix}.{node.number}"
            node.space, node.port = space, f"{self.tag}v{node.number}"
            node.api, node.admin = f"{address}:7070", f"{address}:7072"
            self.peers[node.number - 1] = f"{address}:7071"
            self.ip("netns", "add", space)
            self.ip("link", "add", node.port, "type", "veth", "peer", "name", "eth0", "netns", space)
            self.ip("link", "set", node.port, "master", self.bridge, "up")
            self.ip("-n", space, "addr", "add", address + "/24", "dev", "eth0")
            self.ip("-n", space, "link", "set", "eth0", "up")
            self.ip("-n", space, "link", "set", "lo", "up")
        plain = "  allow_plaintext: true\n"
        super().write_configs(f"{extra}secrets:\n  hash_key_file: \"{key}\"\n")
        for node in self.nodes:
            text = open(node.config).read().replace("api:\n", "api:\n" + plain)
            text = text.replace("admin:\n", "admin:\n  allow_plaintext: true\n") if "admin.allow_plaintext" in extra else text
            open(node.config, "w").write(text)
            start = node.start
            node.start = lambda s=start, n=node: s(("ip", "netns", "exec", n.space))

    def cut(self, node):
        self.ip("link", "set", node.port, "nomaster")

    def join(self, node):
        self.ip("link", "set", node.port, "master", self.bridge)

    def close(self):
        super().close()
        for node in self.nodes:
            subprocess.run(["ip", "netns", "del", node.space], capture_output=True)
            subprocess.run(["ip", "link", "del", node.port], capture_output=True)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)


# ---- one kind of fault ---------------------------------------------------------------------------------------------


def led_by(node):
    return [g.group for g in node.status(timeout=2).groups if g.is_leader]


def busiest(cluster):
    """The node that leads the most groups, and which; every group has a leader then."""
    def find():
        led = {n: led_by(n) for n in cluster.nodes}
        return max(led.items(), key=lambda item: len(item[1])) if sum(map(len, led.values())) == cluster.shards + 1 else None
    return wait_until("a leader for every group", find)


def await_writes(writers, groups, moment):
    """Waits until every group has acknowledged a write sent after that moment; when each did."""
    end, found = time.monotonic() + GIVE_UP_S, {}
    while len(found) < len(groups) and time.monotonic() < end:
        for group in groups:
            if group not in found:
                at = writers[group].first_ack_after(moment)
                if at is not None:
                    found[group] = at
        time.sleep(0.002)
    return found


class Bench:
    def __init__(self, cluster, options):
        self.cluster, self.options = cluster, options
        self.gate = Gate(cluster)
        self.probe = DiskProbe(cluster.folder)
        self.reader = Reader(self.gate)
        self.writers = {g: Writer(self.gate, g, cluster.shards, options.interval_ms / 1000)
                        for g in range(cluster.shards + 1)}
        self.samples, self.rounds = [], 0

    def start(self):
        for thread in [self.probe, self.reader, *self.writers.values()]:
            thread.start()

    def stop(self):
        self.reader.stopped = self.probe.stopped = True
        for thread in [self.reader, self.probe]:
            thread.join()
        for writer in self.writers.values():
            writer.stopped = True
        for writer in self.writers.values():
            writer.join()

    def settle(self):
        """Every group takes writes, and has for a while."""
        found = await_writes(self.writers, list(self.writers), time.monotonic())
        assert len(found) == len(self.writers), f"no writes in groups {sorted(set(self.writers) - set(found))}"
        time.sleep(SETTLE_S)

    def round(self, take_away, bring_back):
        """One fault: `take_away` returns when the node is gone; samples for all the groups that it led."""
        self.settle()
        victim, groups = busiest(self.cluster)
        self.gate.out.add(victim)
        time.sleep(2 * self.options.interval_ms / 1000)  # nothing is on its way to it any more
        begun = time.monotonic()
        take_away(victim)
        gone = time.monotonic()
        found = await_writes(self.writers, groups, gone)
        self.rounds += 1
        for group in groups:
            end = found.get(group)
            self.samples.append({
                "round": self.rounds, "node": victim.number, "group": group,
                "ms": round((end - begun) * 1000, 1) if end else None,
                "stalled": self.probe.overlaps(begun, end or time.monotonic())})
        took = [s["ms"] for s in self.samples if s["round"] == self.rounds]
        say(f"  round {self.rounds}: node {victim.number}, groups {groups}: {took} ms")
        bring_back(victim)
        self.gate.let_in(victim)

    def move(self):
        """SIGTERM: the node hands its groups over first. The longest time without an acknowledgement in each, and every
        request that failed anywhere else."""
        self.settle()
        victim, groups = busiest(self.cluster)
        self.gate.out.add(victim)
        time.sleep(0.1)
        begun = time.monotonic()
        code = victim.stop()
        time.sleep(0.3)
        end = time.monotonic()
        self.rounds += 1
        for group, writer in self.writers.items():
            failed = writer.failures_between(begun, end)
            self.samples.append({"round": self.rounds, "node": victim.number, "group": group, "led": group in groups,
                                 "ms": round(writer.longest_gap_ms(begun, end), 1), "failed": len(failed),
                                 "why": sorted({f[1] for f in failed})[:3], "exit": code,
                                 "stalled": self.probe.overlaps(begun, end)})
        mine = [s for s in self.samples if s["round"] == self.rounds]
        say(f"  move {self.rounds}: node {victim.number} led {groups}: gaps {[s['ms'] for s in mine if s['led']]} ms, "
            f"{sum(s['failed'] for s in mine)} requests failed")
        victim.start()
        self.gate.let_in(victim)

    def result(self, kind):
        if kind == "move":
            of = [s for s in self.samples if s["led"]]
        else:
            of = self.samples
        done = sorted(s["ms"] for s in of if s["ms"] is not None)
        calm = sorted(s["ms"] for s in of if s["ms"] is not None and not s["stalled"])
        out = {"kind": kind, "target_ms": TARGETS[kind], "rounds": self.rounds, "groups": len(of),
               "without_write": sum(s["ms"] is None for s in of), "stalled": sum(s["stalled"] for s in of),
               "ms": quantiles(done), "ms_without_stalls": quantiles(calm),
               "reads": self.reader.reads, "read_errors": len(self.reader.errors),
               "read_error_texts": sorted(set(self.reader.errors))[:5], "worst_read_ms": round(self.reader.worst_ms, 1),
               "writes": sum(len(w.acks) for w in self.writers.values()),
               "attempts_failed": sum(len(w.failures) for w in self.writers.values()),
               "disk_probe_writes": self.probe.writes, "disk_stalls": len(self.probe.stalls), "samples": self.samples}
        if kind == "move":
            out["failed_requests"] = sum(s["failed"] for s in self.samples)
            out["failed_request_texts"] = sorted({w for s in self.samples for w in s["why"]})[:5]
        return out


def quantiles(ordered):
    def at(q):
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))]
    return {"p50": at(.5), "p90": at(.9), "p99": at(.99), "max": ordered[-1]} if ordered else {}


def run(kind, cluster, options):
    if kind == "partition":
        def take_away(node):
            cluster.cut(node)

        def bring_back(node):
            cluster.join(node)
    elif kind == "stop":
        def take_away(node):
            node.process.send_signal(signal.SIGSTOP)

        def bring_back(node):
            node.process.send_signal(signal.SIGCONT)
    else:
        def take_away(node):
            node.kill()

        def bring_back(node):
            node.start()
    bench = Bench(cluster, options)
    bench.start()
    wanted = {"kill": options.groups, "stop": options.stops, "partition": options.partitions}.get(kind)
    if kind == "move":
        for _ in range(options.moves):
            bench.move()
    else:
        while len(bench.samples) < wanted and not (kind == "kill" and options.kills and bench.rounds >= options.kills):
            bench.round(take_away, bring_back)
    bench.settle()
    bench.stop()
    cluster.assert_equal_hashes()
    return bench.result(kind)


def idle(minutes):
    """What three nodes that nobody uses write to their disks."""
    cluster = Cluster().start()
    time.sleep(10)

    def written():
        total = []
        for node in cluster.nodes:
            fields = dict(line.split(": ") for line in open(f"/proc/{node.process.pid}/io").read().splitlines())
            total.append(int(fields["write_bytes"]))
        return total

    before, begun = written(), time.monotonic()
    say(f"idle for {minutes:g} minutes")
    time.sleep(minutes * 60)
    hours = (time.monotonic() - begun) / 3600
    each = [round((b - a) / hours) for a, b in zip(before, written())]
    cluster.close()
    return {"kind": "idle", "minutes": minutes, "bytes_per_hour": each}


# ---- what is printed -----------------------------------------------------------------------------------------------


def buckets(samples, width=50):
    counts = collections.Counter((int(s["ms"] // width) * width, s["stalled"]) for s in samples if s["ms"] is not None)
    top = max((b for b, _ in counts), default=0)
    return width, [(low, counts[(low, False)], counts[(low, True)]) for low in range(0, top + width, width)]


def histogram(samples):
    width, rows = buckets(samples)
    most = max((a + b for _, a, b in rows), default=1) or 1
    for low, calm, stalled in rows:
        bar = "#" * round(calm * 50 / most) + "~" * round(stalled * 50 / most)
        print(f"  {low:5d}-{low + width:<5d} ms {calm + stalled:4d} {bar}")


def svg(results, path):
    """One panel for each kind of fault; samples under a disk stall in another colour."""
    parts, y, width, height = [], 0, 640, 150
    for result in [r for r in results if r.get("samples")]:
        step, rows = buckets(result["samples"])
        most = max((a + b for _, a, b in rows), default=1) or 1
        bar = max(2, (width - 60) / max(1, len(rows)))
        q = result["ms"]
        title = f"{result['kind']}: {result['groups']} groups, p50 {q.get('p50')} p99 {q.get('p99')} max {q.get('max')} ms"
        parts.append(f'<text x="10" y="{y + 16}">{title}</text>')
        for i, (low, calm, stalled) in enumerate(rows):
            x, base = 40 + i * bar, y + height - 20
            a, b = calm * (height - 50) / most, stalled * (height - 50) / most
            parts.append(f'<rect x="{x:.1f}" y="{base - a:.1f}" width="{bar - 1:.1f}" height="{a:.1f}" fill="#4477aa"/>')
            parts.append(f'<rect x="{x:.1f}" y="{base - a - b:.1f}" width="{bar - 1:.1f}" height="{b:.1f}" fill="#cc6677"/>')
            if i % max(1, len(rows) // 8) == 0:
                parts.append(f'<text x="{x:.1f}" y="{base + 14}" font-size="10">{low}</text>')
        y += height + 10
    with open(path, "w") as out:
        out.write(f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{max(y, 10)}" '
                  f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>\n')
        out.write("\n".join(parts) + "\n</svg>\n")


def show(result):
    if result["kind"] == "idle":
        print(f"idle: bytes written an hour by each node: {result['bytes_per_hour']}")
        return
    if "skipped" in result:
        print(f"{result['kind']}: SKIPPED: {result['skipped']}")
        return

    def text(q):
        return " / ".join(f"{q[k]:.0f}" for k in ("p50", "p90", "p99", "max")) if q else "none"
    print(f"{result['kind']}: {result['groups']} groups in {result['rounds']} rounds: p50 / p90 / p99 / max "
          f"{text(result['ms'])} ms (target {result['target_ms']}); without the {result['stalled']} that met a disk stall "
          f"{text(result['ms_without_stalls'])} ms")
    histogram([s for s in result["samples"] if s.get("led", True)])
    print(f"  reads on the other nodes: {result['reads']}, {result['read_errors']} failed, worst {result['worst_read_ms']} ms; "
          f"writes acknowledged: {result['writes']}, attempts repeated: {result['attempts_failed']}")
    for line in result["read_error_texts"]:
        print(f"    read: {line}")
    if result["kind"] == "move":
        print(f"  requests that failed on the other nodes during the moves: {result['failed_requests']}")
        for line in result["failed_request_texts"]:
            print(f"    {line}")
    if result["without_write"]:
        print(f"  FAILED: {result['without_write']} groups took no write within {GIVE_UP_S:.0f} s")


def parse():
    parser = argparse.ArgumentParser(prog="scripts/bench.sh --failover", description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", default="kill,stop,partition,move", help="kinds, with commas (default: %(default)s)")
    parser.add_argument("--groups", type=int, default=300, help="kill until so many groups lost their leader (%(default)s)")
    parser.add_argument("--kills", type=int, help="at most so many kills")
    parser.add_argument("--stops", type=int, default=40, help="samples with SIGSTOP (%(default)s)")
    parser.add_argument("--partitions", type=int, default=40, help="samples with a silent partition (%(default)s)")
    parser.add_argument("--moves", type=int, default=10, help="planned moves by SIGTERM (%(default)s)")
    parser.add_argument("--interval-ms", type=float, default=10, help="between two writes to a group (%(default)s)")
    parser.add_argument("--extra", default="", help="YAML put at the end of every node's configuration")
    parser.add_argument("--idle", type=float, metavar="MINUTES", help="instead: what idle nodes write to disk")
    parser.add_argument("--json", action="store_true", help="all samples as JSON on standard output")
    parser.add_argument("--svg", metavar="FILE", help="a histogram as SVG")
    options = parser.parse_args()
    options.kinds = [k for k in options.only.split(",") if k]
    if not set(options.kinds) <= set(TARGETS):
        parser.error(f"--only knows {', '.join(TARGETS)}")
    return options


def measure(kind, options):
    if kind == "partition":
        why = NetworkCluster.possible()
        if why:
            return {"kind": kind, "skipped": why}
    cluster = (NetworkCluster if kind == "partition" else Cluster)(extra=options.extra.replace("\\n", "\n"))
    try:
        return run(kind, cluster.start(), options)
    finally:
        cluster.close()


def main():
    options = parse()
    os.makedirs(tempfile.gettempdir(), exist_ok=True)
    if options.idle:
        results = [idle(options.idle)]
    else:
        results = []
        for kind in options.kinds:
            say(f"{kind}:")
            results.append(measure(kind, options))
    if options.svg:
        svg(results, options.svg)
    if options.json:
        print(json.dumps(results, indent=1))
    else:
        for result in results:
            show(result)
    sys.exit(1 if any(r.get("without_write") or r.get("read_errors") for r in results) else 0)


if __name__ == "__main__":
    main()
