#!/usr/bin/env python3
"""Static checks on the text of the tree: run by scripts/check.sh, which says what each one is for.

Prints file:line: message for each finding; exit code 1 when there is one. Standard library only.
`--root DIR` checks another tree. `--list c|shell` prints the files that check.sh hands to other tools.
"""

import argparse
import os
import posixpath
import re
import subprocess
import sys

# Which rooms a room may include headers of (docs/architecture.md). A room may always include itself.
ARROWS = {
    "base": set(),
    "journal": {"base"},
    "transport": {"base"},
    "consensus": {"base", "journal", "transport"},
    "session": {"base"},
    "index": {"base"},
    "recommend": {"base", "session", "index"},
    "api/proto": {"base"},
    "client": {"base", "api/proto"},
    "ingest": {"base", "api/proto", "consensus", "session"},
    "api": {"base", "api/proto", "consensus", "session", "index", "recommend"},
    "replay": {"base", "api/proto", "client"},
    "chaos": {"base", "api/proto", "client"},
}
ALL_ROOMS = set(ARROWS) | {"node", "tests"}
ARROWS["node"] = ALL_ROOMS - {"tests"}
ARROWS["tests"] = ALL_ROOMS

# What others may include of a room, beside <room>/<room>.h; its README must name them too. Of base: all but
# *_private.h.
MORE_PUBLIC = {"session/record.h", "client/names.h", "client/progress.h", "replay/feed.h",
               "journal/disk.h", "ingest/source.h", "ingest/schema.h", "ingest/deadletter.h",
               "ingest/deadletter_file.h", "ingest/reader.h", "consensus/history.h",
               "session/near.h", "recommend/variant.h", "recommend/model.h", "recommend/learn.h", "recommend/eval.h"}
# Generated headers are found by these folders, not under api/proto.
GENERATED = re.compile(r"^(dunlin|grpc)/.*\.pb-c\.h$")
# Inside apply, time is what the entry says (base/clock.h).
FORBIDDEN = {("session", "base/clock.h"): "replicated code reads no clock"}

README_LINES_MAX = 80
FILE_LINES_MAX = 800
C_ENDINGS = (".c", ".h", ".cc")
LONG_ENDINGS = C_ENDINGS + (".py", ".sh")
SOURCE_ENDINGS = LONG_ENDINGS + (".proto", ".cmake", ".txt", ".yaml", ".yml", ".js", ".css", ".html")
SKIPPED_FOLDERS = {".git", "build", ".cache", "__pycache__", "node_modules"}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
# Written in pieces, so that this file does not find itself.
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b")
MACHINE_PATH = re.compile(r"(?<![\w.~}$)-])/(?:work|root|home/\w+)/")
REGISTRY = re.compile(
    r"(?:deb|security|snapshot|ftp)[.]debian[.]org|pypi[.]org|files[.]pythonhosted[.]org|registry[.]npmjs[.]org"
    r"|proxy[.]golang[.]org|repo1?[.]maven([.]apache)?[.]org"
)


