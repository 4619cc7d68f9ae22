"""A minute of chaos on three real nodes: the verdict must be valid; its history, judged again from its file, gives the
same; and the same history with one acknowledged event taken out of what was read at the end is rejected."""

import json
import os
import re
import subprocess
import sys
import tempfile

from cluster import BIN

PROGRAM = os.path.join(BIN, "dunlin-chaos")
NEMESES = "kill-leader,kill-all,pause-leader,isolate-leader,partition-halves,slow-link,restart"
SEED = 20261121


def judged(verdict):
    return {rule["rule"]: (rule["verdict"], rule["judged"], rule["violations"]) for rule in verdict["rules"]}


def check(history):
    done = subprocess.run([PROGRAM, "check", "--json", history], capture_output=True, text=True, timeout=120)
    return done.returncode, json.loads(done.stdout)


def run(folder, seconds):
    done = subprocess.run([PROGRAM, "run", "--seconds", str(seconds), "--seed", str(SEED), "--nodes", "3", "--nemesis",
                           NEMESES, "--json", "--out", folder], stdout=subprocess.PIPE, text=True,
                          timeout=seconds + 300)
    if done.returncode == 3:
        print("skipped: this machine cannot start a cluster for it (the message is above)")
        sys.exit(77)
    return done.returncode, json.loads(done.stdout)


def break_history(source, target):
    """Takes the last event, which was acknowledged, out of every final read of one user."""
    with open(source, encoding="utf-8") as file:
        lines = file.readlines()
    final = max(i for i, line in enumerate(lines) if ":f :fault" in line and '"final"' in line)
    last_event = re.compile(r":type :ok.*:f :read,.*:user (\d+),.*:events \[.*?( ?\[(\d+) [^\[\]]*\])\]")
    accepted = {event for line in lines if ":f :publish" in line for event in re.findall(r"\[(\d+) \d+ :accepted\]", line)}
    user, changed = None, 0
    for i in range(final, len(lines)):
        match = last_event.search(lines[i])
        if not match or match.group(3) not in accepted or match.group(1) != (user or match.group(1)):
            continue
        user = match.group(1)
        lines[i] = lines[i][:match.start(2)] + lines[i][match.end(2):]
        changed += 1
    assert changed == 3, f"user {user} was read {changed} times at the end, not at each node"
    with open(target, "w", encoding="utf-8") as file:
        file.writelines(lines)


def main():
    seconds = int(os.environ.get("DUNLIN_CHAOS_SECONDS", "60"))
    folder = tempfile.mkdtemp(prefix="dunlin-test.")
    code, verdict = run(folder, seconds)
    assert code == 0, f"violated: see {folder}"
    first = judged(verdict)
    for rule in ("lost", "twice", "invented", "order", "slices", "real-time", "token", "monotonic", "age", "hash", "leader",
                 "recovery", "converged"):
        assert first[rule][0] == "valid", (rule, first[rule])
    history = os.path.join(folder, "history.edn")
    code, again = check(history)
    assert code == 0 and judged(again) == first, (first, judged(again))

    broken = os.path.join(folder, "broken.edn")
    break_history(history, broken)
    code, verdict = check(broken)
    assert code == 1 and judged(verdict)["lost"][0] == "violated", (code, judged(verdict))
    print(f"{seconds} s of {NEMESES}: valid; judged again: the same; with a lost event: rejected")
    subprocess.run(["rm", "-rf", folder], check=True)


if __name__ == "__main__":
    main()
