"""Writers that remember what was acknowledged, and the check that all of it is present exactly once on every node."""

import threading
import time

import grpc

from cluster import pb, wait_until

USERS_PER_WRITER = 150
EVENTS_PER_USER_MAX = 45  # below events_per_user, so that a read shows all of them


class Writer(threading.Thread):
    """Publishes unique events in small batches through changing nodes; repeats what was not answered under the same
    event ids. A user's events are all this writer's. `acked_at` holds the monotonic time of every acknowledged call."""

    def __init__(self, cluster, number, rng):
        super().__init__(daemon=True)
        self.cluster, self.number, self.rng = cluster, number, rng
        self.acked, self.maybe, self.stop, self.count, self.errors = {}, {}, False, 0, []
        self.acked_at = []

    def run(self):
        try:
            while not self.stop:
                self.publish(self.batch())
        except Exception as error:  # shown by the main thread
            self.errors.append(error)

    def batch(self):
        events = []
        for _ in range(self.rng.randrange(1, 20)):
            self.count += 1
            user = f"w{self.number}-r{self.count // (USERS_PER_WRITER * EVENTS_PER_USER_MAX)}-u{self.count % USERS_PER_WRITER}"
            # The event id is not shown by reads: item and time together make an event recognisable.
            events.append(pb.Event(user_id=user, item_id=f"item-{self.rng.randrange(2000)}", type=pb.EVENT_TYPE_CLICK,
                                   time_ms=int(time.time() * 1000), event_id=f"{self.number}-{self.count}"))
        return events

    def publish(self, events):
        while events and not self.stop_now():
            node = self.rng.choice(self.cluster.nodes)
            try:
                answer = node.stub("Events").Publish(pb.PublishRequest(events=events), timeout=2)
            except (grpc.RpcError, ValueError):
                time.sleep(0.02)
                continue
            left = []
            for event, outcome in zip(events, answer.outcomes):
                if outcome in (pb.EVENT_OUTCOME_ACCEPTED, pb.EVENT_OUTCOME_DUPLICATE):
                    self.acked.setdefault(event.user_id, []).append((event.item_id, event.time_ms))
                elif outcome == pb.EVENT_OUTCOME_UNKNOWN:
                    left.append(event)
                else:
                    raise AssertionError(f"event refused: {pb.EventOutcome.Name(outcome)}")
            if len(left) < len(events):
                self.acked_at.append(time.monotonic())
            events = left
        for event in events:
            self.maybe.setdefault(event.user_id, []).append((event.item_id, event.time_ms))

    def stop_now(self):
        return self.stop and time.monotonic() > self.stop_at

    def finish(self):
        self.stop_at = time.monotonic() + 20
        self.stop = True
        self.join()
        if self.errors:
            raise self.errors[0]


def check(cluster, writers, label):
    """Every node, every user: the list holds each acknowledged event once, and nothing that was never sent."""
    total = 0
    for node in cluster.nodes:
        sessions = node.stub("Sessions")
        for writer in writers:
            for user in set(writer.acked) | set(writer.maybe):
                acked, maybe = writer.acked.get(user, []), writer.maybe.get(user, [])
                answer = sessions.Get(pb.GetSessionRequest(user_id=user, read=pb.ReadOptions(
                    level=pb.READ_LEVEL_LOCAL)), timeout=10)
                got = sorted((e.item_id, e.time_ms) for e in answer.events)
                assert len(acked) + len(maybe) <= 50, "the test wrote more than a list shows"
                missing = list(acked)
                for event in got:
                    if event in missing:
                        missing.remove(event)
                    else:
                        assert event in maybe, f"{label}: node {node.number}, {user}: {event} twice or never sent"
                assert not missing, f"{label}: node {node.number}, {user}: lost {missing}"
                total += len(acked)
    print(f"{label}: {total // len(cluster.nodes)} acknowledged events, each exactly once on {len(cluster.nodes)} nodes",
          flush=True)


def barrier(cluster):
    """Brings every node up to everything acknowledged: one LINEARIZABLE read in each shard."""
    for node in cluster.nodes:
        for n in range(40):  # 40 users fall into every one of 4 shards
            wait_until("a linearizable read", lambda n=n: node.stub("Sessions").Get(
                pb.GetSessionRequest(user_id=f"barrier-{n}", read=pb.ReadOptions(level=pb.READ_LEVEL_LINEARIZABLE)),
                timeout=5) is not None)


def verify(cluster, writers, label):
    cluster.wait_ready()
    barrier(cluster)
    check(cluster, writers, label)
    cluster.assert_equal_hashes()
