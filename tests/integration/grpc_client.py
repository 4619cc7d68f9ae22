#!/usr/bin/python3
"""A stock gRPC client against running dunlin nodes: generated stubs, grpcio, and nothing of dunlin's own.

    grpc_client.py --address HOST:PORT[,HOST:PORT...] [--proto api/proto] [--busy]

Writes to the first address and reads at every one. With --busy: only looks at what a node that takes few calls at a
time says to more of them. Prints one line a check; exit code 0 when all hold, 1 when one does
not, 77 when grpcio or its tools are not installed.
"""

import argparse
import importlib
import os
import sys
import tempfile
import threading
import time
import uuid

try:
    import grpc
    from grpc_tools import protoc
except ImportError as error:
    print(f"skipped: {error} (packages python3-grpcio and python3-grpc-tools)")
    sys.exit(77)

# In about one round of five grpc-core resets a stream that it never opened: the other calls must not feel it.
CANCEL_ROUNDS = 20
TIMEOUT_S = 20
failures = 0


def check(name, holds, detail=""):
    global failures
    print(f"{'ok  ' if holds else 'FAIL'} {name}{'' if holds else f': {detail}'}", flush=True)
    failures += not holds


def refused(name, code, text, call):
    """The call must fail with this code, and the message must say this."""
    try:
        answer = call()
    except grpc.RpcError as error:
        check(name, error.code() == code and text in error.details(), f"{error.code()} {error.details()!r}")
    else:
        check(name, False, f"answered: {answer}")


def generate(proto_dir, out_dir):
    files = ["dunlin/v1/dunlin.proto", "grpc/health/v1/health.proto"]
    arguments = ["protoc", f"-I{proto_dir}", f"--python_out={out_dir}", f"--grpc_python_out={out_dir}"]
    if protoc.main(arguments + files) != 0:
        sys.exit("the stubs could not be generated")
    # grpcio itself is the package `grpc`: let it find the health stubs beside its own modules.
    grpc.__path__.append(os.path.join(out_dir, "grpc"))
    sys.path.insert(0, out_dir)
    return [importlib.import_module(name) for name in (
        "dunlin.v1.dunlin_pb2", "dunlin.v1.dunlin_pb2_grpc", "grpc.health.v1.health_pb2",
        "grpc.health.v1.health_pb2_grpc")]


class Node:
    def __init__(self, address, rpc, health_rpc):
        self.address = address
        self.channel = grpc.insecure_channel(address)
        self.cluster = rpc.ClusterStub(self.channel)
        self.events = rpc.EventsStub(self.channel)
        self.sessions = rpc.SessionsStub(self.channel)
        self.catalog = rpc.CatalogStub(self.channel)
        self.recommendations = rpc.RecommendationsStub(self.channel)
        self.health = health_rpc.HealthStub(self.channel)


