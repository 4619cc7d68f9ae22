"""State rebuilt offline is the state of the cluster: from each node's log the hash that Cluster.Status told, and from
the file that the cluster read the same sessions in canonical form."""

import csv
import json
import os
import random
import subprocess
import time

from cluster import BIN, Cluster, pb, seed, wait_until

checks = 0


def check(condition, what):
    global checks
    checks += 1
    assert condition, what


def dunlin(*arguments, code=0):
    result = subprocess.run([os.path.join(BIN, "dunlin"), *arguments], capture_output=True, timeout=120)
    check(result.returncode == code, f"dunlin {' '.join(arguments)}: exit code {result.returncode} instead of {code}: "
          + (result.stdout + result.stderr).decode(errors="replace")[-2000:])
    return result


def write_history(path, count):
    """Events of some hours until now, slightly out of order, some far too late, and lines that are no events."""
    now = int(time.time() * 1000)
    events = []
    with open(path, "w") as out:
        for i in range(count):
            at = now - (count - i) * 1000 - random.randrange(20000)
            if random.random() < 0.01:
                at -= 3600 * 1000  # late: the allowed lateness is 5 minutes
            event = {"user_id": f"user-{random.randrange(300)}", "item_id": f"item-{random.randrange(2000)}",
                     "type": random.choice(["view", "click", "cart", "buy"]), "time_ms": at}
            events.append(event)
            out.write(json.dumps(event) + "\n")
            if random.random() < 0.005:
                out.write("no event\n")
    return events


def groups_of(node):
    return {g.group: g for g in node.status().groups}


def publish(cluster, count, prefix):
    """Clicks by the API, so that the log holds more than one kind of record."""
    events = [pb.Event(user_id=f"clicker-{i % 20}", item_id=f"api-{i}", event_id=f"{prefix}{i}") for i in range(count)]

    def accepted():  # or counted before: a leader may move meanwhile
        answer = cluster.nodes[0].stub("Events").Publish(pb.PublishRequest(events=events), timeout=10)
        return all(o in (pb.EVENT_OUTCOME_ACCEPTED, pb.EVENT_OUTCOME_DUPLICATE) for o in answer.outcomes)
    wait_until("clicks are accepted", accepted)


def wait_read(cluster, history):
    size = os.path.getsize(history)
    for node in cluster.nodes:
        def read(node=node):
            rows = node.stub("Sources").List(pb.ListSourcesRequest(), timeout=3).partitions
            return len(rows) == cluster.shards and all(row.next_offset == size for row in rows)
        wait_until(f"the file is read and applied on node {node.number}", read)


def replayed(node, *arguments, code=0):
    answer = json.loads(dunlin("replay", "log", "--data-dir", node.folder, "--json", *arguments, code=code).stdout)
    return {g["group"]: g for g in answer["groups"]}


def logs_give_the_hashes(cluster, told):
    for node in cluster.nodes:
        for group, (index, state_hash) in told[node.number].items():
            found = replayed(node, "--group", str(group), "--to-index", str(index))[group]
            check(found["index"] == index and int(found["state_hash"], 16) == state_hash,
                  f"node {node.number} group {group}: {found} instead of {state_hash:016x} at {index}")
            check(found["hashes_differing"] == 0, f"reported hashes: {found}")
    for node in cluster.nodes:
        index, state_hash = told[node.number][0]
        found = replayed(node, "--group", "0", "--to-index", str(index), "--from-start")[0]
        check(found["from_index"] == 0 and int(found["state_hash"], 16) == state_hash, f"from the start: {found}")
        sure = replayed(node, "--to-index", "sure")
        check(any(g["from_index"] > 0 for g in sure.values()), f"no snapshot was used: {sure}")
        check(set(sure) == set(told[node.number]), f"groups of node {node.number}: {sorted(sure)}")
        check(all(g["index"] == g["sure_index"] <= g["last_index"] for g in sure.values()), f"sure: {sure}")
        last = replayed(node)
        check(all(g["index"] == g["last_index"] for g in last.values()), f"last: {last}")
        check(any(g["hashes_equal"] > 0 for g in last.values()), f"no reported hash was compared: {last}")


