"""Starts, kills and asks real dunlind processes, with a stock grpcio client: nothing of dunlin's own client code.

Used by the integration tests only. Run with Debian's python3 (python3-grpcio, python3-grpc-tools)."""

import atexit
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("DUNLIN_BIN", os.path.join(ROOT, "build", "bin"))
SKIP = 77  # ctest's SKIP_RETURN_CODE


def skip(feature, why):
    """Ends the test as skipped; as failed when DUNLIN_REQUIRE names the feature."""
    if feature in os.environ.get("DUNLIN_REQUIRE", "").split(","):
        print(f"FAILED: {feature} is required and is not there: {why}")
        sys.exit(1)
    print(f"SKIPPED ({feature}): {why}")
    sys.exit(SKIP)


try:
    import grpc
    from grpc_tools import protoc
except ImportError as error:
    skip("grpcio", f"{error}; install python3-grpcio and python3-grpc-tools")

_stubs = tempfile.mkdtemp(prefix="dunlin-stubs.")
atexit.register(shutil.rmtree, _stubs, True)
_proto = os.path.join(ROOT, "api", "proto")
if protoc.main(["protoc", "-I" + _proto, "--python_out=" + _stubs, "--grpc_python_out=" + _stubs,
                os.path.join(_proto, "dunlin/v1/dunlin.proto"),
                os.path.join(_proto, "grpc/health/v1/health.proto")]) != 0:
    raise SystemExit("protoc failed")
# The stubs' own package is called grpc/ too: only its health files are needed, so put them beside grpc's name.
import grpc as _grpc  # noqa: E402

_grpc.__path__.append(os.path.join(_stubs, "grpc"))
sys.path.insert(0, _stubs)
from dunlin.v1 import dunlin_pb2 as pb, dunlin_pb2_grpc as rpc  # noqa: E402
from grpc.health.v1 import health_pb2, health_pb2_grpc  # noqa: E402


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def wait_until(what, condition, timeout_s=60.0, every_s=0.05):
    end = time.monotonic() + timeout_s
    last = None
    while time.monotonic() < end:
        try:
            last = condition()
            if last:
                return last
        except grpc.RpcError as error:
            last = f"{error.code().name}: {error.details()}"
        time.sleep(every_s)
    raise AssertionError(f"not within {timeout_s:.0f} s: {what} (last: {last})")


