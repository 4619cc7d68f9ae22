"""`dunlin eval`: on generated clicks, popularity and rules against plain counts in Python; what must not matter; what is
refused. With --shared, on the Serenade clicks, each source by itself against ../shared/tools/quality_reference.py."""

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import xml.dom.minidom
from collections import Counter, defaultdict

from cluster import BIN, ROOT, seed, skip

checks = 0
DATA = os.path.join(os.path.dirname(ROOT), "shared", "datasets")
# What the reference prints for these splits (docs/quality.md): HR@20 and MRR@20. Live it counts a session when it has
# ended, the server each click at once, so that only batches are the same to a hundredth.
SERENADE = {"popular": (0.0160, 0.0045), "covis": (0.4350, 0.2092), "rules": (0.3726, 0.2035), "vmis": (0.5619, 0.2960)}
SERENADE_PREDICTIONS = 8505


def check(condition, what):
    global checks
    checks += 1
    assert condition, what


def dunlin(*arguments, code=0):
    result = subprocess.run([os.path.join(BIN, "dunlin"), "eval", *arguments], capture_output=True, timeout=600)
    check(result.returncode == code, f"dunlin eval {' '.join(arguments)}: exit code {result.returncode}, not {code}: "
          + (result.stdout + result.stderr).decode(errors="replace")[-2000:])
    return result


def measured(*arguments):
    """The methods of a run, by name."""
    answer = json.loads(dunlin("--json", *arguments).stdout)
    answer["methods"] = {m["name"]: m for m in answer["methods"]}
    return answer


def at(method, k):
    """HR and MRR."""
    found = [a for a in method["at"] if a["k"] == k]
    return found[0]["hr"]["mean"], found[0]["mrr"]["mean"]


# ---- generated clicks ----

def generate(path, sessions):
    """Sessions that walk over 200 items in a few habitual steps, and sometimes anywhere. Returns (name, clicks)."""
    habits = {i: [random.randrange(200) for _ in range(4)] for i in range(200)}
    rows, made = [], []
    for s in range(sessions):
        item, start, clicks = random.randrange(200), 1700000000 + s * 60, []
        for i in range(random.randrange(1, 9)):
            clicks.append((start + i * 7, f"item-{item}"))
            item = random.choice(habits[item]) if random.random() < 0.8 else random.randrange(200)
        made.append(clicks)
        rows += [(ts, f"session-{s}", name) for ts, name in clicks]
    rows.sort()
    with gzip.open(path, "wt") as out:
        out.write("ts\tuser\tsession\titem\ttype\tprice\n")
        for ts, session, name in rows:
            out.write(f"{ts}\t\t{session}\t{name}\tclick\t\n")
    return made


def split(made):
    collapsed = []
    for clicks in made:
        items = [name for i, (_, name) in enumerate(clicks) if i == 0 or clicks[i - 1][1] != name]
        collapsed.append((clicks[0][0], clicks[-1][0], items))
    first, last = min(c[0] for c in collapsed), max(c[1] for c in collapsed)
    cut = last - 0.2 * (last - first)
    train = [c[2] for c in collapsed if c[1] < cut and len(c[2]) > 1]
    test = [c[2] for c in collapsed if c[0] >= cut and len(c[2]) > 1]
    return train, test


def quality(test, best_of):
    hits = total = count = 0
    for items in test:
        for length in range(1, len(items)):
            best = [i for i in best_of(items[:length]) if i != items[length - 1]][:20]
            count += 1
            if items[length] in best:
                hits += 1
                total += 1 / (best.index(items[length]) + 1)
    return hits / count, total / count, count


def against_plain_counts(folder):
    path = os.path.join(folder, "clicks.tsv.gz")
    train, test = split(generate(path, 3000))
    clicks = Counter(i for items in train for i in items)
    top = sorted(clicks, key=lambda i: (-clicks[i], i))
    after = defaultdict(Counter)
    for items in train:
        for a in range(len(items)):
            for b in range(a + 1, min(a + 11, len(items))):
                if items[a] != items[b]:
                    after[items[a]][items[b]] += 1 / (b - a)

    def rules(prefix):
        row = after[prefix[-1]]
        return sorted(row, key=lambda i: (-row[i], i))

    answer = measured("--events", path, "--split", "0.8", "--sources", "popular,rules", "--threads", "2")
    hr, mrr, count = quality(test, lambda prefix: top)
    check(answer["predictions"] == count, f"{answer['predictions']} predictions, not {count}")
    check(answer["log"]["train_sessions"] == len(train), "other sessions to learn from")
    mine = at(answer["methods"]["popular"], 20)
    check(abs(mine[0] - hr) < 1e-9 and abs(mine[1] - mrr) < 1e-9, f"popular: {mine}, not {hr}, {mrr}")
    hr, mrr, _ = quality(test, rules)
    mine = at(answer["methods"]["rules"], 20)
    # Weights are fixed-point numbers there, and places that are left get the items of the moment.
    check(abs(mine[0] - hr) < 0.02 and abs(mine[1] - mrr) < 0.005, f"rules: {mine}, not {hr}, {mrr}")
    check(at(answer["methods"]["blend"], 20)[1] > 5 * at(answer["methods"]["popular"], 20)[1], "the blend learned nothing")
    return path