def tree_files(root):
    """Tracked files and new ones that are not ignored; where there is no git, every file."""
    try:
        out = subprocess.run(
            ["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            capture_output=True, check=True).stdout
        top = subprocess.run(["git", "-C", root, "rev-parse", "--show-toplevel"],
                             capture_output=True, check=True, text=True).stdout.strip()
        if os.path.realpath(top) == os.path.realpath(root):
            names = sorted(set(out.decode().split("\0")) - {""})
            return [n for n in names if os.path.isfile(os.path.join(root, n))]
    except (OSError, subprocess.CalledProcessError):
        pass
    names = []
    for folder, folders, files in os.walk(root):
        folders[:] = [f for f in folders if f not in SKIPPED_FOLDERS]
        names += [os.path.relpath(os.path.join(folder, f), root) for f in files]
    return sorted(names)


class Tree:
    def __init__(self, root):
        self.root = root
        self.names = tree_files(root)
        self.known = set(self.names)
        self.findings = []

    def lines(self, name):
        """The lines of a text file; none of a file with a NUL byte in it."""
        with open(os.path.join(self.root, name), "rb") as file:
            content = file.read()
        if b"\0" in content:
            return []
        return content.decode("utf-8", "replace").splitlines()

    def find(self, name, line, message):
        self.findings.append(f"{name}:{line}: {message}")

    def shell_or_python(self, name):
        """"shell", "python" or None, by the ending or else by the first line."""
        if name.endswith(".sh"):
            return "shell"
        if name.endswith(".py"):
            return "python"
        if "." in posixpath.basename(name):
            return None
        first = (self.lines(name) or [""])[0]
        if re.match(r"#!.*\b(ba|da)?sh\b", first):
            return "shell"
        return "python" if re.match(r"#!.*\bpython", first) else None


def room_of(name):
    if name.startswith("api/proto/"):
        return "api/proto"
    first = name.split("/")[0]
    return first if first in ALL_ROOMS and "/" in name else None


def include_target(tree, name, quote, path):
    """(room, path from the root) of an included header, or (None, path) of a header that is not ours."""
    if GENERATED.match(path):
        return "api/proto", path
    beside = posixpath.normpath(posixpath.join(posixpath.dirname(name), path))
    from_root = posixpath.normpath(path)
    if quote == '"' and beside in tree.known:
        return room_of(beside), beside
    return room_of(from_root), from_root


def is_public(room, path):
    if room == "base":
        return not path.endswith("_private.h")
    return room == "api/proto" or path in MORE_PUBLIC or path == f"{room}/{posixpath.basename(room)}.h"


def include_fault(room, target, path):
    """Why this include is wrong, or None."""
    if (room, path) in FORBIDDEN:
        return f"{room} may not include {path}: {FORBIDDEN[room, path]}"
    if target is None or target == room:
        return None
    if target not in ARROWS[room]:
        allowed = ", ".join(sorted(ARROWS[room])) or "nothing of ours"
        return f"{room} may not include {path}: it may include {allowed}"
    if room != "tests" and not is_public(target, path):
        return f"{path} is private to {target}"
    return None


def check_includes(tree):
    for name in tree.names:
        if not name.endswith(C_ENDINGS):
            continue
        room = room_of(name)
        if room is None:
            tree.find(name, 1, "C source outside the rooms: " + ", ".join(sorted(ALL_ROOMS)))
            continue
        for number, line in enumerate(tree.lines(name), 1):
            match = INCLUDE.match(line)
            if match is None:
                continue
            fault = include_fault(room, *include_target(tree, name, match[1], match[2]))
            if fault is not None:
                tree.find(name, number, fault)


def check_readmes(tree):
    rooms = {room_of(n) for n in tree.names if n.endswith(C_ENDINGS + (".proto",))} - {None}
    for room in sorted(rooms):
        name = f"{room}/README.md"
        if name not in tree.known:
            tree.find(name, 1, "missing: what the room owns, its invariants, where to start reading")
            continue
        count = len(tree.lines(name))
        if count > README_LINES_MAX:
            tree.find(name, count, f"{count} lines; one screen is {README_LINES_MAX} at most")
        text = "\n".join(tree.lines(name))
        for header in sorted(h for h in MORE_PUBLIC & tree.known if room_of(h) == room):
            if posixpath.basename(header) not in text:
                tree.find(name, 1, f"does not name {posixpath.basename(header)}, which other rooms may include")


def check_words_and_paths(tree):
    for name in tree.names:
        is_source = name.endswith(SOURCE_ENDINGS) or tree.shell_or_python(name) is not None
        for number, line in enumerate(tree.lines(name), 1):
            word = UNFINISHED.search(line)
            if is_source and word is not None:
                tree.find(name, number, f"'{word[0]}': finish it, or open an issue")
            if MACHINE_PATH.search(line):
                tree.find(name, number, "path of one machine")
            if REGISTRY.search(line):
                tree.find(name, number, "host of a package registry: derive it from the machine's own settings")


def check_lengths(tree):
    for name in tree.names:
        count = len(tree.lines(name)) if name.endswith(LONG_ENDINGS) else 0
        if count > FILE_LINES_MAX:
            tree.find(name, count, f"{count} lines; more than {FILE_LINES_MAX} asks to be two files")


def check_python_syntax(tree):
    for name in tree.names:
        if tree.shell_or_python(name) != "python":
            continue
        try:
            compile("\n".join(tree.lines(name)) + "\n", name, "exec", dont_inherit=True)
        except SyntaxError as error:
            tree.find(name, error.lineno or 1, f"Python: {error.msg}")


CHECKS = (check_includes, check_readmes, check_words_and_paths, check_lengths, check_python_syntax)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default=os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    parser.add_argument("--list", choices=("c", "shell"), help="print the names of these files, NUL after each")
    options = parser.parse_args()
    tree = Tree(options.root)

    if options.list is not None:
        chosen = [n for n in tree.names if (
            n.endswith(C_ENDINGS) if options.list == "c" else tree.shell_or_python(n) == "shell")]
        sys.stdout.write("".join(n + "\0" for n in chosen))
        return 0
    for check in CHECKS:
        check(tree)
    for finding in tree.findings:
        print(finding)
    if not tree.findings:
        print(f"text: {len(tree.names)} files, nothing found")
    return 1 if tree.findings else 0


if __name__ == "__main__":
    sys.exit(main())
