"""The made-up click logs: the same options give the same bytes; times rise; each world has what it is there for; `dunlin eval`
reads all of them, and finds nothing better than the bound."""

import json
import os
import subprocess
import tempfile
from collections import Counter, defaultdict

BIN = os.environ["DUNLIN_BIN"]
SMALL = ["--items", "1000", "--sessions", "1500", "--days", "10"]


def clicks(*arguments, code=0):
    done = subprocess.run([os.path.join(BIN, "clicks"), *arguments], capture_output=True, timeout=60)
    assert done.returncode == code, f"clicks {' '.join(arguments)}: {done.returncode}, {done.stderr.decode()}"
    return done


def rows_of(text):
    lines = text.decode().splitlines()
    assert lines[0] == "ts\tuser\tsession\titem\ttype\tprice"
    return [line.split("\t") for line in lines[1:]]


def check_rows(world, rows):
    sessions, users, last = defaultdict(list), defaultdict(set), 0.0
    for ts, user, session, item, kind, price in rows:
        assert float(ts) >= last and kind == "click" and (price != "") == (world == "market"), (ts, kind, price)
        last = float(ts)
        sessions[session].append(item)
        users[user].add(session)
    assert 1200 < len(sessions) < 1800, len(sessions)
    assert all(a != b for items in sessions.values() for a, b in zip(items, items[1:])), "the item just clicked"
    repeats = sum(len(items) - len(set(items)) for items in sessions.values()) / len(rows)
    visits = len(sessions) / len(users)
    if world == "news":
        assert repeats == 0 and visits == 1, (repeats, visits)
        times = defaultdict(list)
        for row in rows:
            times[row[3]].append(float(row[0]))
        half = sorted(at[len(at) // 2] - at[0] for at in times.values() if len(at) >= 5)
        assert half[len(half) // 2] < 12 * 3600, "half of an item's clicks take half a day"
    elif world == "music":
        assert repeats > 0.2 and visits > 10, (repeats, visits)
    elif world == "market":
        assert 0.03 < repeats < 0.3 and 1 < visits < 1.5, (repeats, visits)
    else:
        top = Counter(row[3] for row in rows).most_common(20)
        share = sum(count for _, count in top) / len(rows)
        assert abs(share - 3.6 / 7.49) < 0.05, share  # Zipf's law: H(20) / H(1000)


def check_eval(world, text, bound):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "clicks.tsv")
        with open(path, "wb") as file:
            file.write(text)
        done = subprocess.run([os.path.join(BIN, "dunlin"), "eval", "--json", "--events", path, "--k", "20"],
                              capture_output=True, timeout=100)
        assert done.returncode == 0, done.stderr.decode()
    answer = json.loads(done.stdout)
    # The evaluator's split is in the span from the first click to the last: some minutes less than the days.
    assert abs(answer["predictions"] - bound["predictions"]) <= 0.1 * bound["predictions"] + 20, answer["predictions"]
    for method in answer["methods"]:
        reached = method["at"][0]["hr"]
        assert reached["mean"] - 2 * reached["half"] <= bound["hr"], (world, method["name"], reached, bound)


def main():
    for world in ("news", "music", "market", "noise"):
        with tempfile.NamedTemporaryFile() as file:
            text = clicks(world, *SMALL, "--bound", file.name).stdout
            bound = json.load(file)
        assert clicks(world, *SMALL).stdout == text, f"{world} differs from run to run"
        assert clicks(world, *SMALL, "--seed", "2").stdout != text, f"{world} has one seed"
        assert bound["world"] == world and 0 < bound["mrr"] < bound["hr"] < 1, bound
        check_rows(world, rows_of(text))
        check_eval(world, text, bound)
    for wrong in (["weather"], ["news", "--items", "x"], ["news", "--seed", "0"], ["news", "more"], ["news", "--no"]):
        assert b"--help" in clicks(*wrong, code=2).stderr, wrong
    assert b"out of memory, or not" in clicks("news", "--items", "5", code=1).stderr
    print("clicks: 4 worlds, the same each time, readable, none better than its bound")


main()