def what_must_not_matter(folder, path):
    plain = os.path.join(folder, "clicks.tsv")
    with gzip.open(path, "rb") as packed, open(plain, "wb") as out:
        shutil.copyfileobj(packed, out)
    once = measured("--events", path, "--k", "5,20")
    again = measured("--events", plain, "--k", "5,20", "--threads", "3")
    for name in once["methods"]:
        check(once["methods"][name]["at"] == again["methods"][name]["at"], f"{name} differs from run to run")


def live(folder, path):
    chart = os.path.join(folder, "chart.svg")
    answer = measured("--events", path, "--live", "--plot", chart)
    check(answer["mode"] == "live" and answer["events"] > answer["log"]["train_events"], "nothing was applied live")
    check(answer["learning"]["steps"] > answer["predictions"], "nothing was learned live")
    windows = answer["methods"]["blend"]["windows"]
    check(len(windows) == 40, f"{len(windows)} windows")
    lines = xml.dom.minidom.parse(chart).getElementsByTagName("polyline")
    check(len(lines) == 10, f"{len(lines)} lines in the chart")
    table = dunlin("--events", path, "--live", "--k", "20").stdout.decode()
    for word in ("hit rate", "coverage", "vstan", "CPU us", "less the blend"):
        check(word in table, f"'{word}' is not in the table")


def refusals(folder, path):
    bad = os.path.join(folder, "bad.tsv")
    with open(bad, "w") as out:
        out.write("ts\tuser\tsession\titem\ttype\tprice\n1\t\ts\ta\tclick\t\nnever\t\ts\tb\tclick\t\n")
    check("line 3" in dunlin("--events", bad, code=1).stderr.decode(), "the line is not told")
    dunlin("--events", os.path.join(folder, "nothing"), code=1)
    for wrong in ([], ["--events", path, "--k", "20,5"], ["--events", path, "--split", "1"],
                  ["--events", path, "--sources", "magic"], ["--events", path, "--plot", bad],
                  ["--events", path, "--test", path, "--live"]):
        dunlin(*wrong, code=2)
    named = dunlin("--events", path, "--only", "magic", code=2).stderr.decode()
    check("session_vector" in named and "trending" in named, "the methods there are, are not named")
    check("--item-pattern" in dunlin("--help").stdout.decode(), "--help tells no options")


# ---- real clicks ----

def against_the_reference():
    events = os.path.join(DATA, "serenade_toy.tsv.gz")
    if not os.path.exists(events):
        skip("shared", "the data folder ../shared/datasets is not beside the checkout")
    answer = measured("--events", events, "--sources", ",".join(SERENADE), "--threads", "2", "--k", "20")
    check(answer["predictions"] == SERENADE_PREDICTIONS, f"{answer['predictions']} predictions")
    for name, (hr, mrr) in SERENADE.items():
        mine = at(answer["methods"][name], 20)
        print(f"{name}: HR@20 {mine[0]:.4f} (reference {hr}), MRR@20 {mine[1]:.4f} (reference {mrr})")
        check(abs(mine[0] - hr) <= 0.01 and abs(mine[1] - mrr) <= 0.01, f"{name} is not within 0.01 of the reference")
    blend = at(answer["methods"]["blend"], 20)
    print(f"blend: HR@20 {blend[0]:.4f}, MRR@20 {blend[1]:.4f}")
    check(blend[0] > 0.64 and blend[1] > 0.37, "the blend is worse than it was")


def main():
    if "--shared" in sys.argv[1:]:
        against_the_reference()
        print(f"1 passed, 0 failed ({checks} checks)")
        return
    random.seed(seed())
    folder = tempfile.mkdtemp(prefix="dunlin-eval.")
    try:
        path = against_plain_counts(folder)
        what_must_not_matter(folder, path)
        live(folder, path)
        refusals(folder, path)
    finally:
        shutil.rmtree(folder)
    print(f"1 passed, 0 failed ({checks} checks)")


main()
