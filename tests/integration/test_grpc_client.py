"""A stock Python grpcio client, stubs generated from the protobuf files, nothing of dunlin's: publishes, recommends
with the token at a follower and sees its click; health; error codes; deadlines; bad input."""

import math
import time

import grpc

from cluster import Cluster, health_pb2, health_pb2_grpc, pb, wait_until

DIM = 8
failures = []
checks = 0


def check(condition, what):
    global checks
    checks += 1
    if not condition:
        failures.append(what)
        print("FAILED:", what, flush=True)


def refused(code, call, what, says=""):
    """The call must fail with this status code and a message that holds `says`."""
    try:
        call()
        check(False, f"{what}: was not refused")
    except grpc.RpcError as error:
        check(error.code() == code, f"{what}: {error.code().name} instead of {code.name}: {error.details()}")
        check(says in (error.details() or ""), f"{what}: the message does not say '{says}': {error.details()}")
        check(len(error.details() or "") > 5, f"{what}: no message")


def vector(i):
    angle = 2 * math.pi * i / 100
    return [math.cos(angle), math.sin(angle)] + [0.01] * (DIM - 2)


def load_catalog(node):
    items = [pb.Item(id=f"item-{i}", vector=vector(i), category="even" if i % 2 == 0 else "odd", price=float(i),
                     has_price=True, attributes=[pb.Attribute(key="colour", value="red" if i % 3 == 0 else "blue")])
             for i in range(100)]
    answer = node.stub("Catalog").Upsert(pb.UpsertItemsRequest(items=items), timeout=10)
    check(answer.upserted == 100, f"upserted {answer.upserted}")
    return answer.token


def session_read(token):
    return pb.ReadOptions(level=pb.READ_LEVEL_SESSION, token=token)


def followers_see_clicks(cluster):
    """50 times: publish at one node, ask another with the token; the click must be in the answer's session."""
    for n in range(50):
        writer, reader = cluster.nodes[n % 3], cluster.nodes[(n + 1) % 3]
        user = f"user-{n % 7}"
        published = writer.stub("Events").Publish(pb.PublishRequest(events=[pb.Event(
            user_id=user, item_id=f"item-{n}", type=pb.EVENT_TYPE_CLICK, event_id=f"e{n}")]), timeout=5)
        check(list(published.outcomes) == [pb.EVENT_OUTCOME_ACCEPTED], f"outcome {published.outcomes}")
        session = reader.stub("Sessions").Get(pb.GetSessionRequest(user_id=user, read=session_read(published.token)),
                                              timeout=5)
        check(any(e.item_id == f"item-{n}" for e in session.events), f"click {n} is not in the follower's session")
        answer = reader.stub("Recommendations").Recommend(
            pb.RecommendRequest(user_id=user, k=10, read=session_read(published.token)), timeout=5)
        check(len(answer.items) == 10, f"{len(answer.items)} items")
        check(f"item-{n}" not in [i.id for i in answer.items], "the clicked item was recommended")
        check(answer.session_version > 0 and answer.freshness.node != "", "no version or node in the answer")
        check(all(i.reason and i.source for i in answer.items), "an item without a reason")
    again = cluster.nodes[0].stub("Events").Publish(pb.PublishRequest(events=[pb.Event(
        user_id="user-0", item_id="item-49", type=pb.EVENT_TYPE_CLICK, event_id="e49")]), timeout=5)
    check(list(again.outcomes)[0] in (pb.EVENT_OUTCOME_DUPLICATE, pb.EVENT_OUTCOME_ACCEPTED), "repeat")


def repeats_count_once(node):
    event = pb.Event(user_id="repeater", item_id="item-1", event_id="same", time_ms=int(time.time() * 1000))
    first = node.stub("Events").Publish(pb.PublishRequest(events=[event, event]), timeout=5)
    second = node.stub("Events").Publish(pb.PublishRequest(events=[event]), timeout=5)
    check(list(first.outcomes) == [0, 1] and list(second.outcomes) == [1], f"{first.outcomes} {second.outcomes}")
    session = node.stub("Sessions").Get(pb.GetSessionRequest(user_id="repeater", read=session_read(second.token)),
                                        timeout=5)
    check(len(session.events) == 1, f"{len(session.events)} events after a repeat")


def last_click_changes_answer(node):
    def ask(token):
        return [i.id for i in node.stub("Recommendations").Recommend(
            pb.RecommendRequest(user_id="mover", k=5, read=session_read(token)), timeout=5).items]

    def click(item):
        return node.stub("Events").Publish(pb.PublishRequest(events=[pb.Event(user_id="mover", item_id=item)]),
                                           timeout=5).token
    first = ask(click("item-10"))
    # user-N clicked every seventh item: those are what is clicked near it.
    check(all((int(i.split("-")[1]) - 10) % 7 == 0 for i in first), f"clicked near item-10: {first}")
    click("item-60")
    second = ask(click("item-61"))
    check(first != second, "the answer did not move with the clicks")