class Node:
    def __init__(self, cluster, number, peer_port, api_port, admin_port):
        self.cluster, self.number = cluster, number
        self.peer = f"127.0.0.1:{peer_port}"
        self.api, self.admin = f"127.0.0.1:{api_port}", f"127.0.0.1:{admin_port}"
        self.folder = os.path.join(cluster.folder, f"node-{number}")
        self.config = os.path.join(cluster.folder, f"node-{number}.yaml")
        self.log = os.path.join(cluster.folder, f"node-{number}.log")
        self.process = None
        self.bin = BIN  # another folder: another build of dunlind
        self.not_ready = ""
        self._channel = None

    def start(self, wrapper=()):
        assert self.process is None
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([*wrapper, os.path.join(self.bin, "dunlind"), "--config", self.config],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self

    def kill(self, number=signal.SIGKILL):
        if self.process is None:
            return None
        self.process.send_signal(number)
        code = self.process.wait(60)
        self.process = None
        self.close_channel()
        return code

    def stop(self):
        return self.kill(signal.SIGTERM)

    def ended(self, timeout_s=60):
        """Waits until the process ends by itself; its exit code."""
        code = self.process.wait(timeout_s)
        self.process = None
        self.close_channel()
        return code

    def wipe(self):
        """The disk is lost: an empty data directory under the same id."""
        assert self.process is None
        shutil.rmtree(self.folder)

    def close_channel(self):
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    @property
    def channel(self):
        if self._channel is None:
            self._channel = grpc.insecure_channel(self.api, options=[
                ("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200),
                ("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20),
                ("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)])
        return self._channel

    def stub(self, service):
        return getattr(rpc, service + "Stub")(self.channel)

    def status(self, hash_at=(), timeout=3):
        request = pb.StatusRequest(hash_at=[pb.GroupIndex(group=g, index=i) for g, i in hash_at])
        return self.stub("Cluster").Status(request, timeout=timeout)

    def ready(self):
        """True when the node says so on its admin port; the reason as text otherwise. Asked over HTTP, because a
        grpcio channel that once found the port closed stays away from it for many seconds."""
        try:
            with urllib.request.urlopen(f"http://{self.admin}/readyz", timeout=2) as answer:
                return answer.status == 200
        except urllib.error.HTTPError as error:
            self.not_ready = error.read().decode(errors="replace").strip()
        except OSError as error:
            self.not_ready = str(error)
        return False

    def log_text(self):
        with open(self.log, "r", errors="replace") as log:
            return log.read()


class Cluster:
    """n nodes on loopback in a temporary folder. `extra` is YAML appended to every configuration."""

    def __init__(self, n=3, shards=4, extra="", folder=None):
        self.folder = folder or tempfile.mkdtemp(prefix="dunlin-test.")
        os.makedirs(self.folder, exist_ok=True)
        self._own = folder is None
        self.shards = shards
        ports = free_ports(3 * n)
        self.nodes = [Node(self, i + 1, *ports[3 * i:3 * i + 3]) for i in range(n)]
        self.all_nodes = list(self.nodes)  # also those that were taken out of `nodes`
        self.peers = [node.peer for node in self.nodes]
        self.write_configs(extra)
        atexit.register(self.close)

    def write_configs(self, extra=""):
        self.extra = extra
        self.key = os.path.join(self.folder, "key")
        if not os.path.exists(self.key):
            subprocess.run([os.path.join(BIN, "dunlin"), "key", "create", self.key], check=True,
                           stdout=subprocess.DEVNULL)
        for node in self.nodes:
            self.write_config(node)

    def write_config(self, node):
        with open(node.config, "w") as out:
            out.write(f"node:\n  id: {node.number}\n  name: node-{node.number}\n  data_dir: {node.folder}\n")
            if node not in self.nodes:  # it joins
                out.write(f"  address: \"{node.peer}\"\n")
            out.write(f"cluster:\n  id: test\n  shards: {self.shards}\n  members:\n")
            for i, peer in enumerate(self.peers):
                out.write(f"    - {{id: {i + 1}, name: node-{i + 1}, address: \"{peer}\"}}\n")
            out.write(f"peers:\n  key_file: {self.key}\n")
            out.write(f"api:\n  address: \"{node.api}\"\n  threads: 1\nadmin:\n  address: \"{node.admin}\"\n{self.extra}")

    def joining(self, number):
        """Another node, not among the first members and not in `nodes` yet; it asks the first members."""
        node = Node(self, number, *free_ports(3))
        self.write_config(node)
        self.all_nodes.append(node)
        return node

    def start(self):
        for node in self.nodes:
            node.start()
        self.wait_ready()
        return self

    def wait_ready(self, timeout_s=60):
        for node in self.nodes:
            if node.process is not None:
                wait_until(f"node {node.number} ready", lambda n=node: self._ready(n), timeout_s)

    def _ready(self, node):
        if node.process.poll() is not None:
            raise SystemExit(f"node {node.number} ended with code {node.process.returncode}; its log ends:\n"
                             + node.log_text()[-3000:])
        return node.ready()

    def live(self):
        return [n for n in self.nodes if n.process is not None]

    def leader_of(self, group):
        """The live node that leads the group, or None."""
        for node in self.live():
            try:
                if any(g.group == group and g.is_leader for g in node.status(timeout=1).groups):
                    return node
            except grpc.RpcError:
                pass
        return None

    def busiest_leader(self):
        """The live node that leads the most groups, waited for."""
        def find():
            led = {}
            for node in self.live():
                led[node] = sum(g.is_leader for g in node.status(timeout=1).groups)
            best = max(led, key=led.get)
            return best if led[best] > 0 else None
        return wait_until("a leader", find)

    def assert_equal_hashes(self):
        """Every group has the same state hash on every node at one applied index."""
        for group in range(self.shards + 1):
            def equal(group=group):
                status = [next(g for g in n.status().groups if g.group == group) for n in self.nodes]
                index = min(g.hash_index for g in status)
                hashes = [n.status(hash_at=[(group, index)]).hashes[0] for n in self.nodes]
                if not all(h.known for h in hashes):
                    return False
                values = {h.hash for h in hashes}
                assert len(values) == 1, f"group {group} at index {index}: hashes differ: {[hex(h.hash) for h in hashes]}"
                return True
            wait_until(f"hashes of group {group}", equal)

    def close(self):
        for node in self.all_nodes:
            if node.process is not None:
                node.process.kill()
                node.process.wait()
                node.process = None
            node.close_channel()
        if self._own and "DUNLIN_KEEP" not in os.environ:
            shutil.rmtree(self.folder, True)


def seed():
    """The test's seed, printed so that a failing run can be repeated with DUNLIN_SEED."""
    value = int(os.environ.get("DUNLIN_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"seed: {value} (repeat with DUNLIN_SEED={value})", flush=True)
    return value
