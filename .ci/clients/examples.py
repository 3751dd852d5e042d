"""The examples against a server: python examples.py PATH_TO_ICEBOX DIRECTORY_OF_RUST_EXAMPLES NODE_MODULES

The walks in Rust, Python and Node must show the same backups, all of them, and the client that retries must come through though
the server is started after it.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

from grpc_tools import protoc

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
ICEBOX, RUST, NODE_MODULES = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
# More than three pages of 100.
BACKUPS = 320
TIMEOUT_S = 60


def start(address, store):
    """A server, once it listens."""
    server = subprocess.Popen(
        [ICEBOX, "serve", "--listen", address, "--store", store],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"ICEBOX_LOG": "warn"},
    )
    json.loads(server.stderr.readline())
    return server


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def shown(*command, **environment):
    output = subprocess.run(
        command, env=os.environ | environment, timeout=TIMEOUT_S, check=True, stdout=subprocess.PIPE, text=True
    )
    return output.stdout.splitlines()


def generate_into(out):
    protos = [str(path.relative_to(REPOSITORY / "proto")) for path in (REPOSITORY / "proto").rglob("*.proto")]
    includes = [f"-I{REPOSITORY / 'proto'}", f"-I{pathlib.Path(protoc.__file__).parent / '_proto'}"]
    assert protoc.main(["", *includes, f"--python_out={out}", f"--grpc_python_out={out}", *protos]) == 0


def many_backups(file):
    """Freezer's own first backup, so many times, each under a name of its own."""
    [sample, *_] = json.loads((REPOSITORY / "tests/data/backups-list.json").read_text())["backups"]
    backups = []
    for n in range(BACKUPS):
        metadata = sample["backup_metadata"] | {"backup_name": f"backup-{n:04}"}
        backups.append(sample | {"backup_id": f"{n:032x}", "backup_metadata": metadata})
    file.write_text(json.dumps({"backups": backups}))


def walks(address, directory):
    many_backups(directory / "backups.json")
    subprocess.run(
        [ICEBOX, "import", "--server", address, "--project", "demo", "--into-project", "demo", directory / "backups.json"],
        check=True,
        timeout=TIMEOUT_S,
        stdout=subprocess.DEVNULL,
    )
    generate_into(directory)
    rust = shown(RUST / "walk", address, "demo")
    python = shown(sys.executable, REPOSITORY / "examples/python/walk.py", address, "demo", PYTHONPATH=str(directory))
    node = shown("node", REPOSITORY / "examples/node/walk.js", address, "demo", NODE_PATH=str(NODE_MODULES))
    expected = [f"{n:032x}  backup-{n:04}" for n in range(BACKUPS)]
    for name, walked in [("Rust", rust), ("Python", python), ("Node", node)]:
        assert walked == expected, f"{name} shows {len(walked)} backups: {walked[:3]} …"


def run(address, *arguments, **options):
    command = [ICEBOX, *arguments, "--server", address, "--project", "watched"]
    done = subprocess.run(command, timeout=TIMEOUT_S, check=True, stdout=subprocess.PIPE, text=True, **options)
    return done.stdout.strip()


def watches(address, directory, restart):
    """Watches of a client's jobs in Python and Node, through a restart of the server."""
    python = [sys.executable, REPOSITORY / "examples/python/watch.py", address, "watched", "node1"]
    node = ["node", REPOSITORY / "examples/node/watch.js", address, "watched", "node1"]
    environment = os.environ | {"PYTHONPATH": str(directory), "NODE_PATH": str(NODE_MODULES)}
    watching = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for command in (python, node)
    ]

    def next_line(process):
        while (line := process.stdout.readline().strip()) == "synced":
            pass
        return line

    def create(client):
        job = {"description": f"of {client}", "client_id": client}
        job["job_actions"] = [{"freezer_action": {"action": "backup"}}]
        return run(address, "jobs", "create", "-", "--output", "name", input=json.dumps(job))

    try:
        for process in watching:
            assert process.stdout.readline() == "synced\n"
        create("node2")
        mine = create("node1")
        for process in watching:
            assert next_line(process) == f"put {mine} of node1"
        restart()
        run(address, "jobs", "update", mine, "--set", "client_id=node2")
        for process in watching:
            assert next_line(process) == f"removed {mine}"
    finally:
        for process in watching:
            process.kill()
            process.wait()


def main():
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        address = free_address()
        early = subprocess.Popen([RUST / "retry", address, "demo"], stdout=subprocess.PIPE, text=True)
        time.sleep(0.5)
        server = start(address, directory / "icebox.db")
        try:
            said, _ = early.communicate(timeout=TIMEOUT_S)
            assert early.returncode == 0 and "is stored at revision" in said, said
            walks(address, directory)

            def restart():
                nonlocal server
                server.terminate()
                server.communicate(timeout=30)
                server = start(address, directory / "icebox.db")

            watches(address, directory, restart)
        finally:
            early.kill()
            server.terminate()
            server.communicate(timeout=30)
    print(f"ok  {BACKUPS} backups walked, and jobs watched through a restart, in Python and Node; a client that was early came through")


if __name__ == "__main__":
    main()