def filters_and_lists(node):
    rec = node.stub("Recommendations")
    red = rec.Recommend(pb.RecommendRequest(items=["item-30"], k=20, filter=pb.Filter(terms=[
        pb.FilterTerm(name="colour", values=["red"]), pb.FilterTerm(name="price", has_max=True, max=60.0)])), timeout=5)
    check(red.items and all(int(i.id.split("-")[1]) % 3 == 0 and int(i.id.split("-")[1]) <= 60 for i in red.items),
          f"filter: {[i.id for i in red.items]}")
    similar = rec.Similar(pb.SimilarRequest(item_id="item-50", k=4), timeout=5)
    check({i.id for i in similar.items} == {"item-48", "item-49", "item-51", "item-52"},
          f"similar: {[i.id for i in similar.items]}")
    # The list is made anew every 200 ms of the group's time: right behind the clicks it may be the one of before.
    wait_until("something is trending after 50 clicks", lambda: rec.Trending(pb.TrendingRequest(k=5), timeout=5).items)
    cold = rec.Recommend(pb.RecommendRequest(user_id="nobody-knows-me", k=20), timeout=5)
    check(len(cold.items) == 20, f"a cold user got {len(cold.items)} items")
    node.stub("Catalog").Delete(pb.DeleteItemsRequest(ids=["item-49"]), timeout=5)
    read = pb.ReadOptions(level=pb.READ_LEVEL_LINEARIZABLE)
    similar = rec.Similar(pb.SimilarRequest(item_id="item-50", k=4, read=read), timeout=5)
    check("item-49" not in [i.id for i in similar.items], "a deleted item is returned")
    refused(grpc.StatusCode.NOT_FOUND, lambda: node.stub("Catalog").Get(
        pb.GetItemRequest(id="item-49", read=read), timeout=5), "deleted item")


def erase(cluster):
    node = cluster.nodes[0]
    deleted = node.stub("Sessions").Delete(pb.DeleteSessionRequest(user_id="user-1"), timeout=5)
    check(deleted.existed, "user-1 was there")
    for other in cluster.nodes:
        session = other.stub("Sessions").Get(pb.GetSessionRequest(user_id="user-1", read=session_read(deleted.token)),
                                             timeout=5)
        check(not session.found and len(session.events) == 0, "an erased user is still there")
    old = node.stub("Events").Publish(pb.PublishRequest(events=[pb.Event(
        user_id="user-1", item_id="item-1", time_ms=int(time.time() * 1000) - 60000, event_id="old")]), timeout=5)
    check(list(old.outcomes) == [pb.EVENT_OUTCOME_ERASED], f"an event older than the erasure: {old.outcomes}")


def health(node):
    stub = health_pb2_grpc.HealthStub(node.channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for service in ["", "dunlin.v1.Recommendations", "dunlin.v1.Events"]:
        check(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status == serving, "health " + service)
    refused(grpc.StatusCode.NOT_FOUND, lambda: stub.Check(health_pb2.HealthCheckRequest(service="no.Such"), timeout=5),
            "health of an unknown service")
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=""), timeout=30)
    check(next(watch).status == serving, "health watch")
    watch.cancel()


