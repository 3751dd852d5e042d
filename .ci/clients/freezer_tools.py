"""Freezer's own tools, unmodified, against Icebox: python freezer_tools.py PATH_TO_ICEBOX DIRECTORY_OF_THEIR_PROGRAMS

Every command of the OpenStack client's plugin does what it says, and a scheduler picks up a job that was created over gRPC, has the
agent make the backup, and reports it.
"""

import atexit
import configparser
import csv
import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SAMPLES = REPOSITORY / "tests/data"
ICEBOX = str(pathlib.Path(sys.argv[1]).resolve())
PROGRAMS = pathlib.Path(sys.argv[2]).resolve()
# The project of the published documents.
PROJECT = "752d8bd43d654e7a840bbfda77ce41af"
TIMEOUT_S = 60
# The scheduler takes a few seconds for a poll, two for its clock, and some for the agent.
RUN_TIMEOUT_S = 90

work = pathlib.Path(tempfile.mkdtemp())
atexit.register(lambda: subprocess.run(["rm", "-rf", str(work)]))
used = set()


def new_token(*who):
    made = subprocess.run(
        [ICEBOX, "token", "new", "--project", PROJECT, *who], check=True, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    with open(work / "tokens.toml", "a") as tokens:
        tokens.write(made.stdout)
    return made.stderr.strip()


def serve():
    """A server, by where it speaks gRPC and HTTP."""
    server = subprocess.Popen(
        [ICEBOX, "serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--tokens", work / "tokens.toml"]
        + ["--store", work / "icebox.db"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"ICEBOX_LOG": "warn"},
    )
    atexit.register(server.kill)
    return [json.loads(server.stderr.readline())["fields"]["address"] for _ in range(2)]


MEMBER = new_token("--role", "member", "--user-id", "alice")
AGENT = new_token("--role", "agent", "--user-id", "node1", "--client-id", "node1")
GRPC, HTTP = serve()


def icebox(*arguments, document=None):
    """What the `icebox` command gives, over gRPC."""
    done = subprocess.run(
        [ICEBOX, *arguments, "--server", GRPC, "--project", PROJECT, "-o", "json"],
        input=document and json.dumps(document),
        env=os.environ | {"ICEBOX_TOKEN": MEMBER},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def get(kind):
    """A document over HTTP."""
    request = urllib.request.Request(f"http://{HTTP}/v2/{PROJECT}/{kind}", headers={"X-Auth-Token": MEMBER})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return json.load(answer)


def openstack(*arguments, token=MEMBER, expect=0):
    words = [word for word in arguments if re.fullmatch("[a-z]+|add-job|remove-job", word)]
    used.add("_".join(["backup", *words[:2]]).replace("-", "_"))
    used.add("_".join(["backup", *words[:1]]).replace("-", "_"))
    done = subprocess.run(
        [PROGRAMS / "openstack", "--os-auth-type", "admin_token", "--os-token", token]
        + ["--os-endpoint", f"http://{HTTP}/v2/{PROJECT}", "backup", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == expect, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout if expect == 0 else done.stderr


def shown(*arguments):
    """The fields that a command shows, by their names."""
    return json.loads(openstack(*arguments, "-f", "json"))


def listed(*arguments):
    """The rows of a list. The client cannot write its times as JSON."""
    return list(csv.DictReader(io.StringIO(openstack(*arguments, "-f", "csv"))))


def file(name, document):
    path = work / name
    path.write_text(json.dumps(document))
    return str(path)


def job(name, source="/etc", schedule=None):
    action = {"action": "backup", "mode": "fs", "backup_name": name, "container": str(work / "store")}
    action |= {"path_to_backup": str(source), "storage": "local"}
    return {"description": name, "job_schedule": schedule or {}, "job_actions": [{"freezer_action": action, "max_retries": 0}]}


def published():
    """The documents of Freezer's reference come back as they are."""
    for name, kind in [("backups-list.json", "backups"), ("jobs-list.json", "jobs")]:
        subprocess.run(
            [ICEBOX, "import", "--server", GRPC, "--project", PROJECT, "--into-project", PROJECT, SAMPLES / name],
            env=os.environ | {"ICEBOX_TOKEN": MEMBER},
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
        )
        samples = json.loads((SAMPLES / name).read_text())[kind]
        id_field = f"{kind[:-1]}_id"
        stored = {document[id_field]: document for document in get(kind)[kind]}
        for sample in samples:
            document = stored[sample[id_field]]
            # A member's import is signed with its own name.
            signed = {"user_id", "user_name"}
            for key in sample.keys() - signed - {"job_actions"}:
                assert document[key] == sample[key], (key, document)
            extra = document.keys() - sample.keys()
            assert extra <= {"project_id"}, extra
    created = shown("job", "create", "--file", str(SAMPLES / "job-create.json"), "--client", "node1")
    assert created["Description"] == "Test-0001", created
    openstack("job", "delete", created["Job ID"])


def clients():
    registered = shown("client", "register", "--file", file("client.json", {"client_id": "c1", "hostname": "h1", "uuid": "u1"}))
    assert registered["Client ID"] == "c1", registered
    assert [client["hostname"] for client in listed("client", "list")] == ["h1"]
    assert shown("client", "show", "c1")["Client UUID"] == "u1"
    openstack("client", "delete", "c1")
    assert "not found" in openstack("client", "show", "c1", expect=1).lower()


def backups():
    metadata = {"backup_name": "etc", "container": "c", "hostname": "h1", "time_stamp": 1490000000, "max_level": ""}
    created = shown("create", "--file", file("backup.json", metadata))
    assert created["Project ID"] == PROJECT and created["Status"] == "available", created
    rows = listed("list", "--search", '[{"hostname": "h1"}]')
    assert [row["Hostname"] for row in rows] == ["h1"], rows
    assert len(listed("list")) == len(get("backups")["backups"])
    assert len(listed("list", "--limit", "1", "--offset", "1")) == 1
    backup_id = rows[0]["Backup ID"]
    assert "etc" in shown("show", backup_id)["Metadata"]
    openstack("delete", backup_id)
    openstack("show", backup_id, expect=1)


def jobs():
    created = shown("job", "create", "--file", file("job.json", job("nightly")), "--client", "c1")
    job_id = created["Job ID"]
    assert created["Client ID"] == "c1" and created["User ID"] == "alice", created
    assert [row["Job ID"] for row in listed("job", "list", "--client", "c1")] == [job_id]
    assert listed("job", "list", "--search", '[{"client_id": "nobody"}]')[0]["Job ID"] == ""
    assert "nightly" in openstack("job", "get", job_id)
    openstack("job", "start", job_id)
    assert shown("job", "show", job_id)["Event"] == "start"
    running = {"job_schedule": {"status": "running", "event": ""}}
    updated = shown("job", "update", job_id, file("running.json", running))
    assert updated["Status"] == "running" and updated["Description"] == "nightly", updated
    openstack("job", "abort", job_id)
    openstack("job", "stop", job_id)
    assert icebox("jobs", "get", job_id)["job_schedule"]["event"] == "stop"
    return job_id


def actions():
    document = {"freezer_action": job("etc")["job_actions"][0]["freezer_action"], "max_retries": 3}
    action_id = shown("action", "create", "--file", file("action.json", document))["Action ID"]
    assert [row["Action ID"] for row in listed("action", "list")] == [action_id]
    assert shown("action", "update", action_id, file("retries.json", {"max_retries": 7}))["Max_retries"] == 7
    assert shown("action", "show", action_id)["Name"] == "etc"
    openstack("action", "delete", action_id)
    openstack("action", "show", action_id, expect=1)


def sessions(job_id):
    document = {"description": "weekly", "hold_off": 60, "schedule": {"schedule_interval": "7 days"}}
    session_id = shown("session", "create", "--file", file("session.json", document))["Session ID"]
    assert [row["Description"] for row in listed("session", "list")] == ["weekly"]
    which = ["--session-id", session_id, "--job-id", job_id]
    openstack("session", "add", "job", *which)
    assert job_id in shown("session", "show", session_id)["Jobs"]
    openstack("session", "start", *which, "--job-tag", "0")
    assert shown("session", "show", session_id)["Session tag"] == 1
    updated = shown("session", "update", session_id, file("monthly.json", {"description": "monthly"}))
    assert updated["Description"] == "monthly" and updated["Hold off"] == 60, updated
    openstack("session", "remove", "job", *which)
    openstack("session", "delete", session_id)
    openstack("session", "show", session_id, expect=1)
    openstack("job", "delete", job_id)
    openstack("job", "show", job_id, expect=1)


def every_command_was_used():
    [entry_points] = PROGRAMS.parent.glob("lib/python3*/site-packages/python_freezerclient-*.dist-info/entry_points.txt")
    plugin = configparser.ConfigParser(delimiters=("=",))
    plugin.read(entry_points)
    commands = set(plugin["openstack.backup.v2"])
    # `session add job` consists of three words.
    known = {command.replace("session_add_job", "session_add").replace("session_remove_job", "session_remove") for command in commands}
    assert known <= used, known - used
    print(f"{len(commands)} commands of the OpenStack client's plugin do what they say")


def strangers_are_refused():
    assert "401" in openstack("list", token="nobody", expect=1)
    assert "403" in openstack("job", "delete", "0" * 32, token=AGENT, expect=1)


def credentials(user, token):
    """What OpenStack's programs take from their environment. The server is the Keystone, too: a token is the password."""
    domains = {"OS_USER_DOMAIN_NAME": "Default", "OS_PROJECT_DOMAIN_NAME": "Default"}
    asked = {"OS_AUTH_URL": f"http://{HTTP}/v3", "OS_USERNAME": user, "OS_PASSWORD": token, "OS_PROJECT_NAME": PROJECT}
    return os.environ | asked | domains | {"OS_IDENTITY_API_VERSION": "3"}


def freezers_own_command():
    """It insists on a Keystone."""
    listed = subprocess.run(
        [PROGRAMS / "freezer", "backup-list"], env=credentials("alice", MEMBER), capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert listed.returncode == 0 and "backup-node1" in listed.stdout, listed
    plain = subprocess.run(
        [PROGRAMS / "openstack", "--os-auth-type", "password", "backup", "list", "-f", "csv"],
        env=credentials("alice", MEMBER),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert plain.returncode == 0 and "backup-node1" in plain.stdout, plain


def schedule():
    """A scheduler, with its log."""
    log = open(work / "scheduler.log", "w")
    scheduler = subprocess.Popen(
        [PROGRAMS / "freezer-scheduler", "--scheduler-client-id", "node1", "--scheduler-interval", "1"]
        + ["--scheduler-jobs-dir", work / "jobs", "--scheduler-no-daemon", "--log-file", work / "scheduler.log", "start"],
        stdout=log,
        stderr=log,
        env=credentials("node1", AGENT) | {"HOME": str(work), "PATH": f"{PROGRAMS}:{os.environ['PATH']}"},
    )
    atexit.register(scheduler.kill)
    return scheduler


def awaited(what, look):
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.3)
    raise AssertionError(f"{what}: {(work / 'scheduler.log').read_text()[-2000:]}")


def a_scheduler_runs_a_job():
    source = work / "source"
    source.mkdir()
    (source / "letter").write_text("dear operator\n")
    scheduler = schedule()
    registered = lambda: [client for client in icebox("clients", "list") if client["client_id"] == "node1"]
    awaited("the client registers", registered)
    created = icebox("jobs", "create", "-", document=job("letters", source) | {"client_id": "node1"})
    completed = lambda: (found := icebox("jobs", "get", created["job_id"]))["job_schedule"].get("status") == "completed" and found
    schedule_then = awaited("the job is completed", completed)["job_schedule"]
    assert schedule_then["result"] == "success", schedule_then
    assert 0 < schedule_then["time_started"] <= schedule_then["time_ended"], schedule_then
    assert schedule_then["current_pid"] > 0, schedule_then
    [backup] = [found for found in icebox("backups", "list") if found.get("job_id") == created["job_id"]]
    metadata = backup["backup_metadata"]
    assert (metadata["backup_name"], metadata["path_to_backup"]) == ("letters", str(source)), metadata
    assert backup["client_id"] == "node1" and backup["status"] == "available", backup
    archives = [path for path in (work / "store").rglob("*") if path.is_file() and "data" in path.parts]
    assert archives, "there is no backup"
    # A scheduled job disappears when it is stopped.
    hourly = icebox("jobs", "create", "-", document=job("hourly", source, {"schedule_interval": "1 hours"}) | {"client_id": "node1"})
    status = lambda wanted: lambda: icebox("jobs", "get", hourly["job_id"])["job_schedule"].get("status") == wanted
    awaited("the job is scheduled", status("scheduled"))
    openstack("job", "stop", hourly["job_id"])
    awaited("the job is stopped", status("stop"))
    scheduler.send_signal(signal.SIGTERM)
    scheduler.wait(timeout=TIMEOUT_S)
    print("a scheduler has run a job that was created over gRPC, and stopped one")


published()
clients()
backups()
actions()
sessions(jobs())
every_command_was_used()
strangers_are_refused()
freezers_own_command()
a_scheduler_runs_a_job()
