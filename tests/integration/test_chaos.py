"""A minute of chaos on three real nodes: the verdict must be valid; its history, judged again from its file, gives the
same; and the same history with one acknowledged event taken out of what was read at the end is rejected. Then a short
run of the stream alone, and its history with one event of the stream taken out at the end, and with a dead letter more.
With --kafka: the same with a real Kafka broker as the stream, which is killed, restarted, paused and cut off meanwhile."""

import json
import os
import re
import subprocess
import sys
import tempfile

from cluster import BIN
from kafka import ROOT, SKIP

PROGRAM = os.path.join(BIN, "dunlin-chaos")
NEMESES = "kill-leader,kill-all,pause-leader,isolate-leader,partition-halves,slow-link,restart"
SEED = 20261121
STREAM_NEMESES = "kill-leader,kill-follower,isolate-leader,partition-halves,pause-leader"
STREAM_SECONDS = 20
KAFKA_NEMESES = "broker-kill,broker-restart,broker-pause,broker-cut,topic-grow,kill-leader,isolate-leader"
KAFKA_SECONDS = 24
KAFKA_SEED = 630  # each of them is among the first seven
KAFKA = os.path.join(ROOT, "scripts", "kafka.sh")


def judged(verdict):
    return {rule["rule"]: (rule["verdict"], rule["judged"], rule["violations"]) for rule in verdict["rules"]}


def check(history):
    done = subprocess.run([PROGRAM, "check", "--json", history], capture_output=True, text=True, timeout=120)
    return done.returncode, json.loads(done.stdout)


def run(folder, seconds, nemeses, *more, seed=SEED):
    done = subprocess.run([PROGRAM, "run", "--seconds", str(seconds), "--seed", str(seed), "--nodes", "3", "--nemesis",
                           nemeses, "--json", "--out", folder, *more], stdout=subprocess.PIPE, text=True,
                          timeout=seconds + 300)
    if done.returncode == 3:
        print("skipped: this machine cannot start a cluster for it (the message is above)")
        sys.exit(77)
    return done.returncode, json.loads(done.stdout)


ACCEPTED = (":f :publish", r"\[(\d+) \d+ :accepted\]")
STREAMED = (":type :ok, :process :nemesis, :f :ingest", r"\[(\d+) \d+ \d+\]")


def read_lines(path):
    with open(path, encoding="utf-8") as file:
        return file.readlines()


def write_lines(path, lines):
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(lines)


def final_line(lines):
    return max(i for i, line in enumerate(lines) if ":f :fault" in line and '"final"' in line)


def break_history(source, target, kind=ACCEPTED):
    """Takes the last event, which was acknowledged (or is in the stream), out of every final read of one user."""
    lines = read_lines(source)
    final = final_line(lines)
    last_event = re.compile(r":type :ok.*:f :read,.*:user (\d+),.*:events \[.*?( ?\[(\d+) [^\[\]]*\])\]")
    erased = {user for line in lines if ":f :erase" in line for user in re.findall(r":user (\d+)", line)}
    accepted = {event for line in lines if kind[0] in line for event in re.findall(kind[1], line)}
    user, changed = None, 0
    for i in range(final, len(lines)):
        match = last_event.search(lines[i])
        if not match or match.group(3) not in accepted or match.group(1) in erased or \
                match.group(1) != (user or match.group(1)):
            continue
        user = match.group(1)
        lines[i] = lines[i][:match.start(2)] + lines[i][match.end(2):]
        changed += 1
    assert changed == 3, f"user {user} was read {changed} times at the end, not at each node"
    write_lines(target, lines)


def change_last(source, target, what, number, by=1):
    """Adds to a number of the first row of the history's last answer of this kind."""
    lines = read_lines(source)
    at = max(i for i, line in enumerate(lines) if re.search(rf":type :ok, :process \d+, :f :{what},", line))
    row = re.search(r":rows \[\[([\d ]+)\]", lines[at])
    numbers = row.group(1).split()
    numbers[number] = str(int(numbers[number]) + by)
    lines[at] = lines[at][:row.start(1)] + " ".join(numbers) + lines[at][row.end(1):]
    write_lines(target, lines)


def rejected_by(history, rule):
    code, verdict = check(history)
    assert code == 1 and judged(verdict)[rule][0] == "violated", (rule, code, judged(verdict))


def faults_made(history):
    """Their names, in their order: a slow machine makes fewer in the same time."""
    lines = (line for line in read_lines(history) if ':type :info, :process :nemesis, :f :fault' in line)
    return [re.search(r':name "([^"]*)"', line).group(1) for line in lines
            if ':what "begin"' in line and '"final"' not in line and "not begun" not in line]


def stream(seconds, nemeses, *more, seed=SEED):
    folder = tempfile.mkdtemp(prefix="dunlin-test.")
    code, verdict = run(folder, seconds, nemeses, "--workload", "ingest", *more, seed=seed)
    assert code == 0, f"violated: see {folder}"
    for rule in ("offset", "stream", "twice", "invented", "lost", "real-time"):
        assert judged(verdict)[rule][0] == "valid", (rule, judged(verdict)[rule])
    history, broken = os.path.join(folder, "history.edn"), os.path.join(folder, "broken.edn")
    break_history(history, broken, STREAMED)
    rejected_by(broken, "stream")
    change_last(history, broken, "dead-letters", 1)
    rejected_by(broken, "stream")
    change_last(history, broken, "offsets", 3, by=1000)  # more than erasures may have dropped
    rejected_by(broken, "stream")
    change_last(history, broken, "offsets", 2)
    rejected_by(broken, "offset")
    print(f"{seconds} s of a stream under {','.join(faults_made(history))}: valid; changed by one event, count or offset: "
          "rejected")
    subprocess.run(["rm", "-rf", folder], check=True)


def stream_of_kafka():
    setup = subprocess.run([KAFKA, "setup"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if setup.returncode != 0:
        print(f"{'SKIPPED' if setup.returncode == SKIP else 'FAILED'} (kafka): {setup.stdout.strip()}")
        sys.exit(setup.returncode)
    stream(KAFKA_SECONDS, KAFKA_NEMESES, "--stream", "kafka", "--kafka", KAFKA, "--fault", "800-2000", "--quiet", "300-900",
           seed=KAFKA_SEED)


def main():
    seconds = int(os.environ.get("DUNLIN_CHAOS_SECONDS", "60"))
    folder = tempfile.mkdtemp(prefix="dunlin-test.")
    code, verdict = run(folder, seconds, NEMESES)
    assert code == 0, f"violated: see {folder}"
    first = judged(verdict)
    for rule in ("lost", "twice", "invented", "order", "slices", "real-time", "token", "monotonic", "age", "hash", "leader",
                 "recovery", "converged", "offset", "stream"):
        assert first[rule][0] == "valid", (rule, first[rule])
    history = os.path.join(folder, "history.edn")
    code, again = check(history)
    assert code == 0 and judged(again) == first, (first, judged(again))

    broken = os.path.join(folder, "broken.edn")
    break_history(history, broken)
    rejected_by(broken, "lost")
    print(f"{seconds} s of {NEMESES}: valid; judged again: the same; with a lost event: rejected")
    subprocess.run(["rm", "-rf", folder], check=True)
    stream(STREAM_SECONDS, STREAM_NEMESES)


if __name__ == "__main__":
    stream_of_kafka() if "--kafka" in sys.argv else main()