def bad_input(node):
    bad = grpc.StatusCode.INVALID_ARGUMENT
    events, rec, catalog = node.stub("Events"), node.stub("Recommendations"), node.stub("Catalog")
    sessions = node.stub("Sessions")
    now = int(time.time() * 1000)

    def publish(**fields):
        fields = {"user_id": "u", "item_id": "i", **fields}
        return lambda: events.Publish(pb.PublishRequest(events=[pb.Event(user_id="u", item_id="i"), pb.Event(**fields)]),
                                      timeout=5)
    refused(bad, publish(user_id=""), "empty user", "events[1].user_id")
    refused(bad, publish(user_id="x" * 257), "long user", "256")
    refused(bad, publish(item_id=""), "empty item", "events[1].item_id")
    refused(bad, publish(item_id="\0"), "NUL in an item id", "item_id")
    refused(bad, publish(event_id="x" * 257), "long event id", "event_id")
    refused(bad, publish(time_ms=-1), "negative time", "time_ms")
    refused(bad, publish(time_ms=now + 2 * 86400 * 1000), "two days ahead", "time_ms")
    refused(bad, publish(type=99), "unknown type", "type")
    refused(bad, publish(weight=float("nan")), "NaN weight", "weight")
    refused(bad, publish(weight=-1.0), "negative weight", "weight")
    refused(bad, lambda: events.Publish(pb.PublishRequest(), timeout=5), "no events", "events")
    refused(bad, lambda: events.Publish(pb.PublishRequest(events=[pb.Event(user_id="u", item_id="i")] * 10001),
                                        timeout=20), "10,001 events", "10000")
    for k in (0, 1001):
        refused(bad, lambda k=k: rec.Recommend(pb.RecommendRequest(user_id="u", k=k), timeout=5), f"k {k}", "k")
    refused(bad, lambda: rec.Recommend(pb.RecommendRequest(k=5), timeout=5), "neither user nor items", "user_id")
    refused(bad, lambda: rec.Recommend(pb.RecommendRequest(user_id="u", k=5, filter=pb.Filter(terms=[
        pb.FilterTerm(name="no-such", values=["x"])])), timeout=5), "unknown filter attribute", "no-such")
    refused(bad, lambda: rec.Similar(pb.SimilarRequest(k=5), timeout=5), "neither item nor vector", "vector")
    refused(bad, lambda: rec.Similar(pb.SimilarRequest(k=5, vector=[1.0] * 3), timeout=5), "wrong dimension", str(DIM))
    refused(grpc.StatusCode.NOT_FOUND, lambda: rec.Similar(pb.SimilarRequest(k=5, item_id="nope"), timeout=5),
            "similar to an unknown item", "nope")
    for what, values in {"NaN": [float("nan")] * DIM, "infinite": [float("inf")] * DIM, "zero": [0.0] * DIM,
                         "wrong dimension": [1.0] * 3}.items():
        refused(bad, lambda v=values: catalog.Upsert(pb.UpsertItemsRequest(items=[pb.Item(id="bad", vector=v)]),
                                                     timeout=5), f"{what} vector", "vector")
    refused(bad, lambda: catalog.Upsert(pb.UpsertItemsRequest(items=[pb.Item(id="")]), timeout=5), "empty item id", "id")
    refused(bad, lambda: sessions.Get(pb.GetSessionRequest(user_id="u", read=pb.ReadOptions(
        level=pb.READ_LEVEL_SESSION, token=b"made up")), timeout=5), "made-up token", "token")
    refused(bad, lambda: sessions.Get(pb.GetSessionRequest(user_id="u", read=pb.ReadOptions(
        level=pb.READ_LEVEL_SESSION)), timeout=5), "no token", "token")

    def raw(method, payload, **options):
        return node.channel.unary_unary(method)(payload, timeout=5, **options)
    refused(grpc.StatusCode.UNIMPLEMENTED, lambda: raw("/dunlin.v1.Events/Nope", b""), "unknown method", "Nope")
    refused(grpc.StatusCode.UNIMPLEMENTED, lambda: raw("/no.Service/Nope", b""), "unknown service")
    refused(bad, lambda: raw("/dunlin.v1.Events/Publish", b"\xff\xff\xff\xff"), "broken protobuf")
    refused(bad, lambda: raw("/dunlin.v1.Events/Publish", b"\x0a\x05\x0a\x03\xff\xfe\xfd"), "invalid UTF-8", "user_id")
    refused(grpc.StatusCode.RESOURCE_EXHAUSTED, lambda: raw("/dunlin.v1.Cluster/Ping", b"\x0a" + b"x" * (5 << 20)),
            "5 MiB message")
    refused(grpc.StatusCode.UNIMPLEMENTED, lambda: raw("/dunlin.v1.Cluster/Ping", b"", compression=grpc.Compression.Gzip)
            if raw("/dunlin.v1.Cluster/Ping", b"") == b"" else None, "gzip")
    refused(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: node.stub("Cluster").Ping(pb.PingRequest(), timeout=-1),
            "expired deadline")


def no_majority(cluster):
    """Two of three nodes dead: reads go on, writes run into their deadline, and nothing hangs."""
    survivor, dead = cluster.nodes[0], cluster.nodes[1:]
    for node in dead:
        node.kill()
    begun = time.monotonic()
    try:
        survivor.stub("Events").Publish(pb.PublishRequest(events=[pb.Event(user_id="u", item_id="i")]), timeout=1.5)
        check(False, "a write without a majority was acknowledged")
    except grpc.RpcError as error:
        check(error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE), str(error.code()))
    check(time.monotonic() - begun < 30, "the write hung")
    answer = survivor.stub("Recommendations").Recommend(pb.RecommendRequest(user_id="user-3", k=5), timeout=5)
    check(len(answer.items) == 5, "reads must go on without a majority")
    wait_until("the age grows", lambda: survivor.stub("Recommendations").Recommend(
        pb.RecommendRequest(user_id="user-3", k=5), timeout=5).freshness.stale)
    refused(grpc.StatusCode.UNAVAILABLE, lambda: survivor.stub("Recommendations").Recommend(pb.RecommendRequest(
        user_id="user-3", k=5, read=pb.ReadOptions(max_staleness_ms=200)), timeout=5), "max_staleness", "stale")
    for node in dead:
        node.start()
    cluster.wait_ready()


def main():
    cluster = Cluster().start()
    token = load_catalog(cluster.nodes[0])
    for node in cluster.nodes:
        node.stub("Catalog").Get(pb.GetItemRequest(id="item-1", read=session_read(token)), timeout=5)
    followers_see_clicks(cluster)
    repeats_count_once(cluster.nodes[1])
    last_click_changes_answer(cluster.nodes[2])
    filters_and_lists(cluster.nodes[0])
    erase(cluster)
    health(cluster.nodes[0])
    bad_input(cluster.nodes[0])
    no_majority(cluster)
    cluster.assert_equal_hashes()
    for node in cluster.nodes:
        check(node.stop() == 0, f"node {node.number} did not stop cleanly")
    print(f"{checks} checks, {len(failures)} failed")
    raise SystemExit(1 if failures else 0)


main()
