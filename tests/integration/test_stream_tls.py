"""A broker that wants TLS and SASL (SCRAM-SHA-512), and one who comes with the right password and authority, with a wrong
password, with an authority that did not sign the broker's certificate, and without TLS: the first reads, and writes its
dead letters, the others are told clearly why not, by `dunlin source list`, the log (once) and the metrics; no secret is
told anywhere."""

import json
import re
import os
import time

from cluster import Cluster, pb, seed, wait_until

import kafka
import stream

PARTITIONS = 4
PASSWORD = "right"  # kafka.sh's
WRONG = "dunlin-wrong-5512"  # begins like the user name
EVENTS, USERS = 2000, 100
# What each one is told; and which properties it shall look at.
REFUSED = {"password": ("refused", "sasl.*"), "authority": ("refused", "ssl.*"), "plain": ("no broker of", "security.protocol")}


def write_secret(path, text):
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
        out.write(text)
    return path


def properties(ca, password_file, **changes):
    return {"security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512", "sasl.username": "dunlin",
            "sasl.password_file": password_file, "ssl.ca.location": ca, **changes}


def sources(broker, folder):
    right, wrong = write_secret(os.path.join(folder, "right"), PASSWORD), write_secret(os.path.join(folder, "wrong"), WRONG)
    given = {"good": properties(broker.ca, right), "password": properties(broker.ca, wrong),
             "authority": properties(broker.other_ca, right), "plain": {"security.protocol": "PLAINTEXT"}}
    return stream.sources(*[
        stream.kafka_source(name, broker, [name], address=broker.address_tls, keyed=True, properties=of,
                            dead_letters={"to": "topic", "topic": "dead"}) for name, of in given.items()])


def told(node):
    """{source: why it cannot read}, as the API says."""
    return {t.source: t.error for t in node.stub("Sources").List(pb.ListSourcesRequest(), timeout=5).troubles}


def check_told(cluster):
    """Each of the refused, and nobody else, by the API, the command line and the metrics of a node that reads."""
    def all_said():
        said = {}
        for node in cluster.nodes:
            here = told(node)
            if set(here) != set(REFUSED):
                return False
            said.update(here)
        all_said.last = said
        return set(said) == set(REFUSED) and all(word in said[name] for name, words in REFUSED.items() for word in words)

    all_said.last = None
    try:
        wait_until("each is told why", all_said)
    except AssertionError:
        print(f"said is: {all_said.last}", flush=True)
        raise
    for name, text in sorted(all_said.last.items()):
        print(f"{name}: {text}", flush=True)
    for node in cluster.nodes:
        listed = stream.dunlin(node, "source", "list")
        here = told(node)
        seconds = stream.metrics(node, "dunlin_source_trouble_seconds")
        for name, error in here.items():
            assert error[:60] in " ".join(listed.split()), (name, error, listed)
        for labels, value in seconds.items():
            name = labels.split('source="')[1].split('"')[0]
            assert (value > 0) == (name in REFUSED), (node.number, labels, value)
        assert len(seconds) == len(REFUSED) + 1, seconds


def check_log(cluster, seconds):
    """It goes on to be so; each node says it of each source once, and whoever comes to lead a shard of its streams once."""
    time.sleep(seconds)
    said = 0
    for node in cluster.nodes:
        text = node.log_text()
        for shard in range(1, cluster.shards + 1):
            lines = re.findall(rf"group {shard}: its streams stand still.*", text)
            assert len(lines) <= len(re.findall(rf"group {shard}: leader of term", text)), (node.number, lines)
            said += len(lines)
    assert said >= cluster.shards, said
    for node in cluster.nodes:
        for name, words in REFUSED.items():
            lines = [line for line in node.log_text().splitlines() if f"source '{name}'" in line]
            assert len(lines) == 1 and all(word in lines[0] for word in words), (node.number, name, lines)
        assert "source 'good': a broker" not in node.log_text()


def check_secrets(cluster):
    for node in cluster.nodes:
        said = node.log_text() + stream.dunlin(node, "source", "list") + stream.dunlin(node, "source", "list", "--json")
        said += str(node.status()) + str(told(node))
        assert WRONG not in said and WRONG.removeprefix("dunlin") not in said, f"node {node.number} tells the password"


def check_good(cluster, broker):
    """Events are counted, and a message that is none is in the topic, through TLS both ways."""
    events = stream.clicks("tls", EVENTS, USERS, stream.now_ms())
    stream.send(broker, "good", events)
    poison = b"{ no event"
    broker.produce_lines("good", [(b"x", poison)], 0)
    stream.wait_counted(cluster, broker, "good", "good")
    stream.assert_sessions(cluster, stream.by_user(events), "through TLS")
    wait_until("the letter is written", lambda: len(broker.values("dead")) > 0)
    letters = [json.loads(line) for line in broker.values("dead")]
    assert {(x["source"], x["reason"], x["partition"]) for x in letters} == {("good", "undecodable", 0)}, letters
    for name in REFUSED:
        assert not stream.offsets(cluster.nodes[0], f"{name}/{name}"), name
    print(f"{EVENTS} events and a dead letter through TLS and SCRAM", flush=True)


def main():
    seed()
    broker = kafka.Broker(tls=True)
    for topic in ("good", *REFUSED):
        broker.create(topic, PARTITIONS)
    broker.create("dead", 1)
    cluster = Cluster()
    cluster.write_configs(sources(broker, cluster.folder))
    cluster.start()
    check_told(cluster)
    check_good(cluster, broker)
    check_log(cluster, 5)
    check_secrets(cluster)
    for node in cluster.nodes:
        assert node.stop() == 0, f"node {node.number} did not stop cleanly"
    print("1 passed, 0 failed")


main()