def clicks(pb, nodes):
    """Publish at the first node; the click is in the next answer of every node, and counts once."""
    writer, run = nodes[0], uuid.uuid4().hex[:12]
    ids = [f"{run}-item-{i}" for i in range(6)]
    vectors = [[1, 0, 0, 0], [.95, .3, 0, 0], [.9, 0, .4, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    dim = writer.cluster.Status(pb.StatusRequest(), timeout=TIMEOUT_S).vector_dim
    if dim > 4:
        vectors = [vector + [0] * (dim - 4) for vector in vectors]
    items = [pb.Item(id=i, vector=v, category="c", price=2.5, has_price=True,
                     attributes=[pb.Attribute(key="run", value=run)]) for i, v in zip(ids, vectors)]
    answer = writer.catalog.Upsert(pb.UpsertItemsRequest(items=items), timeout=TIMEOUT_S)
    check("catalog upsert", answer.upserted == 6, answer)
    catalog_read = pb.ReadOptions(level=pb.READ_LEVEL_SESSION, token=answer.token)

    user = f"user-{run}"
    event = pb.Event(user_id=user, item_id=ids[0], type=pb.EVENT_TYPE_CLICK, event_id="first")
    published = writer.events.Publish(pb.PublishRequest(events=[event]), timeout=TIMEOUT_S)
    check("publish", list(published.outcomes) == [pb.EVENT_OUTCOME_ACCEPTED], published)
    again = writer.events.Publish(pb.PublishRequest(events=[event]), timeout=TIMEOUT_S)
    check("publish the same again", list(again.outcomes) == [pb.EVENT_OUTCOME_DUPLICATE], again)
    read = pb.ReadOptions(level=pb.READ_LEVEL_SESSION, token=published.token)
    only = pb.Filter(terms=[pb.FilterTerm(name="run", values=[run])])

    for node in nodes:
        at = f" at {node.address}"
        got = node.catalog.Get(pb.GetItemRequest(id=ids[0], read=catalog_read), timeout=TIMEOUT_S)
        check("catalog get" + at, got.item.price == 2.5, got)
        session = node.sessions.Get(pb.GetSessionRequest(user_id=user, read=read), timeout=TIMEOUT_S)
        check("the click is in the session" + at, [e.item_id for e in session.events] == [ids[0]], session)
        answer = node.recommendations.Recommend(
            pb.RecommendRequest(user_id=user, k=2, read=read, filter=only), timeout=TIMEOUT_S)
        check("the click is in the recommendation" + at,
              [i.id for i in answer.items] == ids[1:3] and answer.session_events == 1, answer)
        check("the answer says how fresh it is" + at, answer.freshness.node != "" and answer.token != b"", answer)
        linear = pb.ReadOptions(level=pb.READ_LEVEL_LINEARIZABLE)
        session = node.sessions.Get(pb.GetSessionRequest(user_id=user, read=linear), timeout=TIMEOUT_S)
        check("linearizable read" + at, len(session.events) == 1, session)
        similar = node.recommendations.Similar(pb.SimilarRequest(item_id=ids[0], k=1, filter=only), timeout=TIMEOUT_S)
        check("similar" + at, [i.id for i in similar.items] == [ids[1]], similar)
        node.recommendations.Trending(pb.TrendingRequest(k=3), timeout=TIMEOUT_S)

    deleted = writer.sessions.Delete(pb.DeleteSessionRequest(user_id=user), timeout=TIMEOUT_S)
    check("delete", deleted.existed, deleted)
    read = pb.ReadOptions(level=pb.READ_LEVEL_SESSION, token=deleted.token)
    for node in nodes:
        session = node.sessions.Get(pb.GetSessionRequest(user_id=user, read=read), timeout=TIMEOUT_S)
        check(f"gone at {node.address}", not session.found, session)
    answer = writer.catalog.Delete(pb.DeleteItemsRequest(ids=ids), timeout=TIMEOUT_S)
    check("catalog delete", answer.deleted == 6, answer)


def errors(pb, node):
    code = grpc.StatusCode
    bad = pb.PublishRequest(events=[pb.Event(user_id="u", item_id="i"), pb.Event(user_id="", item_id="i")])
    refused("bad event", code.INVALID_ARGUMENT, "events[1].user_id: empty",
            lambda: node.events.Publish(bad, timeout=TIMEOUT_S))
    refused("k of 0", code.INVALID_ARGUMENT, "k: 0",
            lambda: node.recommendations.Recommend(pb.RecommendRequest(user_id="u"), timeout=TIMEOUT_S))
    refused("unknown item", code.NOT_FOUND, "no item",
            lambda: node.catalog.Get(pb.GetItemRequest(id=uuid.uuid4().hex), timeout=TIMEOUT_S))
    made_up = pb.ReadOptions(level=pb.READ_LEVEL_SESSION, token=b"made up by hand")
    refused("made-up token", code.INVALID_ARGUMENT, "token",
            lambda: node.sessions.Get(pb.GetSessionRequest(user_id="u", read=made_up), timeout=TIMEOUT_S))
    refused("unknown method", code.UNIMPLEMENTED, "method",
            lambda: node.channel.unary_unary("/dunlin.v1.Cluster/Nothing")(b"", timeout=TIMEOUT_S))
    refused("compressed message", code.UNIMPLEMENTED, "identity",
            lambda: node.cluster.Ping(pb.PingRequest(payload=b"x" * 5000), timeout=TIMEOUT_S,
                                      compression=grpc.Compression.Gzip))
    refused("message over the limit", code.RESOURCE_EXHAUSTED, "at most",
            lambda: node.cluster.Ping(pb.PingRequest(payload=b"x" * (5 << 20)), timeout=TIMEOUT_S))
    refused("not a message", code.INVALID_ARGUMENT, "not a valid",
            lambda: node.channel.unary_unary("/dunlin.v1.Cluster/Ping")(b"\xff\xff", timeout=TIMEOUT_S))
    big = node.cluster.Ping(pb.PingRequest(payload=b"y" * (3 << 20)), timeout=TIMEOUT_S)
    check("3 MiB both ways", len(big.payload) == 3 << 20)


def deadlines(pb, health_pb, node):
    refused("expired deadline", grpc.StatusCode.DEADLINE_EXCEEDED, "",
            lambda: node.cluster.Ping(pb.PingRequest(), timeout=-1))
    refused("deadline of a stream", grpc.StatusCode.DEADLINE_EXCEEDED, "",
            lambda: list(node.health.Watch(health_pb.HealthCheckRequest(), timeout=.3)))
    whole = True
    for _ in range(CANCEL_ROUNDS):
        calls = [node.cluster.Ping.future(pb.PingRequest(payload=bytes(1000)), timeout=TIMEOUT_S) for _ in range(200)]
        for call in calls[::2]:
            call.cancel()
        whole = whole and all(len(call.result().payload) == 1000 for call in calls[1::2])
    check("cancelling every other call", whole)


def health(node, health_pb):
    def status(service):
        return node.health.Check(health_pb.HealthCheckRequest(service=service), timeout=TIMEOUT_S).status

    serving = health_pb.HealthCheckResponse.SERVING
    check("health", status("") == serving and status("dunlin.v1.Recommendations") == serving)
    refused("health of an unknown service", grpc.StatusCode.NOT_FOUND, "service", lambda: status("nothing"))
    watch = node.health.Watch(health_pb.HealthCheckRequest())
    check("health watch", next(watch).status == serving)
    watch.cancel()


def concurrent(pb, nodes):
    """Several channels at once; every answer belongs to its question."""
    wrong = []

    def work(number, node):
        for i in range(100):
            payload = f"{number}/{i}".encode()
            if node.cluster.Ping(pb.PingRequest(payload=payload), timeout=TIMEOUT_S).payload != payload:
                wrong.append(payload)

    threads = [threading.Thread(target=work, args=(i, nodes[i % len(nodes)])) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check("800 pings on 8 threads", not wrong, wrong)


def busy(pb, node):
    """Refused for now: RESOURCE_EXHAUSTED with gRPC's own word on when to come back, and then it goes."""
    request = pb.PublishRequest(events=[pb.Event(user_id=f"busy-{i}", item_id="i") for i in range(50)])
    refusals, others = [], []
    for _ in range(20):
        calls = [node.events.Publish.future(request, timeout=TIMEOUT_S) for _ in range(100)]
        for call in calls:
            if call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
                refusals.append(dict(call.trailing_metadata()))
            else:
                others.append((call.code().name, dict(call.trailing_metadata())))
        if refusals:
            break
    pushbacks = [told.get("grpc-retry-pushback-ms", "") for told in refusals]
    check("calls are refused for now", refusals and all(t.isdigit() and 100 <= int(t) < 200 for t in pushbacks), pushbacks)
    # UNAVAILABLE: streams beyond twice the calls are refused by HTTP/2.
    check("the others are not told so", any(code == "OK" for code, _ in others) and all(
        code in ("OK", "UNAVAILABLE") and "grpc-retry-pushback-ms" not in told for code, told in others), others)
    time.sleep(int(pushbacks[0]) / 1000 if pushbacks else 0)
    check("and then it goes", len(node.events.Publish(request, timeout=TIMEOUT_S).outcomes) == 50)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", required=True, help="HOST:PORT of every node, with commas between")
    parser.add_argument("--proto", default=os.path.join(here, "../../api/proto"), help="folder of the .proto files")
    parser.add_argument("--busy", action="store_true", help="the node takes few calls at a time")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dunlin-grpc-") as out_dir:
        pb, rpc, health_pb, health_rpc = generate(options.proto, out_dir)
        nodes = [Node(address, rpc, health_rpc) for address in options.address.split(",")]
        if options.busy:
            busy(pb, nodes[0])
        else:
            clicks(pb, nodes)
            errors(pb, nodes[0])
            deadlines(pb, health_pb, nodes[0])
            health(nodes[0], health_pb)
            concurrent(pb, nodes)
        for node in nodes:
            node.channel.close()
    print(f"{failures} failed, {time.monotonic() - started:.1f} s")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
