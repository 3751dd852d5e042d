"""README.md's tour, typed literally: python readme.py DIRECTORY_OF_ICEBOX

Every `console` block is run in one shell, and what it prints must be what README shows. Ids, times, revisions and page tokens that
the server makes up differ from run to run, and only they may.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
MADE_UP = [
    (re.compile(r'"(createTime|updateTime)": "[^"]+"'), r'"\1": "…"'),
    # An import writes several records at once, in any order.
    (re.compile(r'"revision": "[^"]+"'), '"revision": "…"'),
    (re.compile(r'"nextPageToken": "[^"]+"'), '"nextPageToken": "…"'),
    (re.compile(r"\b0[0-9a-f]{11}7[0-9a-f]{19}\b"), "…"),
]


def normalized(text):
    for pattern, replacement in MADE_UP:
        text = pattern.sub(replacement, text)
    return [line.rstrip() for line in text.strip().splitlines()]


def steps(readme):
    """The commands of the tour with the output that each shows."""
    for block in re.findall(r"^```console\n(.*?)^```", readme, re.MULTILINE | re.DOTALL):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = step.partition("\n")
            yield command, shown


def main():
    binaries = pathlib.Path(sys.argv[1]).resolve()
    readme = (REPOSITORY / "README.md").read_text()
    with tempfile.TemporaryDirectory() as directory:
        server = subprocess.Popen(
            [binaries / "icebox", "serve", "--store", f"{directory}/icebox.db"], stderr=subprocess.PIPE, text=True
        )
        try:
            first_line = json.loads(server.stderr.readline())
            assert first_line["fields"]["address"] == "127.0.0.1:50051", first_line
            failed = run(steps(readme), binaries)
        finally:
            server.terminate()
            server.communicate(timeout=15)
    (REPOSITORY / "catalog.json").unlink(missing_ok=True)
    return failed


def run(tour, binaries):
    # The exports of one step are seen by the next: a marker line separates their output.
    marker = "=== end of step ==="
    tour = list(tour)
    script = "".join(f"{command}\necho '{marker}'\n" for command, _ in tour)
    # README builds into target/release; wherever the binary is, it comes first.
    script = script.replace("$PWD/target/release", str(binaries))
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=REPOSITORY,
        env=os.environ | {"COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    printed = done.stdout.split(marker + "\n")
    for (command, shown), said in zip(tour, printed):
        if normalized(said) != normalized(shown):
            print(f"README shows something else for\n$ {command}\n--- README\n{shown}--- now\n{said}")
            return 1
        print(f"ok  {command[:100]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