def lines_of(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def dumps_are_equal(cluster):
    """The sessions of stream users, by the committed log of each node and by the source's history."""
    from_source = os.path.join(cluster.folder, "source.jsonl")
    summary = json.loads(dunlin("replay", "source", "--config", cluster.nodes[0].config, "--source", "history", "--json",
                                f"--dump={from_source}").stdout)
    by_source = lines_of(from_source)
    check(len(by_source) == summary["users_dumped"] == 300, f"users of the source: {summary}")
    check(summary["late"] > 0 and summary["dead"].get("undecodable", 0) > 0, f"nothing late or undecodable: {summary}")
    for node in cluster.nodes:
        from_log = os.path.join(cluster.folder, f"log-{node.number}.jsonl")
        dunlin("replay", "log", "--data-dir", node.folder, f"--dump={from_log}")
        by_log = [line for line in lines_of(from_log) if not line["events"][0]["item"].startswith("api-")]
        check(by_log == by_source, f"node {node.number}: the sessions differ")
    check(any(len(line["events"]) > 1 for line in by_source), "sessions of more than one event")
    return summary


def features_are_rows(cluster, summary):
    out = os.path.join(cluster.folder, "features.csv")
    told = json.loads(dunlin("replay", "source", "--config", cluster.nodes[0].config, "--features", out, "--json").stdout)
    check(told["accepted"] == told["feature_rows"] == summary["accepted"], f"rows: {told}")
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    check(len(rows) == told["feature_rows"], f"{len(rows)} rows")
    buys = os.path.join(cluster.folder, "buys.jsonl")
    dunlin("replay", "source", "--config", cluster.nodes[0].config, "--features", buys, "--at", "buy", "--last", "3",
           "--show-ids")
    some = lines_of(buys)
    check(len(some) == sum(row["type"] == "buy" for row in rows), "rows at buys")
    check(all(row["user_id"].startswith("user-") and len(row["last_items"]) <= 3 for row in some), "ids, three items")


def many_files_are_read(cluster):
    """More files, each of more than one event, than a node holds open at a time."""
    folder, config = os.path.join(cluster.folder, "many"), os.path.join(cluster.folder, "many.yaml")
    os.mkdir(folder)
    for i in range(300):
        with open(os.path.join(folder, f"{i:03}.jsonl"), "w") as out:
            for j in range(3):
                out.write(json.dumps({"user_id": f"user-{i}", "item_id": f"item-{j}", "time_ms": 1700000000000 + i + j * 1000}) + "\n")
    with open(cluster.nodes[0].config) as file, open(config, "w") as out:
        out.write(file.read().split("sources:\n")[0] + f"sources:\n  - name: many\n    kind: file\n    paths: [\"{folder}\"]\n")
    summary = json.loads(dunlin("replay", "source", "--config", config, "--json", f"--dump={config}.dump").stdout)
    check(summary["partitions"] == summary["users_dumped"] == 300 and summary["accepted"] == 900, f"300 files: {summary}")


def bad_arguments():
    for arguments in (["log"], ["log", "--data-dir", "x", "--to-index", "5"], ["source"], ["both"],
                      ["log", "--data-dir", "x", "--group", "0", "--dump"],
                      ["source", "--config", "x", "--features", "rows.txt"], ["source", "--config", "x", "--at", "buy"],
                      ["source", "--config", "no-such-file"]):
        check(dunlin("replay", *arguments, code=2).stderr, f"silent: {arguments}")
    check(b"data directory" in dunlin("replay", "log", "--data-dir", "no-such-folder", code=1).stderr, "no folder")


def main():
    random.seed(seed())
    bad_arguments()
    cluster = Cluster(3, shards=4)
    history = os.path.join(cluster.folder, "history.jsonl")
    write_history(history, 20000)
    cluster.write_configs("raft:\n  snapshot_log_bytes: 65536\n" f"sources:\n  - name: history\n    kind: file\n    paths: [\"{history}\"]\n")
    cluster.start()
    for i in range(40):  # nodes report hashes at every 16th entry, in ticks
        publish(cluster, 20, f"e{i}-")
        time.sleep(0.02)
    wait_read(cluster, history)
    cluster.assert_equal_hashes()
    told = {node.number: {g: (s.hash_index, s.state_hash) for g, s in groups_of(node).items()} for node in cluster.nodes}
    running = dunlin("replay", "log", "--data-dir", cluster.nodes[0].folder, code=1)
    check(b"running" in running.stderr, f"a running node's: {running.stderr}")
    for node in cluster.nodes:
        check(node.stop() == 0, "clean stop")
    logs_give_the_hashes(cluster, told)
    features_are_rows(cluster, dumps_are_equal(cluster))
    many_files_are_read(cluster)
    print(f"{checks} checks, 0 failed")


main()
