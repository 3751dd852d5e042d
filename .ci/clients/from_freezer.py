"""docs/from-freezer.md, command by command, against Freezer's own API: python from_freezer.py DIRECTORY_OF_ICEBOX DIRECTORY_OF_THEIR_PROGRAMS

What the old API has must be in the new one, document by document.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "benches/freezer"))
import original  # noqa: E402

ICEBOX, PROGRAMS = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
PROJECT = "752d8bd43d654e7a840bbfda77ce41af"
KINDS = ["clients", "actions", "sessions", "jobs", "backups"]
TIMEOUT_S = 180
# Freezer's own bookkeeping, and what it calls a session that has never run.
OWN = {"_version", "last_start", "time_started", "time_ended", "status"}


def commands(document):
    for block in re.findall(r"^```console\n(.*?)^```", document, re.MULTILINE | re.DOTALL):
        yield from re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]


def ask(at, kind, token, document=None, method=None):
    headers = {"X-Auth-Token": token, "Content-Type": "application/json"}
    body = document and json.dumps(document).encode()
    request = urllib.request.Request(f"{at}/v2/{PROJECT}/{kind}", body, headers, method=method)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return json.loads(answer.read() or "null")


def fill(at):
    """What a small deployment has."""
    action = {"action": "backup", "mode": "fs", "backup_name": "etc", "container": "c", "path_to_backup": "/etc", "storage": "local"}
    ask(at, "clients", "", {"client_id": "node1", "hostname": "node1", "uuid": "u1", "description": "the first"})
    stored = ask(at, "actions", "", {"freezer_action": action | {"backup_name": "stored"}, "max_retries": 3})["action_id"]
    session = ask(at, "sessions", "", {"description": "weekly", "hold_off": 60, "schedule": {"schedule_interval": "7 days"}})
    jobs = []
    for n in range(12):
        schedule = {"schedule_interval": "1 days", "schedule_start_date": "2026-11-27T00:00:00"}
        job = {"description": f"job {n}", "client_id": "node1", "job_schedule": schedule}
        job["job_actions"] = [{"freezer_action": action | {"backup_name": f"etc {n}"}, "max_retries": 5, "max_retries_interval": 6}]
        jobs.append(ask(at, "jobs", "", job)["job_id"])
    ask(at, "jobs", "", {"description": "shared", "client_id": "node1", "job_schedule": {}, "job_actions": [{"action_id": stored}]})
    ask(at, f"sessions/{session['session_id']}/jobs/{jobs[0]}", "", method="PUT")
    [sample, *_] = json.loads((REPOSITORY / "tests/data/backups-list.json").read_text())["backups"]
    for n in range(25):
        ask(at, "backups", "", sample["backup_metadata"] | {"backup_name": f"backup {n}", "time_stamp": 1486660214 + n, "job_id": jobs[1]})


def by_id(documents, kind):
    key = f"{kind[:-1]}_id"
    return {(document.get("client") or document)[key]: document for document in documents[kind]}


def compared(old, new, path):
    """What was in the old document is in the new one."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in old.items():
            # An action has its job's project.
            if key in OWN or (key == "project_id" and "job_actions" in path) or value in (None, "", [], {}, False, 0):
                continue
            assert key in new, f"{path}.{key} is missing: {value!r}"
            compared(value, new[key], f"{path}.{key}")
    elif isinstance(old, list):
        assert len(old) == len(new), f"{path}: {old} and {new}"
        for n, (one, other) in enumerate(zip(old, new)):
            compared(one, other, f"{path}[{n}]")
    else:
        assert old == new or str(old) == str(new), f"{path}: {old!r} and {new!r}"


def main():
    with tempfile.TemporaryDirectory() as scratch:
        directory = pathlib.Path(scratch)
        with original.running(PROGRAMS, directory) as old:
            fill(old)
            environment = os.environ | {"OLD": old, "OLD_TOKEN": "notused", "PROJECT": PROJECT, "PATH": f"{ICEBOX}:{PROGRAMS}:{os.environ['PATH']}"}
            # Processes that the shell has started end with it.
            script = "set -e\ntrap 'kill $(jobs -p)' EXIT\n"
            for command in commands((REPOSITORY / "docs/from-freezer.md").read_text()):
                line = command.splitlines()[0][:100].replace("'", "")
                script += f"{command}\necho 'ok  {line}'\n"
            script += "for kind in %s; do curl --silent --fail --header \"X-Auth-Token: $(cat root.token)\" \"http://127.0.0.1:9091/v2/$PROJECT/$kind?limit=1000\" > new-$kind.json; done\n" % " ".join(KINDS)
            done = subprocess.run(["bash", "-c", script], cwd=directory, env=environment, timeout=TIMEOUT_S)
            assert done.returncode == 0, f"a command of docs/from-freezer.md has failed: {(directory / 'icebox.log').read_text()[-2000:]}"
        for kind in KINDS:
            before, after = (by_id(json.loads((directory / f"{name}{kind}.json").read_text()), kind) for name in ("", "new-"))
            assert before.keys() == after.keys(), f"{kind}: {before.keys() ^ after.keys()}"
            for found, document in before.items():
                compared(document, after[found], f"{kind} {found}")
            print(f"ok  {len(before)} {kind} are the same in both")


main()
